// Dilation line: a thin line round what the engine will dilate the mask to, computed beside the page when the mask has
// been left alone for a moment.

import { lineMargin } from "./rings.js";
import { boxOf } from "./strokes.js";

/** @typedef {import("./store.js").Stroke} Stroke */

const REST_MS = 200;
const MOST_CELLS = 1 << 20;

const WIDTHS_PX = [3, 1.5]; // of the screen: light below, so that it is seen on a photo of the mask's colour too
const LIGHT = "#fff";

/** @param {{store: import("./store.js").Store, view: import("./view.js").View, canvas: HTMLCanvasElement, overlay: HTMLCanvasElement, colour: string}} parts canvas: its own, of the overlay's size */
export function createDilationLine({ store, view, canvas, overlay, colour }) {
  /** @type {{photo_number: number, path: Path2D} | null} */
  let line = null;
  /** @type {{key: string, path: Path2D | null}} as it is on the canvas: painting does not draw it again */
  let drawn = { key: "", path: null };
  /** @type {Worker | null} */
  let worker = null;
  let resting = 0;
  let asked = 0;

  function compute() {
    const { strokes, photo, photo_number, hand } = store.get();
    const inner = photo && boxOf(strokes, photo.width, photo.height);
    if (!inner) return;
    const around = 2 * lineMargin(hand.dilate_px, 1); // which is most of the grid of a long thin mask
    const scale = Math.min(1, Math.sqrt(MOST_CELLS / ((inner[2] - inner[0] + around) * (inner[3] - inner[1] + around))));
    const margin = lineMargin(hand.dilate_px, scale);
    const box = [Math.max(0, inner[0] - margin), Math.max(0, inner[1] - margin), Math.min(photo.width, inner[2] + margin), Math.min(photo.height, inner[3] + margin)];
    const number = (asked += 1);
    worker ||= new Worker(new URL("./distance_worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }) => {
      const now = store.get();
      if (data.number !== number || now.strokes !== strokes || now.photo_number !== photo_number || now.hand.dilate_px !== hand.dilate_px) return;
      line = { photo_number, path: pathOf(data.lines) };
      view.redraw();
    };
    worker.postMessage({ number, strokes, box, scale, dilate_px: hand.dilate_px, shorter_px: Math.min(photo.width, photo.height) });
  }

  /** Look whether the mask changed. @param {import("./store.js").State} now @param {import("./store.js").State} before */
  function follow(now, before) {
    const isSame = now.strokes === before.strokes && now.hand.dilate_px === before.hand.dilate_px && now.photo_number === before.photo_number;
    if (isSame) return;
    clearTimeout(resting);
    resting = window.setTimeout(compute, REST_MS);
  }

  // A line round what was there a moment ago is right but for the newest stroke; round nothing it would mislead.
  function draw() {
    const { strokes, photo_number, preview, comparing } = store.get();
    const isThere = line && line.photo_number === photo_number && strokes.length && !preview && !comparing;
    const path = isThere && line ? line.path : null;
    const ratio = devicePixelRatio || 1;
    const { scale, left, top } = view.get();
    const key = [scale, left, top, overlay.width, overlay.height, ratio].join(" ");
    if (drawn.path === path && (drawn.key === key || !path)) return;
    drawn = { key, path };
    Object.assign(canvas, { width: overlay.width, height: overlay.height }); // which also clears it
    if (!path) return;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.setTransform(scale * ratio, 0, 0, scale * ratio, left * ratio, top * ratio);
    WIDTHS_PX.forEach((width_px, i) => {
      context.strokeStyle = i ? colour : LIGHT;
      context.lineWidth = width_px / scale;
      context.stroke(path);
    });
  }

  store.subscribe(follow);
  return { draw };
}

/** @param {number[][][]} lines */
function pathOf(lines) {
  const path = new Path2D();
  for (const line of lines) line.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
  return path;
}
