// Removing: rounds and photos that are taken away, asked about first where something would be lost.

import { workOf } from "./shelf.js";

/** @typedef {import("./store.js").Work} Work */

const isUnsaved = (/** @type {Work | null} */ work) => Boolean(work?.round && !work.rounds[work.round - 1].downloaded);

/** @param {{store: import("./store.js").Store, words: import("./i18n.js").Words, painting: {removeRound: () => void}, photo: {remove: (number: number) => void}, cancelBatch: () => void}} parts */
export function createRemoving({ store, words, painting, photo, cancelBatch }) {
  function round() {
    const { rounds, round: number } = store.get();
    const built = rounds.length - number;
    if (built && !confirm(words.say("rounds.remove_all", { number, built }))) return;
    painting.removeRound();
  }

  function one(/** @type {number} */ number) {
    const name = store.get().shelf.find((each) => each.number === number)?.name || "";
    if (!isUnsaved(workOf(store.get(), number)) || confirm(words.say("strip.remove_unsaved", { name }))) photo.remove(number);
  }

  /** Take all photos of the visit off the list, to begin anew. */
  function all() {
    const { shelf, photo_number } = store.get();
    const unsaved = shelf.filter(({ number }) => isUnsaved(workOf(store.get(), number))).length;
    const question = unsaved ? words.say("many.remove_all_unsaved", { count: shelf.length, unsaved }) : words.say("many.remove_all_asked", { count: shelf.length });
    if (!confirm(question)) return;
    cancelBatch();
    const numbers = shelf.map(({ number }) => number).filter((number) => number !== photo_number);
    for (const number of [...numbers, photo_number]) photo.remove(number); // the shown one last, or each of the others would be shown
  }

  return { round, one, all };
}
