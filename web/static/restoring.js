// Restoring: the brush that brings the original back over a repaired place, in any round. Each stroke becomes a round of
// its own, made by the server without the model. Strokes drawn while something runs wait for it and go with it: its job has them.

import { boxOf, drawStroke, finishStroke } from "./strokes.js";

/** @typedef {import("./store.js").BrushStroke} BrushStroke */

const COLOUR = "rgb(0 150 90)";
const TOLERANCE_PX = 0.3;

/** @param {{store: import("./store.js").Store, begin: (restored: BrushStroke[]) => void}} parts begin: have the server do it */
export function createRestoring({ store, begin }) {
  /** @param {BrushStroke} stroke */
  function add(stroke) {
    const { photo, round, job } = store.get();
    if (!photo || !boxOf([stroke], photo.width, photo.height)) return; // it is beside the photo
    if (!round && !job) return store.update({ status: { key: "nothing_to_restore", tone: "warn" } });
    const finished = finishStroke({ ...stroke, erase: false }, TOLERANCE_PX);
    if (job) store.update({ job: { ...job, to_restore: [...(job.to_restore || []), finished] } });
    else begin([finished]);
  }

  /** @param {CanvasRenderingContext2D} context */
  function draw(context) {
    const { job } = store.get();
    for (const stroke of [...(job?.restored || []), ...(job?.to_restore || [])]) drawStroke(context, stroke, COLOUR);
  }

  return { add, draw, colour: COLOUR };
}
