// Painting: the strokes of the round being painted, and going back and forth in them and in the rounds. One line of
// undo leads through both: strokes first, then the round before, which brings its own strokes back.

function createPainting({ state, view, change, save, startRepair }) {
  function set(strokes) {
    state.past.push(state.strokes);
    state.future = [];
    state.strokes = strokes;
    state.status = { key: "ready" };
    save();
    change();
  }

  function tolerance() {
    return Math.max(0.35, 0.5 / view.get().scale); // half a pixel of the screen: nobody sees it move
  }

  function addStroke(stroke) {
    if (state.job) return;
    set(fitBody([...state.strokes, finishStroke(stroke, tolerance())], tolerance()));
    if (state.hand.instant && !stroke.erase) startRepair();
  }

  function addOutline(corners, erase) {
    if (state.job || corners.length < 3) return;
    const spread = (values) => Math.max(...values) - Math.min(...values);
    const across = Math.min(spread(corners.map(([x]) => x)), spread(corners.map(([, y]) => y)));
    const strokes = fillOutline(corners, Math.max(1, across / 120), erase);
    if (!strokes.length) return;
    set(fitBody([...state.strokes, ...strokes], tolerance()));
    if (state.hand.instant && !erase) startRepair();
  }

  function clear() {
    if (!state.job && state.strokes.length) set([]);
  }

  function undo() {
    if (state.job) return;
    if (!state.past.length) return goToRound(state.round - 1);
    state.future.push(state.strokes);
    step(state.past.pop());
  }

  function redo() {
    if (state.job) return;
    if (!state.future.length) return goToRound(state.round + 1);
    state.past.push(state.strokes);
    step(state.future.pop());
  }

  function step(strokes) {
    state.strokes = strokes;
    save();
    change();
  }

  function goToRound(number) {
    if (state.job || number < 0 || number > state.rounds.length) return;
    const strokes = number === state.round - 1 ? state.rounds[number].strokes : [];
    Object.assign(state, { round: number, past: earlierVersions(strokes), future: [] });
    state.status = number ? doneStatus(state.rounds[number - 1]) : { key: "ready" };
    step(strokes);
  }

  return { addStroke, addOutline, clear, undo, redo, goToRound };
}

// What undo goes back to where the real past is not known: the strokes one by one.
function earlierVersions(strokes) {
  return strokes.map((_, i) => strokes.slice(0, i));
}
