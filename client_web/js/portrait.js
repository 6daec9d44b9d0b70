// Portrait picker: a sample, a chosen file or a dropped one, its upload, and the server's verdict. Knows nothing of calls.
import { ApiError, fromServer, getLimits, sentence, uploadPortrait } from "./api.js";
import { Camera } from "./camera.js";
import { element, part } from "./dom.js";
import { fitPicture } from "./picture.js";

/**
 * @typedef {{sample: string, file?: undefined}|{file: File, sample?: undefined}} Choice
 * @typedef {import("./api.js").Portrait} Portrait
 */

export class PortraitPicker extends EventTarget {
  constructor() {
    super();
    this.samples = [...part("samples").querySelectorAll("button")];
    this.file = element("file", HTMLInputElement);
    this.verdict = part("verdict");
    this.poster = element("poster", HTMLImageElement);
    this.found = element("found", SVGSVGElement);
    /** @type {Map<string, Portrait>} */
    this.known = new Map(); // sample address -> accepted portrait
    this.enabled = true;
    /** @type {"checking"|"accepted"|"refused"|"failed"} refused: this picture will not do; failed: try again */
    this.state = "checking";
    /** @type {Choice} */
    this.choice = { sample: sampleOf(this.samples[0]) };
    /** @type {Promise<Portrait|null>|null} */
    this.work = null;
    this.shown = ""; // address of the chosen file
    this.camera = new Camera((file) => this.#choose({ file }), (problem) => this.#say(problem, "warned"));
    this.#listen();
    this.#choose(this.choice); // so that Call has nothing left to wait for
  }

  #listen() {
    for (const button of this.samples) {
      button.addEventListener("click", () => this.#choose({ sample: sampleOf(button) }));
    }
    this.file.addEventListener("change", () => {
      const file = this.file.files?.[0];
      this.file.value = ""; // so that the same file can be chosen again
      if (file) this.#choose({ file });
    });
    let depth = 0;
    /** @param {number} change */
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

  /** @param {PortraitPicker["state"]} state */
  #enter(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }

  /** @param {Choice} choice */
  #choose(choice) {
    this.camera.close();
    this.choice = choice;
    for (const button of this.samples) {
      button.setAttribute("aria-pressed", String(sampleOf(button) === choice.sample));
    }
    this.work = this.#check(choice);
  }

  /**
   * Tries again after a failure.
   * @returns {Promise<string|null>} the accepted portrait's id, or null: then the reason stands beside the picture
   */
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

  /** @param {Choice} choice */
  async #check(choice) {
    this.#enter("checking");
    this.#say(choice.file ? "Looking for the face…" : "");
    try {
      const portrait = await (choice.file ? this.#send(choice.file) : this.#sendSample(choice.sample));
      if (this.choice !== choice) return portrait;
      if (portrait.preview_url) this.#show(fromServer(portrait.preview_url));
      if (choice.file) this.#showFound(portrait.face.outlines);
      this.#accepted(portrait, choice);
      this.#enter("accepted");
      return portrait;
    } catch (error) {
      if (this.choice === choice) {
        this.work = null;
        this.#say(error instanceof ApiError ? error.message : "This picture could not be read.", "refused");
        if (choice.file && isRefusal(error)) this.verdict.append(example());
        this.#enter(isRefusal(error) ? "refused" : "failed");
      }
      return null;
    }
  }

  /** @param {File} file */
  async #send(file) {
    const [image, limits] = await Promise.all([this.#showFile(file), getLimits()]);
    return uploadPortrait(await fitPicture(file, image, limits.portrait), file.name || "portrait");
  }

  /** @param {string} sample */
  async #sendSample(sample) {
    this.#show(sample);
    const known = this.known.get(sample);
    if (known) return known;
    const response = await fetch(sample).catch(() => null);
    if (!response?.ok) throw new ApiError("The sample could not be loaded. Is the server still running?");
    const portrait = await uploadPortrait(await response.blob(), sample.split("/").at(-1) ?? sample);
    this.known.set(sample, portrait);
    return portrait;
  }

  /** @param {string} address */
  #show(address) {
    this.found.replaceChildren();
    this.poster.src = address;
  }

  /**
   * Draws what was found in the face over its crop; the style lets it fade.
   * @param {Record<string, number[][]>} outlines
   */
  #showFound(outlines) {
    const drawn = Object.entries(outlines).map(([name, points]) => {
      const polygon = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
      polygon.setAttribute("points", points.map((point) => point.join(",")).join(" "));
      polygon.dataset.part = name;
      return polygon;
    });
    this.found.replaceChildren(...drawn);
  }

  /**
   * The chosen file at once, before the server has cropped it.
   * @param {File} file
   * @returns {Promise<HTMLImageElement|null>} null: a format that this browser cannot show is the server's to judge
   */
  async #showFile(file) {
    URL.revokeObjectURL(this.shown);
    this.shown = URL.createObjectURL(file);
    const image = new Image();
    image.src = this.shown;
    const readable = await image.decode().then(() => true, () => false);
    if (readable && this.choice.file === file) this.#show(image.src);
    return readable ? image : null;
  }

  /**
   * @param {string} text
   * @param {""|"refused"|"warned"} kind
   */
  #say(text, kind = "") {
    this.verdict.className = `verdict ${kind}`;
    this.verdict.textContent = text;
    this.verdict.hidden = !text;
  }

  /**
   * @param {Portrait} portrait
   * @param {Choice} choice
   */
  #accepted({ warnings }, { sample }) {
    if (warnings.length === 0) return this.#say(sample ? "" : "This face can be used. The picture shows how it is cropped.");
    this.#say("This face can answer, but the result may suffer:", "warned");
    const list = document.createElement("ul");
    for (const { message } of warnings) {
      list.append(Object.assign(document.createElement("li"), { textContent: sentence(message) }));
    }
    this.verdict.append(list);
  }
}

/** What would work, beside the reason of a refusal. */
function example() {
  const line = Object.assign(document.createElement("p"), { className: "example" });
  const image = Object.assign(new Image(56, 56), { src: "samples/portrait_1.jpg", alt: "" });
  line.append(image, "A picture like this one works.");
  return line;
}

/** @param {HTMLButtonElement} button */
function sampleOf(button) {
  return button.dataset.sample ?? "";
}

/**
 * The picture itself is at fault; sending it again would change nothing.
 * @param {unknown} error
 */
function isRefusal(error) {
  if (!(error instanceof ApiError)) return false;
  return error.status >= 400 && error.status < 500 && ![401, 408, 429].includes(error.status);
}
