// Unhurried: what follows the state but can wait while a repair begins and until its patch is on the screen: the panel,
// and what is kept for a reload. A repair that takes a moment only goes from the click to the patch without either.

/** @typedef {import("./store.js").State} State */

const UNNOTICED_MS = 80; // a press that is answered within a tenth of a second is answered at once
const FRAME_MS = 100; // at the latest: a tab that nobody looks at draws no frames

/** @param {{store: import("./store.js").Store, follow: (now: State, before: State) => void}} parts follow: called for several changes at once too */
export function createUnhurried({ store, follow }) {
  let followed = store.get();
  let waiting = 0;

  function catchUp() {
    clearTimeout(waiting);
    waiting = 0;
    const [now, before] = [store.get(), followed];
    followed = now;
    if (now !== before) follow(now, before);
  }

  function wait(/** @type {number} */ most_ms) {
    waiting ||= window.setTimeout(catchUp, most_ms);
  }

  // What is said of the repair before it, or of its failure, would be taken for this one's.
  const begins = (/** @type {State} */ now, /** @type {State} */ before) => before.status.key === "ready" && now.job && now.job.request_id !== before.job?.request_id && now.photo_number === before.photo_number;
  const hasPatch = (/** @type {State} */ now, /** @type {State} */ before) => before.job && !now.job && now.shown_id !== before.shown_id && now.photo_number === before.photo_number;

  store.subscribe((now, before) => {
    if (begins(now, before)) return wait(UNNOTICED_MS);
    if (!hasPatch(now, before)) return catchUp();
    clearTimeout(waiting);
    waiting = 0;
    wait(FRAME_MS);
    requestAnimationFrame(() => setTimeout(() => waiting && catchUp()));
  });
  // Before what is kept is marked as that of a closed tab.
  addEventListener("pagehide", catchUp, { capture: true });
}
