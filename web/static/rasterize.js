// Rasterize: strokes to a region by this browser's canvas, for what needs pixels: inverting, growing, a mask file.

import { inStrips, regionOf, trimmed } from "./regions.js";
import { boxOf, drawStroke } from "./strokes.js";

/** @typedef {import("./store.js").Stroke} Stroke */
/** @typedef {import("./regions.js").Region} Region */

const COVERED = 127; // of 255: more than half of a pixel
const LEAST_RADIUS_CELLS = 0.75; // of a stroke that is sampled: a thinner one would cover half of no cell, here and there or all along

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
      if (pixels) return putRegion(context, pixels, stroke.erase, left, top, region.width, rows, from);
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

/** As it is sampled: on a photo of 48 megapixels a cell has seven pixels, and a wire two. @param {Stroke} stroke @param {number} scale @returns {Stroke} */
function thickEnough(stroke, scale) {
  return "radius" in stroke && !stroke.erase ? { ...stroke, radius: Math.max(stroke.radius, LEAST_RADIUS_CELLS / scale) } : stroke;
}

/**
 * Sample strokes on a coarser grid.
 * @param {Stroke[]} strokes @param {number[]} box in the photo @param {number} scale cells for one pixel, at most 1
 * @returns {Promise<import("./rings.js").Grid>}
 */
export async function sample(strokes, [left, top, right, bottom], scale) {
  const [width, height] = [Math.max(1, Math.round((right - left) * scale)), Math.max(1, Math.round((bottom - top) * scale))];
  const data = new Uint8Array(width * height);
  const regions = await Promise.all(strokes.map((stroke) => ("mask" in stroke ? regionOf(stroke) : null)));

  function draw(/** @type {CanvasRenderingContext2D} */ context, /** @type {number} */ from, /** @type {number} */ rows) {
    strokes.forEach((stroke, i) => {
      const pixels = regions[i];
      if (pixels && scale < 1 && !stroke.erase) return putTouched(context, pixels, left, top, width, rows, from, scale);
      if (pixels) return putRegion(context, pixels, stroke.erase, left, top, width, rows, from, scale);
      context.setTransform(scale, 0, 0, scale, -left * scale, -top * scale - from);
      drawStroke(context, scale < 1 ? thickEnough(stroke, scale) : stroke, "#fff");
    });
  }

  inStrips(width, height, draw, (pixels, from) => {
    for (let i = 0, at = from * width; i < pixels.length; i += 4, at += 1) data[at] = pixels[i + 3] > COVERED ? 1 : 0;
  });
  return { left, top, width, height, scale, data };
}

/**
 * @param {CanvasRenderingContext2D} context @param {Region} region @param {boolean} erase
 * @param {number} left of the canvas in the photo @param {number} top @param {number} width @param {number} height
 * @param {number} from first row of the canvas @param {number} scale cells for one pixel
 */
function putRegion(context, region, erase, left, top, width, height, from = 0, scale = 1) {
  const image = context.getImageData(0, 0, width, height);
  const columns = Int32Array.from({ length: width }, (_, x) => Math.floor((x + 0.5) / scale) + left - region.left);
  for (let y = 0; y < height; y += 1) {
    const row = Math.floor((y + from + 0.5) / scale) + top - region.top;
    if (row < 0 || row >= region.height) continue;
    for (let x = 0; x < width; x += 1) {
      const column = columns[x];
      if (column >= 0 && column < region.width && region.data[row * region.width + column]) image.data[4 * (y * width + x) + 3] = erase ? 0 : 255;
    }
  }
  context.putImageData(image, 0, 0);
}

/**
 * Cover every cell that a region touches, as of a thin one most cells' middles lie beside it. The cells at its rim have
 * their middles on the rim, on average; those of `putRegion` half a cell within.
 * @param {CanvasRenderingContext2D} context @param {Region} region
 * @param {number} left @param {number} top @param {number} width @param {number} height @param {number} from @param {number} scale as of `putRegion`
 */
function putTouched(context, { data, ...region }, left, top, width, height, from, scale) {
  const image = context.getImageData(0, 0, width, height);
  const pixels = image.data;
  const cells = Int32Array.from({ length: region.width }, (_, column) => Math.floor((column + 0.5 + region.left - left) * scale));
  const next = new Int32Array(region.width); // of each column: the first one of the next cell
  for (let column = region.width - 1, end = region.width; column >= 0; column -= 1) {
    next[column] = end;
    if (column && cells[column] !== cells[column - 1]) end = column;
  }
  for (let row = 0; row < region.height; row += 1) {
    const y = Math.floor((row + 0.5 + region.top - top) * scale) - from;
    if (y < 0 || y >= height) continue;
    const start = row * region.width;
    for (let column = 0; column < region.width; column = next[column]) {
      if (!data[start + column]) {
        const at = data.indexOf(1, start + column); // which looks faster than any loop
        if (at < 0) return void context.putImageData(image, 0, 0);
        if (at >= start + region.width) {
          row = Math.floor(at / region.width) - 1; // those between are empty
          break;
        }
        column = at - start;
      }
      if (cells[column] >= 0 && cells[column] < width) pixels[4 * (y * width + cells[column]) + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}
