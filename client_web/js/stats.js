// Figures over the picture: the server's report on the engine, and what this browser measures of the connection.
// Also notices a picture that stands still although the call is live.

/**
 * @typedef {object} EngineReport a `stats` message of the server
 * @property {number} [distinct_fps]
 * @property {number} [chunk_ms]
 * @property {number} [latency_ms]
 * @property {number} [underruns]
 * @typedef {object} Way what getStats() and the pings say of the connection
 * @property {number|null} rtt ms
 * @property {number} [lost] packets
 * @property {number} [fps]
 * @property {number} [buffer] ms
 * @property {number} [freezes]
 */

const POLL_MS = 1000;
const STILL_MS = 2500;

/** @param {number|null|undefined} value  @param {number} [digits] */
const number = (value, digits = 0) => (typeof value === "number" && Number.isFinite(value) ? value.toFixed(digits) : "–");
/** @param {number|null|undefined} value */
const ms = (value) => (typeof value === "number" && Number.isFinite(value) ? `${Math.round(value)} ms` : "–");

export class Stats {
  /**
   * @param {HTMLElement} list a dl
   * @param {(still: boolean) => void} onStill
   */
  constructor(list, onStill) {
    this.list = list;
    this.onStill = onStill;
    /** @type {Map<string, HTMLElement>} */
    this.rows = new Map();
    /** @type {import("./call.js").Call|null} */
    this.call = null;
    /** @type {EngineReport} */
    this.engine = {};
    /** @type {RTCInboundRtpStreamStats|null} */
    this.before = null;
    this.newestAt = 0;
    this.still = false;
    this.timer = 0;
  }

  /** @param {import("./call.js").Call} call */
  start(call) {
    this.stop();
    this.call = call;
    this.engine = {};
    this.before = null;
    this.newestAt = performance.now();
    this.still = false;
    this.timer = setInterval(() => this.#poll(), POLL_MS);
  }

  stop() {
    clearInterval(this.timer);
    this.call = null;
  }

  /** @param {EngineReport} report */
  heard(report) {
    this.engine = report;
    if ((report.distinct_fps ?? 0) > 0) this.newestAt = performance.now();
  }

  async #poll() {
    const { call } = this;
    if (!call?.peer) return;
    /** @type {Way} */
    const way = { rtt: call.roundTripMs };
    for (const report of (await call.peer.getStats()).values()) {
      if (report.type !== "inbound-rtp") continue;
      if (report.kind === "video") Object.assign(way, this.#video(report));
      way.lost = (way.lost ?? 0) + (report.packetsLost ?? 0);
    }
    if (this.call !== call) return;
    this.#notice();
    if (!this.list.hidden) this.#draw(way);
  }

  /**
   * @param {RTCInboundRtpStreamStats} report
   * @returns {Omit<Way, "rtt">}
   */
  #video(report) {
    const { before } = this;
    const freezes = report.freezeCount;
    this.before = report;
    if (!before || report.timestamp <= before.timestamp) return { freezes };
    /** @param {"framesDecoded"|"jitterBufferDelay"|"jitterBufferEmittedCount"} name */
    const grown = (name) => (report[name] ?? NaN) - (before[name] ?? NaN); // not every browser counts all of them
    const emitted = grown("jitterBufferEmittedCount");
    return {
      fps: (grown("framesDecoded") * 1000) / (report.timestamp - before.timestamp),
      buffer: emitted > 0 ? (grown("jitterBufferDelay") * 1000) / emitted : NaN,
      freezes,
    };
  }

  #notice() {
    const engineReports = "distinct_fps" in this.engine;
    const still = engineReports && performance.now() - this.newestAt > STILL_MS;
    if (still !== this.still) this.onStill(still);
    this.still = still;
  }

  /** @param {Way} way */
  #draw(way) {
    const { engine } = this;
    const onTheWay = (way.buffer || 0) + (way.rtt ?? 0) / 2;
    this.#row("New frames", `${number(engine.distinct_fps, 1)} /s`);
    this.#row("Received", `${number(way.fps, 1)} /s`);
    this.#row("Chunk", ms(engine.chunk_ms));
    this.#row("Latency", ms((engine.latency_ms ?? NaN) + onTheWay));
    this.#row("Underruns", number(engine.underruns));
    this.#row("Round trip", ms(way.rtt));
    this.#row("Lost packets", number(way.lost));
    this.#row("Freezes", number(way.freezes));
  }

  /**
   * @param {string} name
   * @param {string} text
   */
  #row(name, text) {
    let value = this.rows.get(name);
    if (!value) {
      value = document.createElement("dd");
      this.list.append(Object.assign(document.createElement("dt"), { textContent: name }), value);
      this.rows.set(name, value);
    }
    value.textContent = text;
  }
}
