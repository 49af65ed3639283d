// Downloads: the server makes a file before the browser is sent for it, so that a refusal is said on the page; only what
// could come counts as taken along.

import { refusalOf } from "./api.js";
import { sayIfSlow } from "./slow.js";

/** @typedef {import("./store.js").Round} Round */

/** @param {{store: import("./store.js").Store, api: import("./api.js").Api}} parts */
export function createDownloads({ store, api }) {
  /** @type {Set<string>} */
  const coming = new Set();

  /** @param {string} url @param {string[]} imageIds what the file holds @param {string} [name] of the photo, where it is one */
  async function start(url, imageIds, name) {
    if (coming.has(url)) return; // a second click while the server makes it
    coming.add(url);
    const isOver = sayIfSlow(store, { key: "preparing" });
    try {
      await api.prepareFile(url);
      Object.assign(document.createElement("a"), { href: url, download: "" }).click();
      markTaken(imageIds);
    } catch (error) {
      store.update({ status: { error: refusalOf(error, name) } });
    } finally {
      isOver();
      coming.delete(url);
    }
  }

  /** @param {string[]} imageIds */
  function markTaken(imageIds) {
    const mark = (/** @type {Round[]} */ all) => all.map((one) => (imageIds.includes(one.image_id) ? { ...one, downloaded: true } : one));
    const { shelf, rounds } = store.get();
    store.update({ shelf: shelf.map((one) => ({ ...one, work: { ...one.work, rounds: mark(one.work.rounds) } })), rounds: mark(rounds) });
  }

  return { start, markTaken };
}

/** @typedef {ReturnType<typeof createDownloads>} Downloads */
