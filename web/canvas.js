// Canvas: the page's one state, and what each control does to it. The other scripts own one idea each and are
// joined with this one into the body of a single function, so that nothing becomes global.

function startCanvas(element, setup) {
  const root = element.querySelector(".fft");
  const $ = (selector) => root.querySelector(selector);
  const MASK_COLOUR = "rgb(255, 64, 72)";
  const BRUSH_RADII = [1, 400];

  const state = {
    photo: null, // {name, width, height, format, image_id, notes}
    file: null, // the File itself, while this page has it
    uploading: Promise.resolve(),
    uploaded: null, // fraction; null when nothing is going up
    strokes: [], past: [], future: [], // past and future: earlier and undone versions of strokes
    rounds: [], round: 0, // round: how many of rounds are applied
    job: null, abort: null,
    hand: { tool: "brush", radius: 20, instant: false },
    comparing: false, online: true, shown_id: null,
    status: { key: "waiting" },
  };

  const memory = createMemory();
  const words = createWords(setup.strings, setup.language);
  const api = createApi((online) => state.online !== online && ((state.online = online), change()));
  const layers = createLayers({ world: $(".fft-world"), photo: $(".fft-photo") });
  const panel = createPanel({ root, words, layers, onRound: goToRound });
  const isPainting = () => Boolean(state.photo) && !state.job && !state.comparing;
  const view = createView({
    stage: $(".fft-stage"), world: $(".fft-world"), overlay: $(".fft-overlay"), draw: drawMask, onChange: (now) => panel.showZoom(now),
  });
  const gestures = createGestures({
    stage: $(".fft-stage"), ring: $(".fft-ring"), view, hand: state.hand, isPainting, onStroke: addStroke, onOutline: addOutline, onChange: () => pen?.lift(),
  });
  const pen = createPen({
    view, hand: state.hand, isPainting, placeRing: gestures.placeRing, onStroke: addStroke, onChange: view.redraw,
  });
  const repair = createRepair({ api, state, layers, change, save });

  function change() {
    layers.show(state.rounds.slice(0, state.round), state.comparing);
    panel.show(state);
    view.redraw();
  }

  function save() {
    const { photo, strokes, rounds, round, job, hand } = state;
    memory.save({ photo: photo?.image_id ? photo : null, strokes, rounds, round, job, hand });
  }

  function drawMask(context) {
    const strokes = state.comparing ? [] : state.strokes;
    for (const stroke of strokes) drawStroke(context, stroke, MASK_COLOUR);
    gestures.drawLive(context, MASK_COLOUR);
    pen.drawLive(context, MASK_COLOUR);
  }

  // --- what is painted

  function setStrokes(strokes) {
    state.past.push(state.strokes);
    state.future = [];
    state.strokes = strokes;
    if (state.status.tone !== "busy") state.status = { key: "ready" };
    save();
    change();
  }

  function tolerance() {
    return Math.max(0.35, 0.5 / view.get().scale); // half a pixel of the screen: nobody sees it move
  }

  function addStroke(stroke) {
    setStrokes(fitBody([...state.strokes, finishStroke(stroke, tolerance())], tolerance()));
    if (state.hand.instant && !stroke.erase) startRepair();
  }

  function addOutline(corners, erase) {
    const { width, height } = view.get();
    const xs = corners.map(([x]) => x);
    const ys = corners.map(([, y]) => y);
    const across = Math.min(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys), width, height);
    const strokes = fillOutline(corners, Math.max(1, across / 120), erase);
    if (!strokes.length) return;
    setStrokes([...state.strokes, ...strokes]);
    if (state.hand.instant && !erase) startRepair();
  }

  function undo() {
    if (state.job) return;
    if (!state.past.length) return goToRound(state.round - 1);
    state.future.push(state.strokes);
    state.strokes = state.past.pop();
    save();
    change();
  }

  function redo() {
    if (state.job) return;
    if (!state.future.length) return goToRound(state.round + 1);
    state.past.push(state.strokes);
    state.strokes = state.future.pop();
    save();
    change();
  }

  // Back to an earlier round brings its strokes back too, to be changed and repaired again.
  function goToRound(number) {
    if (state.job || number < 0 || number > state.rounds.length) return;
    const undone = number === state.round - 1 ? state.rounds[number].strokes : [];
    Object.assign(state, { round: number, strokes: undone, past: undone.map((_, i) => undone.slice(0, i)), future: [] });
    state.status = number ? doneStatus(state.rounds[number - 1]) : { key: "ready" };
    save();
    change();
  }

  function startRepair() {
    if (state.job) return;
    pen.lift();
    if (!state.photo) state.status = { key: "no_photo", tone: "warn" };
    else if (!state.strokes.length) state.status = { key: "no_mask", tone: "warn" };
    else return void repair.begin(state.strokes);
    change();
  }

  // --- the photo

  function refuse(code, params) {
    state.status = { error: { code, message: "", params } };
    change();
  }

  async function openFile(file) {
    if (file.size === 0) return refuse("empty_file");
    if (file.size > setup.max_file_mib * 2 ** 20) return refuse("file_too_large", { limit_mib: setup.max_file_mib });
    repair.cancel();
    forget();
    const photo = { name: file.name || words.say("photo.pasted"), width: 0, height: 0, format: "", image_id: null, notes: [] };
    Object.assign(state, { photo, file, uploaded: 0, status: { key: "uploading", tone: "busy" } });
    const local = showLocally(photo, file);
    state.uploading = upload(photo, file, local);
    change();
    await local;
  }

  function forget() {
    if (state.local_url) URL.revokeObjectURL(state.local_url);
    layers.clear();
    Object.assign(state, { photo: null, file: null, local_url: null, strokes: [], past: [], future: [], rounds: [], round: 0, uploaded: null, shown_id: null });
    view.setSize(0, 0);
  }

  // At once, from the file itself; its size in upright pixels is what the browser shows, EXIF applied.
  async function showLocally(photo, file) {
    state.local_url = URL.createObjectURL(file);
    const shown = await layers.showPhoto(state.local_url);
    if (!shown || state.photo !== photo) return false;
    const { naturalWidth: width, naturalHeight: height } = $(".fft-photo");
    resize(photo, width, height);
    if (state.status.key === "uploading") state.status = { key: "ready" };
    change();
    return true;
  }

  function resize(photo, width, height) {
    if (photo.width !== width || photo.height !== height) {
      Object.assign(photo, { width, height });
      setRadius(Math.min(width, height) * 0.03);
    }
    state.shown_id = photo.image_id || "local";
    view.setSize(width, height);
  }

  async function upload(photo, file, local) {
    try {
      const answer = await api.upload(file, (fraction) => ((state.uploaded = Math.min(0.99, fraction)), change()));
      if (state.photo !== photo) return;
      const { image_id, width, height, format, notes = [] } = answer;
      const shown = (await local) && photo.width === width && photo.height === height;
      Object.assign(photo, { image_id, format, notes });
      if (!shown) await showPreview(photo, width, height);
      state.uploaded = null;
      if (state.status.key === "uploading") state.status = { key: "ready" };
      save();
    } catch (error) {
      if (state.photo !== photo) return;
      repair.cancel();
      forget();
      const { code = "upload_failed", message, params } = error;
      state.status = { error: { code, message, params } };
      save();
    }
    change();
  }

  // The server's picture of the photo: after a reload, and for formats the browser cannot show.
  async function showPreview(photo, width, height) {
    await layers.showPhoto(api.photoUrl(photo.image_id, `?max_px=${setup.preview_px}&format=webp`));
    resize(photo, width, height);
  }

  // --- tools

  function setRadius(radius) {
    const [least, most] = BRUSH_RADII;
    state.hand.radius = Math.max(least, Math.min(most, radius));
    $(".fft-size").value = Math.round(100 * Math.log(state.hand.radius / least) / Math.log(most / least));
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

  function escape() {
    if (state.job) repair.cancel();
    return true;
  }

  const actions = {
    undo, redo, compare, escape,
    clear: () => !state.job && state.strokes.length && setStrokes([]),
    repair: startRepair,
    cancel: repair.cancel,
    "round-undo": () => goToRound(state.round - 1),
    "round-redo": () => goToRound(state.round + 1),
    brush: () => setTool("brush"), eraser: () => setTool("eraser"), lasso: () => setTool("lasso"), rectangle: () => setTool("rectangle"),
    smaller: () => setRadius(state.hand.radius / 1.2), larger: () => setRadius(state.hand.radius * 1.2),
    zoomIn: () => view.zoomMiddle(1.25), zoomOut: () => view.zoomMiddle(0.8), fit: () => view.fit(),
    actualSize: () => view.zoomMiddle(1 / view.get().scale / devicePixelRatio),
    choose: () => $(".fft-file").click(),
    help: () => $(".fft-help").showModal(),
    "help-close": () => $(".fft-help").close(),
    language: () => (words.toggle(), words.apply(root), change()),
  };

  function listen() {
    root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-act]");
      if (button && !button.disabled && button.dataset.act !== "compare") actions[button.dataset.act]?.();
      if (event.target === $(".fft-help")) $(".fft-help").close();
    });
    $(".fft-size").addEventListener("input", (event) => {
      const [least, most] = BRUSH_RADII;
      setRadius(least * (most / least) ** (event.target.value / 100));
    });
    $('[data-part="instant"]').addEventListener("change", (event) => ((state.hand.instant = event.target.checked), save()));
    listenCompare($('[data-part="compare"]'));
    createArrivals({ root, onFile: openFile, onNothing: () => refuse("not_an_image") });
    createKeyboard({ root, stage: $(".fft-stage"), actions, holdSpace: gestures.holdSpace, pen });
  }

  function listenCompare(button) {
    const hold = (event) => ["Enter", " "].includes(event.key) && (compare(event.type === "keydown"), event.preventDefault());
    button.addEventListener("pointerdown", (event) => (button.setPointerCapture(event.pointerId), compare(true)));
    for (const type of ["pointerup", "pointercancel", "blur"]) button.addEventListener(type, () => compare(false));
    for (const type of ["keydown", "keyup"]) button.addEventListener(type, hold);
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long press is a hold here
  }

  // --- after a reload

  async function restore() {
    const kept = memory.open();
    if (!kept?.photo) return;
    const { photo, strokes, rounds, round, job, hand } = kept;
    try {
      Object.assign(state.hand, hand);
      const known = await api.info(photo.image_id);
      if (state.photo) return; // a photo was dropped while we asked
      state.photo = photo;
      await showPreview(photo, known.width, known.height);
      setRadius(hand.radius);
      await Promise.all(rounds.map((one) => layers.loadPatch(one, api.localUrl(one.url))));
      Object.assign(state, { strokes, rounds, round, past: strokes.map((_, i) => strokes.slice(0, i)) });
      state.status = round && !strokes.length ? doneStatus(rounds[round - 1]) : { key: "ready" };
      if (job) void ((state.job = job), repair.resume());
    } catch (error) {
      forget();
      state.status = { error: { code: error.code === "unknown_image" ? "photo_gone" : "server_error", message: "" } };
      save();
    }
    change();
  }

  words.apply(root);
  listen();
  change();
  void restore();
}
