// Level meters: how loud the caller and the avatar are, drawn as the length of a bar. Owns the one audio context.

const FLOOR_DB = -60;
const DRAW_MS = 50; // a meter that follows the screen's rate would cost more than the call's own drawing

export class Meters {
  constructor() {
    this.context = null;
    this.channels = new Map();
    this.timer = null;
  }

  /** Call it inside a click: browsers start sound only then. */
  start() {
    this.context ??= new AudioContext();
    this.context.resume().catch(() => {});
    this.timer ??= setInterval(() => this.#draw(), DRAW_MS);
  }

  /** @param {string} name  @param {MediaStream|null} stream  @param {HTMLElement[]} bars */
  connect(name, stream, bars) {
    this.disconnect(name);
    if (!stream || stream.getAudioTracks().length === 0 || !this.context) return;
    const source = this.context.createMediaStreamSource(stream);
    const analyser = new AnalyserNode(this.context, { fftSize: 1024, smoothingTimeConstant: 0 });
    source.connect(analyser); // and no further: the video element plays the sound
    this.channels.set(name, { source, analyser, bars, samples: new Float32Array(1024), level: 0 });
  }

  disconnect(name) {
    const channel = this.channels.get(name);
    if (!channel) return;
    channel.source.disconnect();
    for (const bar of channel.bars) bar.style.setProperty("--level", "0");
    this.channels.delete(name);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    for (const name of [...this.channels.keys()]) this.disconnect(name);
    this.context?.suspend().catch(() => {});
  }

  #draw() {
    for (const channel of this.channels.values()) {
      channel.analyser.getFloatTimeDomainData(channel.samples);
      let power = 0;
      for (const sample of channel.samples) power += sample * sample;
      const db = 10 * Math.log10(power / channel.samples.length + 1e-9);
      const level = Math.min(1, Math.max(0, 1 - db / FLOOR_DB));
      channel.level = Math.max(level, channel.level * 0.75); // rises at once, falls gently
      const text = channel.level.toFixed(2);
      if (text === channel.drawn) continue;
      channel.drawn = text;
      for (const bar of channel.bars) bar.style.setProperty("--level", text);
    }
  }
}
