// Leaving: the browser asks before the page is closed with work that would be lost or was not taken along.

import { allWork } from "./shelf.js";

/** @typedef {import("./store.js").State} State */

const isTaken = (/** @type {Pick<State, "rounds" | "round">} */ { rounds, round }) => !round || Boolean(rounds[round - 1].downloaded);

/** A result that was neither downloaded nor copied, a repair or an upload that runs. @param {State} state */
export function hasUnsavedWork(state) {
  const { uploaded, doing, batch } = state;
  const isComing = Object.values(doing).some(({ stage }) => stage === "uploading" || stage === "waiting");
  const works = [state, ...allWork(state).map(({ work }) => work)];
  return Boolean(batch?.running) || uploaded !== null || isComing || works.some((work) => work.job || !isTaken(work));
}

/** @param {{store: import("./store.js").Store}} parts */
export function createLeaving({ store }) {
  addEventListener("beforeunload", (event) => {
    if (hasUnsavedWork(store.get())) event.preventDefault();
  });
}
