// Filled outlines (lasso, rectangle) as strokes. The server knows strokes only, and a mask of its own would be a
// hundred times the bytes: so an area is covered by lines that run inside it, at growing depths, each as thick
// as it lies deep. A line at depth d with radius d touches the outline and reaches 2d inwards; the finer lines
// fill what a thick round one leaves in the corners.

function insideOutline(x, y, corners) {
  let inside = false;
  for (let i = 0, j = corners.length - 1; i < corners.length; j = i, i += 1) {
    const [ax, ay] = corners[i];
    const [bx, by] = corners[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

function distanceToOutline(x, y, corners) {
  let least = Infinity;
  for (let i = 0, j = corners.length - 1; i < corners.length; j = i, i += 1) {
    least = Math.min(least, distanceToSegment(x, y, corners[i], corners[j]));
  }
  return least;
}

// Points at most `step` apart along the outline, each moved `depth` inwards.
function insetPoints(corners, depth, step) {
  const points = [];
  for (let i = 0; i < corners.length; i += 1) {
    const [ax, ay] = corners[i];
    const [bx, by] = corners[(i + 1) % corners.length];
    const length = Math.hypot(bx - ax, by - ay);
    if (!length) continue;
    const nx = (-(by - ay) / length) * depth;
    const ny = ((bx - ax) / length) * depth;
    const count = Math.max(2, Math.ceil(length / step));
    for (let k = 0; k <= count; k += 1) {
      points.push([ax + ((bx - ax) * k) / count + nx, ay + ((by - ay) * k) / count + ny]);
    }
  }
  return points;
}

// Stretches of the inset line that are really that deep; elsewhere another side of the outline is nearer. Points of
// two sides that meet in a corner lie close together and are joined; across a gap a new stretch begins.
function insetRuns(corners, depth, step) {
  const near = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by) <= 2.5 * step;
  const runs = [];
  for (const point of insetPoints(corners, depth, step)) {
    if (!insideOutline(...point, corners) || distanceToOutline(...point, corners) < depth * 0.98) continue;
    if (runs.length && near(runs.at(-1).at(-1), point)) runs.at(-1).push(point);
    else runs.push([point]);
  }
  const [first, last] = [runs[0], runs.at(-1)];
  if (first && near(last.at(-1), first[0]) && last.length > 2) last.push(first[0]);
  return runs;
}

function signedArea(corners) {
  return corners.reduce((sum, [x, y], i) => {
    const [nx, ny] = corners[(i + 1) % corners.length];
    return sum + (x * ny - nx * y) / 2;
  }, 0);
}

// corners: the closed outline; finest: how thick its edge line is, in image pixels. Returns strokes.
function fillOutline(corners, finest, erase) {
  if (corners.length < 3 || Math.abs(signedArea(corners)) < 1) return [];
  const outline = signedArea(corners) < 0 ? [...corners].reverse() : corners; // normals then point inwards
  const strokes = [];
  for (let depth = finest; ; depth *= 1.8) {
    const runs = insetRuns(outline, depth, Math.max(1, depth / 3));
    if (!runs.length) return strokes;
    const slack = depth * 0.12; // the line may leave its depth by this much and still not cross the outline
    for (const points of runs) strokes.push(finishStroke({ points, radius: depth - slack / 2, erase }, slack));
  }
}

function rectangleCorners([ax, ay], [bx, by]) {
  return [[ax, ay], [bx, ay], [bx, by], [ax, by]];
}
