// Reasons for the end of a call, in words: those that only the browser can know. The server's reasons come with its own words.
import { ApiError, getSession } from "./api.js";

/** @typedef {{reason: string, message: string|null}} Ending */

const ASK_MS = 4000;

/** @type {Record<string, string>} */
const WORDS = {
  setup_timeout: "No connection could be made. Does a firewall or VPN block UDP between this browser and the server?",
  unopened:
    "The connection stands, but its channel for messages did not open. A proxy or an extension may block it: try another network or browser.",
  connection_lost: "The connection to the server was lost: the network was interrupted, or it has changed.",
  slept: "The computer was asleep, and the call ended meanwhile.",
  offline: "This computer is offline, and the call was lost with the network.",
  server_gone: "The server can no longer be reached: it was stopped, or the network is down.",
  server_silent: "The server no longer answers: it has stopped, it is very busy, or the network is down.",
  server_restarted: "The server no longer knows this call: it was restarted.",
};

/** Reasons of the server's that say only that it heard nothing more of this browser. */
const UNHEARD = ["heartbeat_lost", "ice_failed", "remote"];

/**
 * @param {string} reason
 * @returns {Ending}
 */
export function endingBy(reason) {
  return { reason, message: WORDS[reason] ?? null };
}

/**
 * What the server said, in the light of what this browser knows.
 * @param {{reason?: string|null, message?: string|null}} told
 * @param {boolean} slept whether the computer has just slept
 * @returns {Ending}
 */
export function endingToldBy(told, slept) {
  const reason = told.reason ?? "remote";
  if (UNHEARD.includes(reason)) return endingBy(slept ? "slept" : "connection_lost");
  return { reason, message: told.message ?? `The server has ended the call (${reason.replaceAll("_", " ")}).` };
}

/**
 * Asks the server about a call whose connection shows no life.
 * @param {import("./api.js").Session} session
 * @param {boolean} slept
 * @returns {Promise<Ending|null>} null: for the server the call goes on
 */
export async function askForEnding(session, slept) {
  try {
    const told = await getSession(session, ASK_MS);
    return told.state === "ended" ? endingToldBy(told, slept) : null;
  } catch (error) {
    return endingBy(slept ? "slept" : lostBy(error));
  }
}

/**
 * Whether a call ended while nobody could hear it. A server that cannot be asked yet leaves it open.
 * @param {import("./api.js").Session} session
 */
export async function hasEnded(session) {
  try {
    return (await getSession(session, ASK_MS)).state === "ended";
  } catch (error) {
    return isForgotten(error);
  }
}

/** @param {unknown} error */
function isForgotten(error) {
  return error instanceof ApiError && (error.status === 401 || error.status === 404);
}

/** @param {unknown} error why the server could not be asked */
function lostBy(error) {
  if (isForgotten(error)) return "server_restarted";
  if (!navigator.onLine) return "offline";
  return error instanceof ApiError && error.code === "timeout" ? "server_silent" : "server_gone";
}
