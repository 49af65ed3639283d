// View: where the photo lies on the stage. One transform (scale, left, top in CSS pixels) places the photo and its
// patches; the overlay has the stage's size at the display's resolution and is drawn through the same transform.

/** @typedef {{width: number, height: number, scale: number, left: number, top: number, fitted: boolean}} Placement */

/** @param {{stage: HTMLElement, world: HTMLElement, overlay: HTMLCanvasElement, draw: (context: CanvasRenderingContext2D) => void, onChange: (view: Placement) => void}} parts */
export function createView({ stage, world, overlay, draw, onChange }) {
  const MARGIN_PX = 16;
  const MOST_SCALE = 32;
  const view = { width: 0, height: 0, scale: 1, left: 0, top: 0, fitted: true };
  let drawing = 0;

  function fitScale() {
    const room = stage.getBoundingClientRect();
    const margin = room.width < 500 ? 4 : MARGIN_PX;
    const most = Math.max(1, Math.min(4, 320 / Math.min(view.width, view.height)));
    const roomy = Math.min((room.width - 2 * margin) / view.width, (room.height - 2 * margin) / view.height);
    return Math.max(0.001, Math.min(roomy, Math.max(most, 1.6)));
  }

  function fit() {
    if (!view.width) return;
    const room = stage.getBoundingClientRect();
    view.scale = fitScale();
    view.left = (room.width - view.width * view.scale) / 2;
    view.top = (room.height - view.height * view.scale) / 2;
    view.fitted = true;
    place();
  }

  // However far it is dragged, two fifths of the stage, or the whole of a small photo, stay covered.
  function keepInSight() {
    const room = stage.getBoundingClientRect();
    const hold = (start, shown, length) => {
      const seen = Math.min(shown, length * 0.4);
      return Math.max(seen - shown, Math.min(length - seen, start));
    };
    view.left = hold(view.left, view.width * view.scale, room.width);
    view.top = hold(view.top, view.height * view.scale, room.height);
  }

  function place() {
    world.style.transform = `translate(${view.left}px, ${view.top}px) scale(${view.scale})`;
    world.classList.toggle("fft-pixels", view.scale * devicePixelRatio >= 4);
    redraw();
    onChange(view);
  }

  function redraw() {
    if (drawing) return;
    drawing = requestAnimationFrame(() => {
      drawing = 0;
      const ratio = devicePixelRatio || 1;
      const context = /** @type {CanvasRenderingContext2D} */ (overlay.getContext("2d"));
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, overlay.width, overlay.height);
      if (!view.width) return;
      const scale = view.scale * ratio;
      context.setTransform(scale, 0, 0, scale, view.left * ratio, view.top * ratio);
      context.save();
      context.beginPath();
      context.rect(0, 0, view.width, view.height);
      context.clip();
      draw(context);
      context.restore();
    });
  }

  function resize() {
    const ratio = devicePixelRatio || 1;
    const room = stage.getBoundingClientRect();
    overlay.width = Math.max(1, Math.round(room.width * ratio));
    overlay.height = Math.max(1, Math.round(room.height * ratio));
    if (view.width && view.fitted) fit();
    else if (view.width) (keepInSight(), place());
  }

  function setSize(width, height) {
    const same = view.width === width && view.height === height;
    Object.assign(view, { width, height });
    world.style.width = `${width}px`;
    world.style.height = `${height}px`;
    if (!same && width) fit();
    redraw();
  }

  // Keeps the image point under (x, y), in client coordinates, where it is.
  function zoomAt(factor, x, y) {
    if (!view.width) return;
    const room = stage.getBoundingClientRect();
    const scale = Math.max(Math.min(fitScale(), 1) * 0.5, Math.min(MOST_SCALE, view.scale * factor));
    const change = scale / view.scale;
    view.left = x - room.left - (x - room.left - view.left) * change;
    view.top = y - room.top - (y - room.top - view.top) * change;
    view.scale = scale;
    view.fitted = false;
    keepInSight();
    place();
  }

  function zoomMiddle(factor) {
    const room = stage.getBoundingClientRect();
    zoomAt(factor, room.left + room.width / 2, room.top + room.height / 2);
  }

  function panBy(dx, dy) {
    if (!view.width) return;
    view.left += dx;
    view.top += dy;
    view.fitted = false;
    keepInSight();
    place();
  }

  /** @param {number} clientX @param {number} clientY @returns {[number, number]} */
  function toImage(clientX, clientY) {
    const room = stage.getBoundingClientRect();
    return [(clientX - room.left - view.left) / view.scale, (clientY - room.top - view.top) / view.scale];
  }

  /** @param {number} x @param {number} y @returns {[number, number]} */
  function toStage(x, y) {
    return [x * view.scale + view.left, y * view.scale + view.top];
  }

  new ResizeObserver(resize).observe(stage);
  return { get: () => view, setSize, fit, zoomAt, zoomMiddle, panBy, toImage, toStage, redraw };
}

/** @typedef {ReturnType<typeof createView>} View */
