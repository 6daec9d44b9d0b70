// Data channel of a call: messages, round trip, heartbeat and detection of sleep. Knows no session.

/**
 * @typedef {{id: string, state: string}} Turn something said in the call
 * @typedef {{type: "state", state: string, reason?: string, message?: string|null, turn?: Turn}} StateMessage
 * @typedef {{type: "error", code: string, message?: string}} ErrorMessage
 * @typedef {{type: "stats"} & import("./stats.js").EngineReport} StatsMessage
 * @typedef {StateMessage|ErrorMessage|StatsMessage} Message one message of the server
 * @typedef {object} ChannelEvents
 * @property {(message: Message) => void} onMessage every message but pongs
 * @property {(sign: "silent"|"closed"|"unopened") => void} onLost may be called more than once
 * @property {() => void} onWake the computer has slept
 */

const BEAT_MS = 1000;
const SILENCE_MS = 6000; // nothing heard for so long: the server, or the way to it, is gone
const OPEN_MS = 10000; // from the connection on
const SLEEP_MS = 5000; // a beat that comes so late was not held up by work: the computer slept

export class Channel {
  /**
   * @param {RTCPeerConnection} peer
   * @param {ChannelEvents} events
   */
  constructor(peer, events) {
    this.events = events;
    /** @type {number|null} */
    this.roundTripMs = null;
    this.sequence = 0;
    /** @type {Map<number, number>} */
    this.sent = new Map();
    this.beatAt = Date.now();
    this.heardAt = performance.now();
    /** @type {number|null} */
    this.connectedAt = null;
    this.channel = peer.createDataChannel("knotcast");
    this.channel.addEventListener("open", () => {
      this.heardAt = performance.now();
    });
    this.channel.addEventListener("message", ({ data }) => this.#receive(data));
    // The server closes the channel with the call; its DTLS alert may come later or never.
    this.channel.addEventListener("close", () => {
      this.noticeSleep();
      events.onLost("closed");
    });
    this.timer = setInterval(() => this.#beat(performance.now()), BEAT_MS);
  }

  /** The connection stands: the channel must open now. */
  connected() {
    this.connectedAt ??= performance.now();
  }

  /**
   * Reports a sleep that has just ended; what arrives then may come before the next beat.
   * Not every browser's `performance.now()` goes on while the computer sleeps, so sleep is read off the date.
   */
  noticeSleep() {
    const date = Date.now();
    const late = date - this.beatAt - BEAT_MS;
    if (late <= SLEEP_MS) return;
    this.beatAt = date;
    this.heardAt = performance.now(); // nothing could be heard meanwhile
    if (this.connectedAt !== null) this.connectedAt = this.heardAt;
    this.events.onWake();
  }

  /** @param {number} now ms since the page was loaded */
  #beat(now) {
    this.noticeSleep();
    this.beatAt = Date.now();
    if (this.channel.readyState === "open") {
      if (now - this.heardAt > SILENCE_MS) return this.events.onLost("silent");
      this.#ping(now);
    } else if (this.connectedAt !== null && now - this.connectedAt > OPEN_MS) {
      this.events.onLost("unopened");
    }
  }

  /** @param {number} now */
  #ping(now) {
    const seq = this.send("ping");
    if (seq === null) return;
    this.sent.set(seq, now);
    const [oldest] = this.sent.keys();
    if (this.sent.size > 10 && oldest !== undefined) this.sent.delete(oldest);
  }

  /** @param {unknown} data */
  #receive(data) {
    this.noticeSleep();
    this.heardAt = performance.now();
    let message;
    try {
      message = JSON.parse(String(data));
    } catch {
      return;
    }
    if (message?.type === "pong") this.#pong(message.ping_seq);
    else if (typeof message?.type === "string") this.events.onMessage(message);
  }

  /** @param {number} seq */
  #pong(seq) {
    const at = this.sent.get(seq);
    if (at !== undefined) this.roundTripMs = performance.now() - at;
    this.sent.delete(seq);
  }

  /**
   * @param {string} type
   * @param {object} [fields]
   * @returns {number|null} the message's seq, or null if the channel is not open
   */
  send(type, fields = {}) {
    if (this.channel.readyState !== "open") return null;
    const seq = this.sequence++;
    this.channel.send(JSON.stringify({ v: 1, type, seq, t_ms: Math.round(performance.now()), ...fields }));
    return seq;
  }

  close() {
    clearInterval(this.timer);
  }
}
