// Strokes: what was painted, as {points: [[x, y], ...], radius, erase} in image coordinates (pixel corners at
// integers), exactly as the server takes it. What is drawn is what is sent: a stroke is simplified and rounded
// when it ends, before it is kept, so that screen and server can only agree.

const BODY_LIMIT_BYTES = 2000;

function distanceToSegment(px, py, [ax, ay], [bx, by]) {
  const dx = bx - ax;
  const dy = by - ay;
  const along = dx || dy ? ((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy) : 0;
  const t = Math.max(0, Math.min(1, along));
  return Math.hypot(px - ax - t * dx, py - ay - t * dy);
}

// Douglas-Peucker (1973): drops points nearer than tolerance to the line that stays. Without recursion.
function simplifyLine(points, tolerance) {
  const keep = new Uint8Array(points.length);
  keep[0] = keep[points.length - 1] = 1;
  const spans = [[0, points.length - 1]];
  while (spans.length) {
    const [first, last] = spans.pop();
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

// Half a pixel does not matter on a stroke 8 px thick and more; a hair's does on one of 2 px.
function roundPoints(points, radius) {
  const steps = radius >= 4 ? 1 : 10;
  const rounded = points.map(([x, y]) => [Math.round(x * steps) / steps, Math.round(y * steps) / steps]);
  return rounded.filter(([x, y], i) => i === 0 || x !== rounded[i - 1][0] || y !== rounded[i - 1][1]);
}

function finishStroke({ points, radius, erase }, tolerance) {
  const line = points.length > 2 ? simplifyLine(points, tolerance) : points;
  return { points: roundPoints(line, radius), radius: Math.round(radius * 10) / 10, erase };
}

function bodyBytes(strokes) {
  return JSON.stringify(strokes).length + 150; // ids and keys around the strokes
}

// Coarsens the longest work first and never by more than a fifth of a stroke's radius: past that, a body may
// be larger than the limit, which costs a few milliseconds, where a wrong mask would cost the picture.
function fitBody(strokes, tolerance) {
  let fitted = strokes;
  for (let t = tolerance * 1.6; bodyBytes(fitted) > BODY_LIMIT_BYTES && t < 40; t *= 1.6) {
    fitted = fitted.map((stroke) => finishStroke(stroke, Math.min(t, stroke.radius * 0.2)));
  }
  return fitted;
}

// Draws opaque; the overlay's own opacity makes it see-through, so that crossings are not darker.
function drawStroke(context, { points, radius, erase }, colour) {
  context.globalCompositeOperation = erase ? "destination-out" : "source-over";
  context.strokeStyle = context.fillStyle = colour;
  context.beginPath();
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
