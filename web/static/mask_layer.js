// Mask layer: draws regions on the overlay, at the screen's resolution and only where they can be seen. What was drawn
// is kept until the view moves, so that painting over a region costs nothing more.

import { regionAtHand, regionOf } from "./regions.js";

/** @typedef {import("./store.js").MaskStroke} MaskStroke */
/** @typedef {{width: number, height: number, data: Uint8Array}} Level coverage 0 to 255, half as large as the one before */

/** @param {Level} level @returns {Level} */
function halved({ width, height, data }) {
  const [w, h] = [Math.ceil(width / 2), Math.ceil(height / 2)];
  const half = new Uint8Array(w * h);
  for (let y = 0; y < h; y += 1) {
    const upper = 2 * y * width;
    const lower = 2 * y + 1 < height ? upper + width : upper;
    for (let x = 0; x < w; x += 1) {
      const a = 2 * x;
      const b = a + 1 < width ? a + 1 : a;
      half[y * w + x] = (data[upper + a] + data[upper + b] + data[lower + a] + data[lower + b] + 2) >> 2;
    }
  }
  return { width: w, height: h, data: half };
}

/** @param {{view: import("./view.js").View, overlay: HTMLCanvasElement, colour: number[]}} parts colour: red, green, blue */
export function createMaskLayer({ view, overlay, colour: [red, green, blue] }) {
  /** @type {Map<MaskStroke, {key: string, canvas: HTMLCanvasElement, left: number, top: number}>} */
  const drawn = new Map();
  /** @type {Map<MaskStroke, Level[]>} */
  const pyramids = new Map();
  const loading = new Set();

  /** Forget what belongs to strokes that are no longer there. @param {import("./store.js").Stroke[]} strokes */
  function keepOnly(strokes) {
    const wanted = new Set(strokes);
    for (const map of [drawn, pyramids]) for (const stroke of map.keys()) if (!wanted.has(stroke)) map.delete(stroke);
  }

  /** The levels made so far, if the pixels are at hand. @param {MaskStroke} stroke */
  function levelsOf(stroke) {
    const kept = pyramids.get(stroke);
    const region = kept ? null : regionAtHand(stroke);
    if (!region) return kept || null;
    const levels = [{ width: region.width, height: region.height, data: region.data.map((one) => one && 255) }];
    pyramids.set(stroke, levels);
    return levels;
  }

  /** @param {Level[]} levels @param {number} scale device pixels for one of the photo */
  function levelFor(levels, scale) {
    const wanted = Math.max(0, Math.floor(Math.log2(1 / scale)));
    while (levels.length <= wanted) levels.push(halved(levels[levels.length - 1]));
    return { level: levels[wanted], factor: 2 ** wanted };
  }

  /** @param {number[]} box @param {Level[]} levels @param {string} key */
  function render([boxLeft, boxTop, boxRight, boxBottom], levels, key) {
    const ratio = devicePixelRatio || 1;
    const { scale: css, left: viewLeft, top: viewTop } = view.get();
    const scale = css * ratio;
    const toDevice = (/** @type {number} */ at, /** @type {number} */ start) => start * ratio + at * scale;
    const left = Math.max(0, Math.floor(toDevice(boxLeft, viewLeft)));
    const top = Math.max(0, Math.floor(toDevice(boxTop, viewTop)));
    const right = Math.min(overlay.width, Math.ceil(toDevice(boxRight, viewLeft)));
    const bottom = Math.min(overlay.height, Math.ceil(toDevice(boxBottom, viewTop)));
    if (right <= left || bottom <= top) return null;
    const { level, factor } = levelFor(levels, scale);
    const canvas = Object.assign(document.createElement("canvas"), { width: right - left, height: bottom - top });
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const image = context.createImageData(canvas.width, canvas.height);
    const cells = new Uint32Array(image.data.buffer);
    const paint = (blue << 16) | (green << 8) | red; // little-endian, as every browser's machine is
    const source = (/** @type {number} */ at, /** @type {number} */ start, /** @type {number} */ origin) => Math.floor(((at + 0.5 - start * ratio) / scale - origin) / factor);
    const columns = Int32Array.from({ length: canvas.width }, (_, i) => source(left + i, viewLeft, boxLeft));
    for (let y = 0; y < canvas.height; y += 1) {
      const row = source(top + y, viewTop, boxTop);
      if (row < 0 || row >= level.height) continue;
      for (let x = 0; x < canvas.width; x += 1) {
        const column = columns[x];
        const alpha = column < 0 || column >= level.width ? 0 : level.data[row * level.width + column];
        if (alpha) cells[y * canvas.width + x] = (alpha << 24) | paint;
      }
    }
    context.putImageData(image, 0, 0);
    return { key, canvas, left, top };
  }

  /** @param {CanvasRenderingContext2D} context @param {MaskStroke} stroke */
  function draw(context, stroke) {
    const levels = levelsOf(stroke);
    if (!levels) return void load(stroke);
    const { scale, left, top } = view.get();
    const key = [scale, left, top, overlay.width, overlay.height, devicePixelRatio].join(" ");
    const kept = drawn.get(stroke);
    const part = kept?.key === key ? kept : render(stroke.box, levels, key);
    if (!part) return; // nothing of it is in sight
    drawn.set(stroke, part);
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
    context.drawImage(part.canvas, part.left, part.top);
    context.restore();
  }

  async function load(/** @type {MaskStroke} */ stroke) {
    if (loading.has(stroke)) return;
    loading.add(stroke);
    await regionOf(stroke).catch(() => null);
    loading.delete(stroke);
    view.redraw();
  }

  return { draw, keepOnly };
}
