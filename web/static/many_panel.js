// Many panel: what can be done with all photos of the visit at once, how far it is, what failed, and all as a zip, or
// as several where they are many.

import { fileQuery } from "./saving.js";
import { allWork, imageOf, isNoPhoto } from "./shelf.js";

/** @typedef {import("./store.js").State} State */

const MOST_IN_A_ZIP = 250; // the address names each photo, and proxies such as nginx take addresses of 8 KiB

/** @param {{root: HTMLElement, words: import("./i18n.js").Words, store: import("./store.js").Store, downloads: import("./downloads.js").Downloads}} parts */
export function createManyPanel({ root, words, store, downloads }) {
  const part = (/** @type {string} */ name) => /** @type {any} */ (root.querySelector(`[data-part="${name}"]`));

  function show(/** @type {State} */ state) {
    const { shelf, batch } = state;
    part("many").hidden = shelf.length < 2;
    if (shelf.length < 2) return;
    text("many-title", words.say("many.title", { count: shelf.length }));
    const isRunning = Boolean(batch?.running);
    const works = allWork(state).map(({ work }) => work);
    for (const act of ["batch-mask", "batch-mark", "batch-text"]) {
      /** @type {HTMLButtonElement} */ (root.querySelector(`[data-act="${act}"]`)).disabled = isRunning || works.some(({ job }) => job);
    }
    showProgress(batch);
    showFailed(state);
    const zips = zipsOf(state);
    text("zip-text", zips.length > 1 ? words.say("many.zips", { count: zips.length }) : words.say("many.zip"));
    part("zip").href = zips[0]?.url || "";
    part("zip").setAttribute("aria-disabled", String(!zips.length || isRunning));
  }

  function zipsOf(/** @type {State} */ state) {
    const all = allWork(state).flatMap(({ work }) => imageOf(work) || []);
    const query = fileQuery(state.hand);
    return Array.from({ length: Math.ceil(all.length / MOST_IN_A_ZIP) }, (_, i) => {
      const ids = all.slice(i * MOST_IN_A_ZIP, (i + 1) * MOST_IN_A_ZIP);
      return { ids, url: `api/v1/archive?${ids.map((id) => `image=${id}`).join("&")}${query && `&${query}`}` };
    });
  }

  function text(/** @type {string} */ name, /** @type {string} */ value) {
    if (part(name).textContent !== value) part(name).textContent = value;
  }

  function showProgress(/** @type {State["batch"]} */ batch) {
    part("many-row").hidden = !batch?.running;
    part("many-state").hidden = !batch;
    if (!batch) return;
    const { ended, went, numbers } = batch;
    const count = numbers.length;
    const share = ended / Math.max(1, count);
    part("many-progress").style.setProperty("--done", String(share));
    part("many-progress").setAttribute("aria-valuenow", String(Math.round(share * 100)));
    text("many-state", batch.running ? words.say("many.running", { ended, count }) : words.say("many.ended", { went, count }));
  }

  function showFailed(/** @type {State} */ state) {
    const { shelf, doing } = state;
    const sentences = shelf.flatMap(({ number, name }) => {
      const error = doing[number]?.error;
      if (!error) return [];
      const sentence = words.sayCoded("errors", error);
      return [sentence.includes(name) ? sentence : words.say("many.failed", { name, sentence })];
    });
    /** @type {HTMLElement} */ (root.querySelector('[data-act="failed-remove"]')).hidden = !shelf.some(({ number }) => isNoPhoto(state, number));
    const list = part("many-failed");
    list.hidden = !sentences.length;
    if (list.textContent !== sentences.join("")) list.replaceChildren(...sentences.map((textContent) => Object.assign(document.createElement("li"), { textContent })));
  }

  part("zip").addEventListener("click", async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (part("zip").getAttribute("aria-disabled") !== "false") return;
    for (const { url, ids } of zipsOf(store.get())) await downloads.start(url, ids);
  });

  return { show };
}
