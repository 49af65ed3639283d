// Painting: the strokes of the round being painted, and going back and forth in them and in the rounds. One line of
// undo leads through both: strokes first, then the round before, which brings its own strokes back. While a repair
// runs, what is painted belongs to the next round, and strokes that bring the original back are on that line too. Redo
// goes every step again that undo went back.

import { onBranch, withoutRound } from "./branches.js";
import { doneStatus, earlierVersions } from "./store.js";
import { boxOf, finishPolygon, finishStroke } from "./strokes.js";

/** @typedef {import("./store.js").Stroke} Stroke */

/** @param {{store: import("./store.js").Store, view: import("./view.js").View, restoring: import("./restoring.js").Restoring, startRepair: () => void}} parts */
export function createPainting({ store, view, restoring, startRepair }) {
  /** @type {Map<string, Stroke[][]>} */
  const futures = new Map(); // what redo does after a round, by the id of the round that undo left

  /** Take other strokes in place of what is painted, to be undone in one step. @param {Stroke[]} strokes */
  function set(strokes) {
    const { past, strokes: before, rounds, job, status } = store.get();
    for (const { image_id } of rounds) futures.delete(image_id); // this is another way on
    store.update({ preview: null, past: [...past, before], future: [], taken_back: [], strokes, status: job ? status : { key: "ready" } });
  }

  // A third of a screen pixel: nobody sees it move.
  const tolerance_px = () => Math.max(0.3, 0.35 / view.get().scale);

  function add(/** @type {Stroke} */ stroke) {
    const { photo } = store.get();
    if (!photo || !boxOf([{ ...stroke, erase: false }], photo.width, photo.height)) return; // it is beside the photo
    set([...store.get().strokes, stroke]);
    if (store.get().hand.instant && !stroke.erase) startRepair();
  }

  function addStroke(/** @type {import("./store.js").BrushStroke} */ stroke) {
    add(finishStroke(stroke, tolerance_px()));
  }

  function addOutline(/** @type {number[][]} */ corners, /** @type {boolean} */ erase) {
    const stroke = finishPolygon(corners, erase);
    if (stroke) add(stroke);
  }

  function clear() {
    if (store.get().strokes.length) set([]);
  }

  function undo() {
    if (restoring.undo()) return;
    const { past, future, strokes, round } = store.get();
    if (!past.length) return goToRound(round - 1);
    store.update({ strokes: past[past.length - 1], past: past.slice(0, -1), future: [...future, strokes] });
  }

  function redo() {
    if (restoring.redo()) return;
    const { past, future, strokes, round } = store.get();
    if (!future.length) return goToRound(round + 1);
    store.update({ strokes: future[future.length - 1], past: [...past, strokes], future: future.slice(0, -1) });
  }

  // What was painted and not repaired stays, wherever one goes; what came back with an undone round goes with it.
  /** @param {Stroke[]} brought by the round that is left @param {Stroke[][]} [future] @returns {Partial<import("./store.js").State>} */
  function paintedAfter(brought, future = []) {
    const { strokes, rounds } = store.get();
    const text = JSON.stringify(strokes); // after a reload they are no longer the same objects
    const isOwn = strokes.length && !rounds.some((one) => one.strokes === strokes || JSON.stringify(one.strokes) === text);
    return { taken_back: [], ...(!isOwn && { strokes: brought, past: earlierVersions(brought), future }) };
  }

  function goToRound(/** @type {number} */ number) {
    const { job, rounds, round, strokes, future } = store.get();
    if (job || number < 0 || number > rounds.length) return;
    const status = number ? doneStatus(rounds[number - 1]) : { key: "ready" };
    if (number < round) futures.set(rounds[round - 1].image_id, strokes.length ? [...future, strokes] : future);
    const id = number > round ? rounds[number - 1].image_id : ""; // none on the way back
    store.update({ round: number, ...paintedAfter(number === round - 1 ? rounds[number].strokes : [], futures.get(id)), status });
    futures.delete(id);
  }

  /** Go over to another path of rounds. */
  function goToBranch(/** @type {number} */ index) {
    const { job, branches } = store.get();
    if (job || !branches[index]) return;
    const now = onBranch(store.get(), index);
    store.update({ ...now, preview: null, ...paintedAfter([]), status: doneStatus(now.rounds[now.round - 1]) });
  }

  /** Remove the round one is at, and those built on it. */
  function removeRound() {
    const { job, round } = store.get();
    if (job || !round) return;
    const now = withoutRound(store.get(), round);
    store.update({ ...now, preview: null, ...paintedAfter([]), status: now.round ? doneStatus(now.rounds[now.round - 1]) : { key: "ready" } });
  }

  return { replace: set, addStroke, addOutline, clear, undo, redo, goToRound, goToBranch, removeRound };
}
