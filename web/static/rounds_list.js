// Rounds list: the rounds in the panel, a thumbnail each, from the photo as it was opened to the newest.

/** @typedef {import("./store.js").State} State */
/** @typedef {import("./store.js").Photo} Photo */
/** @typedef {import("./store.js").Round} Round */

import { commonLength } from "./branches.js";

const DRAW_AFTER_MS = 100;

/** @param {{list: HTMLElement, branchList: HTMLElement, words: import("./i18n.js").Words, layers: import("./layers.js").Layers, onRound: (number: number) => void, onBranch: (index: number) => void}} parts */
export function createRoundsList({ list, branchList, words, layers, onRound, onBranch }) {
  const drawn = { rounds: "", photo_number: -1, thumbnails: new Map() };

  function show(/** @type {State} */ { photo, photo_number, rounds, round, branches, shown_id }) {
    const key = JSON.stringify([photo_number, [rounds, ...branches].map((path) => path.map(({ image_id }) => image_id)), shown_id, words.say("rounds.original")]);
    if (key !== drawn.rounds) {
      if (drawn.photo_number !== photo_number) drawn.thumbnails = new Map();
      Object.assign(drawn, { rounds: key, photo_number });
      const numbers = photo && rounds.length ? [0, ...rounds.map((_, i) => i + 1)] : [];
      list.replaceChildren(...numbers.map((number) => entry(number, /** @type {Photo} */ (photo), rounds)));
      branchList.replaceChildren(...branches.map((path, i) => branchEntry(path, i, /** @type {Photo} */ (photo), rounds)));
      branchList.hidden = !branches.length;
      list.scrollTo(list.scrollWidth, list.scrollHeight); // not scrollIntoView: that moves the page under the picture
    }
    [...list.querySelectorAll("button")].forEach((button, i) => {
      button.setAttribute("aria-current", String(i === round));
      button.classList.toggle("fft-ahead", i > round);
    });
  }

  /** @param {number} number @param {Photo} photo @param {Round[]} rounds */
  function entry(number, photo, rounds) {
    const key = number ? (rounds[number - 1].restored ? "rounds.restored" : "rounds.number") : "rounds.original";
    const text = words.say(key, { number });
    return pressed(text, thumbnail(photo, rounds.slice(0, number)), () => onRound(number));
  }

  /** @param {Round[]} path @param {number} index @param {Photo} photo @param {Round[]} rounds */
  function branchEntry(path, index, photo, rounds) {
    const from = commonLength(path, rounds);
    const text = from ? words.say("rounds.branch", { number: from }) : words.say("rounds.branch_original");
    return pressed(text, thumbnail(photo, path), () => onBranch(index));
  }

  /** @param {string} text @param {HTMLCanvasElement} picture @param {() => void} onClick */
  function pressed(text, picture, onClick) {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(picture, Object.assign(document.createElement("span"), { textContent: text }));
    button.addEventListener("click", onClick);
    item.append(button);
    return item;
  }

  // Drawn once, and after the patch is on the screen: the first one reads the whole photo, 0.25 s for 12 megapixels.
  /** @param {Photo} photo @param {Round[]} applied */
  function thumbnail(photo, applied) {
    const newest = applied[applied.length - 1];
    const isThere = layers.has(applied); // else it is drawn when all its pictures are
    const id = newest?.image_id || "original";
    if (drawn.thumbnails.has(id)) return drawn.thumbnails.get(id);
    const canvas = Object.assign(document.createElement("canvas"), { width: 144, height: 108 });
    const number = drawn.photo_number;
    const draw = () => drawn.photo_number === number && layers.drawThumbnail(canvas, newest?.box, applied, photo);
    requestAnimationFrame(() => setTimeout(draw, DRAW_AFTER_MS));
    if (isThere) drawn.thumbnails.set(id, canvas);
    return canvas;
  }

  return { show };
}
