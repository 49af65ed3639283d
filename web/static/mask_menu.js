// Mask menu: the controls for the mask as a thing of its own, shown in the panel, on a phone over it, while it is open.

import { MOST_GROWTH_PX } from "./mask_tools.js";

/** @typedef {import("./store.js").State} State */

const KEYS_MS = 500; // an arrow key pressed again so soon is part of the same amount
const SETTLE_MS = 250; // a slider that rests this long is meant
const ROOM = "(min-width: 761px) and (min-height: 700px)"; // for it and everything else in the panel

/** @param {{root: HTMLElement, store: import("./store.js").Store, words: import("./i18n.js").Words, tools: ReturnType<typeof import("./mask_tools.js").createMaskTools>, selecting: ReturnType<typeof import("./selecting.js").createSelecting>}} parts */
export function createMaskMenu({ root, store, words, tools, selecting }) {
  const part = (/** @type {string} */ name) => /** @type {any} */ (root.querySelector(`[data-part="${name}"]`));
  const grow = part("grow");
  const sensitivity = part("sensitivity");
  const dilate = part("dilate");
  const file = part("mask-file");
  let settling = 0;
  let isOpen = matchMedia(ROOM).matches;

  const wanted = () => Number(sensitivity.value) / 100;

  function toggle(/** @type {boolean} */ open = !isOpen) {
    isOpen = open;
    if (!isOpen) store.update({ preview: null });
    show(store.get());
  }

  function close() {
    toggle(false);
    part("mask-button").focus();
  }

  /** Close it where it is in the way or in use; false when there is nothing to close. */
  function escape() {
    const isMeant = isOpen && store.get().photo && (!matchMedia(ROOM).matches || part("mask-menu").contains(document.activeElement));
    if (isMeant) close();
    return Boolean(isMeant);
  }

  function show(/** @type {State} */ { photo, strokes, used, hand }) {
    part("mask-menu").hidden = !isOpen || !photo;
    part("mask-button").setAttribute("aria-expanded", String(isOpen));
    for (const node of /** @type {NodeListOf<any>} */ (root.querySelectorAll("[data-needs-mask]"))) node.disabled = !strokes.length;
    part("find-repeats").disabled = !strokes.length && !used;
    part("mask-again").disabled = !used;
    part("sensitivity-row").hidden = !selecting.isAdjustable();
    showDilation(hand.dilate_px ?? -1);
    const isInside = strokes.length && !selecting.isAdjustable();
    say("find-text", isInside ? "mask.text_inside" : "mask.text");
    say("find-spots", isInside ? "mask.spots_inside" : "mask.spots");
  }

  function say(/** @type {string} */ name, /** @type {string} */ key) {
    const text = words.say(key);
    if (part(name).textContent !== text) part(name).textContent = text;
  }

  function showDilation(/** @type {number} */ px) {
    dilate.value = px;
    const text = px < 0 ? words.say("mask.dilate_auto") : `${px} px`;
    if (part("dilate-value").textContent !== text) part("dilate-value").textContent = text;
    dilate.setAttribute("aria-valuetext", text);
  }

  function setGrowth(/** @type {number} */ px) {
    grow.value = px;
    const text = `${px > 0 ? "+" : px < 0 ? "−" : ""}${Math.abs(px)} px`;
    part("grow-value").textContent = text;
    grow.setAttribute("aria-valuetext", text);
  }

  let taking = 0;
  let isByKey = false;
  let isTaken = false; // while the amount that the slider shows is computed

  // Taken on release, of keys when none comes any more; then the slider is back in the middle, for more of it.
  async function takeGrowth() {
    clearTimeout(taking);
    taking = 0;
    isTaken = true;
    try {
      await tools.grow(Number(grow.value));
    } finally {
      isTaken = false;
    }
    setGrowth(0);
  }

  /** Take at once what keys have set, where they have. @returns {Promise<void> | null} */
  const settleGrowth = () => (taking ? takeGrowth() : null);

  /** Give up an amount that is set and not taken yet; false when there is none. */
  function giveUpGrowth() {
    if (isTaken || !Number(grow.value)) return false;
    clearTimeout(taking);
    taking = 0;
    setGrowth(0);
    void tools.grow(0); // what it would be is no longer shown
    return true;
  }

  dilate.addEventListener("input", () => store.updateHand({ dilate_px: Number(dilate.value) < 0 ? null : Number(dilate.value) }));
  grow.min = -MOST_GROWTH_PX;
  grow.max = MOST_GROWTH_PX;
  grow.addEventListener("input", () => {
    const px = Number(grow.value);
    setGrowth(px);
    void tools.previewGrowth(px);
  });
  grow.addEventListener("keydown", () => (isByKey = true));
  grow.addEventListener("pointerdown", () => (isByKey = false));
  grow.addEventListener("change", () => {
    clearTimeout(taking);
    taking = window.setTimeout(takeGrowth, isByKey ? KEYS_MS : 0);
  });
  grow.addEventListener("blur", settleGrowth);
  sensitivity.addEventListener("input", () => {
    clearTimeout(settling);
    settling = window.setTimeout(() => selecting.withSensitivity(wanted()), SETTLE_MS);
  });
  file.addEventListener("change", () => {
    if (file.files[0]) void tools.upload(file.files[0]);
    file.value = ""; // so that the same file can be chosen again
  });

  const actions = {
    "mask-menu": () => toggle(),
    "mask-close": close,
    "find-text": () => void selecting.search("text", wanted()),
    "find-spots": () => void selecting.search("spots", wanted()),
    "find-repeats": () => void selecting.findRepeats(wanted()),
    invert: () => void tools.invert(),
    "mask-upload": () => file.click(),
    "mask-download": () => void tools.download(),
    "mask-again": () => void tools.useAgain(),
  };

  return { show, escape, settleGrowth, giveUpGrowth, sensitivity: wanted, actions };
}
