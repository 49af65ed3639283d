// Canvas: the page's one state, and which control does what to it. The other scripts own one idea each and are
// joined with this one into the body of a single function, so that nothing becomes global.

function startCanvas(element, setup) {
  const root = element.querySelector(".fft");
  const $ = (selector) => root.querySelector(selector);
  const MASK_COLOUR = "rgb(255, 64, 72)";
  const LEAST_RADIUS_PX = 1;
  const MOST_RADIUS_PX = 400;
  const FIRST_RADIUS = 0.03; // of the photo's shorter side

  const state = {
    photo: null, // {name, width, height, format, image_id (null until it is up), notes}
    local_url: null,
    uploading: Promise.resolve(),
    uploaded: null, // fraction; null when nothing is going up
    leaving: new AbortController(), // ends the upload when another photo takes this one's place
    strokes: [],
    past: [], // earlier versions of strokes
    future: [], // undone ones
    rounds: [], // {image_id, box, url, strokes, notes, times_ms, saved}
    round: 0, // how many of them are applied
    job: null, // {request_id, job_id, base_round, strokes, began_at}
    abort: null,
    hand: { tool: "brush", radius: 20, instant: false, quality: "fast" },
    comparing: false,
    online: true,
    shown_id: null,
    status: { key: "waiting" },
  };

  const memory = createMemory();
  const words = createWords(setup.strings, setup.language);
  const api = createApi(setOnline);
  const layers = createLayers({ world: $(".fft-world"), photo: $(".fft-photo") });
  const isPainting = () => Boolean(state.photo) && !state.job && !state.comparing;
  const view = createView({
    stage: $(".fft-stage"), world: $(".fft-world"), overlay: $(".fft-overlay"), draw: drawMask, onChange: (now) => panel.showZoom(now),
  });
  const repair = createRepair({ api, state, layers, change, save });
  const painting = createPainting({ state, view, change, save, startRepair });
  const panel = createPanel({ root, words, layers, onRound: painting.goToRound });
  const models = createModels({ root, words, api });
  const photo = createPhoto({
    state, api, layers, view, image: $(".fft-photo"), setup, words, change, save, onReplace: repair.cancel,
    onSize: (width, height) => setRadius(Math.min(width, height) * FIRST_RADIUS),
  });
  const gestures = createGestures({
    stage: $(".fft-stage"), ring: $(".fft-ring"), view, hand: state.hand, isPainting,
    onStroke: painting.addStroke, onOutline: painting.addOutline, onChange: () => pen.lift(),
  });
  const pen = createPen({
    view, hand: state.hand, isPainting, placeRing: gestures.placeRing, onStroke: painting.addStroke, onChange: view.redraw,
  });

  const actions = {
    undo: painting.undo,
    redo: painting.redo,
    clear: painting.clear,
    repair: startRepair,
    cancel: repair.cancel,
    escape: () => Boolean(state.job) && (repair.cancel(), true),
    compare,
    "round-undo": () => painting.goToRound(state.round - 1),
    "round-redo": () => painting.goToRound(state.round + 1),
    brush: () => setTool("brush"),
    eraser: () => setTool("eraser"),
    lasso: () => setTool("lasso"),
    rectangle: () => setTool("rectangle"),
    smaller: () => setRadius(state.hand.radius / 1.2),
    larger: () => setRadius(state.hand.radius * 1.2),
    zoomIn: () => view.zoomMiddle(1.25),
    zoomOut: () => view.zoomMiddle(0.8),
    fit: () => state.photo && view.fit(),
    actualSize: () => view.zoomMiddle(1 / view.get().scale / devicePixelRatio),
    choose: () => $(".fft-file").click(),
    help: () => $(".fft-help").showModal(),
    "help-close": () => $(".fft-help").close(),
    language: () => (words.toggle(), words.apply(root), change()),
  };

  function change() {
    layers.show(state.rounds.slice(0, state.round), state.comparing);
    panel.show(state);
    models.show();
    view.redraw();
  }

  function save() {
    const { photo: kept, strokes, rounds, round, job, hand } = state;
    memory.save({ photo: kept?.image_id ? kept : null, strokes, rounds, round, job, hand });
  }

  function setOnline(online) {
    if (state.online === online) return;
    state.online = online;
    change();
  }

  function drawMask(context) {
    if (state.comparing) return;
    for (const stroke of state.strokes) drawStroke(context, stroke, MASK_COLOUR);
    gestures.drawLive(context, MASK_COLOUR);
    pen.drawLive(context, MASK_COLOUR);
  }

  function startRepair() {
    if (state.job) return;
    pen.lift();
    if (state.photo && state.strokes.length) return void repair.begin(state.strokes);
    state.status = { key: state.photo ? "no_mask" : "no_photo", tone: "warn" };
    change();
  }

  function setRadius(radius) {
    state.hand.radius = Math.max(LEAST_RADIUS_PX, Math.min(MOST_RADIUS_PX, radius));
    $(".fft-size").value = (100 * Math.log(state.hand.radius / LEAST_RADIUS_PX)) / Math.log(MOST_RADIUS_PX / LEAST_RADIUS_PX);
    change();
  }

  function setTool(tool) {
    state.hand.tool = tool;
    change();
  }

  function compare(on) {
    if (on === state.comparing || (on && !state.round)) return;
    state.comparing = on;
    change();
  }

  function listen() {
    root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-act]");
      if (button && button.dataset.act !== "compare") actions[button.dataset.act]();
      if (event.target === $(".fft-help")) $(".fft-help").close();
    });
    $(".fft-size").addEventListener("input", ({ target }) => setRadius(LEAST_RADIUS_PX * (MOST_RADIUS_PX / LEAST_RADIUS_PX) ** (target.value / 100)));
    $('[data-part="instant"]').addEventListener("change", ({ target }) => ((state.hand.instant = target.checked), save()));
    $(".fft-quality").addEventListener("change", ({ target }) => ((state.hand.quality = target.value), save()));
    listenCompare($('[data-part="compare"]'));
    createArrivals({ root, onFile: photo.open, onNothing: () => photo.refuse("not_an_image") });
    createKeyboard({ root, stage: $(".fft-stage"), actions, holdSpace: gestures.holdSpace, pen });
  }

  function listenCompare(button) {
    const hold = (event) => ["Enter", " "].includes(event.key) && (compare(event.type === "keydown"), event.preventDefault());
    button.addEventListener("pointerdown", (event) => (button.setPointerCapture(event.pointerId), compare(true)));
    for (const type of ["pointerup", "pointercancel", "blur"]) button.addEventListener(type, () => compare(false));
    for (const type of ["keydown", "keyup"]) button.addEventListener(type, hold);
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long press is a hold here
  }

  async function restore() {
    const kept = memory.open();
    if (!kept?.photo || !(await photo.restore(kept))) return;
    const { strokes, rounds, round, job, hand } = kept;
    Object.assign(state, { strokes, rounds, round, past: earlierVersions(strokes) });
    Object.assign(state.hand, hand);
    setRadius(hand.radius);
    state.status = round && !strokes.length ? doneStatus(rounds[round - 1]) : { key: "ready" };
    if (job) {
      state.job = job;
      void repair.resume();
    }
    change();
  }

  words.apply(root);
  listen();
  change();
  models.start();
  void restore();
}
