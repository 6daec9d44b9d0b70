// The picture area: poster, live video, and the veil with words over it. Knows elements, not calls.

export class Screen {
  constructor() {
    for (const name of ["screen", "avatar", "veil", "veil-text", "poster"]) this[name] = document.getElementById(name);
    this.video = this.avatar;
    this.video.addEventListener("resize", () => this.#fit());
  }

  /** @param {(at: number) => void} onPicture once, when the first picture is on the screen */
  play(stream, onPicture) {
    if (this.video.srcObject === stream) return;
    this.video.srcObject = stream;
    this.video.play().catch(() => {}); // started within the click on Call, so only a call that ends at once can refuse it
    const first = () => {
      if (this.video.srcObject !== stream) return;
      this.screen.classList.add("shown");
      onPicture();
    };
    if ("requestVideoFrameCallback" in this.video) this.video.requestVideoFrameCallback(first);
    else this.video.addEventListener("playing", first, { once: true });
  }

  /** Words over the picture, or none. */
  cover(text) {
    this.veil.hidden = !text;
    this["veil-text"].textContent = text ?? "";
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
