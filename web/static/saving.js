// Saving: the result as a file or on the clipboard. The format and quality wanted, and the size the file will have:
// the server makes it when it is asked, and keeps it for the download.

import { ApiError, refusalOf } from "./api.js";
import { sayIfSlow } from "./slow.js";

/** @typedef {import("./store.js").State} State */
/** @typedef {import("./store.js").Note} Note */

const ASK_AFTER_MS = 300; // a slider that is moved asks once, when it rests
const OWN = "original";
const WITH_QUALITY = new Set(["jpeg", "webp"]);

/** @param {State} state @returns {string | null} of what is shown, null before the upload's end */
export function shownId({ round, rounds, photo }) {
  return round ? rounds[round - 1].image_id : photo?.image_id || null;
}

/** @param {import("./store.js").Hand} hand @returns {string} */
export function fileQuery({ file_format: format, file_quality: quality }) {
  if (format === OWN) return "";
  return `format=${format}${WITH_QUALITY.has(format) ? `&quality=${quality}` : ""}`;
}

/** @param {{root: HTMLElement, store: import("./store.js").Store, words: import("./i18n.js").Words, api: import("./api.js").Api, downloads: import("./downloads.js").Downloads}} parts */
export function createSaving({ root, store, words, api, downloads }) {
  const part = (/** @type {string} */ name) => /** @type {any} */ (root.querySelector(`[data-part="${name}"]`));
  let isOpen = false;
  let asking = new AbortController();
  /** @type {{url: string, bytes?: number, refusal?: Note}} */
  let asked = { url: "" }; // for which file, and what was answered

  function address(/** @type {State} */ state) {
    const id = shownId(state);
    const query = fileQuery(state.hand);
    return id && api.photoUrl(id, query && `?${query}`);
  }

  function show(/** @type {State} */ state) {
    const { hand, photo } = state;
    const url = address(state);
    const link = part("download");
    if (url) link.href = url;
    else link.removeAttribute("href");
    link.setAttribute("aria-disabled", String(!url));
    part("save-menu").hidden = !isOpen;
    for (const node of root.querySelectorAll('[data-act="save-menu"]')) {
      node.setAttribute("aria-expanded", String(isOpen));
      /** @type {HTMLButtonElement} */ (node).disabled = !url;
    }
    part("copy").disabled = !url;
    const own = part("file-format").options[0];
    own.textContent = photo?.format ? words.say("save.own_named", { format: photo.format }) : words.say("save.own");
    part("file-format").value = hand.file_format;
    part("quality-row").hidden = !WITH_QUALITY.has(hand.file_format);
    part("file-quality").value = hand.file_quality;
    part("file-quality-value").textContent = String(hand.file_quality);
    if (!isOpen || !url) return;
    askSize(url, photo?.name);
    showSize();
  }

  function showSize() {
    const { bytes, refusal } = asked;
    const told = refusal ? words.sayCoded("errors", refusal) : bytes === undefined ? "…" : words.bytes(bytes);
    if (part("file-size").textContent !== told) part("file-size").textContent = told;
  }

  /** @param {string} url @param {string} [name] of the photo */
  function askSize(url, name) {
    if (url === asked.url) return;
    asked = { url };
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    setTimeout(async () => {
      if (signal.aborted) return;
      const answer = await api.prepareFile(url, signal).then((bytes) => ({ bytes }), (error) => ({ refusal: refusalOf(error, name) }));
      if (signal.aborted) return;
      asked = { url, ...answer };
      showSize();
    }, ASK_AFTER_MS);
  }

  function download() {
    const state = store.get();
    const [id, url] = [shownId(state), address(state)];
    if (id && url) void downloads.start(url, [id], state.photo?.name);
  }

  async function copy() {
    const id = shownId(store.get());
    if (!id) return;
    const isOver = sayIfSlow(store, { key: "copying" });
    /** @type {unknown} */
    let refused = null;
    try {
      // Within the click, as Safari asks; browsers take PNG only, and only from https or this machine.
      const picture = api.picture(api.photoUrl(id, "?format=png")).catch((error) => {
        refused = error;
        throw error;
      });
      await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
      downloads.markTaken([id]);
      store.update({ status: { key: "copied", tone: "good" } });
    } catch {
      const isOurs = refused instanceof ApiError && refused.status > 0;
      store.update({ status: { error: isOurs ? refusalOf(refused, store.get().photo?.name) : { code: "copy_refused", message: "" } } });
    } finally {
      isOver();
    }
  }

  function toggle() {
    isOpen = !isOpen;
    show(store.get());
    if (isOpen) part("save-menu").scrollIntoView({ block: "nearest" });
  }

  part("download").addEventListener("click", (/** @type {Event} */ event) => (event.preventDefault(), download()));
  part("file-format").addEventListener("change", (/** @type {any} */ { target }) => store.updateHand({ file_format: target.value }));
  part("file-quality").addEventListener("input", (/** @type {any} */ { target }) => store.updateHand({ file_quality: Number(target.value) }));

  return { show, download, copy, toggle };
}
