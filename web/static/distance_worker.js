// Distance worker: distances beside the page, which goes on meanwhile: 12 megapixels take a second or two.

import { signedDistances } from "./distance.js";
import { dilationOutline } from "./rings.js";

const scope = /** @type {any} */ (self);

scope.onmessage = (/** @type {MessageEvent} */ { data: { data, width, height, most, grid, dilate_px, shorter_px } }) => {
  const answer = grid ? dilationOutline(grid, dilate_px, shorter_px) : signedDistances(data, width, height, most);
  scope.postMessage(answer, [answer.buffer]);
};
