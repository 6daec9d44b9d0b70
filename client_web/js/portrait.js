// Choosing who answers: a sample, a file, or a dropped picture; uploading it; showing the crop, warnings and reasons.
// Knows nothing of calls. `ready()` gives the portrait's id when the server has accepted it.
import { ApiError, sentence, uploadPortrait } from "./api.js";

const WARNINGS = {
  low_resolution: "The face is small in this picture, so it will look soft.",
  blurred: "The picture is blurred.",
  dark: "The picture is dark.",
  profile: "The head is turned away from the camera.",
  occluded: "Something covers part of the face.",
  low_confidence: "It is not certain where eyes and mouth are.",
};
const LARGEST = 20 * 1024 * 1024; // the server has its own cap; this only saves a hopeless upload

export class PortraitPicker extends EventTarget {
  constructor() {
    super();
    for (const name of ["samples", "file", "drop", "verdict", "poster"]) this[name] = document.getElementById(name);
    this.known = new Map(); // sample address -> accepted portrait
    this.enabled = true;
    this.state = "checking"; // checking | accepted | refused (this picture will not do) | failed (the way to the server; try again)
    this.work = null;
    this.#listen();
    this.#choose({ sample: this.#sampleButtons()[0].dataset.sample }); // so that Call has nothing left to wait for
  }

  #sampleButtons() {
    return [...this.samples.querySelectorAll("button")];
  }

  #listen() {
    for (const button of this.#sampleButtons()) {
      button.addEventListener("click", () => this.#choose({ sample: button.dataset.sample }));
    }
    this.file.addEventListener("change", () => {
      const file = this.file.files[0];
      this.file.value = ""; // so that the same file can be chosen again
      if (file) this.#choose({ file });
    });
    let depth = 0;
    const dragging = (change) => {
      depth = Math.max(0, change === 0 ? 0 : depth + change);
      document.body.classList.toggle("dragging", this.enabled && depth > 0);
    };
    window.addEventListener("dragenter", () => dragging(1));
    window.addEventListener("dragleave", () => dragging(-1));
    window.addEventListener("dragover", (event) => event.preventDefault());
    window.addEventListener("drop", (event) => {
      event.preventDefault(); // or the browser would leave the page and open the picture
      dragging(0);
      const file = event.dataTransfer?.files[0];
      if (file && this.enabled) this.#choose({ file });
    });
  }

  #enter(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }

  #choose(choice) {
    this.choice = choice;
    for (const button of this.#sampleButtons()) {
      button.setAttribute("aria-pressed", String(button.dataset.sample === choice.sample));
    }
    this.work = this.#check(choice);
  }

  /** The accepted portrait's id, or null: then the reason stands beside the picture. Tries again after a failure. */
  async ready() {
    for (;;) {
      const work = (this.work ??= this.#check(this.choice));
      const portrait = await work;
      if (this.work === work || this.work === null) return portrait?.id ?? null; // else another was chosen meanwhile
    }
  }

  /** Forget what the server said about the choice: it no longer knows the portrait (it was restarted, say). */
  forget() {
    this.known.clear();
    this.work = null;
  }

  async #check(choice) {
    this.#enter("checking");
    this.#say(choice.file ? "Looking for the face…" : "");
    try {
      if (choice.file) await this.#showFile(choice.file);
      else this.#show(choice.sample);
      const portrait = this.known.get(choice.sample) ?? (await this.#upload(choice));
      if (choice.sample) this.known.set(choice.sample, portrait);
      if (this.choice !== choice) return portrait;
      if (portrait.preview_url) this.#show(portrait.preview_url);
      this.#accepted(portrait, choice);
      this.#enter("accepted");
      return portrait;
    } catch (error) {
      if (this.choice === choice) {
        this.work = null;
        this.#say(error instanceof ApiError ? error.message : "This picture could not be read.", "refused");
        this.#enter(isRefusal(error) ? "refused" : "failed");
      }
      return null;
    }
  }

  async #upload({ sample, file }) {
    if (file?.size > LARGEST) throw new ApiError("This file is larger than 20 MB. Choose a smaller picture.", { status: 413 });
    if (file) return uploadPortrait(file, file.name || "portrait");
    const response = await fetch(sample).catch(() => null);
    if (!response?.ok) throw new ApiError("The sample could not be loaded. Is the server still running?");
    return uploadPortrait(await response.blob(), sample.split("/").at(-1));
  }

  #show(address) {
    this.poster.src = address;
  }

  /** The chosen file at once, before the server has cropped it; a format that this browser cannot show is the server's to
   * judge. A data address, since it needs no wider content policy than pictures do. */
  async #showFile(file) {
    const reader = new FileReader();
    await new Promise((resolve) => {
      reader.onloadend = resolve;
      reader.readAsDataURL(file);
    });
    const trial = new Image();
    trial.src = reader.result ?? "";
    const shown = await trial.decode().then(() => true, () => false);
    if (shown) this.#show(trial.src);
  }

  #say(text, kind = "") {
    this.verdict.className = `verdict ${kind}`;
    this.verdict.textContent = text;
    this.verdict.hidden = !text;
  }

  #accepted(portrait, { sample }) {
    const warnings = (portrait.warnings ?? []).map(({ code, message }) => WARNINGS[code] ?? sentence(String(message ?? code)));
    if (warnings.length === 0) return this.#say(sample ? "" : "This face will do. The picture shows how it is cropped.");
    this.#say("This face can answer, but the result may suffer:", "warned");
    const list = document.createElement("ul");
    for (const text of warnings) list.append(Object.assign(document.createElement("li"), { textContent: text }));
    this.verdict.append(list);
  }
}

/** The picture itself is at fault; sending it again would change nothing. */
function isRefusal({ status }) {
  return status >= 400 && status < 500 && ![401, 408, 429].includes(status);
}
