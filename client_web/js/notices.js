// Messages that pass: errors and hints at the foot of the page, read aloud, closed by hand or by time. Never silent, never piled up.

const LIFETIME_MS = { error: 12000, info: 8000 };
const AT_MOST = 3;

export class Notices {
  /** @param {HTMLElement} place an aria-live region */
  constructor(place) {
    this.place = place;
  }

  error(text) {
    this.#add(text, "error");
  }

  info(text) {
    this.#add(text, "info");
  }

  clear() {
    this.place.replaceChildren();
  }

  #add(text, kind) {
    for (const old of this.place.children) if (old.dataset.text === text) old.remove();
    const toast = document.createElement("div");
    toast.className = `toast ${kind}`;
    toast.dataset.text = text;
    const words = document.createElement("p");
    words.textContent = text;
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = "×";
    close.setAttribute("aria-label", "Close this message");
    close.addEventListener("click", () => toast.remove());
    toast.append(words, close);
    this.place.append(toast);
    while (this.place.children.length > AT_MOST) this.place.firstChild.remove();
    setTimeout(() => toast.remove(), LIFETIME_MS[kind]);
  }
}
