// The microphone's buttons: hold to talk (pointer, Enter or space), keep open, mute. Push-to-talk is the default, because the
// avatar speaks with the caller's own voice and an open microphone beside loudspeakers could hear it again.

const HINTS = {
  push: "Hold it, or the space bar, while you speak.",
  open: "The microphone is open. Wear headphones, so that it does not hear the avatar.",
  muted: "The microphone is off.",
};

export class Talk {
  /** @param {import("./microphone.js").Microphone} microphone  @param {{notices: import("./notices.js").Notices, retry: () => void}} links */
  constructor(microphone, { notices, retry }) {
    this.microphone = microphone;
    this.notices = notices;
    this.live = false;
    this.warned = false;
    for (const name of ["talk", "mute", "open"]) this[name] = document.getElementById(name);
    this.area = document.getElementById("microphone");
    this.hint = document.getElementById("talk-hint");
    this.again = document.getElementById("microphone-retry");
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
    this.open.addEventListener("change", () => {
      microphone.set({ open: this.open.checked });
      if (this.open.checked && !this.warned) {
        this.warned = true;
        this.notices.info("The microphone stays open now: wear headphones, or the avatar will hear itself.");
      }
    });
  }

  #key(event, down) {
    if (!this.live || event.ctrlKey || event.metaKey || event.altKey) return;
    const onTalk = event.target === this.talk;
    const elsewhere = event.target.closest?.("button, input, select, textarea, a") && !onTalk;
    const isTalkKey = event.code === "Space" || (onTalk && event.code === "Enter");
    if (isTalkKey && !elsewhere && !this.talk.disabled) {
      event.preventDefault();
      if (!event.repeat) this.microphone.set({ held: down });
    } else if (down && event.key.toLowerCase() === "m" && !event.repeat && !this.mute.disabled) {
      this.mute.click();
    }
  }

  show() {
    const { stream, problem, heard, muted, open } = this.microphone;
    const usable = this.live && stream !== null;
    this.talk.disabled = this.mute.disabled = this.open.disabled = !usable;
    this.talk.classList.toggle("on", heard);
    this.talk.querySelector(".talk-label").textContent = heard ? "Talking…" : "Hold to talk";
    this.mute.setAttribute("aria-pressed", String(muted));
    this.open.checked = open;
    this.again.hidden = !(this.live && problem);
    const waiting = "Waiting for the microphone: the browser may be asking you to allow it.";
    const ready = muted ? HINTS.muted : open ? HINTS.open : HINTS.push;
    this.hint.textContent = problem ? `${problem} The call goes on: you can play a sample sentence.` : stream ? ready : waiting;
  }

  /** Shows or hides the controls with the call. */
  setLive(live) {
    this.live = live;
    this.microphone.set({ held: false, muted: false });
    this.area.hidden = !live;
    this.show();
  }
}
