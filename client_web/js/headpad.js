// Head direction by a pointer or the arrow keys: yaw and pitch in radians, eased, at most 25 times a second while held.
// Right on the pad is right in the picture, which is the avatar's own left: positive yaw. Up is positive pitch.

const YAW = 0.35; // rad, about 20 degrees
const PITCH = 0.26; // rad, about 15 degrees
const TICK_MS = 40;
const EASE = 0.3; // share of the way to the target taken in a tick
/** @type {Record<string, [number, number]>} */
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export class HeadPad {
  /** @param {HTMLElement} pad  @param {(pose: {yaw: number, pitch: number}) => void} send */
  constructor(pad, send) {
    this.pad = pad;
    this.send = send;
    this.at = [0, 0];
    this.target = [0, 0];
    /** @type {Set<string>} */
    this.keys = new Set();
    /** @type {number|null} */
    this.pointer = null;
    /** @type {number|undefined} */
    this.timer = undefined;
    this.enabled = false;
    this.#listen();
  }

  #listen() {
    const { pad } = this;
    pad.addEventListener("pointerdown", (event) => {
      if (!this.enabled || event.button !== 0 || this.pointer !== null) return;
      pad.setPointerCapture(event.pointerId);
      this.pointer = event.pointerId;
      this.#point(event);
    });
    pad.addEventListener("pointermove", (event) => event.pointerId === this.pointer && this.#point(event));
    for (const name of /** @type {const} */ (["pointerup", "pointercancel", "lostpointercapture"])) {
      pad.addEventListener(name, (event) => event.pointerId === this.pointer && this.#letGo());
    }
    pad.addEventListener("keydown", (event) => {
      if (!(event.key in KEYS) || !this.enabled) return;
      event.preventDefault();
      this.keys.add(event.key);
      this.#keyed();
    });
    pad.addEventListener("keyup", (event) => this.keys.delete(event.key) && this.#keyed());
    pad.addEventListener("blur", () => this.#letGo());
    window.addEventListener("blur", () => this.#letGo());
  }

  /** @param {boolean} enabled */
  setEnabled(enabled) {
    this.enabled = enabled;
    this.pad.setAttribute("aria-disabled", String(!enabled));
    if (!enabled) {
      this.#letGo();
      this.at = [0, 0];
      this.#stop();
      this.#draw();
    }
  }

  /** @param {PointerEvent} event */
  #point(event) {
    const box = this.pad.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width - 0.5) / 0.38;
    const y = (0.5 - (event.clientY - box.top) / box.height) / 0.38;
    const far = Math.max(1, Math.hypot(x, y));
    this.#aim([x / far, y / far]);
  }

  #keyed() {
    const sum = [0, 0];
    for (const key of this.keys) {
      const [x, y] = KEYS[key];
      sum[0] += x;
      sum[1] += y;
    }
    this.#aim(sum);
  }

  #letGo() {
    this.pointer = null;
    this.keys.clear();
    this.target = [0, 0];
  }

  /** @param {number[]} target */
  #aim(target) {
    this.target = target;
    this.timer ??= setInterval(() => this.#tick(), TICK_MS);
  }

  get #held() {
    return this.pointer !== null || this.keys.size > 0;
  }

  #tick() {
    for (const i of [0, 1]) this.at[i] += (this.target[i] - this.at[i]) * EASE;
    const home = !this.#held && Math.hypot(...this.at) < 0.02;
    if (home) this.at = [0, 0];
    this.send({ yaw: this.at[0] * YAW, pitch: this.at[1] * PITCH });
    if (home) this.#stop(); // the voice leads again once the last pose is stale
    this.#draw();
  }

  #stop() {
    clearInterval(this.timer);
    this.timer = undefined;
  }

  #draw() {
    const [x, y] = this.at;
    this.pad.dataset.held = String(this.#held);
    this.pad.style.setProperty("--x", x.toFixed(3));
    this.pad.style.setProperty("--y", y.toFixed(3));
    const across = Math.round((x * YAW * 180) / Math.PI);
    const up = Math.round((y * PITCH * 180) / Math.PI);
    this.pad.setAttribute("aria-valuenow", String(across));
    this.pad.setAttribute("aria-valuetext", describe(across, up));
  }
}

/**
 * @param {number} across degrees to the right of the picture
 * @param {number} up degrees
 */
function describe(across, up) {
  const parts = [];
  if (across) parts.push(`${Math.abs(across)} degrees ${across > 0 ? "right" : "left"}`);
  if (up) parts.push(`${Math.abs(up)} degrees ${up > 0 ? "up" : "down"}`);
  return parts.join(", ") || "straight ahead";
}
