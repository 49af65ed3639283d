// Saving: the result as a file or on the clipboard. The format and quality wanted, and the size the file will have:
// the server makes it when it is asked, and keeps it for the download.

/** @typedef {import("./store.js").State} State */

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

/** @param {{root: HTMLElement, store: import("./store.js").Store, words: import("./i18n.js").Words, api: import("./api.js").Api}} parts */
export function createSaving({ root, store, words, api }) {
  const part = (/** @type {string} */ name) => /** @type {any} */ (root.querySelector(`[data-part="${name}"]`));
  let isOpen = false;
  let asking = new AbortController();
  let asked = "";

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
    if (isOpen && url) askSize(url);
  }

  function askSize(/** @type {string} */ url) {
    if (url === asked) return;
    asked = url;
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    part("file-size").textContent = "…";
    setTimeout(async () => {
      if (signal.aborted) return;
      const bytes = await sizeOf(url, signal);
      if (!signal.aborted) part("file-size").textContent = bytes === null ? "–" : words.bytes(bytes);
    }, ASK_AFTER_MS);
  }

  /** @param {string} url @param {AbortSignal} signal @returns {Promise<number | null>} */
  async function sizeOf(url, signal) {
    try {
      const answer = await fetch(url, { method: "HEAD", signal });
      return answer.ok ? Number(answer.headers.get("content-length")) : null;
    } catch {
      return null; // the download itself will say what is wrong
    }
  }

  function markSaved() {
    const { rounds, round } = store.get();
    if (round) store.update({ rounds: rounds.map((one, i) => (i === round - 1 ? { ...one, downloaded: true } : one)) });
  }

  async function copy() {
    const url = shownId(store.get());
    if (!url) return;
    try {
      // Within the click, as Safari asks; browsers take PNG only, and only from https or this machine.
      const picture = fetch(api.photoUrl(url, "?format=png")).then((answer) => (answer.ok ? answer.blob() : Promise.reject(new Error(`HTTP ${answer.status}`))));
      await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
      markSaved();
      store.update({ status: { key: "copied", tone: "good" } });
    } catch {
      store.update({ status: { error: { code: "copy_refused", message: "" } } });
    }
  }

  function toggle() {
    isOpen = !isOpen;
    show(store.get());
    if (isOpen) part("save-menu").scrollIntoView({ block: "nearest" });
  }

  part("download").addEventListener("click", markSaved);
  part("file-format").addEventListener("change", (/** @type {any} */ { target }) => store.updateHand({ file_format: target.value }));
  part("file-quality").addEventListener("input", (/** @type {any} */ { target }) => store.updateHand({ file_quality: Number(target.value) }));

  return { show, copy, toggle };
}
