// One call: session, peer connection, data channel, liveness, and one way out. Reports by events; knows no page element.
// Events: "state" {state, reason, message}, "progress" {text}, "media" {stream}, "message" (one data-channel message).
import { ApiError, createSession, deleteSession, sendCandidates, sendOffer } from "./api.js";

const SETUP_MS = 20000; // the server gives up on a call that has not connected after 15 s; we say so soon after
const ENGINE_START_MS = 90000;
const PING_MS = 1000;
const SILENCE_MS = 6000; // nothing heard on the data channel for so long: the server, or the way to it, is gone
const CANDIDATE_BATCH_MS = 40;

const ENDINGS = {
  setup_timeout: "No connection came about. Does a firewall or VPN block UDP between this browser and the server?",
  ice_failed: "The connection was lost. Check the network and call once more.",
  remote: "The server has closed the call.",
  silent: "The server has stopped answering, so the call was ended.",
};

export class Call extends EventTarget {
  /** @param {string} portraitId  @param {Promise<MediaStreamTrack|null>} microphone resolves when the user has decided */
  constructor(portraitId, microphone) {
    super();
    this.portraitId = portraitId;
    this.microphone = microphone;
    this.state = "created";
    this.session = null;
    this.roundTripMs = null;
    this.sequence = 0;
    this.pending = [];
    this.timers = new Set();
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  #enter(state, detail = {}) {
    if (this.state === "ended" || this.state === state) return;
    this.state = state;
    this.#emit("state", { state, ...detail });
  }

  /** Connects. Does not throw: what goes wrong ends the call with a reason. */
  async start() {
    this.#enter("connecting");
    try {
      // Permission that is given at once lets the browser offer its real addresses; a prompt must not hold up the call.
      const [session] = await Promise.all([this.#createSession(), Promise.race([this.microphone, pause(800)])]);
      this.session = session;
      if (this.state === "ended") return this.#release();
      this.#later(() => this.state === "connecting" && this.end("setup_timeout"), SETUP_MS);
      await this.#connect(session);
    } catch (error) {
      this.#fail(error);
    }
  }

  /** A server that has just been started still loads its model: wait for it, and say so. */
  async #createSession() {
    const deadline = performance.now() + ENGINE_START_MS;
    for (;;) {
      try {
        return await createSession(this.portraitId);
      } catch (error) {
        if (error.code !== "starting" || this.state === "ended" || performance.now() > deadline) throw error;
        this.#emit("progress", { text: "The engine is starting…" });
        await pause(1000);
      }
    }
  }

  async #connect(session) {
    const peer = new RTCPeerConnection({ iceServers: session.ice_servers ?? [] });
    this.peer = peer;
    this.#watch(peer);
    this.#openChannel(peer);
    const voice = peer.addTransceiver("audio", { direction: "sendrecv" });
    peer.addTransceiver("video", { direction: "recvonly" });
    // Sound keeps its jitter buffer; the picture follows it, so a deeper one of its own would only add delay.
    for (const receiver of peer.getReceivers()) {
      if (receiver.track.kind === "video" && "jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
    }
    this.microphone.then((track) => track && this.state !== "ended" && voice.sender.replaceTrack(track)).catch(() => {});
    await peer.setLocalDescription();
    const answer = await sendOffer(session, peer.localDescription);
    if (this.state === "ended") return;
    await peer.setRemoteDescription(answer);
    this.answered = true;
    this.#flushCandidates();
  }

  #watch(peer) {
    const stream = new MediaStream();
    peer.addEventListener("track", ({ track }) => {
      stream.addTrack(track); // one stream for both, so that the browser keeps them in sync
      this.#emit("media", { stream });
    });
    peer.addEventListener("icecandidate", ({ candidate }) => {
      if (!candidate?.candidate) return;
      const { candidate: text, sdpMid, sdpMLineIndex } = candidate;
      this.pending.push({ candidate: text, sdpMid, sdpMLineIndex });
      this.#flushCandidates();
    });
    peer.addEventListener("connectionstatechange", () => {
      if (peer.connectionState === "connected") this.#enter("live");
      if (peer.connectionState === "failed") this.end("ice_failed");
      if (peer.connectionState === "closed") this.end("remote");
    });
  }

  /** Candidates may only follow the offer, and several go in one request. */
  #flushCandidates() {
    if (!this.answered || this.flushing || this.pending.length === 0) return;
    this.flushing = true;
    this.#later(async () => {
      const batch = this.pending.splice(0);
      try {
        await sendCandidates(this.session, batch);
      } catch {
        // Not fatal: the server finds this browser by its own checks, and the set-up deadline still stands.
      }
      this.flushing = false;
      this.#flushCandidates();
    }, CANDIDATE_BATCH_MS);
  }

  #openChannel(peer) {
    const channel = peer.createDataChannel("knotcast");
    this.channel = channel;
    const sent = new Map();
    let heardAt = 0;
    channel.addEventListener("open", () => {
      heardAt = performance.now();
      this.#every(() => {
        if (performance.now() - heardAt > SILENCE_MS) return this.end("silent");
        const seq = this.send("ping");
        if (seq === null) return;
        sent.set(seq, performance.now());
        if (sent.size > 10) sent.delete(sent.keys().next().value);
      }, PING_MS);
    });
    channel.addEventListener("message", ({ data }) => {
      heardAt = performance.now();
      let message;
      try {
        message = JSON.parse(data);
      } catch {
        return;
      }
      if (message.type === "pong") this.#pong(message, sent);
      else this.#heard(message);
    });
    // The server closes the channel with the call; its DTLS alert may come later or never.
    channel.addEventListener("close", () => this.end("remote"));
  }

  #pong(message, sent) {
    const at = sent.get(message.ping_seq);
    if (at !== undefined) this.roundTripMs = performance.now() - at;
    sent.delete(message.ping_seq);
  }

  #heard(message) {
    if (message.type === "error") this.lastError = message.code; // it may be what ends the call, and has been told then
    if (message.type !== "state" || message.state !== "ended") return this.#emit("message", message);
    const reason = message.reason ?? "remote";
    const untold = `The call was ended by the server (${reason.replaceAll("_", " ")}).`;
    this.end(reason, message.message ?? (reason === this.lastError ? null : untold));
  }

  /** Sends one data-channel message; returns its seq, or null if the channel is not open. */
  send(type, fields = {}) {
    if (this.channel?.readyState !== "open") return null;
    const seq = this.sequence++;
    this.channel.send(JSON.stringify({ v: 1, type, seq, t_ms: Math.round(performance.now()), ...fields }));
    return seq;
  }

  #fail(error) {
    if (this.state === "ended") return;
    const text = error instanceof ApiError ? error.message : `The call could not be set up (${error.name}).`;
    this.end(error.code ?? "setup_failed", text);
  }

  /** Ends the call once, from any state; the server is told. */
  end(reason, message = ENDINGS[reason] ?? null) {
    if (this.state === "ended") return;
    this.#enter("ended", { reason, message });
    for (const cancel of this.timers) cancel();
    this.timers.clear();
    this.peer?.close();
    this.#release();
  }

  #release() {
    if (!this.session || this.released) return;
    this.released = true;
    deleteSession(this.session).catch(() => {}); // it may have ended on the server first; then there is nothing to delete
  }

  #later(work, ms) {
    const id = setTimeout(() => {
      this.timers.delete(cancel);
      work();
    }, ms);
    const cancel = () => clearTimeout(id);
    this.timers.add(cancel);
  }

  #every(work, ms) {
    const id = setInterval(work, ms);
    this.timers.add(() => clearInterval(id));
  }
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
