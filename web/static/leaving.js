// Leaving: the browser asks before the page is closed with work that would be lost or was not taken along. Logging out,
// where there is a login.

import { allWork, isComing } from "./shelf.js";

/** @typedef {import("./store.js").State} State */

const isTaken = (/** @type {Pick<State, "rounds" | "round">} */ { rounds, round }) => !round || Boolean(rounds[round - 1].downloaded);

/** A result that was neither downloaded nor copied, a repair or an upload that runs. @param {State} state */
export function hasUnsavedWork(state) {
  const { doing, batch } = state;
  const works = [state, ...allWork(state).map(({ work }) => work)];
  return Boolean(batch?.running) || Object.values(doing).some(isComing) || works.some((work) => work.job || !isTaken(work));
}

/** @param {{root: HTMLElement, hasLogin: boolean, store: import("./store.js").Store, session: ReturnType<typeof import("./session_storage.js").createSessionStorage>, words: import("./i18n.js").Words}} parts */
export function createLeaving({ root, store, session, words, hasLogin }) {
  const button = /** @type {HTMLElement} */ (root.querySelector('[data-part="logout"]'));
  let isLeft = false;

  addEventListener("beforeunload", (event) => {
    if (!isLeft && hasUnsavedWork(store.get())) event.preventDefault();
  });

  /** Leave for good: what comes next in this browser finds the login page, and nothing of what was here. */
  async function logOut() {
    if (hasUnsavedWork(store.get()) && !confirm(words.say("app.logout_unsaved"))) return;
    try {
      await fetch("logout", { method: "POST", redirect: "manual" });
    } catch {
      return store.update({ status: { error: { code: "logout_failed", message: "" } } });
    }
    isLeft = true;
    session.forget();
    location.reload();
  }

  button.hidden = !hasLogin;
  button.addEventListener("click", logOut);
}
