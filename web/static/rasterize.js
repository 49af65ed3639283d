// Rasterize: strokes to a region by this browser's canvas, for what needs pixels: inverting, growing, a mask file.

import { inStrips, regionOf, trimmed } from "./regions.js";
import { boxOf, drawStroke } from "./strokes.js";

/** @typedef {import("./store.js").Stroke} Stroke */
/** @typedef {import("./regions.js").Region} Region */

const COVERED = 127; // of 255: more than half of a pixel

/**
 * @param {Stroke[]} strokes @param {number} width of the photo @param {number} height
 * @returns {Promise<Region | null>} null when nothing is left of them
 */
export async function rasterize(strokes, width, height) {
  const box = boxOf(strokes, width, height);
  if (!box) return null;
  const [left, top, right, bottom] = box;
  const region = { left, top, width: right - left, height: bottom - top, data: new Uint8Array((right - left) * (bottom - top)) };
  const regions = await Promise.all(strokes.map((stroke) => ("mask" in stroke ? regionOf(stroke) : null)));

  function draw(/** @type {CanvasRenderingContext2D} */ context, /** @type {number} */ from, /** @type {number} */ rows) {
    strokes.forEach((stroke, i) => {
      const pixels = regions[i];
      if (pixels) return putRegion(context, pixels, stroke.erase, left, top + from, region.width, rows);
      context.setTransform(1, 0, 0, 1, -left, -top - from);
      drawStroke(context, stroke, "#fff");
    });
  }

  inStrips(region.width, region.height, draw, (pixels, from) => {
    const start = from * region.width;
    for (let i = 0; i < pixels.length / 4; i += 1) region.data[start + i] = pixels[4 * i + 3] > COVERED ? 1 : 0;
  });
  return trimmed(region);
}

/** @param {CanvasRenderingContext2D} context @param {Region} region @param {boolean} erase @param {number} left of the canvas in the photo @param {number} top @param {number} width @param {number} height */
function putRegion(context, region, erase, left, top, width, height) {
  const image = context.getImageData(0, 0, width, height);
  const [y0, y1] = [Math.max(top, region.top), Math.min(top + height, region.top + region.height)];
  const [x0, x1] = [Math.max(left, region.left), Math.min(left + width, region.left + region.width)];
  for (let y = y0; y < y1; y += 1) {
    for (let x = x0; x < x1; x += 1) {
      if (region.data[(y - region.top) * region.width + x - region.left]) image.data[4 * ((y - top) * width + x - left) + 3] = erase ? 0 : 255;
    }
  }
  context.putImageData(image, 0, 0);
}
