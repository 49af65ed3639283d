// Pen: every tool without a pointer. With the stage focused, arrow keys move the pen by half its radius, by one pixel of
// the photo with Shift. D puts a brush down and lifts it, begins and closes a lasso, sets one corner of a rectangle and
// the other, and clicks with the tool that selects.

import { drawStroke, rectangleCorners } from "./strokes.js";

/** @typedef {import("./store.js").Hand} Hand */
/** @typedef {import("./store.js").BrushStroke} BrushStroke */

/** @param {{store: import("./store.js").Store, view: import("./view.js").View, getHand: () => Hand, isPainting: () => boolean, showRing: (where: () => [number, number]) => void, onStroke: (stroke: BrushStroke) => void, onOutline: (corners: number[][], erase: boolean) => void, onPick: (point: number[], takesAway: boolean) => void, onChange: () => void}} parts */
export function createPen({ store, view, getHand, isPainting, showRing, onStroke, onOutline, onPick, onChange }) {
  /** @type {{at: [number, number] | null, stroke: BrushStroke | null, corners: number[][] | null}} */
  const pen = { at: null, stroke: null, corners: null };

  /** Where it is on the photo, which may be smaller than the one before. @returns {[number, number]} */
  function place() {
    const { width, height } = view.get();
    const [x, y] = pen.at || [width / 2, height / 2];
    return [Math.max(0, Math.min(width, x)), Math.max(0, Math.min(height, y))];
  }

  /** @param {number[]} direction @param {boolean} fine */
  function move([dx, dy], fine) {
    if (!isPainting()) return;
    const [x, y] = place();
    const step_px = fine ? 1 : Math.max(1, getHand().radius / 2);
    pen.at = [x + dx * step_px, y + dy * step_px];
    pen.at = place();
    if (pen.stroke) pen.stroke.points.push(pen.at);
    if (pen.corners && getHand().tool === "rectangle") pen.corners[1] = pen.at;
    else if (pen.corners) pen.corners.push(pen.at);
    show();
  }

  function toggle() {
    if (!isPainting()) return;
    const { tool, radius, takes_away } = getHand();
    pen.at = place();
    if (pen.stroke || pen.corners) lift();
    else if (tool === "select") onPick(pen.at, takes_away);
    else if (tool === "lasso" || tool === "rectangle") pen.corners = [pen.at];
    else pen.stroke = { points: [pen.at], radius, erase: tool === "eraser" };
    show();
  }

  function lift() {
    const { stroke, corners } = pen;
    pen.stroke = pen.corners = null;
    if (stroke) onStroke(stroke);
    if (corners && corners.length > 1) onOutline(outline(corners), getHand().takes_away);
  }

  /** Give up what is being drawn; false when nothing is. */
  function giveUp() {
    const isDrawing = Boolean(pen.stroke || pen.corners);
    pen.stroke = pen.corners = null;
    if (isDrawing) onChange();
    return isDrawing;
  }

  /** @param {number[][]} corners */
  const outline = (corners) => (getHand().tool === "rectangle" ? rectangleCorners(corners[0], corners[1]) : corners);

  function show() {
    showRing(() => view.toStage(...place()));
    onChange();
  }

  /** @param {CanvasRenderingContext2D} context @param {string} colour */
  function drawLive(context, colour) {
    if (pen.stroke) drawStroke(context, pen.stroke, colour);
    else if (pen.corners && pen.corners.length > 1) drawStroke(context, { polygon: outline(pen.corners), erase: getHand().takes_away }, colour);
  }

  // What is being drawn would land on the photo that comes, with the coordinates of the one before.
  store.subscribe((now, before) => void (now.photo_number !== before.photo_number && giveUp()));

  return { move, toggle, lift, giveUp, drawLive };
}
