// Photo: opening one. The photo in use stays until its successor can be shown: from the file itself where this browser
// can draw it, else from the server's picture of it. Sizes are of the upright photo.

import { ApiError } from "./api.js";
import { doneStatus, earlierVersions } from "./store.js";

/** @typedef {import("./store.js").Photo} Photo */
/** @typedef {import("./store.js").Round} Round */
/** @typedef {import("./store.js").State} State */
/** @typedef {Pick<State, "photo" | "strokes" | "past" | "future" | "rounds" | "round" | "status" | "shown_id">} Work */
/** @typedef {{number: number, file: File | null, name: string, others: number, uploading: Promise<void> | null, leaving: AbortController}} Opened */
/** @typedef {{one: Opened, work: Work, pictures: import("./layers.js").Pictures}} Left */

const BROWSER_FORMATS = new Set(["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"]);
const LARGEST_PREVIEW_PX = 16_384; // longer sides are more than browsers draw

/** @type {Work} */
const NO_WORK = { photo: null, strokes: [], past: [], future: [], rounds: [], round: 0, status: { key: "waiting" }, shown_id: null };

/** @param {{store: import("./store.js").Store, api: import("./api.js").Api, layers: import("./layers.js").Layers, view: import("./view.js").View, setup: {max_file_mib: number, preview_px: number}, words: import("./i18n.js").Words, cancelRepair: () => void, onSize: (width: number, height: number) => void}} parts */
export function createPhoto({ store, api, layers, view, setup, words, cancelRepair, onSize }) {
  let count = 0;
  /** @type {Opened | null} */
  let newest = null; // chosen last; perhaps not shown yet
  /** @type {Opened | null} */
  let shown = null;
  /** @type {Left | null} */
  let previous = null;

  /** @param {string} code @param {Record<string, any>} [params] */
  function refuse(code, params = {}) {
    store.update({ status: { error: { code, message: "", params } } });
  }

  /** @param {File | null} file @param {string} name @param {number} others @returns {Opened} */
  function take(file, name, others) {
    newest = { number: (count += 1), file, name, others, uploading: null, leaving: new AbortController() };
    return newest;
  }

  /** Open a file; `others` more were given with it and are left out. */
  async function open(/** @type {File} */ file, others = 0) {
    const name = file.name || words.say("photo.pasted");
    if (file.size === 0) return refuse("empty_file", { name });
    if (file.size > setup.max_file_mib * 2 ** 20) return refuse("file_too_large", { name, max_mib: setup.max_file_mib });
    if (newest !== shown && newest !== previous?.one) newest?.leaving.abort();
    const one = take(file, name, others);
    const picture = await layers.decode(file);
    if (one !== newest) return;
    if (picture) {
      const size = { width: picture.naturalWidth, height: picture.naturalHeight };
      replace(one, { name, ...size, format: "", image_id: null, notes: [] }, picture);
    } else {
      store.update({ status: { key: "uploading", tone: "busy" } });
    }
    await send(one).catch(() => {}); // said by refuseUpload already
  }

  /** Upload; rejects with an ApiError. @param {Opened} one @returns {Promise<void>} */
  function send(one) {
    one.uploading = upload(one);
    one.uploading.catch(() => {}); // whoever repairs looks at it, perhaps nobody does
    return one.uploading;
  }

  async function upload(/** @type {Opened} */ one) {
    if (!one.file) return;
    const onProgress = (/** @type {number} */ fraction) => one === newest && store.update({ uploaded: Math.min(0.99, fraction) });
    onProgress(0);
    try {
      await accept(one, await api.upload(one.file, onProgress, one.leaving.signal));
    } catch (error) {
      throw refuseUpload(one, error);
    } finally {
      if (one === newest) store.update({ uploaded: null });
    }
  }

  async function accept(/** @type {Opened} */ one, /** @type {import("./api.js").Uploaded} */ { image_id, width, height, format, notes = [] }) {
    const photo = { name: one.name, image_id, width, height, format, notes };
    if (one === shown) {
      const before = store.get().photo;
      store.update({ photo });
      const isOtherwise = before?.width !== width || before.height !== height || isShownStretched(photo);
      if (isOtherwise) await showServersPicture(one);
    } else if (one === previous?.one) {
      previous.work = { ...previous.work, photo };
    } else if (one === newest) {
      const picture = await layers.load(previewUrl(image_id), one.leaving.signal);
      if (one !== newest) return;
      replace(one, photo, picture);
      void showWholePicture(one);
    }
  }

  // What the server refuses makes room for the photo before it; after a cut, the next repair tries again.
  function refuseUpload(/** @type {Opened} */ one, /** @type {unknown} */ error) {
    const known = error instanceof ApiError ? error : new ApiError(0, { error: "upload_failed" });
    const { code, message, params } = known;
    const isRefused = error instanceof ApiError;
    const isSeen = one === newest || one === shown;
    if (isRefused && one === shown) putBack();
    if (isRefused && one === previous?.one) forgetPrevious();
    if (isSeen) store.update({ status: { error: { code, message, params: { name: one.name, ...params } } } });
    return known;
  }

  /** @returns {Work} */
  function currentWork() {
    const { photo, strokes, past, future, rounds, round, status, shown_id } = store.get();
    return { photo, strokes, past, future, rounds, round, status, shown_id };
  }

  /** Take the shown photo off the stage, to be gone back to where there is something to go back to. */
  function leave() {
    cancelRepair();
    const work = currentWork();
    const pictures = layers.take();
    previous?.one.leaving.abort();
    const isWorth = shown && work.photo && (work.photo.image_id || work.strokes.length);
    if (shown && !isWorth) shown.leaving.abort();
    previous = shown && isWorth ? { one: shown, work, pictures } : null;
  }

  function forgetPrevious() {
    previous?.one.leaving.abort();
    previous = null;
    store.update({ previous: null });
  }

  function replace(/** @type {Opened} */ one, /** @type {Photo} */ photo, /** @type {HTMLImageElement} */ picture) {
    leave();
    shown = one;
    layers.showPhoto(picture);
    store.update({
      ...NO_WORK, photo, photo_number: one.number, shown_id: photo.image_id || `local ${one.number}`, comparing: false, preview: null,
      previous: previous?.work.photo?.name || null,
      status: one.others ? { key: "others_left", params: { name: one.name, others: one.others } } : { key: "ready" },
    });
    view.setSize(photo.width, photo.height);
    onSize(photo.width, photo.height);
  }

  // The photo that was refused makes room for the one before it.
  function putBack() {
    cancelRepair();
    layers.take();
    showLeft(previous);
    previous = null;
    store.update({ previous: null });
  }

  /** Go back to the photo before this one; this one can then be gone back to. */
  function back() {
    const target = previous;
    if (!target) return;
    previous = null;
    leave();
    newest = target.one;
    showLeft(target);
    store.update({ uploaded: null, previous: previous ? /** @type {Left} */ (previous).work.photo?.name || null : null });
  }

  function showLeft(/** @type {Left | null} */ left) {
    if (left) layers.put(left.pictures);
    shown = left?.one || null;
    const photo = left?.work.photo;
    store.update({ ...(left?.work || NO_WORK), photo_number: shown?.number || (count += 1), comparing: false, preview: null });
    view.setSize(photo?.width || 0, photo?.height || 0);
  }

  const previewUrl = (/** @type {string} */ id) => api.photoUrl(id, `?max_px=${setup.preview_px}&format=webp`);

  // Of 16 bits such a photo uses few values: a browser shows it black, the server's picture is stretched, as patches are.
  const isShownStretched = (/** @type {import("./store.js").Photo} */ photo) => photo.notes?.some(({ code }) => code === "few_levels");

  // The preview first, because it is there soon.
  async function showServersPicture(/** @type {Opened} */ one) {
    const photo = store.get().photo;
    if (!photo?.image_id) return;
    const preview = await layers.load(previewUrl(photo.image_id), one.leaving.signal);
    if (one !== shown) return;
    layers.showPhoto(preview);
    view.setSize(photo.width, photo.height);
    store.update({ shown_id: photo.image_id });
    void showWholePicture(one);
  }

  // Every pixel, in a format that the browser can draw.
  async function showWholePicture(/** @type {Opened} */ one) {
    const photo = store.get().photo;
    if (one !== shown || !photo?.image_id || Math.max(photo.width, photo.height) <= setup.preview_px) return;
    const whole = BROWSER_FORMATS.has(photo.format) && !isShownStretched(photo) ? "" : `?max_px=${LARGEST_PREVIEW_PX}&format=jpeg`;
    const picture = await layers.load(api.photoUrl(photo.image_id, whole), one.leaving.signal).catch(() => null);
    if (picture && one === shown) layers.showPhoto(picture);
  }

  /**
   * What a reload brings back. The state is there at once, so that strokes and clicks meanwhile find it; the pictures
   * follow as soon as the network gives them.
   * @param {import("./session_storage.js").Kept} kept
   */
  async function restore(kept) {
    const { strokes, rounds, round, job, hand, photo, used = null } = kept;
    if (!photo?.image_id) return;
    const one = take(null, photo.name, 0);
    shown = one;
    const status = round && !strokes.length ? doneStatus(rounds[round - 1]) : { key: "ready" };
    store.update({
      photo, photo_number: one.number, strokes, rounds, round, job, used, status, past: earlierVersions(strokes),
      hand: { ...store.get().hand, ...hand },
    });
    view.setSize(photo.width, photo.height);
    const { signal } = one.leaving;
    try {
      await api.info(photo.image_id, signal);
      await Promise.all([showServersPicture(one), ...rounds.map((each) => restorePatch(one, each, signal))]);
    } catch (error) {
      if (one !== shown) return;
      const { code, message, params } = error instanceof ApiError ? error : new ApiError(0, {});
      const isGone = code === "unknown_image";
      if (isGone) putBack();
      store.update({ status: { error: { code: isGone ? "photo_gone" : code, message, params } } });
    }
  }

  async function restorePatch(/** @type {Opened} */ one, /** @type {Round} */ each, /** @type {AbortSignal} */ signal) {
    try {
      await layers.loadPatch(each, signal);
      if (one === shown) store.update({ shown_id: each.image_id });
    } catch (error) {
      if (one !== shown) return;
      if (!(error instanceof ApiError) || error.code !== "unknown_image") throw error;
      // Later rounds build on the one that is gone.
      const { rounds, round } = store.get();
      const left = rounds.slice(0, rounds.findIndex(({ image_id }) => image_id === each.image_id));
      if (left.length < rounds.length) store.update({ rounds: left, round: Math.min(round, left.length) });
    }
  }

  /** Resolves when the server has the shown photo; rejects with what it said, or "upload_failed". */
  async function whenUploaded() {
    const one = shown;
    if (!one || store.get().photo?.image_id) return;
    await one.uploading?.catch((error) => {
      if (error.code !== "upload_failed") throw error;
      return send(one); // a click on Repair is the other try
    });
  }

  return { open, back, refuse, restore, whenUploaded };
}
