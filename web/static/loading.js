// Loading: the pictures of a photo that this page has no file of, or that the browser cannot draw: a preview, because it
// is there soon, then every pixel, and the patches of its rounds.

import { ApiError } from "./api.js";

/** @typedef {import("./store.js").Photo} Photo */
/** @typedef {import("./store.js").Round} Round */

const BROWSER_FORMATS = new Set(["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"]);
const LARGEST_PREVIEW_PX = 16_384; // longer sides are more than browsers draw

/** @param {Photo | null} photo @param {string} code */
const isNoted = (photo, code) => Boolean(photo?.notes?.some((note) => note.code === code));

// Photos that a browser shows otherwise than they are repaired: of 16 bits with few values it makes black, where the
// server stretches them, as in patches; of several frames it plays all, where the first is repaired.
/** @param {Photo | null} photo */
export const isShownOtherwise = (photo) => isNoted(photo, "few_levels") || isNoted(photo, "animated_first_frame");

/** @param {{store: import("./store.js").Store, api: import("./api.js").Api, layers: import("./layers.js").Layers, view: import("./view.js").View, setup: {preview_px: number}}} parts */
export function createLoading({ store, api, layers, view, setup }) {
  const previewUrl = (/** @type {string} */ id) => api.photoUrl(id, `?max_px=${setup.preview_px}&format=webp`);
  const isShown = (/** @type {number} */ number) => store.get().photo_number === number;

  /** @param {string} image_id @param {AbortSignal} signal */
  const preview = (image_id, signal) => layers.load(previewUrl(image_id), signal);

  /** @param {number} number of the photo, which is shown @param {AbortSignal} signal */
  async function showPhoto(number, signal) {
    const { photo } = store.get();
    if (!photo?.image_id) return;
    const picture = await preview(photo.image_id, signal);
    if (!isShown(number)) return;
    layers.showPhoto(picture);
    view.setSize(photo.width, photo.height);
    store.update({ shown_id: photo.image_id });
    void showWhole(number, signal);
  }

  // In a format that the browser can draw.
  /** @param {number} number @param {AbortSignal} signal */
  async function showWhole(number, signal) {
    const { photo } = store.get();
    if (!isShown(number) || !photo?.image_id || Math.max(photo.width, photo.height) <= setup.preview_px) return;
    const format = isNoted(photo, "animated_first_frame") ? "png" : "jpeg"; // frames may be transparent
    const whole = BROWSER_FORMATS.has(photo.format) && !isShownOtherwise(photo) ? "" : `?max_px=${LARGEST_PREVIEW_PX}&format=${format}`;
    const picture = await layers.load(api.photoUrl(photo.image_id, whole), signal).catch(() => null);
    if (picture && isShown(number)) layers.showPhoto(picture);
  }

  /** @param {number} number @param {AbortSignal} signal */
  async function showRounds(number, signal) {
    const { rounds, branches } = store.get();
    await Promise.all(rounds.map((each) => showPatch(number, each, signal)));
    for (const path of branches) await loadBranch(number, path, signal);
    if (isShown(number) && branches.length) store.update({ shown_id: `branches of ${number}` });
  }

  /** @param {number} number @param {Round} each @param {AbortSignal} signal */
  async function showPatch(number, each, signal) {
    try {
      await layers.loadPatch(each, signal);
      if (isShown(number)) store.update({ shown_id: each.image_id });
    } catch (error) {
      if (!isShown(number)) return;
      if (!(error instanceof ApiError) || error.code !== "unknown_image") throw error;
      // Later rounds build on the one that is gone.
      const { rounds, round } = store.get();
      const left = rounds.slice(0, rounds.findIndex(({ image_id }) => image_id === each.image_id));
      if (left.length < rounds.length) store.update({ rounds: left, round: Math.min(round, left.length) });
    }
  }

  // A branch with a round that is gone goes too.
  /** @param {number} number @param {Round[]} path @param {AbortSignal} signal */
  async function loadBranch(number, path, signal) {
    try {
      for (const each of path) await layers.loadPatch(each, signal);
    } catch (error) {
      if (!isShown(number) || !(error instanceof ApiError) || error.code !== "unknown_image") return;
      store.update({ branches: store.get().branches.filter((other) => other !== path) });
    }
  }

  return { preview, showPhoto, showWhole, showRounds };
}
