// Snapshot of a face with the computer's camera. The camera is on only while its picture is shown. Knows nothing of portraits.
import { element, part } from "./dom.js";

/** @type {Record<string, string>} */
const PROBLEMS = {
  InsecureContext: "Browsers allow the camera only on https pages and on this computer's own address.",
  NotAllowedError: "The camera is not allowed for this page: allow it beside the address, and in the system's settings.",
  NotFoundError: "No camera was found.",
  NotReadableError: "The camera could not be started: another program may be using it.",
};
const SIDE = 1080; // pixels that are asked for, of the shorter side

export class Camera {
  /**
   * @param {(file: File) => void} take gets the snapshot
   * @param {(problem: string) => void} fail gets what went wrong, in words
   */
  constructor(take, fail) {
    this.take = take;
    this.fail = fail;
    this.button = element("camera", HTMLButtonElement);
    this.shutter = part("shutter");
    this.view = element("viewfinder", HTMLVideoElement);
    /** @type {MediaStream|null} */
    this.stream = null;
    this.button.addEventListener("click", () => (this.stream ? this.close() : this.open()));
    element("snap", HTMLButtonElement).addEventListener("click", () => this.#snap());
    element("snap-cancel", HTMLButtonElement).addEventListener("click", () => this.close());
  }

  async open() {
    this.button.disabled = true;
    try {
      if (!navigator.mediaDevices) throw new DOMException("", "InsecureContext");
      const video = { facingMode: "user", width: { ideal: (SIDE * 16) / 9 }, height: { ideal: SIDE } };
      this.stream = await navigator.mediaDevices.getUserMedia({ video });
      this.stream.getTracks()[0]?.addEventListener("ended", () => this.close());
      this.view.srcObject = this.stream;
      await this.view.play();
      this.#show(true);
    } catch (error) {
      this.close();
      const name = error instanceof DOMException ? error.name : "";
      this.fail(PROBLEMS[name] ?? "The camera cannot be used.");
    } finally {
      this.button.disabled = false;
    }
  }

  /** Twice is fine. */
  close() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.view.srcObject = null;
    this.#show(false);
  }

  /** The picture as the camera sees it; the viewfinder alone is mirrored. */
  async #snap() {
    const canvas = Object.assign(document.createElement("canvas"), { width: this.view.videoWidth, height: this.view.videoHeight });
    canvas.getContext("2d")?.drawImage(this.view, 0, 0);
    /** @type {Blob|null} */
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
    this.close();
    if (blob) this.take(new File([blob], "snapshot.jpg", { type: blob.type }));
    else this.fail("The camera gave no picture. Try again.");
  }

  /** @param {boolean} open */
  #show(open) {
    this.view.hidden = this.shutter.hidden = !open;
    this.button.setAttribute("aria-pressed", String(open));
  }
}
