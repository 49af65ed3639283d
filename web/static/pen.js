// Pen: every tool without a pointer. With the stage focused, arrow keys move the pen by half its radius, by one pixel of
// the photo with Shift. D puts a brush down and lifts it, begins and closes a lasso, sets one corner of a rectangle and
// the other, and clicks with the tool that selects.

import { drawStroke, rectangleCorners } from "./strokes.js";

/** @typedef {import("./store.js").Hand} Hand */
/** @typedef {import("./store.js").BrushStroke} BrushStroke */

/** @param {{store: import("./store.js").Store, view: import("./view.js").View, getHand: () => Hand, isPainting: () => boolean, showRing: (where: () => [number, number]) => void, onStroke: (stroke: BrushStroke, tool: string) => void, onOutline: (corners: number[][], erase: boolean) => void, onPick: (point: number[], takesAway: boolean) => void, onChange: () => void}} parts */
export function createPen({ store, view, getHand, isPainting, showRing, onStroke, onOutline, onPick, onChange }) {
  /** @type {{at: [number, number] | null, tool: string, takes_away: boolean, stroke: BrushStroke | null, corners: number[][] | null}} */
  const pen = { at: null, tool: "", takes_away: false, stroke: null, corners: null }; // tool, takes_away: as they were when what is being drawn was begun

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
    if (pen.corners && pen.tool === "rectangle") pen.corners[1] = pen.at;
    else if (pen.corners) pen.corners.push(pen.at);
    show();
  }

  function toggle() {
    if (!isPainting()) return;
    const { tool, takes_away } = getHand();
    pen.at = place();
    if (pen.stroke || pen.corners) lift();
    else if (tool === "select") onPick(pen.at, takes_away);
    else begin(pen.at);
    show();
  }

  function begin(/** @type {[number, number]} */ at) {
    const { tool, radius, takes_away } = getHand();
    Object.assign(pen, { tool, takes_away });
    if (tool === "lasso" || tool === "rectangle") pen.corners = [at];
    else pen.stroke = { points: [at], radius, erase: tool === "eraser" };
  }

  function lift() {
    const { tool, takes_away, stroke, corners } = pen;
    pen.stroke = pen.corners = null;
    if (stroke) onStroke(stroke, tool);
    if (corners && corners.length > 1) onOutline(outline(corners), takes_away);
  }

  /** Give up what is being drawn; false when nothing is. */
  function giveUp() {
    const isDrawing = Boolean(pen.stroke || pen.corners);
    pen.stroke = pen.corners = null;
    if (isDrawing) onChange();
    return isDrawing;
  }

  /** @param {number[][]} corners */
  const outline = (corners) => (pen.tool === "rectangle" ? rectangleCorners(corners[0], corners[1]) : corners);

  function show() {
    showRing(() => view.toStage(...place()));
    onChange();
  }

  /** @param {CanvasRenderingContext2D} context @param {(tool: string) => string} colourOf */
  function drawLive(context, colourOf) {
    const colour = colourOf(pen.tool);
    if (pen.stroke) drawStroke(context, pen.stroke, colour);
    else if (pen.corners && pen.corners.length > 1) drawStroke(context, { polygon: outline(pen.corners), erase: pen.takes_away }, colour);
  }

  // What is being drawn would land on the photo that comes, with the coordinates of the one before.
  store.subscribe((now, before) => void (now.photo_number !== before.photo_number && giveUp()));

  return { move, toggle, lift, giveUp, drawLive };
}
