// The picture area: poster, live video, and the veil with words over it. Knows elements, not calls.

export class Screen {
  constructor() {
    for (const name of ["screen", "avatar", "veil", "veil-text", "poster"]) this[name] = document.getElementById(name);
    this.video = this.avatar;
    this.video.addEventListener("resize", () => this.#fit());
  }

  /** @param {() => void} onPicture once, when the first picture is on the screen */
  play(stream, onPicture) {
    if (this.video.srcObject === stream) return;
    this.video.srcObject = stream;
    this.#begin(stream);
    const first = () => {
      if (this.video.srcObject !== stream) return;
      this.screen.classList.add("shown");
      onPicture();
    };
    if ("requestVideoFrameCallback" in this.video) this.video.requestVideoFrameCallback(first);
    else this.video.addEventListener("playing", first, { once: true });
  }

  /** The click on Call allows sound; a browser that thinks it too long ago still plays without, until Speaker is pressed. */
  #begin(stream) {
    this.video.play().catch((error) => {
      if (error.name !== "NotAllowedError" || this.video.srcObject !== stream) return;
      this.video.muted = true;
      this.video.play().catch(() => {});
      this.video.dispatchEvent(new Event("silenced"));
    });
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
