// The picture area: poster, live video, and words over it. Knows elements, not calls.
import { element, part } from "./dom.js";

export class Screen {
  constructor() {
    this.screen = part("screen");
    this.video = element("avatar", HTMLVideoElement);
    this.veil = part("veil");
    this.words = part("veil-text");
    this.video.addEventListener("resize", () => this.#fit());
  }

  get shown() {
    return this.screen.classList.contains("shown");
  }

  /**
   * @param {MediaStream} stream
   * @param {() => void} onPicture once, when the first picture is on the screen
   */
  play(stream, onPicture) {
    if (this.video.srcObject === stream) return;
    this.video.srcObject = stream;
    this.#begin(stream);
    const first = () => {
      if (this.video.srcObject !== stream) return;
      this.screen.classList.add("shown");
      onPicture();
    };
    if (typeof this.video.requestVideoFrameCallback === "function") this.video.requestVideoFrameCallback(first);
    else this.video.addEventListener("playing", first, { once: true });
  }

  /**
   * The click on Call allows sound; a browser that thinks it too long ago still plays without, until Speaker is pressed.
   * @param {MediaStream} stream
   */
  #begin(stream) {
    this.video.play().catch((error) => {
      if (error.name !== "NotAllowedError" || this.video.srcObject !== stream) return;
      this.video.muted = true;
      this.video.play().catch(() => {});
      this.video.dispatchEvent(new Event("silenced"));
    });
  }

  /**
   * Words over the picture while it is waited for; null: none.
   * @param {string|null} text
   */
  cover(text) {
    this.#veil(text, true);
  }

  /**
   * Words that stay over the picture: why a call ended.
   * @param {string} text
   */
  tell(text) {
    this.#veil(text, false);
  }

  /**
   * @param {string|null} text
   * @param {boolean} waiting
   */
  #veil(text, waiting) {
    this.veil.hidden = !text;
    this.veil.classList.toggle("told", !waiting);
    this.words.textContent = text ?? "";
  }

  clear() {
    this.cover(null);
    this.screen.classList.remove("shown");
    this.video.srcObject = null;
    this.screen.style.removeProperty("--ratio");
  }

  #fit() {
    const { videoWidth, videoHeight } = this.video;
    if (videoWidth && videoHeight) this.screen.style.setProperty("--ratio", String(videoWidth / videoHeight));
  }
}
