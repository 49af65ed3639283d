// Canvas: puts the page together, and says which control does what. The state is the store's; each other module owns
// one idea and is given what it needs.

import { createApi } from "./api.js";
import { createDilationLine } from "./dilation_line.js";
import { createFileInput } from "./file_input.js";
import { createGestures } from "./gestures.js";
import { createI18n } from "./i18n.js";
import { createKeyboard } from "./keyboard.js";
import { createLayers } from "./layers.js";
import { createMaskLayer } from "./mask_layer.js";
import { createMaskMenu } from "./mask_menu.js";
import { createMaskTools } from "./mask_tools.js";
import { createModels } from "./models.js";
import { createPainting } from "./painting.js";
import { createPace } from "./pace.js";
import { createPanel } from "./panel.js";
import { createPen } from "./pen.js";
import { createPhoto } from "./photo.js";
import { createProgress } from "./progress.js";
import { createRepair } from "./repair.js";
import { createRestoring } from "./restoring.js";
import { createSelecting } from "./selecting.js";
import { createServerStatus } from "./server_status.js";
import { createSessionStorage } from "./session_storage.js";
import { setup } from "./setup.js";
import { createStore, FIRST_STATE } from "./store.js";
import { drawStroke } from "./strokes.js";
import { createView } from "./view.js";
import { createWeightsOffer } from "./weights_offer.js";

const MASK_RGB = [255, 64, 72];
const MASK_COLOUR = `rgb(${MASK_RGB})`;
const NEED_FOCUS = new Set(["help", "choose", "mask-menu", "mask-upload"]);
const LEAST_RADIUS_PX = 1;
const FIRST_RADIUS = 0.03; // of the photo's shorter side
const FIRST_RADIUS_SHOWN_PX = 12; // at least, on the screen: a fingertip is no finer

/**
 * Run the page inside `element`.
 * @param {HTMLElement} element
 */
export function startCanvas(element) {
  const root = /** @type {HTMLElement} */ (element.querySelector(".fft"));
  const $ = (/** @type {string} */ selector) => /** @type {any} */ (root.querySelector(selector));
  const store = createStore(FIRST_STATE);
  const session = createSessionStorage();
  const words = createI18n(setup.strings, setup.language);
  const api = createApi((/** @type {boolean} */ online) => store.get().online !== online && store.update({ online }));
  const layers = createLayers({ world: $(".fft-world"), api });
  const pace = createPace();
  const getHand = () => store.get().hand;
  const isPainting = () => Boolean(store.get().photo) && !store.get().comparing;
  const view = createView({
    stage: $(".fft-stage"), world: $(".fft-world"), overlay: $(".fft-overlay"), draw: drawMask, onChange: (now) => panel.showZoom(now),
  });
  const whenUploaded = () => photo.whenUploaded();
  const maskLayer = createMaskLayer({ view, overlay: $(".fft-overlay"), colour: MASK_RGB });
  const repair = createRepair({ api, store, layers, whenUploaded, pace, onDone: () => restoring.next() || repairInstantly() });
  const restoring = createRestoring({ store, begin: repair.restore });
  const addStroke = (/** @type {any} */ stroke) => (getHand().tool === "restore" ? restoring.add(stroke) : painting.addStroke(stroke));
  const painting = createPainting({ store, view, startRepair });
  const progress = createProgress({ root, words, store, pace });
  const selecting = createSelecting({ store, api, whenUploaded, replaceStrokes: painting.replace });
  const dilationLine = createDilationLine({ store, view, canvas: $(".fft-line"), overlay: $(".fft-overlay"), colour: MASK_COLOUR });
  const maskTools = createMaskTools({ store, replaceStrokes: painting.replace });
  const maskMenu = createMaskMenu({ root, store, words, tools: maskTools, selecting });
  const panel = createPanel({ root, words, layers, onRound: painting.goToRound });
  const models = createModels({ root, words, api });
  const offer = createWeightsOffer({ root, words, api, isOffered: setup.weights_offered, onFetched: models.look });
  const serverStatus = createServerStatus({ dialog: $(".fft-help"), words });
  const photo = createPhoto({ store, api, layers, view, setup, words, cancelRepair: repair.cancel, onSize: setFirstRadius });
  const gestures = createGestures({
    stage: $(".fft-stage"), ring: $(".fft-ring"), view, getHand, isPainting, onStroke: addStroke,
    onOutline: painting.addOutline, onPick: selecting.click, onBox: selecting.selectBox, onRadius: (factor) => setRadius(getHand().radius * factor), onChange: () => pen.lift(),
  });
  const pen = createPen({
    view, getHand, isPainting, placeRing: gestures.placeRing, onStroke: addStroke,
    onOutline: painting.addOutline, onPick: selecting.click, onChange: view.redraw,
  });

  /** @type {Record<string, any>} */
  const actions = {
    undo: painting.undo,
    redo: painting.redo,
    clear: painting.clear,
    repair: startRepair,
    cancel: repair.cancel,
    escape: () => gestures.giveUp() || pen.giveUp() || (Boolean(store.get().job) && (repair.cancel(), true)) || maskMenu.escape(),
    compare,
    back: photo.back,
    "round-undo": () => painting.goToRound(store.get().round - 1),
    "round-redo": () => painting.goToRound(store.get().round + 1),
    brush: () => store.updateHand({ tool: "brush" }),
    eraser: () => store.updateHand({ tool: "eraser" }),
    lasso: () => store.updateHand({ tool: "lasso" }),
    rectangle: () => store.updateHand({ tool: "rectangle" }),
    select: () => store.updateHand({ tool: "select" }),
    restore: () => store.updateHand({ tool: "restore" }),
    ...maskMenu.actions,
    smaller: () => setRadius(getHand().radius / 1.2),
    larger: () => setRadius(getHand().radius * 1.2),
    zoomIn: () => view.zoomMiddle(1.25),
    zoomOut: () => view.zoomMiddle(0.8),
    fit: () => store.get().photo && view.fit(),
    actualSize: () => view.zoomMiddle(1 / view.get().scale / devicePixelRatio),
    choose: () => $(".fft-file").click(),
    help: serverStatus.open,
    "help-close": () => $(".fft-help").close(),
    language: () => (words.toggle(), words.apply(root), show()),
  };

  function show() {
    const state = store.get();
    layers.show(state.rounds.slice(0, state.round), state.comparing);
    panel.show(state);
    progress.show();
    maskMenu.show(state);
    maskLayer.keepOnly([...state.strokes, ...(state.job?.strokes || []), ...(state.preview ? [state.preview] : [])]);
    models.show();
    offer.show();
    view.redraw();
  }

  function drawMask(/** @type {CanvasRenderingContext2D} */ context) {
    const { comparing, job, strokes, preview } = store.get();
    dilationLine.draw();
    if (comparing) return;
    for (const stroke of [...(job?.strokes || []), ...(preview ? [preview] : strokes)]) {
      if ("mask" in stroke) maskLayer.draw(context, stroke);
      else drawStroke(context, stroke, MASK_COLOUR);
    }
    restoring.draw(context);
    const colour = getHand().tool === "restore" ? restoring.colour : MASK_COLOUR;
    gestures.drawLive(context, colour);
    pen.drawLive(context, colour);
  }

  function startRepair() {
    pen.lift();
    const state = store.get();
    if (state.job) return;
    if (state.photo && state.strokes.length) return void repair.begin();
    store.update({ status: { key: state.photo ? "no_mask" : "no_photo", tone: "warn" } });
  }

  // In instant mode, what was painted while a repair ran is repaired next.
  function repairInstantly() {
    const { hand, strokes } = store.get();
    if (hand.instant && strokes.some(({ erase }) => !erase)) startRepair();
  }

  function mostRadius() {
    const { width, height } = view.get();
    return Math.max(400, Math.min(width, height) / 4);
  }

  function setRadius(/** @type {number} */ radius) {
    store.updateHand({ radius: Math.max(LEAST_RADIUS_PX, Math.min(mostRadius(), radius)) });
    showSlider();
    gestures.showRadius();
  }

  function showSlider() {
    const { radius } = getHand();
    const slider = $(".fft-size");
    slider.value = (100 * Math.log(radius / LEAST_RADIUS_PX)) / Math.log(mostRadius() / LEAST_RADIUS_PX);
    slider.setAttribute("aria-valuetext", `${Math.round(2 * radius)} px`);
  }

  function setFirstRadius(/** @type {number} */ width, /** @type {number} */ height) {
    setRadius(Math.max(Math.min(width, height) * FIRST_RADIUS, FIRST_RADIUS_SHOWN_PX / (view.get().scale || 1)));
  }

  function compare(/** @type {boolean} */ on) {
    if (on === store.get().comparing || (on && !store.get().round)) return;
    store.update({ comparing: on });
  }

  function listen() {
    root.addEventListener("click", (event) => {
      const button = /** @type {HTMLElement} */ (event.target).closest("[data-act]");
      const act = button instanceof HTMLElement ? button.dataset.act : null;
      if (act && act !== "compare") actions[act]();
      if (event.target === $(".fft-help")) $(".fft-help").close();
      // A button that keeps the focus would take the space bar, which moves the picture.
      if (act && event.detail && !NEED_FOCUS.has(act)) $(".fft-stage").focus({ preventScroll: true, focusVisible: false });
    });
    $(".fft-size").addEventListener("input", (/** @type {any} */ { target }) => {
      setRadius(LEAST_RADIUS_PX * (mostRadius() / LEAST_RADIUS_PX) ** (target.value / 100));
      gestures.showRadius(true);
    });
    $('[data-part="instant"]').addEventListener("change", (/** @type {any} */ { target }) => store.updateHand({ instant: target.checked }));
    $(".fft-quality").addEventListener("change", (/** @type {any} */ { target }) => store.updateHand({ quality: target.value }));
    listenCompare($('[data-part="compare"]'));
    createFileInput({ root, onFile: photo.open, onNothing: () => photo.refuse("no_file") });
    createKeyboard({ root, stage: $(".fft-stage"), actions, holdSpace: gestures.holdSpace, pen });
  }

  function listenCompare(/** @type {HTMLElement} */ button) {
    const hold = (/** @type {KeyboardEvent} */ event) => ["Enter", " "].includes(event.key) && (compare(event.type === "keydown"), event.preventDefault());
    button.addEventListener("pointerdown", (event) => (button.setPointerCapture(event.pointerId), compare(true)));
    for (const type of ["pointerup", "pointercancel", "blur"]) button.addEventListener(type, () => compare(false));
    button.addEventListener("keydown", hold);
    button.addEventListener("keyup", hold);
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long press is a hold here
  }

  function restore() {
    const kept = session.open();
    store.subscribe(session.follow);
    store.subscribe(show);
    if (!kept?.photo) return;
    void photo.restore(kept);
    showSlider();
    repair.resume();
  }

  words.apply(root);
  listen();
  restore();
  show();
  models.start();
}
