// Gestures: what mouse, pen and fingers do on the stage. One pointer uses the tool in hand; two fingers, the
// middle button, or a drag with the space bar held move the view; the wheel zooms where it points.

import { drawStroke, rectangleCorners, simplifyLine } from "./strokes.js";

/** @param {{stage: HTMLElement, ring: HTMLElement, view: import("./view.js").View, getHand: () => import("./store.js").Hand, isPainting: () => boolean, store: import("./store.js").Store, onStroke: (stroke: any, tool: string) => void, onOutline: (corners: number[][], erase: boolean) => void, onPick: (point: number[], takesAway: boolean) => void, onBox: (box: number[], takesAway: boolean) => void, onRadius: (factor: number) => void, onChange: () => void}} parts */
export function createGestures({ stage, ring, view, getHand, isPainting, store, onStroke, onOutline, onPick, onBox, onRadius, onChange }) {
  const pointers = new Map();
  /** @type {any} */
  const live = { pen: null, tool: "", stroke: null, corners: null, pinch: null, panning: false, spaceHeld: false, ring: null, last: null }; // tool: which began what is being drawn, and ends it; ring: where it is on the stage, as a function, and whether the keyboard took it there; last: where the last stroke ended, and on which photo
  const LASSO_STEP_PX = 3;
  const PEN_PX = 9; // where the keyboard is with a tool that has no size
  const CLICK_PX = 6; // a finger that only taps moves by so much
  const isOutline = (tool = getHand().tool) => ["lasso", "rectangle", "select"].includes(tool);

  function begin(event) {
    if (event.target.closest("button, label, input, a")) return;
    if (live.pen !== null && event.pointerType === "touch") return; // the hand that holds the pen
    if (event.pointerType === "pen") live.pen = event.pointerId;
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (pointers.size === 2) return beginPinch();
    if (pointers.size > 2 || !view.get().width) return;
    if (event.button === 1 || (event.button === 0 && live.spaceHeld)) live.panning = true;
    else if (event.button === 0 && isPainting()) beginTool(event);
    if (event.button === 1) event.preventDefault();
    mark(event);
  }

  function beginTool(event) {
    const start = view.toImage(event.clientX, event.clientY);
    const { tool, takes_away } = getHand();
    const erase = isOutline(tool) ? event.altKey !== Boolean(takes_away) : tool === "eraser" || (event.altKey && tool !== "restore");
    live.tool = tool;
    if (isOutline(tool)) live.corners = { points: [start], erase };
    else live.stroke = { points: event.shiftKey && live.last?.photo === store.get().photo_number ? [live.last.point, start] : [start], radius: getHand().radius, erase };
    view.redraw();
  }

  function move(event) {
    showRing(event);
    if (!pointers.has(event.pointerId)) return;
    const before = pointers.get(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (live.pinch) movePinch();
    else if (live.panning) view.panBy(event.clientX - before[0], event.clientY - before[1]);
    else if (live.stroke) extendStroke(event);
    else if (live.corners) extendOutline(event);
  }

  function extendStroke(event) {
    const seen = event.getCoalescedEvents?.() || [];
    const nearest_px = 0.7 / view.get().scale;
    for (const part of seen.length ? seen : [event]) {
      const [x, y] = view.toImage(part.clientX, part.clientY);
      const [lastX, lastY] = live.stroke.points.at(-1);
      if (Math.hypot(x - lastX, y - lastY) >= nearest_px) live.stroke.points.push([x, y]);
    }
    view.redraw();
  }

  function extendOutline(event) {
    const point = inPhoto(view.toImage(event.clientX, event.clientY));
    const { points } = live.corners;
    if (live.tool === "rectangle") points[1] = point;
    else if (live.tool === "select") points[1] = points[1] || apart_px(points[0], point) > CLICK_PX ? point : undefined;
    else if (apart_px(points.at(-1), point) > LASSO_STEP_PX) points.push(point);
    view.redraw();
  }

  const apart_px = (/** @type {number[]} */ [ax, ay], /** @type {number[]} */ [bx, by]) => Math.hypot(ax - bx, ay - by) * view.get().scale;

  function inPhoto([x, y]) {
    const { width, height } = view.get();
    return [Math.max(0, Math.min(width, x)), Math.max(0, Math.min(height, y))];
  }

  function end(event) {
    if (!pointers.delete(event.pointerId)) return;
    if (live.pen === event.pointerId) live.pen = null;
    const { stroke, corners } = live;
    live.panning = false;
    live.pinch = pointers.size > 1 ? measurePinch() : null; // of the fingers that stay, or the view would leap
    live.stroke = live.corners = null;
    if (event.type === "pointerup" && stroke) ((live.last = { point: stroke.points.at(-1), photo: store.get().photo_number }), onStroke(stroke, live.tool));
    if (event.type === "pointerup" && corners) endOutline(corners);
    mark(event);
    view.redraw();
  }

  function endOutline({ points, erase }) {
    if (live.tool !== "select") return onOutline(outlineCorners(points), erase);
    const [[ax, ay], [bx, by]] = [inPhoto(points[0]), points[1] || points[0]];
    if (points[1]) onBox([Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)].map(Math.round), erase);
    else if (ax === points[0][0] && ay === points[0][1]) onPick(points[0], erase); // beside the photo there is nothing
  }

  function outlineCorners(points) {
    if (live.tool !== "rectangle") return simplifyLine(points, 0.5 / view.get().scale);
    return points.length > 1 ? rectangleCorners(inPhoto(points[0]), points[1]) : [];
  }

  function beginPinch() {
    live.stroke = live.corners = null; // the first finger was the start of this
    live.panning = false;
    live.pinch = measurePinch();
    view.redraw();
  }

  function measurePinch() {
    const [[ax, ay], [bx, by]] = [...pointers.values()];
    return { x: (ax + bx) / 2, y: (ay + by) / 2, apart: Math.max(1, Math.hypot(ax - bx, ay - by)) };
  }

  function movePinch() {
    const before = live.pinch;
    live.pinch = measurePinch();
    view.panBy(live.pinch.x - before.x, live.pinch.y - before.y);
    view.zoomAt(live.pinch.apart / before.apart, live.pinch.x, live.pinch.y);
  }

  function wheel(event) {
    if (event.target.closest(".fft-welcome")) return; // in a low window it is scrolled
    event.preventDefault();
    if (event.altKey && isPainting()) return onRadius(event.deltaY > 0 ? 1 / 1.1 : 1.1);
    const lines_px = event.deltaMode === 1 ? 30 : 1;
    view.zoomAt(Math.exp(-event.deltaY * lines_px * (event.ctrlKey ? 0.008 : 0.0016)), event.clientX, event.clientY);
    showRing(event);
  }

  // The brush's outline under the pointer; a finger covers it, so not for touch.
  function showRing({ clientX, clientY, pointerType }) {
    if (pointerType === "touch") return hideRing();
    const where = () => {
      const room = stage.getBoundingClientRect();
      return [clientX - room.left, clientY - room.top];
    };
    live.ring = { where, isPen: false };
    followRing();
  }

  /** Have the ring where the keyboard is from now on. @param {() => [number, number]} where */
  function showPen(where) {
    live.ring = { where, isPen: true };
    followRing();
  }

  /** The ring anew, after its place, its size, or whether anything is painted changed. */
  function followRing() {
    if (!live.ring) return;
    const { where, isPen } = live.ring;
    const [x, y] = where();
    const size_px = isOutline() ? PEN_PX : Math.max(3, 2 * getHand().radius * view.get().scale);
    const shown = (isPen || !isOutline()) && isPainting() && !live.spaceHeld && !live.panning;
    Object.assign(ring.style, { width: `${size_px}px`, height: `${size_px}px`, transform: `translate(${x - size_px / 2}px, ${y - size_px / 2}px)` });
    ring.classList.toggle("fft-shown", shown && Boolean(view.get().width));
  }

  function hideRing() {
    live.ring = null;
    ring.classList.remove("fft-shown");
  }

  // The ring at its new size: where it is, else in the middle while the slider moves.
  function showRadius(inMiddle = false) {
    if (inMiddle) live.ring ||= { where: () => [stage.clientWidth / 2, stage.clientHeight / 2], isPen: false };
    followRing();
  }

  // Gives up what is being drawn; true when there was something.
  function giveUp() {
    const drawing = Boolean(live.stroke || live.corners);
    live.stroke = live.corners = null;
    if (drawing) view.redraw();
    return drawing;
  }

  function mark(event) {
    stage.classList.toggle("fft-panning", live.panning);
    stage.classList.toggle("fft-grab", live.spaceHeld && !live.panning);
    if (event) showRing(event);
    else followRing();
    onChange();
  }

  function holdSpace(held) {
    if (live.spaceHeld === held) return;
    live.spaceHeld = held;
    mark();
  }

  /** @param {CanvasRenderingContext2D} context @param {(tool: string) => string} colourOf */
  function drawLive(context, colourOf) {
    const colour = colourOf(live.tool);
    if (live.stroke) drawStroke(context, live.stroke, colour);
    if (!live.corners || live.corners.points.length < 2) return;
    const { points } = live.corners;
    if (live.tool === "select") return points[1] && drawBox(context, points[0], points[1], colour);
    const polygon = live.tool === "rectangle" ? rectangleCorners(points[0], points[1]) : points;
    drawStroke(context, { polygon, erase: live.corners.erase }, colour);
  }

  function drawBox(context, [ax, ay], [bx, by], colour) {
    context.globalCompositeOperation = "source-over";
    context.strokeStyle = colour;
    context.lineWidth = 2 / view.get().scale;
    context.strokeRect(Math.min(ax, bx), Math.min(ay, by), Math.abs(bx - ax), Math.abs(by - ay));
  }

  // What is being drawn would land on the photo that comes, with the coordinates of the one before.
  store.subscribe((now, before) => {
    if (now.photo_number !== before.photo_number) giveUp();
    if (now.hand !== before.hand || now.photo !== before.photo || now.comparing !== before.comparing || now.split !== before.split) followRing();
  });
  // A stroke that is fast when the finger leaves would be a fling, and Chromium swallows the tap after one.
  stage.addEventListener("touchmove", (event) => pointers.size && event.preventDefault(), { passive: false });
  stage.addEventListener("pointerdown", begin);
  stage.addEventListener("pointermove", move);
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", end);
  stage.addEventListener("pointerleave", hideRing);
  stage.addEventListener("wheel", wheel, { passive: false });
  return { holdSpace, drawLive, showPen, followRing, showRadius, giveUp };
}
