// Mask tools: the mask as a thing of its own: inverted, grown or shrunk, from a file, to a file, the same once more. What
// is painted becomes a region of pixels; it can be painted on and erased from like any other, and undone.

import { ApiError, refusalOf } from "./api.js";
import { rasterize } from "./rasterize.js";
import { encodePng, inStrips, inverted, toPreview, toStroke, trimmed } from "./regions.js";

/** @typedef {import("./store.js").Stroke} Stroke */
/** @typedef {import("./regions.js").Region} Region */

const BRIGHT = 127;
const SAME_SHAPE = 0.01; // proportions may differ by so much, as rounded sizes do
export const MOST_GROWTH_PX = 64;

/** @param {{store: import("./store.js").Store, api: import("./api.js").Api, replaceStrokes: (strokes: Stroke[]) => void}} parts */
export function createMaskTools({ store, api, replaceStrokes }) {
  /** @type {{strokes: Stroke[], region: Region, signed: Promise<Int16Array>} | null} */
  let growing = null;

  const size = () => {
    const { photo } = store.get();
    return [photo?.width || 0, photo?.height || 0];
  };

  /** @param {string} code @param {Record<string, any>} [params] */
  const refuse = (code, params = {}) => store.update({ status: { error: { code, message: "", params } } });

  // Unpainted photos have the same empty list.
  /** @param {import("./store.js").State} before */
  const isAsBefore = ({ strokes, photo_number }) => store.get().strokes === strokes && store.get().photo_number === photo_number;

  async function invert() {
    const before = store.get();
    const { strokes, photo } = before;
    if (!photo) return;
    const region = trimmed(inverted(await rasterize(strokes, photo.width, photo.height), photo.width, photo.height));
    const stroke = region && (await toStroke(region));
    if (isAsBefore(before)) replaceStrokes(stroke ? [stroke] : []);
  }

  /** Distances around what is painted now, computed beside the page. */
  async function beginGrowing() {
    const { strokes } = store.get();
    if (growing?.strokes === strokes) return growing;
    const [width, height] = size();
    const region = await rasterize(strokes, width, height);
    if (!region) return null;
    const wide = padded(region, width, height);
    const worker = new Worker(new URL("./distance_worker.js", import.meta.url), { type: "module" });
    /** @type {Promise<Int16Array>} */
    const signed = new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = () => reject(new Error("the distances could not be computed"));
    });
    worker.postMessage({ data: wide.data, width: wide.width, height: wide.height, most: MOST_GROWTH_PX });
    const done = () => worker.terminate();
    signed.then(done, done);
    growing = { strokes, region: wide, signed };
    return growing;
  }

  /** The region grown by `by_px`, shrunk where that is below zero. @param {number} by_px @returns {Promise<Region | null>} */
  async function grown(by_px) {
    const begun = await beginGrowing();
    if (!begun) return null;
    const signed = await begun.signed;
    const data = new Uint8Array(signed.length);
    for (let i = 0; i < data.length; i += 1) data[i] = signed[i] <= by_px ? 1 : 0;
    return trimmed({ ...begun.region, data });
  }

  /** @type {number | null} */
  let wanted_px = null; // null: nothing is to be shown any more
  let isShowing = false;

  /** Show what the mask would be; the newest amount counts. @param {number} by_px */
  async function previewGrowth(by_px) {
    wanted_px = by_px;
    if (isShowing) return;
    isShowing = true;
    try {
      for (let shown_px = NaN; wanted_px !== null && shown_px !== wanted_px; ) {
        shown_px = wanted_px;
        const { strokes } = store.get();
        const region = await grown(shown_px);
        if (store.get().strokes !== strokes || wanted_px === null) return;
        store.update({ preview: toPreview(region || { left: 0, top: 0, width: 1, height: 1, data: new Uint8Array(1) }) });
      }
    } finally {
      isShowing = false;
    }
  }

  /** Take the amount. @param {number} by_px */
  async function grow(by_px) {
    wanted_px = null;
    const { strokes } = store.get();
    const region = by_px ? await grown(by_px) : null;
    const stroke = region && (await toStroke(region));
    if (store.get().strokes === strokes && by_px) replaceStrokes(stroke ? [stroke] : []);
    store.update({ preview: null });
  }

  /** Take a picture as the mask: white goes, and of a picture with transparent parts what is not transparent. */
  async function upload(/** @type {File} */ file) {
    const { photo, photo_number } = store.get();
    if (!photo) return;
    try {
      const picture = await createImageBitmap(file).catch(() => byServer(file));
      if (store.get().photo_number !== photo_number) return;
      const sizes = { width: picture.width, height: picture.height, photo_width: photo.width, photo_height: photo.height };
      if (Math.abs((picture.width * photo.height) / (picture.height * photo.width) - 1) > SAME_SHAPE) return refuse("mask_shape", { name: file.name, ...sizes });
      const region = readMask(picture, photo.width, photo.height);
      if (!region) return refuse("mask_without_white", { name: file.name });
      const stroke = await toStroke(region);
      if (store.get().photo_number === photo_number) replaceStrokes([...store.get().strokes, stroke]);
    } catch (error) {
      const told = error instanceof ApiError ? error : new ApiError(0, { error: "not_an_image" });
      if (store.get().photo_number === photo_number) store.update({ status: { error: refusalOf(told, file.name) } });
    }
  }

  /** What this browser cannot draw, TIFF and HEIC mostly, as the server reads it. @param {File} file */
  async function byServer(file) {
    // A repair that runs has the line: nothing would say its state again before its next step.
    if (!store.get().job) store.update({ status: { key: "mask_reading", tone: "busy" } });
    const { image_id } = await api.upload(file, () => {});
    return createImageBitmap(await api.picture(api.photoUrl(image_id, "?format=png")));
  }

  async function download() {
    const { strokes, photo } = store.get();
    if (!photo) return;
    const region = await rasterize(strokes, photo.width, photo.height);
    if (!region) return refuse("empty_mask");
    const url = URL.createObjectURL(await encodePng(region, photo.width, photo.height));
    const link = Object.assign(document.createElement("a"), { href: url, download: `${photo.name.replace(/\.[^.]*$/, "")}-mask.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  /** What was repaired last, once more: on this photo or, stretched to its size, on another. */
  async function useAgain() {
    const before = store.get();
    const { used, strokes, photo } = before;
    if (!used || !photo) return;
    const again = used.width === photo.width && used.height === photo.height ? used.strokes : await stretched(used, photo);
    if (isAsBefore(before)) replaceStrokes([...strokes, ...again]);
  }

  return { invert, previewGrowth, grow, upload, download, useAgain };
}

/** @param {Region} region @param {number} width of the photo @param {number} height @returns {Region} with room to grow */
function padded(region, width, height) {
  const left = Math.max(0, region.left - MOST_GROWTH_PX - 1);
  const top = Math.max(0, region.top - MOST_GROWTH_PX - 1);
  const right = Math.min(width, region.left + region.width + MOST_GROWTH_PX + 1);
  const bottom = Math.min(height, region.top + region.height + MOST_GROWTH_PX + 1);
  const data = new Uint8Array((right - left) * (bottom - top));
  for (let y = 0; y < region.height; y += 1) {
    data.set(region.data.subarray(y * region.width, (y + 1) * region.width), (y + region.top - top) * (right - left) + region.left - left);
  }
  return { left, top, width: right - left, height: bottom - top, data };
}

/** @param {ImageBitmap} picture @param {number} width of the photo, which it is stretched to @param {number} height */
export function readMask(picture, width, height) {
  const [bright, dark] = [new Uint8Array(width * height), new Uint8Array(width * height)];
  let [brightPx, darkPx] = [0, 0];
  const stretch = picture.height / height;
  inStrips(
    width,
    height,
    (context, top, rows) => {
      context.imageSmoothingEnabled = false;
      context.drawImage(picture, 0, top * stretch, picture.width, rows * stretch, 0, 0, width, rows);
    },
    (pixels, top) => {
      for (let i = 0, at = top * width; i < pixels.length; i += 4, at += 1) {
        if (pixels[i + 3] <= BRIGHT) continue;
        const isBright = 299 * pixels[i] + 587 * pixels[i + 1] + 114 * pixels[i + 2] > 1000 * BRIGHT;
        if (isBright) brightPx += bright[at] = 1;
        else darkPx += dark[at] = 1;
      }
    },
  );
  const isLayer = brightPx + darkPx < width * height && (!brightPx || !darkPx);
  const data = isLayer && !brightPx ? dark : bright;
  return trimmed({ left: 0, top: 0, width, height, data });
}

/** @param {{strokes: Stroke[], width: number, height: number}} used @param {{width: number, height: number}} photo @returns {Promise<Stroke[]>} */
export async function stretched(used, { width, height }) {
  const region = await rasterize(used.strokes, used.width, used.height);
  if (!region) return [];
  const data = new Uint8Array(width * height);
  for (let y = 0; y < height; y += 1) {
    const row = Math.floor(((y + 0.5) * used.height) / height) - region.top;
    if (row < 0 || row >= region.height) continue;
    for (let x = 0; x < width; x += 1) {
      const column = Math.floor(((x + 0.5) * used.width) / width) - region.left;
      if (column >= 0 && column < region.width) data[y * width + x] = region.data[row * region.width + column];
    }
  }
  const whole = trimmed({ left: 0, top: 0, width, height, data });
  return whole ? [await toStroke(whole)] : [];
}
