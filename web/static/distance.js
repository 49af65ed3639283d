// Distance: how far each pixel lies from the rim of a region, for growing and shrinking it. Exact Euclidean distances
// (Felzenszwalb and Huttenlocher, 2012).

const FAR = 1e9;

/**
 * Squared distance of every cell to the nearest one that is `to`.
 * @param {Uint8Array} data @param {number} width @param {number} height @param {number} to
 */
export function squaredDistances(data, width, height, to) {
  const squared = new Float32Array(width * height);
  // Down and up each column: the distance to the nearest cell in it.
  for (let x = 0; x < width; x += 1) {
    let distance = FAR;
    for (let y = 0, i = x; y < height; y += 1, i += width) squared[i] = distance = data[i] === to ? 0 : distance + 1;
    distance = FAR;
    for (let y = height - 1, i = (height - 1) * width + x; y >= 0; y -= 1, i -= width) {
      distance = data[i] === to ? 0 : distance + 1;
      if (distance < squared[i]) squared[i] = distance;
    }
  }
  // Along each row: the lower envelope of the parabolas that stand on the columns' values.
  const values = new Float64Array(width);
  const feet = new Int32Array(width);
  const bounds = new Float64Array(width + 1);
  for (let y = 0; y < height; y += 1) {
    const row = y * width;
    for (let x = 0; x < width; x += 1) values[x] = Math.min(squared[row + x], 1e5) ** 2;
    let k = 0;
    feet[0] = 0;
    bounds[0] = -Infinity;
    bounds[1] = Infinity;
    for (let q = 1; q < width; q += 1) {
      let s = crossing(values, q, feet[k]);
      while (s <= bounds[k]) {
        k -= 1;
        s = crossing(values, q, feet[k]);
      }
      k += 1;
      feet[k] = q;
      bounds[k] = s;
      bounds[k + 1] = Infinity;
    }
    k = 0;
    for (let q = 0; q < width; q += 1) {
      while (bounds[k + 1] < q) k += 1;
      squared[row + q] = (q - feet[k]) ** 2 + values[feet[k]];
    }
  }
  return squared;
}

/** @param {Float64Array} values @param {number} q @param {number} p */
export function crossing(values, q, p) {
  return (values[q] + q * q - values[p] - p * p) / (2 * q - 2 * p);
}

/**
 * Signed distances in whole pixels, up to `most` each way: how many pixels a region must grow (or, below zero, may
 * shrink by at most one less) until a pixel changes. Outside the photo nothing is a rim.
 * @param {Uint8Array} data @param {number} width @param {number} height @param {number} most
 */
export function signedDistances(data, width, height, most) {
  const signed = new Int16Array(width * height);
  const outside = squaredDistances(data, width, height, 1);
  for (let i = 0; i < signed.length; i += 1) signed[i] = Math.min(most + 1, Math.ceil(Math.sqrt(outside[i])));
  const inside = squaredDistances(data, width, height, 0);
  for (let i = 0; i < signed.length; i += 1) if (data[i]) signed[i] = -Math.min(most + 1, Math.ceil(Math.sqrt(inside[i])) - 1);
  return signed;
}
