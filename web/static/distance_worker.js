// Distance worker: distances beside the page, which goes on meanwhile: 12 megapixels take a second or two.

import { signedDistances } from "./distance.js";
import { sample } from "./rasterize.js";
import { forgetRegions } from "./regions.js";
import { dilationOutline } from "./rings.js";

const scope = /** @type {any} */ (self);

/** @param {{number: number, strokes: import("./store.js").Stroke[], box: number[], scale: number, dilate_px: number | null, shorter_px: number}} asked */
async function answerOutline({ number, strokes, box, scale, dilate_px, shorter_px }) {
  const grid = await sample(strokes, box, scale);
  forgetRegions();
  scope.postMessage({ number, lines: dilationOutline(grid, dilate_px, shorter_px) });
}

scope.onmessage = (/** @type {MessageEvent} */ { data: asked }) => {
  if (asked.strokes) return void answerOutline(asked);
  const answer = signedDistances(asked.data, asked.width, asked.height, asked.most);
  scope.postMessage(answer, [answer.buffer]);
};
