// Rings: what the engine dilates a mask to, as an outline. The same rule as masks/dilation.py's: every connected hole
// grows by a disc, as given or in proportion to its half thickness. Measured on a grid of at most a megapixel or so.

import { crossing } from "./distance.js";

const FAR = 1e5; // cells; more than any grid is long
const RATIO = 0.12; // CropRules.dilate_ratio
const EXTRA_PX = 2; // CropRules.dilate_extra_px
const LARGE_PHOTO_PX = 900; // CropRules.large_photo_px
const MOST_PX = 32; // MAX_DILATE_PX

/** @typedef {{left: number, top: number, width: number, height: number, scale: number, data: Uint8Array}} Grid scale: cells for one pixel of the photo; left, top: of the photo */

/**
 * For every cell the index of the nearest one that is `to`, and how far it is, squared.
 * @param {Uint8Array} data @param {number} width @param {number} height @param {number} to
 */
function nearestCells(data, width, height, to) {
  const rows = new Int32Array(width * height).fill(-1); // of the nearest in the same column
  for (let x = 0; x < width; x += 1) {
    let above = -1;
    for (let y = 0, i = x; y < height; y += 1, i += width) rows[i] = above = data[i] === to ? y : above;
    let below = -1;
    for (let y = height - 1, i = (height - 1) * width + x; y >= 0; y -= 1, i -= width) {
      if (data[i] === to) below = y;
      if (below >= 0 && (rows[i] < 0 || below - y < y - rows[i])) rows[i] = below;
    }
  }
  const squared = new Float32Array(width * height);
  const nearest = new Int32Array(width * height);
  const values = new Float64Array(width);
  const feet = new Int32Array(width);
  const bounds = new Float64Array(width + 1);
  for (let y = 0; y < height; y += 1) {
    const row = y * width;
    for (let x = 0; x < width; x += 1) values[x] = (rows[row + x] < 0 ? FAR : rows[row + x] - y) ** 2;
    let k = 0;
    [feet[0], bounds[0], bounds[1]] = [0, -Infinity, Infinity];
    for (let q = 1; q < width; q += 1) {
      let s = crossing(values, q, feet[k]);
      while (s <= bounds[k]) s = crossing(values, q, feet[(k -= 1)]);
      k += 1;
      [feet[k], bounds[k], bounds[k + 1]] = [q, s, Infinity];
    }
    k = 0;
    for (let q = 0; q < width; q += 1) {
      while (bounds[k + 1] < q) k += 1;
      squared[row + q] = (q - feet[k]) ** 2 + values[feet[k]];
      nearest[row + q] = Math.max(0, rows[row + feet[k]]) * width + feet[k];
    }
  }
  return { squared, nearest };
}

/** Number the connected holes, corners count. @param {Uint8Array} data @param {number} width @param {number} height */
function connected(data, width, height) {
  const labels = new Int32Array(width * height);
  const open = new Int32Array(width * height);
  let count = 0;
  for (let start = 0; start < data.length; start += 1) {
    if (!data[start] || labels[start]) continue;
    count += 1;
    labels[start] = count;
    open[0] = start;
    for (let left = 1; left; ) {
      const at = open[(left -= 1)];
      const x = at % width;
      const y = (at - x) / width;
      for (let ny = Math.max(0, y - 1); ny <= Math.min(height - 1, y + 1); ny += 1) {
        for (let nx = Math.max(0, x - 1); nx <= Math.min(width - 1, x + 1); nx += 1) {
          const next = ny * width + nx;
          if (data[next] && !labels[next]) [labels[next], open[left]] = [count, next], (left += 1);
        }
      }
    }
  }
  return { labels, count };
}

/**
 * How far each cell lies outside of what is dilated, in pixels of the photo; below zero: inside.
 * @param {Grid} grid @param {number | null} dilate_px null: as the engine does by default @param {number} shorter_px of the photo's sides
 */
export function outsideDilated({ width, height, scale, data }, dilate_px, shorter_px) {
  const { labels, count } = connected(data, width, height);
  const reach_px = new Float32Array(count + 1).fill(dilate_px ?? 0);
  if (dilate_px === null) {
    const deepest = new Float32Array(count + 1);
    const { squared } = nearestCells(data, width, height, 0);
    for (let i = 0; i < data.length; i += 1) if (data[i]) deepest[labels[i]] = Math.max(deepest[labels[i]], squared[i]);
    const extra_px = EXTRA_PX + (shorter_px >= LARGE_PHOTO_PX ? 1 : 0);
    deepest.forEach((cells, i) => (reach_px[i] = Math.min(MOST_PX, Math.round((Math.sqrt(cells) / scale) * RATIO) + extra_px)));
  }
  const { squared, nearest } = nearestCells(data, width, height, 1);
  return Float32Array.from(squared, (cells, i) => Math.sqrt(cells) / scale - reach_px[labels[nearest[i]]]);
}

/**
 * The line where a field passes `level`, as segments x, y, x, y in pixels of the photo (marching squares).
 * @param {Float32Array} field of cells' centres @param {Omit<Grid, "data">} grid @param {number} level
 */
export function contour(field, { left, top, width, height, scale }, level) {
  /** @type {number[]} */
  const segments = [];
  for (let y = 0; y + 1 < height; y += 1) {
    for (let x = 0; x + 1 < width; x += 1) {
      const i = y * width + x;
      const [a, b, c, d] = [field[i] - level, field[i + 1] - level, field[i + width + 1] - level, field[i + width] - level];
      if (a > 0 === b > 0 && b > 0 === c > 0 && c > 0 === d > 0) continue;
      /** @type {number[][]} */
      const crossings = [];
      if (a > 0 !== b > 0) crossings.push([x + a / (a - b), y]);
      if (b > 0 !== c > 0) crossings.push([x + 1, y + b / (b - c)]);
      if (c > 0 !== d > 0) crossings.push([x + d / (d - c), y + 1]);
      if (d > 0 !== a > 0) crossings.push([x, y + a / (a - d)]);
      for (let k = 0; k + 1 < crossings.length; k += 2) {
        for (const [cx, cy] of [crossings[k], crossings[k + 1]]) segments.push(left + (cx + 0.5) / scale, top + (cy + 0.5) / scale);
      }
    }
  }
  return Float32Array.from(segments);
}

/** @param {Grid} grid @param {number | null} dilate_px @param {number} shorter_px */
export function dilationOutline(grid, dilate_px, shorter_px) {
  // Half a pixel: distances are from centre to centre, and the line goes round the outermost pixels.
  return contour(outsideDilated(grid, dilate_px, shorter_px), grid, 0.5);
}
