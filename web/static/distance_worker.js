// Distance worker: distances beside the page, which goes on meanwhile: 12 megapixels take a second or two.

import { signedDistances } from "./distance.js";

const scope = /** @type {any} */ (self);

scope.onmessage = (/** @type {MessageEvent} */ { data: { data, width, height, most } }) => {
  const signed = signedDistances(data, width, height, most);
  scope.postMessage(signed, [signed.buffer]);
};
