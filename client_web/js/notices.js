// Passing messages at the foot of the page: errors and hints, read aloud, closed by hand or by time, at most three at once.

const LIFETIME_MS = { error: 12000, info: 8000 };
const AT_MOST = 3;

export class Notices {
  /** @param {HTMLElement} place an aria-live region */
  constructor(place) {
    this.place = place;
  }

  /** @param {string} text */
  error(text) {
    this.#add(text, "error");
  }

  /** @param {string} text */
  info(text) {
    this.#add(text, "info");
  }

  clear() {
    this.place.replaceChildren();
  }

  /**
   * @param {string} text
   * @param {"error"|"info"} kind
   */
  #add(text, kind) {
    for (const old of [...this.place.children]) if (old.querySelector("p")?.textContent === text) old.remove();
    const toast = document.createElement("div");
    toast.className = `toast ${kind}`;
    const words = document.createElement("p");
    words.textContent = text;
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = "×";
    close.setAttribute("aria-label", "Close this message");
    close.addEventListener("click", () => toast.remove());
    toast.append(words, close);
    this.place.append(toast);
    while (this.place.children.length > AT_MOST) this.place.firstElementChild?.remove();
    setTimeout(() => toast.remove(), LIFETIME_MS[kind]);
  }
}
