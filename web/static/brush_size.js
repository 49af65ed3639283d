// Brush size: from one pixel of the photo to a quarter of its shorter side, on a slider that is logarithmic.

const LEAST_RADIUS_PX = 1;
const MOST_RADIUS_PX = 400; // on small photos too
const FIRST_RADIUS = 0.03; // of the photo's shorter side
const FIRST_RADIUS_SHOWN_PX = 12; // at least, on the screen: a fingertip is no finer

/** @param {{slider: HTMLInputElement, store: import("./store.js").Store, view: import("./view.js").View, showRing: (inMiddle?: boolean) => void}} parts */
export function createBrushSize({ slider, store, view, showRing }) {
  function mostRadius() {
    const { width, height } = view.get();
    return Math.max(MOST_RADIUS_PX, Math.min(width, height) / 4);
  }

  function set(/** @type {number} */ radius) {
    store.updateHand({ radius: Math.max(LEAST_RADIUS_PX, Math.min(mostRadius(), radius)) });
    show();
    showRing();
  }

  const scale = (/** @type {number} */ factor) => set(store.get().hand.radius * factor);

  function show() {
    const { radius } = store.get().hand;
    slider.value = String((100 * Math.log(radius / LEAST_RADIUS_PX)) / Math.log(mostRadius() / LEAST_RADIUS_PX));
    slider.setAttribute("aria-valuetext", `${Math.round(2 * radius)} px`);
  }

  /** What a photo of this size begins with. @param {number} width @param {number} height */
  function setFirst(width, height) {
    set(Math.max(Math.min(width, height) * FIRST_RADIUS, FIRST_RADIUS_SHOWN_PX / (view.get().scale || 1)));
  }

  slider.addEventListener("input", () => {
    set(LEAST_RADIUS_PX * (mostRadius() / LEAST_RADIUS_PX) ** (Number(slider.value) / 100));
    showRing(true);
  });

  return { scale, show, setFirst };
}
