// Selecting: what the server finds becomes part of the mask: what a click or a box selects, text, spots, a mark's repeats.
// Further clicks, and another sensitivity, replace what was found last instead of adding to it.

import { refusalOf } from "./api.js";
import { maskBody } from "./mask_body.js";
import { fromBase64, inStrips, toStroke, trimmed } from "./regions.js";
import { boxOf } from "./strokes.js";

/** @typedef {import("./store.js").Stroke} Stroke */
/** @typedef {{kind: string, base: Stroke[], points: (number | boolean)[][], box: number[] | null, erase: boolean, strokes: Stroke[] | null}} Finding base: the mask under it; strokes: the mask with it */
/** @typedef {Finding & {photo_number: number, round: number}} Placed where it was looked for */

const BRIGHT = 127;

/** @param {{store: import("./store.js").Store, api: import("./api.js").Api, whenUploaded: (number: number) => Promise<void>, replaceStrokes: (strokes: Stroke[]) => void}} parts */
export function createSelecting({ store, api, whenUploaded, replaceStrokes }) {
  /** @type {Placed | null} */
  let last = null;
  /** @type {Placed | null} */
  let pending = null;
  let asking = new AbortController();

  /** The round or photo that is shown. */
  function currentId() {
    const { round, rounds, photo } = store.get();
    return round ? rounds[round - 1].image_id : photo?.image_id;
  }

  /** @param {Finding} finding @param {object} body */
  async function find(finding, body) {
    const { photo_number, round, strokes: before, job, status } = store.get();
    const placed = { ...finding, photo_number, round };
    pending = placed;
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    store.update({ looking: Date.now(), status: job ? status : { key: "ready" } });
    try {
      await whenUploaded(photo_number);
      const answer = await api.detect({ image_id: currentId(), kind: finding.kind, ...body }, signal);
      const region = await readAnswer(answer.mask_png);
      const stroke = region && (await toStroke(region, finding.erase));
      const now = store.get(); // after the last wait: meanwhile something may have been painted
      if (signal.aborted) return;
      pending = null;
      store.update({ looking: null });
      if (now.round !== round) return;
      if (!stroke) return store.update({ status: { key: "nothing_found", tone: "warn" } });
      // What was painted meanwhile stays, under what was found.
      const base = now.strokes === before ? finding.base : now.strokes;
      const strokes = [...base, stroke];
      last = { ...placed, base, strokes };
      replaceStrokes(strokes);
    } catch (error) {
      if (signal.aborted) return;
      pending = null;
      store.update({ looking: null, status: { error: refusalOf(error) } });
    }
  }

  /** Give up looking; false when nothing is looked for. */
  function cancel() {
    const wasLooking = Boolean(pending);
    asking.abort();
    pending = null;
    if (wasLooking) store.update({ looking: null });
    return wasLooking;
  }

  // What is found on a photo that nobody looks at would be drawn on another.
  store.subscribe((now) => {
    if (!pending || now.photo_number === pending.photo_number) return;
    asking.abort();
    pending = null;
    store.update({ looking: null });
  });

  /** What was found last, or is being looked for, while it still is the newest part of the mask. @param {string} kind */
  function goingOn(kind) {
    const newest = pending || last;
    const { photo_number, round } = store.get();
    if (newest?.photo_number !== photo_number || newest.round !== round) return null;
    return newest.kind === kind && (newest.strokes || newest.base) === store.get().strokes ? newest : null;
  }

  /** @param {number[]} point @param {boolean} takesAway */
  function click(point, takesAway) {
    const { strokes } = store.get();
    const rounded = point.map((value) => Math.round(value * 10) / 10);
    const before = goingOn("click");
    if (before) {
      const points = [...before.points, [...rounded, before.erase === takesAway]];
      return find({ ...before, points }, { points, ...(before.box && { box: before.box }) });
    }
    // The first click of a selection finds something; taking it away is what is done with it then.
    const points = [[...rounded, true]];
    return find({ kind: "click", base: strokes, points, box: null, erase: takesAway, strokes: null }, { points });
  }

  /** @param {number[]} box @param {boolean} takesAway */
  function selectBox(box, takesAway) {
    return find({ kind: "click", base: store.get().strokes, points: [], box, erase: takesAway, strokes: null }, { box, points: [] });
  }

  /** Letters or spots, in the whole photo or inside what is painted. @param {"text" | "spots"} kind @param {number} sensitivity */
  function search(kind, sensitivity) {
    const { strokes, photo } = store.get();
    if (!photo) return;
    const before = goingOn(kind);
    // What was just found as the other kind is no box to look in, but stays in the mask.
    const other = before ? null : goingOn(kind === "text" ? "spots" : "text");
    const found = before || other;
    const box = found ? found.box : boxOf(strokes, photo.width, photo.height);
    const isInside = box && !other;
    const fresh = { kind, base: isInside ? [] : strokes, points: [], box, erase: false, strokes: isInside ? strokes : null };
    return find(before || fresh, { sensitivity, ...(box && { box }) });
  }

  /** What is painted, wherever else it is; where nothing is, what was repaired last, on this photo or the one before. @param {number} sensitivity */
  async function findRepeats(sensitivity) {
    const { strokes, photo, used } = store.get();
    if (!photo) return;
    const before = goingOn("repeat");
    const base = before ? before.base : strokes;
    const isPainted = boxOf(base, photo.width, photo.height);
    if (!isPainted && !used?.image_id) return store.update({ status: { key: "no_mask", tone: "warn" } });
    const mark = isPainted || !used
      ? await maskBody(base, photo.width, photo.height)
      : { ...(await maskBody(used.strokes, used.width, used.height)), mark_image_id: used.image_id };
    return find(before || { kind: "repeat", base, points: [], box: null, erase: false, strokes: null }, { ...mark, sensitivity });
  }

  /** Look once more for what was found last. @param {number} sensitivity */
  function withSensitivity(sensitivity) {
    if (goingOn("text")) void search("text", sensitivity);
    else if (goingOn("spots")) void search("spots", sensitivity);
    else if (goingOn("repeat")) void findRepeats(sensitivity);
  }

  /** Tell whether a sensitivity would change anything. */
  const isAdjustable = () => Boolean(goingOn("text") || goingOn("spots") || goingOn("repeat"));

  return { click, selectBox, search, findRepeats, withSensitivity, isAdjustable, cancel };
}

/** @param {string} png base64 of a grey PNG of the photo's size, bright = found */
async function readAnswer(png) {
  const picture = await createImageBitmap(new Blob([fromBase64(png)], { type: "image/png" }));
  const { width, height } = picture;
  const data = new Uint8Array(width * height);
  inStrips(
    width,
    height,
    (context, top, rows) => context.drawImage(picture, 0, top, width, rows, 0, 0, width, rows),
    (pixels, top) => {
      for (let i = 0, at = top * width; i < pixels.length; i += 4, at += 1) data[at] = pixels[i] > BRIGHT ? 1 : 0;
    },
  );
  picture.close();
  return trimmed({ left: 0, top: 0, width, height, data });
}
