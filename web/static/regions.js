// Regions: masks as pixels, where strokes would not do: what was selected, found, inverted, grown or uploaded. A region
// is a box of bytes, 1 = goes; it is kept as a PNG of one bit a pixel, because undo, rounds and reloads keep many.

/** @typedef {{left: number, top: number, width: number, height: number, data: Uint8Array}} Region data: row by row, 0 or 1 */

const STRIP_PX = 1 << 22; // phones refuse canvases of more than 16 megapixels
const PNG_SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const PNG_START_BYTES = 33; // signature and IHDR, before the one IDAT that encodePng writes
const BASE64_BYTES = 0x8000; // at once: more arguments overflow the stack

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k += 1) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c;
});

/** @param {Uint8Array} bytes */
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** @param {string} type @param {Uint8Array} data */
function pngChunk(type, data) {
  const chunk = new Uint8Array(12 + data.length);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i += 1) chunk[4 + i] = type.charCodeAt(i);
  chunk.set(data, 8);
  view.setUint32(8 + data.length, crc32(chunk.subarray(4, 8 + data.length)));
  return chunk;
}

/** @param {Uint8Array} bytes @param {CompressionStream | DecompressionStream} stream */
async function through(bytes, stream) {
  const blob = new Blob([/** @type {any} */ (bytes)]);
  return new Uint8Array(await new Response(blob.stream().pipeThrough(/** @type {any} */ (stream))).arrayBuffer());
}

/**
 * Return a picture of width x height, white where the region is, as a PNG of one bit a pixel.
 * @param {Region} region @param {number} width @param {number} height @param {number} left of the picture @param {number} top
 */
export async function encodePng(region, width, height, left = 0, top = 0) {
  const rowBytes = 1 + Math.ceil(width / 8); // a row begins with its filter: none
  const rows = new Uint8Array(rowBytes * height);
  for (let y = 0; y < region.height; y += 1) {
    const row = (y + region.top - top) * rowBytes + 1;
    for (let x = 0; x < region.width; x += 1) {
      if (!region.data[y * region.width + x]) continue;
      const at = x + region.left - left;
      rows[row + (at >> 3)] |= 0x80 >> (at & 7);
    }
  }
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header[8] = 1; // one bit, grey, and no more
  const packed = await through(rows, new CompressionStream("deflate"));
  return new Blob(/** @type {any[]} */ ([new Uint8Array(PNG_SIGNATURE), pngChunk("IHDR", header), pngChunk("IDAT", packed), pngChunk("IEND", new Uint8Array(0))]), { type: "image/png" });
}

/** @param {Blob} blob @returns {Promise<string>} */
export async function toBase64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += BASE64_BYTES) text += String.fromCharCode(...bytes.subarray(i, i + BASE64_BYTES));
  return btoa(text);
}

/** @param {string} base64 @returns {Uint8Array<ArrayBuffer>} */
export function fromBase64(base64) {
  const here = /** @type {any} */ (Uint8Array);
  if (here.fromBase64) return here.fromBase64(base64); // not in every browser yet
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i); // Uint8Array.from takes 20 times as long
  return bytes;
}

/** @param {Region} region @param {boolean} erase @returns {Promise<import("./store.js").MaskStroke>} */
export async function toStroke(region, erase = false) {
  const { left, top, width, height } = region;
  const png = await encodePng(region, width, height, left, top);
  const stroke = { mask: await toBase64(png), box: [left, top, left + width, top + height], erase };
  remember(stroke, region);
  return stroke;
}

/** A stroke to be looked at only: its pixels are at hand, and nothing is kept of it. @param {Region} region */
export function toPreview(region) {
  const { left, top, width, height } = region;
  const stroke = { mask: "", box: [left, top, left + width, top + height], erase: false };
  remember(stroke, region);
  return stroke;
}

/** @type {Map<import("./store.js").MaskStroke, Region>} the newest last */
const remembered = new Map();
const REMEMBERED = 4; // regions of 12 megapixels are 12 MB each

/** @param {import("./store.js").MaskStroke} stroke @param {Region} region */
function remember(stroke, region) {
  remembered.delete(stroke);
  remembered.set(stroke, region);
  for (const old of remembered.keys()) if (remembered.size > REMEMBERED) remembered.delete(old);
}

/** Let go of what is remembered: strokes that come to a worker are copies, which never come again. */
export const forgetRegions = () => remembered.clear();

/** Return a stroke's pixels if they are at hand. @param {import("./store.js").MaskStroke} stroke */
export function regionAtHand(stroke) {
  return remembered.get(stroke) || null;
}

/** @param {import("./store.js").MaskStroke} stroke @returns {Promise<Region>} */
export async function regionOf(stroke) {
  const known = regionAtHand(stroke);
  if (known) return known;
  const [left, top, right, bottom] = stroke.box;
  const [width, height] = [right - left, bottom - top];
  const file = fromBase64(stroke.mask);
  const length = new DataView(file.buffer).getUint32(PNG_START_BYTES);
  const rows = await through(file.subarray(PNG_START_BYTES + 8, PNG_START_BYTES + 8 + length), new DecompressionStream("deflate"));
  const data = new Uint8Array(width * height);
  const rowBytes = 1 + Math.ceil(width / 8);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) data[y * width + x] = (rows[y * rowBytes + 1 + (x >> 3)] >> (7 - (x & 7))) & 1;
  }
  const region = { left, top, width, height, data };
  remember(stroke, region);
  return region;
}

/**
 * Go over a picture in strips: `read` is called with pixels (RGBA) of whole rows, from row `top` on.
 * @param {number} width @param {number} height
 * @param {(context: CanvasRenderingContext2D, top: number, rows: number) => void} draw the rows at the canvas's origin
 * @param {(pixels: Uint8ClampedArray, top: number, rows: number) => void} read
 */
export function inStrips(width, height, draw, read) {
  const most = Math.max(1, Math.min(height, Math.floor(STRIP_PX / width)));
  const canvas = self.document ? Object.assign(document.createElement("canvas"), { width, height: most }) : new OffscreenCanvas(width, most); // in a worker
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  for (let top = 0; top < height; top += most) {
    const rows = Math.min(most, height - top);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalCompositeOperation = "source-over";
    context.clearRect(0, 0, width, most);
    draw(context, top, rows);
    read(context.getImageData(0, 0, width, rows).data, top, rows);
  }
}

/** The smallest region that holds the same; null when nothing is in it. @param {Region} region @returns {Region | null} */
export function trimmed({ left, top, width, height, data }) {
  let [x0, y0, x1, y1] = [width, height, -1, -1];
  for (let y = 0; y < height; y += 1) {
    const first = data.subarray(y * width, (y + 1) * width).indexOf(1);
    if (first < 0) continue;
    const last = data.subarray(y * width, (y + 1) * width).lastIndexOf(1);
    [x0, x1, y0, y1] = [Math.min(x0, first), Math.max(x1, last), Math.min(y0, y), y];
  }
  if (y1 < 0) return null;
  const [w, h] = [x1 - x0 + 1, y1 - y0 + 1];
  const part = new Uint8Array(w * h);
  for (let y = 0; y < h; y += 1) part.set(data.subarray((y + y0) * width + x0, (y + y0) * width + x1 + 1), y * w);
  return { left: left + x0, top: top + y0, width: w, height: h, data: part };
}

/** All of a photo but the region. @param {Region | null} region @param {number} width @param {number} height @returns {Region} */
export function inverted(region, width, height) {
  const data = new Uint8Array(width * height).fill(1);
  for (let y = 0; region && y < region.height; y += 1) {
    for (let x = 0; x < region.width; x += 1) {
      if (region.data[y * region.width + x]) data[(y + region.top) * width + x + region.left] = 0;
    }
  }
  return { left: 0, top: 0, width, height, data };
}
