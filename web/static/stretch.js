// Stretch: a mask for a photo of another size: points in proportion, so that what lies in a corner stays there; a brush
// becomes as wide as the photo's mean proportion says. A mask with regions of pixels is stretched pixel by pixel.

import { stretched } from "./mask_tools.js";

/** @typedef {import("./store.js").Stroke} Stroke */

/**
 * @param {{strokes: Stroke[], width: number, height: number}} mask of a photo of this size
 * @param {number} width of the other photo @param {number} height @returns {Promise<Stroke[]>}
 */
export async function stretchStrokes(mask, width, height) {
  const { strokes, width: fromWidth, height: fromHeight } = mask;
  if (fromWidth === width && fromHeight === height) return strokes;
  if (strokes.some((stroke) => "mask" in stroke)) return stretched(mask, { width, height });
  const [across, down] = [width / fromWidth, height / fromHeight];
  const moved = (/** @type {number[][]} */ points) => points.map(([x, y]) => [Math.round(x * across * 10) / 10, Math.round(y * down * 10) / 10]);
  return strokes.flatMap((stroke) =>
    "polygon" in stroke
      ? { ...stroke, polygon: moved(stroke.polygon) }
      : "mask" in stroke
      ? []
      : { ...stroke, points: moved(stroke.points), radius: Math.max(0.5, Math.round(stroke.radius * Math.sqrt(across * down) * 10) / 10) },
  );
}
