// The microphone and its gate: who may be heard, and when. Knows nothing of the call or of the page.
// Heard = not muted and (held down or kept open). Closed means digital silence, not a stopped stream, so opening is instant.

const CONSTRAINTS = { audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 } };

const REFUSALS = {
  NotAllowedError: "The microphone is not allowed for this page.",
  NotFoundError: "No microphone was found.",
  NotReadableError: "The microphone is used by another program.",
};

export class Microphone extends EventTarget {
  constructor() {
    super();
    this.stream = null;
    this.problem = null;
    this.held = false;
    this.open = false;
    this.muted = false;
  }

  get heard() {
    return this.stream !== null && !this.muted && (this.held || this.open);
  }

  /** Asks for the microphone. Resolves to its track, or to null with `problem` set; never rejects. */
  async request() {
    this.release();
    this.problem = null;
    const turn = (this.turn = {});
    try {
      if (!navigator.mediaDevices) throw new DOMException("", "InsecureContext");
      const stream = await navigator.mediaDevices.getUserMedia(CONSTRAINTS);
      if (this.turn !== turn) {
        stopAll(stream); // the call ended while the browser was asking
        return null;
      }
      this.stream = stream;
      stream.getAudioTracks()[0].addEventListener("ended", () => this.#lost(stream));
    } catch (error) {
      if (this.turn !== turn) return null;
      this.problem =
        error.name === "InsecureContext"
          ? "Browsers give the microphone only to https pages and to this machine itself."
          : (REFUSALS[error.name] ?? "The microphone cannot be used.");
    }
    this.#apply();
    return this.stream?.getAudioTracks()[0] ?? null;
  }

  #lost(stream) {
    if (this.stream !== stream) return;
    this.stream = null;
    this.problem = "The microphone was unplugged or switched off.";
    this.#apply();
  }

  set({ held = this.held, open = this.open, muted = this.muted }) {
    Object.assign(this, { held, open, muted });
    this.#apply();
  }

  #apply() {
    for (const track of this.stream?.getAudioTracks() ?? []) track.enabled = this.heard;
    this.dispatchEvent(new Event("change"));
  }

  release() {
    this.turn = null;
    if (this.stream) stopAll(this.stream);
    this.stream = null;
    this.held = false;
    this.#apply();
  }
}

function stopAll(stream) {
  for (const track of stream.getTracks()) track.stop();
}
