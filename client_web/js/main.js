// Page controller: connects the picker, the call, the microphone, the screen, the meters and the figures.
import { ApiError, interrupt, say, sentence } from "./api.js";
import { Call } from "./call.js";
import { element, part } from "./dom.js";
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
const NO_WEBRTC = "This browser has no WebRTC, or a setting or an extension switches it off: it cannot make calls.";

const callButton = element("call", HTMLButtonElement);
const callLabel = part("call-label");
const hang = element("hang", HTMLButtonElement);
const sayButton = element("say", HTMLButtonElement);
const stop = element("interrupt", HTMLButtonElement);
const speaker = element("speaker", HTMLButtonElement);
const figures = element("stats-toggle", HTMLButtonElement);
const status = part("status");

const notices = new Notices(part("toasts"));
const picker = new PortraitPicker();
const microphone = new Microphone();
const talk = new Talk(microphone, retryMicrophone);
const meters = new Meters(onMeasured);
const screen = new Screen();
const stats = new Stats(part("stats"), onStill);
const pad = new HeadPad(part("pad"), (pose) => call?.send("pose", pose));
const canCall = "RTCPeerConnection" in window;

/** @type {Call|null} */
let call = null;
let starting = false;
let resent = false;
let recovering = false; // the server has said so: then it is known why the picture stands still
/** @type {Set<string>} */
const speaking = new Set(); // turns that were said and have not ended

const PICKER_STATUS = { checking: "Checking the picture", accepted: "Ready", refused: "Picture refused", failed: "Not ready" };

/** @param {"idle"|"connecting"|"live"} state */
function show(state) {
  document.body.dataset.state = state;
  const busy = state !== "idle";
  for (const each of document.querySelectorAll(".before")) each.toggleAttribute("hidden", busy);
  for (const each of document.querySelectorAll(".during")) each.toggleAttribute("hidden", !busy);
  picker.enabled = !busy;
  if (busy) picker.camera.close();
  sayButton.disabled = state !== "live";
  pad.setEnabled(state === "live");
  talk.setLive(busy);
}

function showPicker() {
  callButton.disabled = !canCall || starting || picker.state === "checking" || picker.state === "refused";
  if (!call) status.textContent = canCall ? PICKER_STATUS[picker.state] : "No WebRTC";
}

function onChoice() {
  if (canCall && !call && !starting) offerCall("Call");
  showPicker();
}

/**
 * @param {"Call"|"Call again"} label
 * @param {string|null} message why the last call ended
 */
function offerCall(label, message = null) {
  callLabel.textContent = label;
  if (message) screen.tell(message);
  else screen.cover(null);
}

async function startCall() {
  if (call || starting) return;
  starting = true;
  showPicker();
  notices.clear();
  meters.start();
  screen.cover(picker.state === "accepted" ? null : "Looking for the face…");
  const portraitId = await picker.ready();
  starting = false;
  if (portraitId) {
    begin(portraitId);
  } else {
    screen.cover(null);
    meters.stop();
    showPicker();
  }
}

/** @param {string} portraitId */
function begin(portraitId) {
  const next = new Call(portraitId, microphone.request(), {
    onState: (state) => (state === "live" ? onLive(next) : onConnecting()),
    onEnd: endCall,
    onProgress: (text) => screen.cover(text),
    onMedia,
    onMessage,
  });
  call = next;
  next.start();
}

function onConnecting() {
  recovering = false;
  show("connecting");
  status.textContent = "Connecting";
  screen.cover("Connecting…");
  hang.focus({ preventScroll: true });
}

/** @param {Call} current */
function onLive(current) {
  show("live");
  resent = false;
  status.textContent = "Live";
  stats.start(current);
  if (!screen.shown) waitForPicture(current);
  if (!talk.talk.disabled) talk.talk.focus({ preventScroll: true });
}

/** @param {Call} current */
function waitForPicture(current) {
  screen.cover("Connected. Waiting for the first picture…");
  setTimeout(() => {
    if (call !== current || screen.shown) return;
    notices.error("Connected, but no picture has come yet. The server may be very busy, or its log may say why.");
  }, PICTURE_MS);
}

/** @param {MediaStream} stream */
function onMedia(stream) {
  screen.play(stream, () => screen.cover(null));
  meters.connect("avatar", stream, [part("level-avatar")]);
}

/** @param {import("./channel.js").Message} message */
function onMessage(message) {
  if (message.type === "stats") stats.heard(message);
  if (message.type === "error") notices.error(sentence(message.message ?? "something went wrong on the server"));
  if (message.type === "state") onServerState(message);
}

/** @param {import("./channel.js").StateMessage} message */
function onServerState({ state, turn }) {
  if (turn) return onTurn(turn);
  recovering = state === "recovering";
  if (recovering) screen.cover("The engine is restarting. The picture comes back by itself.");
  if (state === "live" && screen.shown) screen.cover(null);
}

/** @param {boolean} still */
function onStill(still) {
  if (call?.state !== "live" || recovering) return;
  screen.cover(still ? "The picture has stopped. It comes back by itself." : null);
}

/** @param {import("./call.js").Ending} ending */
function endCall({ reason, message }) {
  call = null;
  stats.stop();
  meters.stop();
  microphone.release();
  stopTurns();
  screen.clear();
  show("idle");
  if (reason === "portrait_not_found" && !resent) {
    resent = true; // the server was restarted and has forgotten it: send it once more
    picker.forget();
    startCall();
    return;
  }
  offerCall(message ? "Call again" : "Call", message && sentence(message));
  showPicker();
  status.textContent = "Call ended";
  callButton.focus({ preventScroll: true });
}

async function retryMicrophone() {
  const track = await microphone.request();
  const sender = call?.peer?.getTransceivers()[0]?.sender;
  if (track && sender) await sender.replaceTrack(track);
}

function onMicrophone() {
  const { stream } = microphone;
  if (!stream) return meters.disconnect("you");
  if (stream === measuredStream) return;
  measuredStream = stream;
  meters.connect("you", stream, [part("level-you"), part("level-you-2")]);
}

function onMeasured() {
  if (microphone.stream) talk.setMeasured(meters.measures("you"));
}

/** @type {MediaStream|null} whose level was asked for last */
let measuredStream = null;

async function saySentence() {
  const current = call;
  if (!current?.session) return;
  sayButton.disabled = true;
  try {
    const response = await fetch(SENTENCE).catch(() => null);
    if (!response?.ok) throw new ApiError("The sample sentence could not be loaded. Is the server still running?");
    const { turn_id: id } = await say(current.session, await response.blob());
    if (call === current) onTurn({ id, state: "queued" });
  } catch (error) {
    if (call === current) notices.error(wordsOf(error));
  }
  sayButton.disabled = call?.state !== "live";
}

/** @param {import("./channel.js").Turn} turn something said began, waits or ended; "Stop" is there while there is any */
function onTurn({ id, state }) {
  if (state === "queued" || state === "speaking") speaking.add(id);
  else speaking.delete(id);
  stop.disabled = speaking.size === 0;
}

function stopTurns() {
  speaking.clear();
  stop.disabled = true;
}

async function stopSpeaking() {
  try {
    if (call?.session) await interrupt(call.session);
  } catch (error) {
    notices.error(wordsOf(error));
  }
}

/** @param {unknown} error */
function wordsOf(error) {
  return error instanceof ApiError ? error.message : "Something went wrong in this page. Loading it again may help.";
}

callButton.addEventListener("click", startCall);
hang.addEventListener("click", () => call?.end("hang_up"));
sayButton.addEventListener("click", saySentence);
stop.addEventListener("click", stopSpeaking);
speaker.addEventListener("click", () => {
  screen.video.muted = !screen.video.muted;
});
screen.video.addEventListener("volumechange", () => speaker.setAttribute("aria-pressed", String(!screen.video.muted)));
screen.video.addEventListener("silenced", () => notices.info("The browser has muted the avatar: press Speaker to hear it."));
figures.addEventListener("click", () => {
  const hidden = part("stats").toggleAttribute("hidden");
  figures.setAttribute("aria-pressed", String(!hidden));
});
picker.addEventListener("change", onChoice);
microphone.addEventListener("change", onMicrophone);
// A page that is kept for "back" would otherwise hold a place at the server that nobody watches.
window.addEventListener("pagehide", () => call?.end("hang_up"));

show("idle");
showPicker();
if (!canCall) screen.tell(NO_WEBRTC);
