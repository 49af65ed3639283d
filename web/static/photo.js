// Photo: opening photos, going from one to another. The photo in use stays until its successor can be shown: from the
// file itself where this browser can draw it, else from the server's picture of it. Sizes are of the upright photo.

import { ApiError, refusalOf } from "./api.js";
import { isOfTheFile, judged } from "./file_faults.js";
import { isShownOtherwise } from "./loading.js";
import { allWork, isComing, isNoPhoto, NO_WORK, restoredWork, workOf } from "./shelf.js";
import { sayIfSlow } from "./slow.js";
import { doneStatus } from "./store.js";
import { createUploads } from "./uploads.js";

/** @typedef {import("./store.js").Photo} Photo */
/** @typedef {import("./uploads.js").Opened} Opened */

/** @param {{store: import("./store.js").Store, api: import("./api.js").Api, layers: import("./layers.js").Layers, view: import("./view.js").View, shelf: import("./shelf.js").Shelf, loading: any, keeping: import("./upload_keeping.js").UploadKeeping, setup: {max_file_mib: number}, words: import("./i18n.js").Words, cancelRepair: (number: number) => void, onSize: (width: number, height: number) => void}} parts cancelRepair: of a photo that goes */
export function createPhoto({ store, api, layers, view, shelf, loading, keeping, setup, words, cancelRepair, onSize }) {
  let count = 0;
  /** @type {Map<number, Opened>} */
  const opened = new Map();
  /** @type {Opened | null} */
  let newest = null; // chosen last; perhaps not shown yet
  /** @type {Opened | null} */
  let shown = null;
  const uploads = createUploads({ store, api, shelf, keeping, opened, onAccepted: accept, onRefused: refuseUpload });

  /** @param {string} code @param {Record<string, any>} [params] */
  function refuse(code, params = {}) {
    store.update({ status: { error: { code, message: "", params } } });
  }

  /** @param {File | null} file @param {string} name @param {boolean} isOneOfMany @returns {Opened} */
  function take(file, name, isOneOfMany = false) {
    const one = { number: (count += 1), file, key: null, name, isOneOfMany, uploading: null, sending: null, leaving: new AbortController() };
    opened.set(one.number, one);
    return one;
  }

  /** Open files: one is shown, several come onto the shelf and the first of them is shown. @param {File[]} files */
  async function open(files) {
    const isOneOfMany = files.length > 1;
    const all = judged(files, setup.max_file_mib, words.say("photo.pasted"));
    if (!isOneOfMany && all[0].fault) return store.update({ status: { error: all[0].fault } });
    if (all.every(({ fault }) => fault)) return refuse("none_opened", { names: all.map(({ name }) => name).join(", ") });
    const taken = all.map(({ file, name, fault }) => {
      const one = take(file, name, isOneOfMany);
      if (!fault) uploads.keep(one, file);
      shelf.add(one.number, name, NO_WORK, one.key);
      shelf.say(one.number, fault ? { stage: "failed", error: fault } : { stage: "waiting" });
      return fault ? null : one;
    });
    const sound = taken.flatMap((one) => one || []);
    const fault = all.find((one) => one.fault)?.fault;
    const first = sound[0];
    newest = first;
    const picture = await layers.decode(/** @type {File} */ (first.file));
    if (first === newest && picture) {
      const size = { width: picture.naturalWidth, height: picture.naturalHeight };
      replace(first, { name: first.name, ...size, format: "", image_id: null, notes: [] }, picture);
      if (sound.length > 1) store.update({ status: { key: "many_open", params: { count: sound.length } } });
      else if (fault) store.update({ status: { error: fault } });
    } else if (first === newest) {
      store.update({ status: { key: "uploading", tone: "busy" } });
    }
    await uploads.sendAll(sound);
    // On an empty page there would be nothing but what failed.
    if (!isOneOfMany || shown || sound.some(({ number }) => !isNoPhoto(store.get(), number))) return;
    for (const { number } of sound) forget(number);
    refuse("none_opened", { names: all.map(({ name }) => name).join(", ") });
  }

  /** Take those off the list that turned out to be no photos. */
  function removeRefused() {
    for (const { number } of store.get().shelf) if (isNoPhoto(store.get(), number)) forget(number);
  }

  /** Give up all uploads that wait or run; false when there are none. */
  function cancelUploads() {
    const coming = [...opened.values()].filter((one) => one.key && isComing(store.get().doing[one.number]));
    if (!coming.length) return false;
    // The shown one last, or each of the others would be shown.
    for (const { number } of coming.sort((a, b) => Number(a === shown) - Number(b === shown))) remove(number);
    store.update({ status: coming.length > 1 ? { key: "cancelled_uploads", params: { count: coming.length } } : { key: "cancelled_upload" } });
    return true;
  }

  async function accept(/** @type {Opened} */ one, /** @type {import("./api.js").Uploaded} */ { image_id, width, height, format, notes = [] }) {
    const before = workOf(store.get(), one.number)?.photo;
    const photo = { name: one.name, image_id, width, height, format, notes };
    shelf.change(one.number, { photo });
    uploads.letGo(one);
    if (one === shown) {
      const isOtherwise = before?.width !== width || before.height !== height || isShownOtherwise(photo);
      if (isOtherwise) await loading.showPhoto(one.number, one.leaving.signal);
    } else if (one === newest || !shown) {
      newest = one;
      const picture = await loading.preview(image_id, one.leaving.signal);
      if (one !== newest) return;
      replace(one, photo, picture);
      void loading.showWhole(one.number, one.leaving.signal);
    }
  }

  // A file that is refused makes room for the photo before it; of many, the refused ones stay on the shelf with what is
  // wrong. After a cut, a session that ran out or a full disk the photo stays with what is painted on it: the next repair
  // tries again, and so does a reload.
  function refuseUpload(/** @type {Opened} */ one, /** @type {unknown} */ error) {
    const known = error instanceof ApiError ? error : new ApiError(0, { error: "upload_failed" });
    // Whoever waits for this upload says it too: a repair of this photo or of all.
    const params = (known.params = { name: one.name, ...known.params });
    const { code, message } = known;
    const isRefused = isOfTheFile(known);
    const isSeen = one === newest || one === shown;
    const note = { code, message, params };
    if (isRefused && one === shown) putBack(one);
    if (isRefused && one === newest) newest = shown;
    if (isRefused && !one.isOneOfMany) forget(one.number);
    else if (opened.has(one.number)) shelf.say(one.number, { stage: "failed", error: note });
    if (isSeen) store.update({ status: { error: note } });
    return known;
  }

  function forget(/** @type {number} */ number) {
    const one = opened.get(number);
    one?.leaving.abort();
    if (one) uploads.letGo(one);
    opened.delete(number);
    shelf.remove(number);
  }

  /** Take the shown photo off the stage; its work goes to the shelf, and a repair of it goes on there. */
  function leave() {
    if (shown) shelf.putAside();
    const { job, photo_number } = store.get();
    if (shown && job) shelf.say(photo_number, { stage: job.running_at ? "running" : "queued" });
    shown = null;
  }

  function replace(/** @type {Opened} */ one, /** @type {Photo} */ photo, /** @type {HTMLImageElement} */ picture) {
    leave();
    shown = one;
    layers.showPhoto(picture);
    store.update({
      ...NO_WORK, photo, photo_number: one.number, shown_id: photo.image_id || `local ${one.number}`, comparing: false, split: null, preview: null,
      status: { key: "ready" },
    });
    view.setSize(photo.width, photo.height);
    onSize(photo.width, photo.height);
  }

  // The photo that was refused or removed makes room for the one shown before it.
  function putBack(/** @type {Opened} */ one) {
    cancelRepair(one.number);
    layers.take();
    shown = null;
    store.update({ ...NO_WORK, photo_number: (count += 1), comparing: false, split: null, preview: null });
    const next = shelf.nearest(one.number);
    if (next === null) view.setSize(0, 0);
    else void goTo(next);
  }

  /** Show another photo of the visit as it was left. */
  async function goTo(/** @type {number} */ number) {
    const one = opened.get(number);
    if (!one || one === shown) return;
    newest = one;
    const isHere = shelf.has(number);
    const before = workOf(store.get(), number);
    const isLocal = !isHere && one.file && !isShownOtherwise(before?.photo || null);
    const picture = isLocal ? await layers.decode(/** @type {File} */ (one.file)) : null;
    const work = workOf(store.get(), number);
    if (newest !== one || !work) return;
    if (!isHere && !picture && !work.photo?.image_id) {
      const { stage, error } = store.get().doing[number] || {};
      const isSentNow = stage === "stopped" || (error && !isOfTheFile(error));
      if (isSentNow) uploads.whenUploaded(number).catch(() => {}); // said there
      return store.update({ status: error && !isSentNow ? { error } : { key: "uploading", tone: "busy" } });
    }
    leave();
    shown = one;
    const kept = shelf.takePictures(number);
    if (kept) layers.put(kept);
    else if (picture) layers.showPhoto(picture);
    const size = { width: picture?.naturalWidth || 0, height: picture?.naturalHeight || 0 };
    const photo = work.photo || { name: one.name, ...size, format: "", image_id: null, notes: [] };
    const isDone = work.round && !work.strokes.length;
    const status = work.job || work.status.error ? work.status : isDone ? doneStatus(work.rounds[work.round - 1]) : { key: "ready" };
    if (work.photo?.image_id && !store.get().batch?.running) shelf.say(number, null); // it is seen now
    store.update({ ...work, photo, status, photo_number: number, comparing: false, split: null, preview: null });
    view.setSize(photo.width, photo.height);
    if (!work.photo) onSize(photo.width, photo.height);
    // What was repaired while another was shown has no picture yet.
    if (!kept || !layers.has(work.rounds)) await load(one, Boolean(picture || kept));
  }

  /** The pictures of the shown photo; what is gone from the server is said. */
  async function load(/** @type {Opened} */ one, hasPhoto = false) {
    const { signal } = one.leaving;
    const isOver = sayIfSlow(store, { key: "opening" });
    try {
      const { photo } = store.get();
      if (photo?.image_id) await api.info(photo.image_id, signal);
      await Promise.all([hasPhoto || loading.showPhoto(one.number, signal), loading.showRounds(one.number, signal)]);
    } catch (error) {
      if (one !== shown) return;
      const refusal = refusalOf(error);
      const isGone = refusal.code === "unknown_image";
      if (isGone) remove(one.number);
      store.update({ status: { error: isGone ? { ...refusal, code: "photo_gone" } : refusal } });
    } finally {
      isOver();
    }
  }

  /** Remove a photo from the visit; the server keeps its files until they are cleaned up. */
  function remove(/** @type {number} */ number) {
    const one = opened.get(number);
    if (!one) return;
    if (one === shown) putBack(one);
    else cancelRepair(number);
    if (newest === one) newest = shown;
    forget(number);
  }

  /** Open a photo that the server has, as a program uploaded it. One that is open is shown as it was left. @param {string} image_id */
  async function openUploaded(image_id) {
    const known = allWork(store.get()).find(({ work }) => work.photo?.image_id === image_id);
    if (known) return goTo(known.number);
    const one = take(null, "");
    newest = one;
    try {
      const { name, width, height, format, notes = [] } = await api.info(image_id, one.leaving.signal);
      const picture = await loading.preview(image_id, one.leaving.signal);
      one.name = name;
      shelf.add(one.number, name);
      if (newest !== one) return;
      replace(one, { name, image_id, width, height, format, notes }, picture);
      void loading.showWhole(one.number, one.leaving.signal);
    } catch (error) {
      opened.delete(one.number);
      store.update({ status: { error: refusalOf(error) } });
    }
  }

  /**
   * What a reload brings back. The state is there at once, so that strokes and clicks meanwhile find it; the pictures
   * follow as soon as the network gives them.
   * @param {import("./session_storage.js").Kept} kept @param {import("./session_storage.js").KeptShelf} others
   */
  async function restore(kept, others) {
    const { hand, photo, used = null } = kept;
    store.update({ hand: { ...store.get().hand, ...hand } });
    /** @type {Opened[]} */
    const goingUp = [];
    // While a file goes up, what is shown is that one, and the photo before it is kept twice: here and on the shelf.
    const marked = others.indexOf("shown");
    const first = marked >= 0 ? marked : others.findIndex((one) => one !== "shown" && one.photo?.image_id === photo?.image_id);
    const current = photo?.image_id ? take(null, photo.name) : null;
    others.forEach((one, i) => {
      if (i === first && current && photo) shelf.add(current.number, photo.name);
      else if (one !== "shown" && one.upload_key) goingUp.push(takeKept(one, one.upload_key));
      else if (one !== "shown" && one.photo) shelf.add(take(null, one.photo.name).number, one.photo.name, restoredWork(one));
    });
    const goesOn = goOn(goingUp);
    if (!current || !photo) return goesOn;
    newest = shown = current;
    if (first < 0) shelf.add(current.number, photo.name);
    const work = restoredWork(kept);
    const status = work.round && !work.strokes.length ? doneStatus(work.rounds[work.round - 1]) : work.status;
    store.update({ ...work, status, used, photo_number: current.number });
    view.setSize(photo.width, photo.height);
    await load(current);
  }

  /** Go on with uploads; where no other photo came back, the first of them is shown. @param {Opened[]} goingUp */
  async function goOn(goingUp) {
    const isHere = await Promise.all(goingUp.map(uploads.recall));
    const here = goingUp.filter((one, i) => isHere[i] || forget(one.number));
    void uploads.sendAll(here);
    if (here.length && !shown) await goTo(here[0].number);
  }

  /** @param {Exclude<import("./session_storage.js").KeptShelf[0], "shown">} kept @param {string} key */
  function takeKept({ name = "", strokes }, key) {
    const one = take(null, name, true);
    one.key = key;
    shelf.add(one.number, name, restoredWork({ photo: null, strokes }), key);
    shelf.say(one.number, { stage: "waiting" });
    return one;
  }

  return { open, goTo, remove, removeRefused, cancelUploads, refuse, restore, openUploaded, whenUploaded: uploads.whenUploaded, stopUploads: uploads.stop };
}
