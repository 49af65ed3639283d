// Shelf: the photos of this visit, in the order in which they came, each with its work. The work of the one that is shown
// is the store's own; when another is shown, it is put here, and its pictures are kept for a while.

import { isOfTheFile } from "./file_faults.js";
import { earlierVersions } from "./store.js";

/** @typedef {import("./store.js").State} State */
/** @typedef {import("./store.js").Work} Work */
/** @typedef {import("./store.js").Shelved} Shelved */
/** @typedef {import("./store.js").Doing} Doing */

const PICTURES_KEPT = 2; // of photos shown before; others are fetched again, so that memory stays bounded

/** @type {Work} */
export const NO_WORK = {
  photo: null, strokes: [], past: [], future: [], taken_back: [], rounds: [], round: 0, branches: [], job: null, status: { key: "waiting" }, shown_id: null,
};

/** @param {State} state @returns {Work} */
export function currentWork({ photo, strokes, past, future, taken_back, rounds, round, branches, job, status, shown_id }) {
  return { photo, strokes, past, future, taken_back, rounds, round, branches, job, status, shown_id };
}

/** What a photo of the visit has come to, shown or not. @param {State} state @param {number} number @returns {Work | null} */
export function workOf(state, number) {
  if (state.photo_number === number) return currentWork(state);
  return state.shelf.find((one) => one.number === number)?.work || null;
}

/** The photos of the visit with what they have come to. @param {State} state @returns {{number: number, work: Work}[]} */
export function allWork(state) {
  return state.shelf.map(({ number, work }) => ({ number, work: number === state.photo_number ? currentWork(state) : work }));
}

/** Id of a photo as it stands, null before its upload's end. @param {Work | null} work @returns {string | null} */
export function imageOf(work) {
  if (!work) return null;
  return work.round ? work.rounds[work.round - 1].image_id : work.photo?.image_id || null;
}

/** Whether a file is on its way to the server. @param {Doing | undefined} doing */
export const isComing = (doing) => doing?.stage === "uploading" || doing?.stage === "waiting";

/** Whether a photo of the visit was refused before it was ever opened. @param {State} state @param {number} number */
export function isNoPhoto(state, number) {
  const error = state.doing[number]?.error;
  return error !== undefined && isOfTheFile(error) && !workOf(state, number)?.photo;
}

/** Work as a reload brings it back. @param {Partial<Work> & Pick<Work, "photo">} kept @returns {Work} */
export function restoredWork({ photo, strokes = [], rounds = [], round = 0, branches = [], job = null }) {
  return { ...NO_WORK, photo, strokes, rounds, round, branches, job, past: earlierVersions(strokes), status: { key: "ready" } };
}

/** @param {{store: import("./store.js").Store, layers: import("./layers.js").Layers}} parts */
export function createShelf({ store, layers }) {
  /** @type {Map<number, import("./layers.js").Pictures>} */
  const pictures = new Map();
  /** @type {number[]} */
  let recent = []; // numbers of photos shown before, the newest last

  /** @param {number} number @param {string} name @param {Work} [work] @param {string | null} [upload_key] of a file that is going up */
  function add(number, name, work = NO_WORK, upload_key = null) {
    store.update({ shelf: [...store.get().shelf, { number, name, work, upload_key }] });
  }

  /** @param {number} number @param {string | null} upload_key */
  function setKey(number, upload_key) {
    store.update({ shelf: store.get().shelf.map((one) => (one.number === number ? { ...one, upload_key } : one)) });
  }

  /** Change a photo's work, wherever it is. @param {number} number @param {Partial<Work>} changes */
  function change(number, changes) {
    const { photo_number, shelf } = store.get();
    if (number === photo_number) return store.update(changes);
    store.update({ shelf: shelf.map((one) => (one.number === number ? { ...one, work: { ...one.work, ...changes } } : one)) });
  }

  /** Say what is being done with a photo, null for nothing. @param {number} number @param {Doing | null} now */
  function say(number, now) {
    const others = Object.entries(store.get().doing).filter(([key]) => Number(key) !== number);
    store.update({ doing: Object.fromEntries(now ? [...others, [number, now]] : others) });
  }

  /** Put the shown photo's work and pictures here. */
  function putAside() {
    const { photo_number, shelf } = store.get();
    const work = currentWork(store.get());
    store.update({ shelf: shelf.map((one) => (one.number === photo_number ? { ...one, work } : one)) });
    pictures.set(photo_number, layers.take());
    for (const number of [...pictures.keys()].slice(0, -PICTURES_KEPT)) pictures.delete(number);
    recent = [...recent.filter((number) => number !== photo_number), photo_number];
  }

  /** @param {number} number @returns {import("./layers.js").Pictures | null} */
  function takePictures(number) {
    const kept = pictures.get(number) || null;
    pictures.delete(number);
    return kept;
  }

  /** @param {number} number */
  function remove(number) {
    pictures.delete(number);
    recent = recent.filter((other) => other !== number);
    store.update({ shelf: store.get().shelf.filter((one) => one.number !== number) });
    say(number, null);
  }

  /** The photo that was shown last, else one beside it; null when none is left. @param {number} but */
  function nearest(but) {
    const { shelf } = store.get();
    const others = shelf.filter(({ number, work }) => number !== but && work.photo);
    const last = recent.filter((number) => others.some((one) => one.number === number)).at(-1);
    return last ?? others.at(-1)?.number ?? null;
  }

  return { add, setKey, change, say, putAside, takePictures, has: (/** @type {number} */ number) => pictures.has(number), remove, nearest };
}

/** @typedef {ReturnType<typeof createShelf>} Shelf */
