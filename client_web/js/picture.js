// Fitting of pictures to the server's limits before the upload: smaller, or as JPEG, only where the limits ask for it.

import { ApiError } from "./api.js";

/** @typedef {import("./api.js").PortraitLimits} PortraitLimits */

const QUALITY = 0.92;
const STEP = 0.8; // of the sides, while the file is still too large
const MAX_TRIES = 8;
const CANVAS_PIXELS = 4096 * 4096; // the largest canvas that every browser has (iOS)
const GROUND = "#808080"; // what the server puts behind a transparent picture

/**
 * @param {Blob} file
 * @param {HTMLImageElement|null} image the file as the browser shows it, upright; null if it cannot
 * @param {PortraitLimits} limits
 * @returns {Promise<Blob>} the file itself where it fits, and where only the server can tell. Rejects with ApiError if the
 *   file is too large and this browser cannot make it smaller.
 */
export async function fitPicture(file, image, limits) {
  const smaller = image && !fits(file, image, limits) ? await shrink(image, limits) : null;
  if (smaller) return smaller;
  if (file.size <= limits.max_bytes) return file;
  const most = (limits.max_bytes / 2 ** 20).toFixed(1).replace(".0", "");
  throw new ApiError(
    `This file is larger than ${most} MiB, and this browser cannot make it smaller. Choose a smaller picture.`,
    { status: 413, code: "picture_too_large" },
  );
}

/**
 * @param {HTMLImageElement} image
 * @param {PortraitLimits} limits
 */
async function shrink(image, { max_bytes, max_pixels }) {
  const pixels = image.naturalWidth * image.naturalHeight;
  let scale = Math.min(1, Math.sqrt(Math.min(max_pixels, CANVAS_PIXELS) / pixels));
  for (let tries = 0; tries < MAX_TRIES; tries++, scale *= STEP) {
    const smaller = await redraw(image, scale);
    if (smaller && smaller.size <= max_bytes) return smaller;
  }
  return null;
}

/**
 * A type that the browser does not name is left for the server to find out.
 * @param {Blob} file
 * @param {HTMLImageElement} image
 * @param {PortraitLimits} limits
 */
function fits(file, image, { max_bytes, max_pixels, types }) {
  const readable = file.type === "" || types.includes(file.type);
  return readable && file.size <= max_bytes && image.naturalWidth * image.naturalHeight <= max_pixels;
}

/**
 * @param {HTMLImageElement} image
 * @param {number} scale of the sides, at most 1
 * @returns {Promise<Blob|null>} a JPEG; null if the browser has no memory for it
 */
function redraw(image, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.floor(image.naturalHeight * scale));
  const pen = canvas.getContext("2d");
  if (!pen) return Promise.resolve(null);
  pen.fillStyle = GROUND;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, canvas.width, canvas.height); // upright: the orientation of the file is obeyed
  return new Promise((resolve) => {
    canvas.toBlob(resolve, "image/jpeg", QUALITY);
  });
}
