// Probe inside the measured page, started before the page's own scripts. Records the time and frame number (server/call/stamp.py) of
// each picture shown, and the loudness of the avatar 375 times a second. Times are performance.now() in ms.
(() => {
  const CELLS = 25;
  const RATE = 48000;
  const QUANTUM = 128;
  const WINDOW = 16384;
  /** @type {{pressed: number|null, pictures: [number, number|null, number][], sound: [number, number][], clock: [number, number][]}} */
  const probe = { pressed: null, pictures: [], sound: [], clock: [] };
  Object.assign(window, { knotcastProbe: probe });

  document.addEventListener("click", ({ target }) => {
    if (target instanceof Element && target.closest("#call")) probe.pressed ??= performance.now();
  }, true);

  const canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d", { willReadFrequently: true });

  /**
   * The frame number in the lowest rows, or null: 3 start bits, 20 bits of number, 2 check bits.
   * @param {HTMLVideoElement} video
   */
  function stampOf(video) {
    const width = video.videoWidth;
    const cell = Math.floor(width / 32);
    const rows = Math.max(8, cell);
    if (!cell || !pen) return null;
    canvas.width = CELLS * cell;
    canvas.height = rows;
    pen.drawImage(video, 0, video.videoHeight - rows, canvas.width, rows, 0, 0, canvas.width, rows);
    const top = Math.floor(rows / 4);
    const lines = rows - 2 * top;
    const { data } = pen.getImageData(0, top, canvas.width, lines);
    const margin = Math.floor(cell / 4);
    let bits = "";
    for (let i = 0; i < CELLS; i++) {
      let sum = 0;
      for (let y = 0; y < lines; y++) {
        for (let x = i * cell + margin; x < (i + 1) * cell - margin; x++) sum += data[(y * canvas.width + x) * 4 + 1];
      }
      const level = sum / (lines * (cell - 2 * margin));
      if (level > 95 && level < 160) return null;
      bits += level > 127 ? "1" : "0";
    }
    const digits = bits.slice(3, 23);
    const check = [...digits].filter((bit) => bit === "1").length % 4;
    return bits.startsWith("101") && parseInt(bits.slice(23), 2) === check ? parseInt(digits, 2) : null;
  }

  /** @param {HTMLVideoElement} video */
  function watch(video) {
    /** @type {VideoFrameRequestCallback} */
    const seen = (now, { presentationTime, presentedFrames }) => {
      probe.pictures.push([presentationTime ?? now, stampOf(video), presentedFrames]);
      video.requestVideoFrameCallback(seen);
    };
    video.requestVideoFrameCallback(seen);
  }

  // A polled AnalyserNode with a long buffer, because the page's Content-Security-Policy would refuse the code of an AudioWorklet.
  /** @param {MediaStream} stream */
  function listen(stream) {
    const context = new AudioContext({ sampleRate: RATE });
    const analyser = new AnalyserNode(context, { fftSize: WINDOW });
    context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(WINDOW);
    let heard = 0; // sample up to which loudness was recorded
    setInterval(() => {
      const end = Math.round(context.currentTime * RATE);
      analyser.getFloatTimeDomainData(samples);
      probe.clock.push([performance.now(), end / RATE]);
      for (heard = Math.max(heard, end - WINDOW); heard + QUANTUM <= end; heard += QUANTUM) {
        const at = WINDOW - (end - heard);
        let power = 0;
        for (let i = at; i < at + QUANTUM; i++) power += samples[i] * samples[i];
        probe.sound.push([heard / RATE, Math.sqrt(power / QUANTUM)]);
      }
    }, 25);
  }

  document.addEventListener("DOMContentLoaded", () => {
    const video = document.querySelector("video[data-testid=avatar]");
    if (!(video instanceof HTMLVideoElement)) return; // some other page
    watch(video);
    const timer = setInterval(() => {
      const { srcObject: stream } = video;
      if (!(stream instanceof MediaStream) || stream.getAudioTracks().length === 0) return;
      clearInterval(timer);
      listen(stream);
    }, 5);
  });
})();
