// An audio worklet for live_probe.js: root mean square of each 128 samples, with their time on the context's clock.
registerProcessor("loudness", class extends AudioWorkletProcessor {
  batch = [];
  process([input]) {
    let power = 0;
    if (input.length) for (const sample of input[0]) power += sample * sample;
    this.batch.push([currentTime, Math.sqrt(power / 128)]);
    if (this.batch.length === 16) {
      this.port.postMessage(this.batch);
      this.batch = [];
    }
    return true;
  }
});
