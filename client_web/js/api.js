// Client of the server's HTTP API: one function a route, errors as ApiError with words that a person can act on.
// Addresses are relative to the document, so the page also works below a path of a proxy. Knows no page element.

/**
 * @typedef {{code: string, message: string}} Warning
 * @typedef {{id: string, warnings: Warning[], preview_url: string, face: {outlines: Record<string, number[][]>}}} Portrait
 * @typedef {{max_bytes: number, max_pixels: number, types: string[]}} PortraitLimits
 * @typedef {{id: string, token: string, ice_servers: RTCIceServer[]}} Session
 * @typedef {{state: string, reason: string|null, message?: string|null}} SessionState
 * @typedef {{status?: number, code?: string, param?: string|null, retryAfter?: number|null}} ErrorFacts
 * @typedef {object} RequestOptions
 * @property {string} [method]
 * @property {string|null} [token] the session's token; without it the access key is sent
 * @property {BodyInit} [body]
 * @property {unknown} [json] sent as JSON instead of a body
 * @property {string} [type] of the body
 * @property {number} [timeout] ms
 * @property {boolean} [keepalive] the request outlives the page; then without a timeout
 */

const KEY_NAME = "knotcast-key";

/** An answer that was not 2xx (status, code, param as the server gave them), or no answer at all (status 0). */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {ErrorFacts} [facts]
   */
  constructor(message, { status = 0, code = "unreachable", param = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }
}

/** This tab's storage, or null where the browser denies it (blocked cookies: even looking at it throws). */
function tabStorage() {
  try {
    return window.sessionStorage;
  } catch {
    return null;
  }
}

/** Takes the access key out of the address (#key=...), so that it is not bookmarked or shown, and keeps it for this tab. A
 * one-time key is traded for a cookie by the first request that carries it; a configured one is needed each time. */
function takeAccessKey() {
  const here = new URL(location.href);
  const fragment = new URLSearchParams(here.hash.replace(/^#/, ""));
  const given = fragment.get("key");
  const storage = tabStorage();
  if (!given) return storage?.getItem(KEY_NAME) ?? null;
  fragment.delete("key");
  here.hash = fragment.toString();
  history.replaceState(null, "", here);
  try {
    storage?.setItem(KEY_NAME, given);
  } catch {
    // A full or closed storage: the key then holds until the page is loaded again.
  }
  return given;
}

const accessKey = takeAccessKey();

/**
 * The server's words begin small, as a part of a log line does.
 * @param {string} text
 */
export function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

/**
 * An address that the server gave, relative to the document.
 * @param {string} address
 */
export function fromServer(address) {
  return address.replace(/^\/(?=v1\/)/, "");
}

/** @param {Response} response */
async function errorOf(response) {
  /** @type {{message?: string, code?: string, param?: string|null}} */
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not our server's shape (a proxy's page, say): the status must do.
  }
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const retryAfter = Number.isFinite(seconds) ? seconds : null;
  let message = error.message ? sentence(error.message) : `The server answered with status ${response.status}.`;
  if (retryAfter !== null) message += ` Try again in ${retryAfter} s.`;
  if (response.status === 401 && !navigator.cookieEnabled) {
    message += " This browser blocks this page's cookies, in which the right to use it is kept: allow them first.";
  }
  return new ApiError(message, { status: response.status, code: error.code ?? "http_error", param: error.param ?? null, retryAfter });
}

/** @param {RequestOptions} options */
function headersOf({ token, json, type }) {
  /** @type {Record<string, string>} */
  const headers = {};
  const bearer = token ?? accessKey;
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  else if (type) headers["Content-Type"] = type;
  return headers;
}

/**
 * @param {string} path relative to the document
 * @param {RequestOptions} [options]
 * @returns {Promise<any>} the answer's JSON; null for an empty answer. Rejects with ApiError.
 */
async function request(path, options = {}) {
  const { method = "GET", body, json, timeout = 15000, keepalive = false } = options;
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: headersOf(options),
      body: json === undefined ? body : JSON.stringify(json),
      signal: keepalive ? undefined : AbortSignal.timeout(timeout),
      keepalive,
      cache: "no-store",
    });
  } catch (error) {
    throw unanswered(error);
  }
  if (!response.ok) throw await errorOf(response);
  const text = await response.text().catch((error) => Promise.reject(unanswered(error)));
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    throw new ApiError("The answer did not come from knotcast. Does a proxy or a sign-in page stand in between?", { code: "foreign_answer" });
  }
}

/** @param {unknown} error */
function unanswered(error) {
  const late = error instanceof DOMException && error.name === "TimeoutError";
  if (late) return new ApiError("The server did not answer in time. Is the machine very busy?", { code: "timeout" });
  return new ApiError("The server cannot be reached. Is it still running?");
}

/** @returns {Promise<{portrait: PortraitLimits}>} what the server accepts; needs no key */
export function getLimits() {
  return request("v1/limits");
}

/**
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<Portrait>}
 */
export function uploadPortrait(file, name) {
  const form = new FormData();
  form.append("file", file, name);
  return request("v1/portraits", { method: "POST", body: form, timeout: 30000 });
}

/**
 * @param {string} portraitId
 * @returns {Promise<Session>}
 */
export function createSession(portraitId) {
  return request("v1/sessions", { method: "POST", json: { portrait_id: portraitId } });
}

/**
 * @param {Session} session
 * @param {string} [what] a route below it
 */
const under = (session, what = "") => `v1/sessions/${encodeURIComponent(session.id)}${what}`;

/**
 * @param {Session} session
 * @param {number} timeout ms
 * @returns {Promise<SessionState>} an ended session says why for a minute, then it is not found
 */
export function getSession(session, timeout) {
  return request(under(session), { token: session.token, timeout });
}

/**
 * @param {Session} session
 * @param {RTCSessionDescription} description
 * @returns {Promise<RTCSessionDescriptionInit>}
 */
export function sendOffer(session, { sdp, type }) {
  return request(under(session, "/offer"), { method: "POST", token: session.token, json: { sdp, type } });
}

/**
 * @param {Session} session
 * @param {RTCIceCandidateInit[]} candidates
 */
export function sendCandidates(session, candidates) {
  return request(under(session, "/candidates"), { method: "PATCH", token: session.token, json: { candidates } });
}

/**
 * @param {Session} session
 * @param {Blob} wav
 * @returns {Promise<{turn_id: string, duration_ms: number}>}
 */
export function say(session, wav) {
  return request(under(session, "/say"), { method: "POST", token: session.token, body: wav, type: "audio/wav" });
}

/** @param {Session} session */
export function interrupt(session) {
  return request(under(session, "/interrupt"), { method: "POST", token: session.token });
}

/**
 * keepalive, because the page may be going away; sendBeacon could neither DELETE nor carry the token.
 * @param {Session} session
 */
export function deleteSession(session) {
  return request(under(session), { method: "DELETE", token: session.token, keepalive: true });
}
