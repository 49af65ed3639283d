// Canvas: puts the page together, and says which control does what. The state is the store's; each other module owns
// one idea and is given what it needs.

import { createApi } from "./api.js";
import { createBatch } from "./batch.js";
import { createBrushSize } from "./brush_size.js";
import { createDilationLine } from "./dilation_line.js";
import { createDownloads } from "./downloads.js";
import { createFileInput } from "./file_input.js";
import { createGestures } from "./gestures.js";
import { createI18n } from "./i18n.js";
import { createKeyboard } from "./keyboard.js";
import { createLayers } from "./layers.js";
import { createLeaving } from "./leaving.js";
import { createLoading } from "./loading.js";
import { createManyPanel } from "./many_panel.js";
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
import { createRemoving } from "./removing.js";
import { createRepair } from "./repair.js";
import { createRestoring } from "./restoring.js";
import { createSelecting } from "./selecting.js";
import { createSamples } from "./samples.js";
import { createSaving } from "./saving.js";
import { createServerStatus } from "./server_status.js";
import { createSessionStorage } from "./session_storage.js";
import { setup } from "./setup.js";
import { createShelf } from "./shelf.js";
import { createSplit } from "./split.js";
import { createStore, FIRST_STATE } from "./store.js";
import { createStrip } from "./strip.js";
import { drawStroke } from "./strokes.js";
import { createTheme } from "./theme.js";
import { createUnhurried } from "./unhurried.js";
import { createUploadKeeping } from "./upload_keeping.js";
import { createView } from "./view.js";
import { createWeightsOffer } from "./weights_offer.js";

const MASK_RGB = [255, 64, 72];
const MASK_COLOUR = `rgb(${MASK_RGB})`;
const TOOLS = ["brush", "eraser", "lasso", "rectangle", "select", "restore"];
const NEED_FOCUS = new Set(["help", "choose", "mask-menu", "mask-upload", "split", "save-menu", "copy", "timings"]);

/**
 * Run the page.
 * @param {HTMLElement} root the canvas, wherever it lies now
 */
export function startCanvas(root) {
  const $ = (/** @type {string} */ selector) => /** @type {any} */ (root.querySelector(selector));
  const store = createStore(FIRST_STATE);
  const session = createSessionStorage((isKept) => ($('[data-part="not-kept"]').hidden = isKept), root.dataset.owner || "");
  const keeping = createUploadKeeping();
  const words = createI18n(setup.strings, setup.language);
  const api = createApi((/** @type {boolean} */ online) => store.get().online !== online && store.update({ online }));
  const layers = createLayers({ world: $(".fft-world"), api });
  const pace = createPace();
  const getHand = () => store.get().hand;
  const isPainting = () => Boolean(store.get().photo) && !store.get().comparing && store.get().split === null;
  const view = createView({
    stage: $(".fft-stage"), world: $(".fft-world"), overlay: $(".fft-overlay"), draw: drawMask, onChange: (now) => (panel.showZoom(now), split.place(), gestures.followRing()),
  });
  const whenUploaded = (/** @type {number} */ number, /** @type {AbortSignal | undefined} */ signal = undefined) => photo.whenUploaded(number, signal);
  const maskLayer = createMaskLayer({ view, overlay: $(".fft-overlay"), colour: MASK_RGB });
  const shelf = createShelf({ store, layers });
  const repair = createRepair({ api, store, shelf, layers, whenUploaded, pace, model: () => models.inUse(), onDone: repairInstantly });
  const restoring = createRestoring({ store, begin: repair.restore });
  const addStroke = (/** @type {any} */ stroke, /** @type {string} */ tool) => (tool === "restore" ? restoring.add(stroke) : painting.addStroke(stroke));
  const painting = createPainting({ store, view, restoring, startRepair });
  const progress = createProgress({ root, words, store, pace });
  const selecting = createSelecting({ store, api, whenUploaded, replaceStrokes: painting.replace });
  const dilationLine = createDilationLine({ store, view, canvas: $(".fft-line"), overlay: $(".fft-overlay"), colour: MASK_COLOUR });
  const maskTools = createMaskTools({ store, api, replaceStrokes: painting.replace });
  const maskMenu = createMaskMenu({ root, store, words, tools: maskTools, selecting });
  const panel = createPanel({ root, words, layers, onRound: painting.goToRound, onBranch: painting.goToBranch });
  const split = createSplit({ root, store, view, words });
  const downloads = createDownloads({ store, api });
  const saving = createSaving({ root, store, words, api, downloads });
  const theme = createTheme();
  const samples = createSamples({
    list: $('[data-part="samples"]'), samples: setup.samples, words, onFile: (file) => photo.open([file]), onFailure: () => photo.refuse("no_connection"),
    onBegin: () => store.update({ status: { key: "opening", tone: "busy" } }),
  });
  const models = createModels({ root, words, api });
  const offer = createWeightsOffer({ root, words, api, isOffered: setup.weights_offered, onFetched: models.look });
  const serverStatus = createServerStatus({ dialog: $(".fft-help"), words });
  const loading = createLoading({ store, api, layers, view, setup });
  const photo = createPhoto({ store, api, layers, view, shelf, loading, keeping, setup, words, cancelRepair: repair.cancel, onSize: (width, height) => brushSize.setFirst(width, height) });
  const batch = createBatch({ store, api, layers, shelf, whenUploaded, stopUploads: photo.stopUploads, sensitivity: maskMenu.sensitivity, model: models.inUse });
  const removing = createRemoving({ store, words, painting, photo, cancelBatch: batch.cancel });
  const strip = createStrip({ root, store, words, api, onPhoto: photo.goTo, onRemove: removing.one });
  const many = createManyPanel({ root, words, store, downloads });
  const gestures = createGestures({
    stage: $(".fft-stage"), ring: $(".fft-ring"), view, getHand, isPainting, store, onStroke: addStroke,
    onOutline: painting.addOutline, onPick: selecting.click, onBox: selecting.selectBox, onRadius: (factor) => brushSize.scale(factor), onChange: () => pen.lift(),
  });
  const pen = createPen({
    store, view, getHand, isPainting, showRing: gestures.showPen, onStroke: addStroke,
    onOutline: painting.addOutline, onPick: selecting.click, onChange: view.redraw,
  });

  const brushSize = createBrushSize({ slider: $(".fft-size"), store, view, showRing: gestures.showRadius });

  /** @type {Record<string, any>} */
  const actions = {
    undo: painting.undo,
    redo: painting.redo,
    clear: painting.clear,
    repair: startRepair,
    cancel: () => cancelRunning() || photo.cancelUploads(),
    escape: () => gestures.giveUp() || pen.giveUp() || maskMenu.giveUpGrowth() || split.close() || cancelRunning() || maskMenu.escape(),
    compare,
    "photo-remove": () => removing.one(store.get().photo_number),
    "all-remove": removing.all,
    "batch-mask": () => (pen.lift(), batch.start("mask")),
    "batch-text": () => batch.start("text"),
    "batch-mark": () => (pen.lift(), batch.start("mark")),
    "batch-cancel": batch.cancel,
    "round-undo": () => painting.goToRound(store.get().round - 1),
    "round-redo": () => painting.goToRound(store.get().round + 1),
    "round-remove": removing.round,
    split: split.toggle,
    "save-menu": saving.toggle,
    copy: saving.copy,
    timings: () => store.updateHand({ timings: !getHand().timings }),
    ...Object.fromEntries(TOOLS.map((tool) => [tool, () => take(tool)])),
    "take-away": () => store.updateHand({ takes_away: !getHand().takes_away }),
    ...maskMenu.actions,
    smaller: () => brushSize.scale(1 / 1.2),
    larger: () => brushSize.scale(1.2),
    save: saving.download,
    "photo-before": () => strip.step(-1),
    "photo-after": () => strip.step(1),
    "failed-remove": photo.removeRefused,
    zoomIn: () => view.zoomMiddle(1.25),
    zoomOut: () => view.zoomMiddle(0.8),
    fit: view.fit,
    actualSize,
    "fit-or-actual": () => (view.get().fitted ? actualSize() : view.fit()),
    choose: () => $(".fft-file").click(),
    help: serverStatus.open,
    theme: theme.toggle,
    "choose-folder": () => $(".fft-folder").click(),
    "help-close": () => $(".fft-help").close(),
    language: () => (words.toggle(), words.apply(root), samples.show(), panel.showZoom(view.get()), show()),
  };

  function showPicture() {
    const { rounds, round, comparing } = store.get();
    layers.show(rounds.slice(0, round), comparing);
    view.redraw();
  }

  function show() {
    const state = store.get();
    panel.show(state);
    saving.show(state);
    strip.show(state);
    many.show(state);
    split.show();
    progress.show();
    maskMenu.show(state);
    maskLayer.keepOnly([...state.strokes, ...(state.job?.strokes || []), ...(state.preview ? [state.preview] : [])]);
    models.show();
    offer.show();
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
    const colourOf = (/** @type {string} */ tool) => (tool === "restore" ? restoring.colour : MASK_COLOUR);
    gestures.drawLive(context, colourOf);
    pen.drawLive(context, colourOf);
  }

  // Painting while half of the original is shown would be guessing.
  function take(/** @type {string} */ tool) {
    split.close();
    store.updateHand({ tool, takes_away: false });
  }

  // What somebody waits for, the newest first; false when that is nothing.
  function cancelRunning() {
    if (selecting.cancel()) return true;
    if (!store.get().job) return batch.cancel();
    repair.cancel();
    return true;
  }

  function startRepair() {
    pen.lift();
    split.close();
    const growing = maskMenu.settleGrowth();
    if (growing) return void growing.then(startRepair);
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

  function actualSize() {
    view.zoomMiddle(1 / view.get().scale / devicePixelRatio);
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
      if (/** @type {HTMLElement} */ (event.target).closest(".fft-welcome") && !/** @type {HTMLElement} */ (event.target).closest("button")) actions.choose();
      if (event.target === $(".fft-help")) $(".fft-help").close();
      // A button that keeps the focus would take the space bar, which moves the picture.
      if (act && event.detail && !NEED_FOCUS.has(act)) $(".fft-stage").focus({ preventScroll: true, focusVisible: false });
    });
    $('[data-part="instant"]').addEventListener("change", (/** @type {any} */ { target }) => store.updateHand({ instant: target.checked }));
    $(".fft-quality").addEventListener("change", (/** @type {any} */ { target }) => store.updateHand({ quality: target.value }));
    listenCompare($('[data-part="compare"]'));
    createKeyboard({ root, stage: $(".fft-stage"), actions, holdSpace: gestures.holdSpace, pen });
  }

  // What was done before the scripts had come.
  function catchUp() {
    const fileInput = createFileInput({ root, onFiles: photo.open, onNothing: (why = "") => photo.refuse("no_file", { why }) });
    const early = window.fftEarly?.();
    if (!early) return;
    fileInput.catchUp(early);
    for (const act of early.acts) if (act !== "compare") actions[act]();
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
    store.subscribe(showPicture);
    createUnhurried({ store, follow: (now, before) => (session.follow(now, before), session.followShelf(now, before), show()) });
    const kept = session.open();
    void keeping.clean();
    if (kept) {
      void photo.restore(kept.state, kept.shelf);
      brushSize.show();
      repair.resume();
      batch.resume(kept.state.batch);
    }
    const asked = new URL(location.href);
    const image_id = asked.searchParams.get("image");
    if (!image_id) return;
    void photo.openUploaded(image_id);
    asked.searchParams.delete("image"); // a reload brings back what was done with it
    history.replaceState(null, "", asked);
  }

  words.apply(root);
  samples.show();
  listen();
  restore();
  show();
  catchUp();
  models.start();
  createLeaving({ root, store, session, words, hasLogin: setup.has_login });
}
