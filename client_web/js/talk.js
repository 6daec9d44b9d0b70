// The microphone's buttons: hold to talk (pointer, Enter or space), keep open, mute. Push-to-talk is the default, because the
// avatar speaks with the caller's own voice and an open microphone beside loudspeakers could hear it again.
import { element, part } from "./dom.js";

const HINTS = {
  push: "Hold it, or the space bar, while you speak.",
  open: "The microphone is open. Wear headphones, so that it does not hear the avatar.",
  muted: "The microphone is off.",
  waiting: "Waiting for the microphone: the browser may be asking you to allow it.",
};
const UNMEASURED = "Its level cannot be shown here, but you are heard.";

export class Talk {
  /**
   * @param {import("./microphone.js").Microphone} microphone
   * @param {() => void} retry asks for the microphone again
   */
  constructor(microphone, retry) {
    this.microphone = microphone;
    this.live = false;
    this.measured = true; // whether the level meter works
    this.talk = element("talk", HTMLButtonElement);
    this.label = part("talk-label");
    this.mute = element("mute", HTMLButtonElement);
    this.open = element("open", HTMLInputElement);
    this.area = part("microphone");
    this.hint = part("talk-hint");
    this.again = element("microphone-retry", HTMLButtonElement);
    this.#listen();
    this.again.addEventListener("click", retry);
    microphone.addEventListener("change", () => this.show());
  }

  #listen() {
    const { talk, microphone } = this;
    const release = () => microphone.held && microphone.set({ held: false });
    talk.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || talk.disabled) return;
      talk.setPointerCapture(event.pointerId);
      microphone.set({ held: true });
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) talk.addEventListener(name, release);
    talk.addEventListener("contextmenu", (event) => event.preventDefault()); // a long press is talking, not a menu
    window.addEventListener("blur", release);
    document.addEventListener("keydown", (event) => this.#key(event, true));
    document.addEventListener("keyup", (event) => this.#key(event, false));
    this.mute.addEventListener("click", () => microphone.set({ muted: !microphone.muted }));
    this.open.addEventListener("change", () => microphone.set({ open: this.open.checked }));
  }

  /**
   * @param {KeyboardEvent} event
   * @param {boolean} down
   */
  #key(event, down) {
    if (!this.live || event.ctrlKey || event.metaKey || event.altKey) return;
    if (this.#isTalkKey(event)) {
      event.preventDefault();
      if (!event.repeat) this.microphone.set({ held: down });
    } else if (down && event.key.toLowerCase() === "m" && !event.repeat && !this.mute.disabled) {
      this.mute.click();
    }
  }

  /**
   * The space bar, unless another control has it; on the button Enter as well.
   * @param {KeyboardEvent} event
   */
  #isTalkKey({ target, code }) {
    if (this.talk.disabled) return false;
    if (target === this.talk) return code === "Space" || code === "Enter";
    const elsewhere = target instanceof Element && target.closest("button, input, select, textarea, a");
    return code === "Space" && !elsewhere;
  }

  show() {
    const { stream, heard, muted, open } = this.microphone;
    const usable = this.live && stream !== null;
    this.talk.disabled = this.mute.disabled = this.open.disabled = !usable;
    this.talk.classList.toggle("on", heard);
    this.label.textContent = heard ? "Talking…" : "Hold to talk";
    this.mute.setAttribute("aria-pressed", String(muted));
    this.open.checked = open;
    this.again.hidden = !(this.live && this.microphone.problem);
    this.hint.textContent = this.#words();
  }

  #words() {
    const { stream, problem, muted, open } = this.microphone;
    if (problem) return `${problem} The call goes on: you can play a sample sentence.`;
    if (!stream) return HINTS.waiting;
    const ready = muted ? HINTS.muted : open ? HINTS.open : HINTS.push;
    return this.measured ? ready : `${ready} ${UNMEASURED}`;
  }

  /** @param {boolean} measured whether the microphone's level can be shown */
  setMeasured(measured) {
    this.measured = measured;
    this.show();
  }

  /**
   * Shows or hides the controls with the call.
   * @param {boolean} live
   */
  setLive(live) {
    this.live = live;
    this.microphone.set({ held: false, muted: false });
    this.area.hidden = !live;
    this.show();
  }
}
