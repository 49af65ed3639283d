// Restoring: the brush that brings the original back over a repaired place, in any round. Each stroke becomes a round of
// its own, made by the server without the model; strokes drawn while something runs wait for it.

import { boxOf, drawStroke, finishStroke } from "./strokes.js";

/** @typedef {import("./store.js").BrushStroke} BrushStroke */

const COLOUR = "rgb(0 150 90)";
const TOLERANCE_PX = 0.3;

/** @param {{store: import("./store.js").Store, begin: (restored: BrushStroke[]) => void}} parts begin: have the server do it */
export function createRestoring({ store, begin }) {
  /** @type {{photo_number: number, strokes: BrushStroke[]}} */
  let waiting = { photo_number: -1, strokes: [] };

  /** @param {BrushStroke} stroke */
  function add(stroke) {
    const { photo, photo_number, round, job } = store.get();
    if (!photo || !boxOf([stroke], photo.width, photo.height)) return; // it is beside the photo
    if (!round && !job) return store.update({ status: { key: "nothing_to_restore", tone: "warn" } });
    const before = waiting.photo_number === photo_number ? waiting.strokes : [];
    waiting = { photo_number, strokes: [...before, finishStroke({ ...stroke, erase: false }, TOLERANCE_PX)] };
    next();
  }

  /** Begin with what waits; false when nothing does. */
  function next() {
    const { photo_number, job, round } = store.get();
    if (job || !waiting.strokes.length) return false;
    const { strokes, photo_number: theirs } = waiting;
    waiting = { photo_number, strokes: [] };
    if (!round || theirs !== photo_number) return false; // the repair that was to be painted over did not come
    begin(strokes);
    return true;
  }

  /** @param {CanvasRenderingContext2D} context */
  function draw(context) {
    const { job, photo_number } = store.get();
    const own = waiting.photo_number === photo_number ? waiting.strokes : [];
    for (const stroke of [...(job?.restored || []), ...own]) drawStroke(context, stroke, COLOUR);
  }

  return { add, next, draw, colour: COLOUR };
}
