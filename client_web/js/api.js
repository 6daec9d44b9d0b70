// The server's HTTP wire, and nothing else: one function a route, errors as ApiError with words a person can act on.
// Knows the access key that the page was opened with; knows no page element.

const KEY_NAME = "knotcast-key";

/** An answer that was not 2xx (status, code, param as the server gave them), or no answer at all (status 0). */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "unreachable", param = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }
}

/** Takes the access key out of the address (#key=...), so that it is not bookmarked or shown, and keeps it for this tab. A
 * one-time key is traded for a cookie by the first request that carries it; a configured one is needed each time. */
function takeAccessKey() {
  const here = new URL(location.href);
  const fragment = new URLSearchParams(here.hash.replace(/^#/, ""));
  const given = fragment.get("key");
  if (given) {
    sessionStorage.setItem(KEY_NAME, given);
    fragment.delete("key");
    here.hash = fragment.toString();
    history.replaceState(null, "", here);
  }
  return sessionStorage.getItem(KEY_NAME);
}

const accessKey = takeAccessKey();

function headers(token, extra = {}) {
  const bearer = token ?? accessKey;
  return bearer ? { ...extra, Authorization: `Bearer ${bearer}` } : extra;
}

/** The server's words begin small, as a part of a log line does. */
export function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

async function errorOf(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not our server's shape (a proxy's page, say): the status must do.
  }
  if (error.message) error.message = sentence(error.message);
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const retryAfter = Number.isFinite(seconds) ? seconds : null;
  let message = error.message ?? `The server answered with status ${response.status}.`;
  if (retryAfter !== null) message += ` Try again in ${retryAfter} s.`;
  return new ApiError(message, { status: response.status, code: error.code ?? "http_error", param: error.param ?? null, retryAfter });
}

async function request(path, { method = "GET", token = null, body, json, type, timeout = 15000, keepalive = false } = {}) {
  const extra = json === undefined ? (type ? { "Content-Type": type } : {}) : { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: headers(token, extra),
      body: json === undefined ? body : JSON.stringify(json),
      signal: keepalive ? undefined : AbortSignal.timeout(timeout),
      keepalive,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "TimeoutError") throw new ApiError("The server did not answer in time. Is the machine very busy?", { code: "timeout" });
    throw new ApiError("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await errorOf(response);
  if (response.status === 204) return null;
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

/** @param {Blob} file  @returns {Promise<{id: string, face: object, warnings: {code: string, message: string}[], preview_url: string}>} */
export function uploadPortrait(file, name) {
  const form = new FormData();
  form.append("file", file, name);
  return request("/v1/portraits", { method: "POST", body: form, timeout: 30000 });
}

/** @returns {Promise<{id: string, token: string, expires_at: any, ice_servers: RTCIceServer[]}>} */
export function createSession(portraitId) {
  return request("/v1/sessions", { method: "POST", json: { portrait_id: portraitId } });
}

const under = (session, what) => `/v1/sessions/${encodeURIComponent(session.id)}${what}`;

export function sendOffer(session, description) {
  const { sdp, type } = description;
  return request(under(session, "/offer"), { method: "POST", token: session.token, json: { sdp, type } });
}

export function sendCandidates(session, candidates) {
  return request(under(session, "/candidates"), { method: "PATCH", token: session.token, json: { candidates } });
}

/** @param {Blob} wav  @returns {Promise<{turn_id: string, duration_ms: number}>} */
export function say(session, wav) {
  return request(under(session, "/say"), { method: "POST", token: session.token, body: wav, type: "audio/wav" });
}

export function interrupt(session) {
  return request(under(session, "/interrupt"), { method: "POST", token: session.token });
}

/** keepalive, because the page may be going away; sendBeacon could neither DELETE nor carry the token. */
export function deleteSession(session) {
  return request(under(session, ""), { method: "DELETE", token: session.token, keepalive: true });
}
