// Strokes: what was painted, exactly as the server takes it: {points, radius, erase} for a brush and {polygon, erase}
// for a filled outline, in image coordinates (pixel corners at integers). What is drawn is what is sent: a stroke is
// simplified and rounded once, when it ends, and never changed after that.

/** @typedef {import("./store.js").Stroke} Stroke */
/** @typedef {import("./store.js").BrushStroke} BrushStroke */

/** @param {number} px @param {number} py @param {number[]} from @param {number[]} to */
function distanceToSegment(px, py, [ax, ay], [bx, by]) {
  const dx = bx - ax;
  const dy = by - ay;
  const along = dx || dy ? ((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy) : 0;
  const t = Math.max(0, Math.min(1, along));
  return Math.hypot(px - ax - t * dx, py - ay - t * dy);
}

/**
 * Drop points nearer than `tolerance` to the line that stays (Douglas and Peucker, 1973), without recursion.
 * @param {number[][]} points @param {number} tolerance in image pixels
 */
export function simplifyLine(points, tolerance) {
  if (points.length < 3) return points;
  const keep = new Uint8Array(points.length);
  keep[0] = keep[points.length - 1] = 1;
  const spans = [[0, points.length - 1]];
  while (spans.length) {
    const [first, last] = /** @type {number[]} */ (spans.pop());
    let farthest = -1;
    let far = tolerance;
    for (let i = first + 1; i < last; i += 1) {
      const distance = distanceToSegment(points[i][0], points[i][1], points[first], points[last]);
      if (distance > far) [farthest, far] = [i, distance];
    }
    if (farthest < 0) continue;
    keep[farthest] = 1;
    spans.push([first, farthest], [farthest, last]);
  }
  return points.filter((_, i) => keep[i]);
}

// Half a pixel does not matter on a stroke 8 px thick and more; a hair's does on one of 2 px, and on an edge.
function roundPoints(/** @type {number[][]} */ points, /** @type {number} */ steps) {
  const rounded = points.map(([x, y]) => [Math.round(x * steps) / steps, Math.round(y * steps) / steps]);
  return rounded.filter(([x, y], i) => i === 0 || x !== rounded[i - 1][0] || y !== rounded[i - 1][1]);
}

/** @param {BrushStroke} stroke @param {number} tolerance @returns {BrushStroke} */
export function finishStroke({ points, radius, erase }, tolerance) {
  const line = points.length > 2 ? simplifyLine(points, Math.min(tolerance, radius / 4)) : points;
  return { points: roundPoints(line, radius >= 4 ? 1 : 10), radius: Math.round(radius * 10) / 10, erase };
}

/** @param {number[][]} corners @param {boolean} erase @returns {Stroke | null} null when there is no area */
export function finishPolygon(corners, erase) {
  const polygon = roundPoints(corners, 10);
  return polygon.length < 3 ? null : { polygon, erase };
}

/** @param {number[]} corner @param {number[]} opposite */
export function rectangleCorners([ax, ay], [bx, by]) {
  return [[ax, ay], [bx, ay], [bx, by], [ax, by]];
}

/**
 * Return the box that strokes lie in, whole pixels inside the photo; null when nothing of them does.
 * @param {Stroke[]} strokes @param {number} width @param {number} height
 */
export function boxOf(strokes, width, height) {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const stroke of strokes) {
    if (stroke.erase) continue;
    const corners = "mask" in stroke ? [stroke.box.slice(0, 2), stroke.box.slice(2)] : "polygon" in stroke ? stroke.polygon : stroke.points;
    const around = "radius" in stroke ? stroke.radius : 0;
    for (const [x, y] of corners) {
      [left, top] = [Math.min(left, x - around), Math.min(top, y - around)];
      [right, bottom] = [Math.max(right, x + around), Math.max(bottom, y + around)];
    }
  }
  [left, top] = [Math.max(0, Math.floor(left)), Math.max(0, Math.floor(top))];
  [right, bottom] = [Math.min(width, Math.ceil(right)), Math.min(height, Math.ceil(bottom))];
  return right > left && bottom > top ? [left, top, right, bottom] : null;
}

/**
 * Draw a stroke opaque; the overlay's own opacity makes it see-through, so that crossings are not darker.
 * @param {CanvasRenderingContext2D} context @param {Stroke} stroke a region's is drawn by mask_layer.js @param {string} colour
 */
export function drawStroke(context, stroke, colour) {
  if ("mask" in stroke) return;
  context.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
  context.strokeStyle = context.fillStyle = colour;
  context.beginPath();
  if ("polygon" in stroke) {
    stroke.polygon.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.fill("evenodd"); // the server's rule too: what the outline goes round twice is outside
    return;
  }
  const { points, radius } = stroke;
  if (points.length === 1) {
    context.arc(points[0][0], points[0][1], radius, 0, 2 * Math.PI);
    context.fill();
    return;
  }
  context.lineWidth = 2 * radius;
  context.lineCap = context.lineJoin = "round";
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.stroke();
}
