// Level meters: how loud the caller and the avatar are, drawn as the length of a bar. Owns the one audio context.
// A level that cannot be measured costs the bar and nothing else.

/**
 * @typedef {object} Channel
 * @property {MediaStreamAudioSourceNode} source
 * @property {AnalyserNode} analyser
 * @property {HTMLElement[]} bars
 * @property {number} level 0 to 1
 * @property {string} drawn
 */

const FLOOR_DB = -60;
const DRAW_MS = 50; // a meter that follows the screen's rate would cost more than the call's own drawing
const WINDOW = 1024;
const STALL_MS = 2000; // a context that has not run for so long: sound is held back, or there is no sound card

export class Meters {
  /** @param {() => void} onChange whether levels can be measured has changed */
  constructor(onChange) {
    this.onChange = onChange;
    /** @type {AudioContext|null} */
    this.context = null;
    this.ranAt = 0;
    this.stalled = false;
    /** @type {Map<string, Channel>} */
    this.channels = new Map();
    this.samples = new Float32Array(WINDOW);
    /** @type {number|undefined} */
    this.timer = undefined;
    // A browser may hold sound back until the page is touched once more, or take it away for a phone call.
    for (const name of ["pointerdown", "keydown"]) window.addEventListener(name, () => this.timer && this.#resume());
  }

  /** Call it inside a click: browsers start sound only then. */
  start() {
    try {
      this.context ??= new AudioContext();
    } catch {
      return; // none in this browser, or too many in use
    }
    this.#resume();
    this.ranAt = performance.now();
    this.timer ??= setInterval(() => this.#draw(), DRAW_MS);
  }

  #resume() {
    if (this.context && this.context.state !== "running") this.context.resume().catch(() => {});
  }

  /**
   * @param {string} name
   * @param {MediaStream} stream nothing happens before it has a track of sound
   * @param {HTMLElement[]} bars
   */
  connect(name, stream, bars) {
    this.disconnect(name);
    if (stream.getAudioTracks().length === 0) return;
    const connected = this.#listen(name, stream, bars);
    mark(bars, connected && !this.stalled);
    this.onChange();
  }

  /**
   * @param {string} name a connected stream's
   * @returns {boolean} whether its level can be measured
   */
  measures(name) {
    return this.channels.has(name) && !this.stalled;
  }

  /**
   * Firefox refuses a device whose sample rate is not the context's.
   * @param {string} name
   * @param {MediaStream} stream
   * @param {HTMLElement[]} bars
   */
  #listen(name, stream, bars) {
    if (!this.context) return false;
    try {
      const source = this.context.createMediaStreamSource(stream);
      const analyser = new AnalyserNode(this.context, { fftSize: WINDOW, smoothingTimeConstant: 0 });
      source.connect(analyser); // and no further: the video element plays the sound
      this.channels.set(name, { source, analyser, bars, level: 0, drawn: "" });
      return true;
    } catch {
      return false;
    }
  }

  /** @param {string} name */
  disconnect(name) {
    const channel = this.channels.get(name);
    if (!channel) return;
    channel.source.disconnect();
    for (const bar of channel.bars) bar.style.setProperty("--level", "0");
    this.channels.delete(name);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = undefined;
    for (const name of [...this.channels.keys()]) this.disconnect(name);
    this.context?.suspend().catch(() => {});
  }

  #draw() {
    const running = this.context?.state === "running";
    this.#watch(running, performance.now());
    for (const channel of this.channels.values()) {
      channel.level = Math.max(running ? this.#levelOf(channel) : 0, channel.level * 0.75); // rises at once, falls gently
      const text = channel.level.toFixed(2);
      if (text === channel.drawn) continue;
      channel.drawn = text;
      for (const bar of channel.bars) bar.style.setProperty("--level", text);
    }
  }

  /**
   * @param {boolean} running
   * @param {number} now ms
   */
  #watch(running, now) {
    if (running) this.ranAt = now;
    const stalled = now - this.ranAt > STALL_MS;
    if (stalled === this.stalled) return;
    this.stalled = stalled;
    for (const { bars } of this.channels.values()) mark(bars, !stalled);
    this.onChange();
  }

  /** @param {Channel} channel */
  #levelOf({ analyser }) {
    analyser.getFloatTimeDomainData(this.samples);
    let power = 0;
    for (const sample of this.samples) power += sample * sample;
    const db = 10 * Math.log10(power / WINDOW + 1e-9);
    return Math.min(1, Math.max(0, 1 - db / FLOOR_DB));
  }
}

/**
 * @param {HTMLElement[]} bars
 * @param {boolean} measured
 */
function mark(bars, measured) {
  for (const bar of bars) bar.parentElement?.classList.toggle("unmeasured", !measured);
}
