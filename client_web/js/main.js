// Wires the page together: picker, call, microphone, screen, meters, figures. The one place that knows them all.
import { ApiError, interrupt, say, sentence } from "./api.js";
import { Call } from "./call.js";
import { HeadPad } from "./headpad.js";
import { Meters } from "./meter.js";
import { Microphone } from "./microphone.js";
import { Notices } from "./notices.js";
import { PortraitPicker } from "./portrait.js";
import { Screen } from "./screen.js";
import { Stats } from "./stats.js";
import { Talk } from "./talk.js";

const SENTENCE = "samples/sentence.wav";
const PICTURE_MS = 10000; // connected, but nothing to see for so long: say so

const $ = (id) => document.getElementById(id);
const notices = new Notices($("toasts"));
const picker = new PortraitPicker();
const microphone = new Microphone();
const talk = new Talk(microphone, { notices, retry: retryMicrophone });
const meters = new Meters();
const screen = new Screen();
const stats = new Stats($("stats"), screen.video, onStill);
const pad = new HeadPad($("pad"), (pose) => call?.send("pose", pose));

/** @type {Call|null} */
let call = null;
let starting = false;
let resent = false;
let recovering = false; // the server has said so: then it is known why the picture stands still
const speaking = new Set(); // turns that were said and have not ended

function setStatus(text) {
  $("status").textContent = text;
}

function show(state) {
  document.body.dataset.state = state;
  const busy = state !== "idle";
  for (const element of document.querySelectorAll(".before")) element.hidden = busy;
  for (const element of document.querySelectorAll(".during")) element.hidden = !busy;
  picker.enabled = !busy;
  $("say").disabled = state !== "live";
  pad.setEnabled(state === "live");
  talk.setLive(busy);
}

function showPicker() {
  $("call").disabled = starting || picker.state === "checking" || picker.state === "refused";
  if (!call) setStatus({ checking: "Checking the picture", refused: "Picture refused", failed: "Not ready" }[picker.state] ?? "Ready");
}

async function startCall() {
  if (call || starting) return;
  starting = true;
  showPicker();
  notices.clear();
  meters.start();
  if (picker.state !== "accepted") screen.cover("Looking for the face…");
  const portraitId = await picker.ready();
  starting = false;
  if (portraitId) {
    begin(new Call(portraitId, microphone.request()));
  } else {
    screen.cover(null);
    meters.stop();
    showPicker();
  }
}

function begin(next) {
  call = next;
  next.addEventListener("state", ({ detail }) => call === next && onState(detail));
  next.addEventListener("progress", ({ detail }) => call === next && screen.cover(detail.text));
  next.addEventListener("media", ({ detail }) => call === next && onMedia(detail.stream));
  next.addEventListener("message", ({ detail }) => call === next && onMessage(detail));
  next.start();
}

function onState({ state, reason, message }) {
  if (state === "connecting") {
    recovering = false;
    show("connecting");
    setStatus("Connecting");
    screen.cover("Connecting…");
    $("hang").focus({ preventScroll: true });
  } else if (state === "live") {
    show("live");
    resent = false;
    setStatus("Live");
    stats.start(call);
    if (!screen.screen.classList.contains("shown")) waitForPicture(call);
    if (!talk.talk.disabled) talk.talk.focus({ preventScroll: true });
  } else if (state === "ended") {
    endCall(reason, message);
  }
}

function waitForPicture(current) {
  screen.cover("Connected. Waiting for the first picture…");
  setTimeout(() => {
    if (call !== current || screen.screen.classList.contains("shown")) return;
    notices.error("Connected, but no picture has come yet. The server may be very busy, or its log may say why.");
  }, PICTURE_MS);
}

function onMedia(stream) {
  screen.play(stream, () => screen.cover(null));
  meters.connect("avatar", stream, [$("level-avatar")]);
}

function onMessage(message) {
  if (message.type === "stats") stats.heard(message);
  if (message.type === "error") notices.error(sentence(message.message ?? "something went wrong on the server"));
  if (message.type === "state") onServerState(message);
}

function onServerState({ state, turn }) {
  if (turn) return onTurn(turn);
  recovering = state === "recovering";
  if (recovering) screen.cover("The engine is restarting. The picture comes back by itself.");
  if (state === "live" && screen.screen.classList.contains("shown")) screen.cover(null);
}

function onStill(still) {
  if (call?.state !== "live" || recovering) return;
  screen.cover(still ? "The picture is held up. It comes back by itself." : null);
}

function endCall(reason, message) {
  call = null;
  stats.stop();
  meters.stop();
  microphone.release();
  onTurn(null);
  screen.clear();
  show("idle");
  showPicker();
  setStatus("Call ended");
  if (reason === "portrait_not_found" && !resent) {
    resent = true; // the server was restarted and has forgotten it: send it once more
    picker.forget();
    startCall();
    return;
  }
  if (message) notices.error(sentence(message));
  $("call").focus({ preventScroll: true });
}

async function retryMicrophone() {
  const track = await microphone.request();
  const sender = call?.peer?.getTransceivers()[0]?.sender;
  if (track && sender) await sender.replaceTrack(track);
}

async function saySentence() {
  const current = call;
  if (!current?.session) return;
  $("say").disabled = true;
  try {
    const response = await fetch(SENTENCE).catch(() => null);
    if (!response?.ok) throw new ApiError("The sample sentence could not be loaded. Is the server still running?");
    const { turn_id: id } = await say(current.session, await response.blob());
    if (call === current) onTurn({ id, state: "queued" });
  } catch (error) {
    if (call === current) notices.error(error.message);
  }
  $("say").disabled = call?.state !== "live";
}

/** Something said began, waits or ended; null: the call is over. "Stop" is there for as long as there is something to stop. */
function onTurn(turn) {
  if (turn === null) speaking.clear();
  else if (turn.state === "queued" || turn.state === "speaking") speaking.add(turn.id);
  else speaking.delete(turn.id);
  $("interrupt").disabled = speaking.size === 0;
}

async function stopSpeaking() {
  try {
    if (call?.session) await interrupt(call.session);
  } catch (error) {
    notices.error(error.message);
  }
}

$("call").addEventListener("click", startCall);
$("hang").addEventListener("click", () => call?.end("hang_up"));
$("say").addEventListener("click", saySentence);
$("interrupt").addEventListener("click", stopSpeaking);
$("speaker").addEventListener("click", () => {
  screen.video.muted = !screen.video.muted;
});
screen.video.addEventListener("volumechange", () => $("speaker").setAttribute("aria-pressed", String(!screen.video.muted)));
screen.video.addEventListener("silenced", () => notices.info("The browser has muted the avatar: press Speaker to hear it."));
$("stats-toggle").addEventListener("click", () => {
  $("stats").hidden = !$("stats").hidden;
  $("stats-toggle").setAttribute("aria-pressed", String(!$("stats").hidden));
});
picker.addEventListener("change", showPicker);
microphone.addEventListener("change", () => {
  if (microphone.stream && !meters.channels.has("you")) meters.connect("you", microphone.stream, [$("level-you"), $("level-you-2")]);
  if (!microphone.stream) meters.disconnect("you");
});
// A page that is kept for "back" would otherwise hold a place at the server that nobody watches.
window.addEventListener("pagehide", () => call?.end("hang_up"));

show("idle");
showPicker();
