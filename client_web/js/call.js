// Call controller: session, peer connection, data channel, and one end. Reports by callbacks; knows no page element.
import { ApiError, createSession, deleteSession, sendCandidates, sendOffer } from "./api.js";
import { Channel } from "./channel.js";
import { askForEnding, endingBy, endingToldBy, hasEnded } from "./endings.js";

/**
 * @typedef {import("./api.js").Session} Session
 * @typedef {import("./channel.js").Message} Message
 * @typedef {import("./endings.js").Ending} Ending
 * @typedef {object} CallEvents
 * @property {(state: "connecting"|"live") => void} onState
 * @property {(ending: Ending) => void} onEnd once; message null: the user wanted it
 * @property {(text: string) => void} onProgress what the call waits for
 * @property {(stream: MediaStream) => void} onMedia once a track
 * @property {(message: Message) => void} onMessage
 */

const SETUP_MS = 20000; // the server gives up on a call that has not connected after 15 s; we say so soon after
const ENGINE_START_MS = 90000;
const CANDIDATE_BATCH_MS = 40;
const SLEPT_MS = 30000; // what is lost so soon after a sleep was lost by it

export class Call {
  /**
   * @param {string} portraitId
   * @param {Promise<MediaStreamTrack|null>} microphone resolves when the user has decided
   * @param {CallEvents} events
   */
  constructor(portraitId, microphone, events) {
    this.portraitId = portraitId;
    this.microphone = microphone;
    this.events = events;
    /** @type {"created"|"connecting"|"live"|"ended"} */
    this.state = "created";
    /** @type {Session|null} */
    this.session = null;
    /** @type {RTCPeerConnection|null} */
    this.peer = null;
    /** @type {Channel|null} */
    this.channel = null;
    /** @type {RTCIceCandidateInit[]} */
    this.pending = [];
    this.answered = this.flushing = this.released = this.asking = false;
    this.wokeAt = -Infinity;
    /** @type {Set<number>} */
    this.timers = new Set();
  }

  get roundTripMs() {
    return this.channel?.roundTripMs ?? null;
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
        const starting = error instanceof ApiError && error.code === "starting";
        if (!starting || this.state === "ended" || performance.now() > deadline) throw error;
        this.events.onProgress("The engine is starting…");
        await pause(1000);
      }
    }
  }

  /** @param {Session} session */
  async #connect(session) {
    const peer = new RTCPeerConnection({ iceServers: session.ice_servers ?? [] });
    this.peer = peer;
    this.#watch(peer, session);
    this.channel = new Channel(peer, {
      onMessage: (message) => this.#heard(message),
      onLost: (sign) => (sign === "unopened" ? this.end(sign) : this.#lose(session)),
      onWake: () => this.#wake(session),
    });
    const voice = peer.addTransceiver("audio", { direction: "sendrecv" });
    peer.addTransceiver("video", { direction: "recvonly" });
    // Sound keeps its jitter buffer; the picture follows it, so a deeper one of its own would only add delay.
    for (const receiver of peer.getReceivers()) {
      if (receiver.track.kind === "video" && "jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
    }
    this.microphone.then((track) => (track && !this.#isOver() ? voice.sender.replaceTrack(track) : undefined)).catch(() => {});
    await peer.setLocalDescription();
    if (!peer.localDescription) throw new ApiError("This browser made no offer.", { code: "no_offer" });
    const answer = await sendOffer(session, peer.localDescription);
    if (this.#isOver()) return;
    await peer.setRemoteDescription(answer);
    this.answered = true;
    this.#flushCandidates(session);
  }

  #isOver() {
    return this.state === "ended";
  }

  /**
   * @param {RTCPeerConnection} peer
   * @param {Session} session
   */
  #watch(peer, session) {
    const stream = new MediaStream();
    peer.addEventListener("track", ({ track }) => {
      stream.addTrack(track); // one stream for both, so that the browser keeps them in sync
      if (!this.#isOver()) this.events.onMedia(stream);
    });
    peer.addEventListener("icecandidate", ({ candidate }) => {
      if (!candidate?.candidate) return;
      const { candidate: text, sdpMid, sdpMLineIndex } = candidate;
      this.pending.push({ candidate: text, sdpMid, sdpMLineIndex });
      this.#flushCandidates(session);
    });
    peer.addEventListener("connectionstatechange", () => {
      this.channel?.noticeSleep();
      if (peer.connectionState === "connected") {
        this.channel?.connected();
        this.#enter("live");
      } else if (peer.connectionState === "failed") {
        if (this.state === "connecting") this.end("setup_timeout");
        else this.#lose(session);
      } else if (peer.connectionState === "closed") this.#lose(session);
    });
  }

  /**
   * Candidates may only follow the offer, and several go in one request.
   * @param {Session} session
   */
  #flushCandidates(session) {
    if (!this.answered || this.flushing || this.pending.length === 0) return;
    this.flushing = true;
    this.#later(async () => {
      const batch = this.pending.splice(0);
      try {
        await sendCandidates(session, batch);
      } catch {
        // Not fatal: the server finds this browser by its own checks, and the set-up deadline still stands.
      }
      this.flushing = false;
      this.#flushCandidates(session);
    }, CANDIDATE_BATCH_MS);
  }

  /** @param {Message} message */
  #heard(message) {
    if (this.#isOver()) return;
    if (message.type === "state" && message.state === "ended") this.#finish(endingToldBy(message, this.#hasSlept()));
    else this.events.onMessage(message);
  }

  #hasSlept() {
    return performance.now() - this.wokeAt < SLEPT_MS;
  }

  /**
   * After a sleep the server may have given the call up, and its farewell found nobody awake.
   * @param {Session} session
   */
  async #wake(session) {
    this.wokeAt = performance.now();
    if (await hasEnded(session)) this.end("slept"); // if not, or not to be asked yet, silence on the channel will tell
  }

  /**
   * The connection shows no life: find out why, then end.
   * @param {Session} session
   */
  async #lose(session) {
    if (this.asking || this.#isOver()) return;
    this.asking = true;
    this.events.onProgress("The connection was lost…");
    const slept = this.#hasSlept();
    const ending = await askForEnding(session, slept);
    this.#finish(ending ?? endingBy(slept ? "slept" : "connection_lost"));
  }

  /**
   * @param {string} type
   * @param {object} fields
   */
  send(type, fields) {
    this.channel?.send(type, fields);
  }

  /** @param {unknown} error */
  #fail(error) {
    if (error instanceof ApiError) return this.#finish({ reason: error.code, message: error.message });
    const name = error instanceof Error ? error.name : "unknown";
    this.#finish({ reason: "setup_failed", message: `This browser could not set up the call (${name}).` });
  }

  /**
   * Ends the call, from any state; the server is told.
   * @param {string} reason
   */
  end(reason) {
    this.#finish(endingBy(reason));
  }

  /** @param {Ending} ending the first one counts */
  #finish(ending) {
    if (this.#isOver()) return;
    this.state = "ended";
    for (const id of this.timers) clearTimeout(id);
    this.timers.clear();
    this.channel?.close();
    this.peer?.close();
    this.#release();
    this.events.onEnd(ending);
  }

  #release() {
    if (!this.session || this.released) return;
    this.released = true;
    deleteSession(this.session).catch(() => {}); // it may have ended on the server first; then there is nothing to delete
  }

  /** @param {"connecting"|"live"} state */
  #enter(state) {
    if (this.#isOver() || this.state === state) return;
    this.state = state;
    this.events.onState(state);
  }

  /**
   * @param {() => unknown} work
   * @param {number} ms
   */
  #later(work, ms) {
    const id = setTimeout(() => {
      this.timers.delete(id);
      work();
    }, ms);
    this.timers.add(id);
  }
}

/**
 * @param {number} ms
 * @returns {Promise<void>}
 */
function pause(ms) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
