// Split: the original to the left of a line and the result to its right, the line to be dragged over the photo.

const STEP = 0.02;
const LARGE_STEP = 0.1;

/** @param {{root: HTMLElement, store: import("./store.js").Store, view: import("./view.js").View, words: import("./i18n.js").Words}} parts */
export function createSplit({ root, store, view, words }) {
  const find = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (root.querySelector(selector));
  const [stage, world, line, handle] = [".fft-stage", ".fft-world", ".fft-split-line", ".fft-split-handle"].map(find);
  let isDragging = false;

  const isOn = () => store.get().split !== null && store.get().round > 0;

  function show() {
    const { split, round } = store.get();
    const on = isOn();
    const button = /** @type {HTMLButtonElement} */ (find('[data-act="split"]'));
    button.disabled = !round;
    button.setAttribute("aria-pressed", String(on));
    world.classList.toggle("fft-halved", on);
    line.hidden = !on;
    if (!on || split === null) return;
    const percent = String(Math.round(split * 100));
    world.style.setProperty("--split", `${split * view.get().width}px`);
    handle.setAttribute("aria-valuenow", percent);
    handle.setAttribute("aria-valuetext", words.say("split.value", { percent }));
    place();
  }

  /** The line where the photo lies now; kept at the edge when that part is out of sight. */
  function place() {
    const { split } = store.get();
    if (!isOn() || split === null) return;
    const [x] = view.toStage(split * view.get().width, 0);
    line.style.transform = `translateX(${Math.max(0, Math.min(stage.clientWidth, x))}px)`;
  }

  const set = (/** @type {number} */ split) => store.update({ split: Math.max(0, Math.min(1, split)) });

  function toggle() {
    if (!store.get().round) return;
    store.update({ split: store.get().split === null ? 0.5 : null });
    if (isOn()) handle.focus({ preventScroll: true });
  }

  /** @returns {boolean} whether it was on */
  function close() {
    const was = isOn();
    if (store.get().split !== null) store.update({ split: null });
    return was;
  }

  function drag(/** @type {PointerEvent} */ event) {
    if (!isDragging || !event.isPrimary || stage.classList.contains("fft-panning")) return;
    const [x] = view.toImage(event.clientX, event.clientY);
    set(x / view.get().width);
  }

  function press(/** @type {KeyboardEvent} */ event) {
    const now = store.get().split ?? 0.5;
    const step = event.shiftKey ? LARGE_STEP : STEP;
    const to = { ArrowLeft: now - step, ArrowDown: now - step, ArrowRight: now + step, ArrowUp: now + step, PageDown: now - LARGE_STEP, PageUp: now + LARGE_STEP, Home: 0, End: 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    set(to);
  }

  // Anywhere on the stage, because nothing is painted meanwhile; a second finger zooms instead.
  stage.addEventListener("pointerdown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    isDragging = isOn() && event.isPrimary && event.button === 0 && Boolean(target.closest(".fft-split-line") || !target.closest("button, a, input, label"));
    if (isDragging && target.closest(".fft-split-line")) handle.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", drag);
  for (const type of ["pointerup", "pointercancel"]) stage.addEventListener(type, () => (isDragging = false));
  handle.addEventListener("keydown", press);

  // With its last round the line goes too: out of sight, it would still keep everybody from painting.
  store.subscribe(({ split, round }) => void (split !== null && !round && close()));

  return { show, place, toggle, close };
}
