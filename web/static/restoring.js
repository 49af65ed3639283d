// Restoring: the brush that brings the original back over a repaired place, in any round. Each stroke becomes a round of
// its own, made by the server without the model. Strokes drawn while something runs wait for it and go with it: its job has
// them, and undo and redo take them in their turn among those of the mask.

import { boxOf, drawStroke, finishStroke } from "./strokes.js";

/** @typedef {import("./store.js").BrushStroke} BrushStroke */
/** @typedef {import("./store.js").Waiting} Waiting */

const COLOUR = "rgb(0 150 90)";
const TOLERANCE_PX = 0.3;

/** @param {{store: import("./store.js").Store, begin: (restored: BrushStroke[]) => void}} parts begin: have the server do it */
export function createRestoring({ store, begin }) {
  /** @param {BrushStroke} stroke */
  function add(stroke) {
    const { photo, round, job, past } = store.get();
    if (!photo || !boxOf([stroke], photo.width, photo.height)) return; // it is beside the photo
    if (!round && !job) return store.update({ status: { key: "nothing_to_restore", tone: "warn" } });
    const finished = finishStroke({ ...stroke, erase: false }, TOLERANCE_PX);
    store.update({ future: [], taken_back: [] });
    put({ stroke: finished, past: past.length, future: 0 });
  }

  /** Have it done, after what runs where something does. @param {Waiting} one */
  function put(one) {
    const { job } = store.get();
    if (job) store.update({ job: { ...job, waiting: [...(job.waiting || []), one] } });
    else begin([one.stroke]);
  }

  /** Take the last of those that wait, where nothing was painted since; false when that is not what undo is for now. */
  function undo() {
    const { job, past, future, taken_back } = store.get();
    const last = job?.waiting?.at(-1);
    if (!last || last.past < past.length) return false;
    store.update({ job: job && { ...job, waiting: job.waiting?.slice(0, -1) }, taken_back: [...taken_back, { ...last, future: future.length }] });
    return true;
  }

  /** Draw the last that undo took again, where nothing was undone since; false when that is not what redo is for now. */
  function redo() {
    const { past, future, taken_back } = store.get();
    const last = taken_back.at(-1);
    if (!last || last.future < future.length) return false;
    store.update({ taken_back: taken_back.slice(0, -1) });
    put({ ...last, past: past.length });
    return true;
  }

  /** @param {CanvasRenderingContext2D} context */
  function draw(context) {
    const { job } = store.get();
    for (const stroke of [...(job?.restored || []), ...(job?.waiting || []).map((one) => one.stroke)]) drawStroke(context, stroke, COLOUR);
  }

  return { add, undo, redo, draw, colour: COLOUR };
}

/** @typedef {ReturnType<typeof createRestoring>} Restoring */
