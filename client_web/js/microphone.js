// The microphone and whether it is heard. Knows nothing of the call or of the page.
// Heard = not muted and (held down or kept open). Closed means digital silence, not a stopped stream, so opening is instant.

/** @type {MediaTrackConstraints} */
const WANTED = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };

const UNUSABLE = "The microphone cannot be used.";
/** @type {Record<string, string>} by the DOMException's name */
const PROBLEMS = {
  InsecureContext: "Browsers allow the microphone only on https pages and on this computer's own address.",
  Unsupported: "This browser does not let pages use a microphone.",
  NotAllowedError: "The microphone is not allowed for this page: allow it beside the address, and in the system's settings.",
  SecurityError: "The microphone is not allowed for this page.",
  NotFoundError: "No microphone was found.",
  NotReadableError: "The microphone could not be started: another program may be using it.",
  AbortError: "The microphone could not be started.",
};

export class Microphone extends EventTarget {
  constructor() {
    super();
    /** @type {MediaStream|null} */
    this.stream = null;
    /** @type {string|null} */
    this.problem = null;
    this.held = false;
    this.open = false;
    this.muted = false;
    /** @type {object|null} the latest request */
    this.turn = null;
  }

  get heard() {
    return this.stream !== null && !this.muted && (this.held || this.open);
  }

  /**
   * Asks for the microphone.
   * @returns {Promise<MediaStreamTrack|null>} null with `problem` set; never rejects
   */
  async request() {
    this.release();
    this.problem = null;
    const turn = (this.turn = {});
    try {
      const stream = await ask();
      if (this.turn !== turn) {
        stopAll(stream); // the call ended while the browser was asking
        return null;
      }
      this.stream = stream;
      stream.getAudioTracks()[0]?.addEventListener("ended", () => this.#lost(stream));
    } catch (error) {
      if (this.turn !== turn) return null;
      this.problem = PROBLEMS[error instanceof Error || error instanceof DOMException ? error.name : ""] ?? UNUSABLE;
    }
    this.#apply();
    return this.stream?.getAudioTracks()[0] ?? null;
  }

  /** @param {MediaStream} stream */
  #lost(stream) {
    if (this.stream !== stream) return;
    this.stream = null;
    this.problem = "The microphone was unplugged or switched off.";
    this.#apply();
  }

  /** @param {{held?: boolean, open?: boolean, muted?: boolean}} change */
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

/** @returns {Promise<MediaStream>} rejects with a name of PROBLEMS, or another */
async function ask() {
  if (!window.isSecureContext) throw new DOMException("", "InsecureContext");
  if (!navigator.mediaDevices?.getUserMedia) throw new DOMException("", "Unsupported");
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: WANTED });
  } catch (error) {
    if (!(error instanceof Error) || error.name !== "OverconstrainedError") throw error;
    return navigator.mediaDevices.getUserMedia({ audio: true }); // a device that can do nothing of what is wanted
  }
}

/** @param {MediaStream} stream */
function stopAll(stream) {
  for (const track of stream.getTracks()) track.stop();
}
