// Mask body: a mask as the server's routes take it: strokes, and a mask file under them where there are regions.

import { rasterize } from "./rasterize.js";
import { encodePng, regionOf, toBase64 } from "./regions.js";

/** @typedef {import("./store.js").Stroke} Stroke */

/**
 * @param {Stroke[]} strokes @param {number} width of the photo @param {number} height
 * @returns {Promise<{strokes: Stroke[], mask_png?: string}>}
 */
export async function maskBody(strokes, width, height) {
  const last = strokes.findLastIndex((stroke) => "mask" in stroke);
  if (last < 0) return { strokes };
  // Strokes after the last region are drawn by the server, exactly; those before have to be drawn here.
  const first = strokes[0];
  const region = last === 0 && "mask" in first && !first.erase ? await regionOf(first) : await rasterize(strokes.slice(0, last + 1), width, height);
  const rest = strokes.slice(last + 1);
  if (!region) return { strokes: rest };
  return { mask_png: await toBase64(await encodePng(region, width, height)), strokes: rest };
}
