// Strip: the photos of this visit below the picture, each with what goes on with it. The pictures come from the server,
// small, so that twenty large photos cost no memory here.

import { imageOf, workOf } from "./shelf.js";

/** @typedef {import("./store.js").State} State */
/** @typedef {import("./store.js").Doing} Doing */

const THUMBNAIL_PX = 160;
const MOST_TRIES = 12;
const LONGEST_PAUSE_MS = 30_000; // the last try is some four minutes after the first

/** @param {{root: HTMLElement, store: import("./store.js").Store, words: import("./i18n.js").Words, api: import("./api.js").Api, onPhoto: (number: number) => void, onRemove: (number: number) => void}} parts */
export function createStrip({ root, store, words, api, onPhoto, onRemove }) {
  const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (root.querySelector(`[data-part="${name}"]`));
  /** @type {Map<number, {item: HTMLElement, button: HTMLButtonElement, picture: HTMLImageElement, mark: HTMLElement, tries: number}>} tries: of the picture, that failed */
  const entries = new Map();

  function show(/** @type {State} */ state) {
    const { shelf, photo_number, doing } = state;
    part("strip").hidden = shelf.length < 2;
    for (const [number, { item }] of entries) if (!shelf.some((one) => one.number === number)) (item.remove(), entries.delete(number));
    if (shelf.length < 2) return;
    for (const { number, name } of shelf) {
      const entry = entries.get(number) || create(number);
      const now = doing[number];
      const work = workOf(state, number);
      const text = now ? words.say(`strip.${now.stage}`, { percent: Math.round(100 * (now.share || 0)) }) : cameTo(work);
      if (entry.mark.textContent !== text) entry.mark.textContent = text;
      entry.item.dataset.stage = now?.stage || "";
      entry.button.title = name;
      entry.button.setAttribute("aria-label", text ? words.say("strip.name", { name, state: text }) : name);
      const isNow = number === photo_number;
      if (isNow && entry.button.getAttribute("aria-current") !== "true") bringIntoSight(entry.item);
      entry.button.setAttribute("aria-current", String(isNow));
      showPicture(entry, imageOf(work));
    }
  }

  // A small repair is not seen in a small picture.
  function cameTo(/** @type {import("./store.js").Work | null} */ work) {
    if (!work?.round) return "";
    return work.rounds[work.round - 1].downloaded ? words.say("strip.downloaded") : words.say("strip.repaired");
  }

  /** @param {{picture: HTMLImageElement, tries: number}} entry @param {string | null} id */
  function showPicture(entry, id) {
    const { picture } = entry;
    const url = id ? api.photoUrl(id, `?max_px=${THUMBNAIL_PX}&format=jpeg`) : "";
    if ((picture.getAttribute("src") || "") === url) return;
    entry.tries = 0;
    if (url) picture.src = url;
    else picture.removeAttribute("src");
  }

  // A picture that is cut off stays away by itself.
  function tryAgain(/** @type {{picture: HTMLImageElement, tries: number}} */ entry) {
    const { picture } = entry;
    const url = picture.getAttribute("src");
    picture.dataset.broken = "";
    entry.tries += 1;
    if (!url || entry.tries >= MOST_TRIES) return;
    setTimeout(() => picture.getAttribute("src") === url && (picture.src = url), Math.min(500 * 2 ** entry.tries, LONGEST_PAUSE_MS));
  }

  // Not scrollIntoView: that moves the page under the picture.
  function bringIntoSight(/** @type {HTMLElement} */ item) {
    const list = part("strip-list");
    requestAnimationFrame(() => list.scrollTo({ left: item.offsetLeft - (list.clientWidth - item.clientWidth) / 2 }));
  }

  function create(/** @type {number} */ number) {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const picture = Object.assign(new Image(), { alt: "", draggable: false, loading: "lazy", decoding: "async" });
    const mark = Object.assign(document.createElement("span"), { className: "fft-mark" });
    mark.setAttribute("aria-hidden", "true");
    button.append(picture, mark);
    button.addEventListener("click", () => onPhoto(number));
    button.addEventListener("keydown", (event) => {
      if (event.key === "Delete") removeByKey(number, item);
      const to = { ArrowRight: item.nextElementSibling, ArrowLeft: item.previousElementSibling }[event.key];
      if (to) (event.preventDefault(), to.querySelector("button")?.focus());
    });
    item.append(button);
    part("strip-list").append(item);
    const entry = { item, button, picture, mark, tries: 0 };
    picture.addEventListener("error", () => tryAgain(entry));
    picture.addEventListener("load", () => delete picture.dataset.broken);
    entries.set(number, entry);
    return entry;
  }

  // The next has the keys then, or they would be nobody's; of a strip that goes, the picture.
  function removeByKey(/** @type {number} */ number, /** @type {HTMLElement} */ item) {
    const beside = item.nextElementSibling || item.previousElementSibling;
    onRemove(number);
    const { shelf } = store.get();
    if (shelf.some((one) => one.number === number)) return; // it stays
    const next = /** @type {HTMLElement} */ (shelf.length > 1 ? beside?.querySelector("button") : root.querySelector(".fft-stage"));
    next.focus({ preventScroll: true });
  }

  /** The photo before or after the shown one. @param {number} by */
  function step(by) {
    const { shelf, photo_number } = store.get();
    const at = shelf.findIndex(({ number }) => number === photo_number);
    const next = shelf[at + by];
    if (at >= 0 && next) onPhoto(next.number);
  }

  return { show, step };
}
