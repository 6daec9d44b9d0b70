// The figures over the picture: what the server reports of the engine, what this browser measures of the way.
// Also notices when the picture stands still although the call is live, which must never pass in silence.

const POLL_MS = 1000;
const STILL_MS = 2500;

const number = (value, digits = 0) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
const ms = (value) => (Number.isFinite(value) ? `${Math.round(value)} ms` : "–");

export class Stats {
  /** @param {HTMLElement} list a dl  @param {HTMLVideoElement} video  @param {(still: boolean) => void} onStill */
  constructor(list, video, onStill) {
    this.list = list;
    this.video = video;
    this.onStill = onStill;
    this.rows = new Map();
  }

  start(call) {
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

  /** A `stats` message of the server. */
  heard(message) {
    this.engine = message;
    if (message.distinct_fps > 0) this.newestAt = performance.now();
  }

  async #poll() {
    const { call } = this;
    if (!call?.peer) return;
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

  #video(report) {
    const { timestamp, framesDecoded, freezeCount, jitterBufferDelay, jitterBufferEmittedCount } = report;
    const { before } = this;
    this.before = report;
    if (!before || timestamp <= before.timestamp) return { freezes: freezeCount };
    const emitted = jitterBufferEmittedCount - before.jitterBufferEmittedCount;
    return {
      fps: ((framesDecoded - before.framesDecoded) * 1000) / (timestamp - before.timestamp),
      buffer: emitted > 0 ? ((jitterBufferDelay - before.jitterBufferDelay) * 1000) / emitted : NaN,
      freezes: freezeCount,
    };
  }

  #notice() {
    const engineReports = "distinct_fps" in this.engine;
    const still = engineReports && performance.now() - this.newestAt > STILL_MS;
    if (still !== this.still) this.onStill(still);
    this.still = still;
  }

  #draw(way) {
    const { engine } = this;
    const onTheWay = (way.buffer || 0) + (way.rtt ?? 0) / 2;
    this.#row("New frames", `${number(engine.distinct_fps, 1)} /s`);
    this.#row("Received", `${number(way.fps, 1)} /s`);
    this.#row("Chunk", ms(engine.chunk_ms));
    this.#row("Latency", ms(engine.latency_ms + onTheWay));
    this.#row("Underruns", number(engine.underruns));
    this.#row("Round trip", ms(way.rtt));
    this.#row("Lost packets", number(way.lost));
    this.#row("Freezes", number(way.freezes));
  }

  #row(name, text) {
    if (!this.rows.has(name)) {
      const value = document.createElement("dd");
      this.list.append(Object.assign(document.createElement("dt"), { textContent: name }), value);
      this.rows.set(name, value);
    }
    this.rows.get(name).textContent = text;
  }
}
