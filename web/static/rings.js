// Rings: what the engine dilates a mask to, as an outline. The same rule as masks/dilation.py's: every connected hole
// grows by a disc, as given or in proportion to its half thickness. Measured on a grid of at most a megapixel or so.

import { crossing } from "./distance.js";
import { simplifyLine } from "./strokes.js";

const FAR = 1e5; // cells; more than any grid is long
const RATIO = 0.12; // CropRules.dilate_ratio
const EXTRA_PX = 2; // CropRules.dilate_extra_px
const LARGE_PHOTO_PX = 900; // CropRules.large_photo_px
const MOST_PX = 32; // MAX_DILATE_PX
const LINE_CELLS = 2; // beyond what the engine dilates to: the line lies between the centres of two
const UNSEEN_CELLS = 0.25;

/** @typedef {{left: number, top: number, width: number, height: number, scale: number, data: Uint8Array}} Grid scale: cells for one pixel of the photo; left, top: of the photo */

/**
 * How far around a mask its line can lie, in pixels of the photo: nothing farther away need be looked at.
 * @param {number | null} dilate_px null: as the engine does by default @param {number} scale cells for one pixel
 */
export function lineMargin(dilate_px, scale) {
  return Math.ceil((dilate_px ?? MOST_PX) + LINE_CELLS / scale);
}

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
    feet[0] = 0; // one by one: as a list they are made anew for every cell, which takes as long again as all else
    bounds[0] = -Infinity;
    bounds[1] = Infinity;
    for (let q = 1; q < width; q += 1) {
      let s = crossing(values, q, feet[k]);
      while (s <= bounds[k]) s = crossing(values, q, feet[(k -= 1)]);
      k += 1;
      feet[k] = q;
      bounds[k] = s;
      bounds[k + 1] = Infinity;
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
          if (!data[next] || labels[next]) continue;
          labels[next] = count;
          open[left] = next;
          left += 1;
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
 * The lines where a field passes `level`, each a row of corners x, y in pixels of the photo (marching squares). Joined
 * and without corners that nobody sees: drawn cell by cell, a line takes the page fifty milliseconds.
 * @param {Float32Array} field of cells' centres @param {Omit<Grid, "data">} grid @param {number} level @returns {number[][][]}
 */
export function contours(field, { left, top, width, height, scale }, level) {
  /** @type {Map<number, number[]>} by the edge between two cells that is crossed: the edges crossed next */
  const ways = new Map();
  const join = (/** @type {number} */ a, /** @type {number} */ b) => {
    const [of_a, of_b] = [ways.get(a), ways.get(b)];
    of_a ? of_a.push(b) : ways.set(a, [b]);
    of_b ? of_b.push(a) : ways.set(b, [a]);
  };
  for (let y = 0; y + 1 < height; y += 1) {
    for (let x = 0; x + 1 < width; x += 1) {
      const i = y * width + x;
      const a = field[i] > level;
      const b = field[i + 1] > level;
      const c = field[i + width + 1] > level;
      const d = field[i + width] > level;
      if (a === b && b === c && c === d) continue;
      /** @type {number[]} */
      const crossed = [];
      if (a !== b) crossed.push(2 * i);
      if (b !== c) crossed.push(2 * (i + 1) + 1);
      if (c !== d) crossed.push(2 * (i + width));
      if (d !== a) crossed.push(2 * i + 1);
      for (let k = 0; k + 1 < crossed.length; k += 2) join(crossed[k], crossed[k + 1]);
    }
  }
  /** @param {number} edge twice the cell's index, and one more for that to the cell below */
  function corner(edge) {
    const i = edge >> 1;
    const [from, to] = [field[i] - level, field[edge & 1 ? i + width : i + 1] - level];
    const along = from / (from - to);
    const x = (i % width) + (edge & 1 ? 0 : along);
    const y = Math.floor(i / width) + (edge & 1 ? along : 0);
    return [left + (x + 0.5) / scale, top + (y + 0.5) / scale];
  }
  /** @param {number} edge */
  function follow(edge) {
    const line = [corner(edge)];
    for (let at = edge; ; ) {
      const next = ways.get(at)?.pop();
      if (next === undefined) return line;
      const back = ways.get(next) || [];
      back.splice(back.indexOf(at), 1);
      line.push(corner((at = next)));
    }
  }
  /** @type {number[][][]} */
  const lines = [];
  // Those that end at the photo's border first, from their ends.
  for (const isEnd of [true, false]) {
    for (const [edge, next] of ways) if (next.length && (next.length === 1 || !isEnd)) lines.push(simplifyLine(follow(edge), UNSEEN_CELLS / scale));
  }
  return lines;
}

/** @param {Grid} grid @param {number | null} dilate_px @param {number} shorter_px */
export function dilationOutline(grid, dilate_px, shorter_px) {
  // Half a pixel: distances are from centre to centre, and the line goes round the outermost pixels.
  return contours(outsideDilated(grid, dilate_px, shorter_px), grid, 0.5);
}
