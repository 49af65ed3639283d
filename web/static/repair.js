// Repair: one round from click to patch. Waits for the photo's upload if that is still under way, submits the
// strokes under one request id (so that a retry after a cut is harmless), follows the job, fetches the patch.

function createRepair({ api, state, layers, change, save }) {
  const FINISHED = new Set(["done", "failed", "cancelled"]);
  const SAVED_WAIT_MS = 20_000;

  const currentId = () => (state.round ? state.rounds[state.round - 1].image_id : state.photo.image_id);

  function begin(strokes) {
    state.job = { request_id: randomId(), job_id: null, base_round: state.round, strokes, quality: state.hand.quality, began_at: Date.now() };
    return run();
  }

  // Also the way on after a reload: a job without an id is submitted again under its request id.
  async function run() {
    const { job } = state;
    const abort = (state.abort = new AbortController());
    say("starting");
    try {
      await state.uploading;
      if (state.job !== job) return;
      if (!state.photo.image_id) throw new ApiError(404, { error: "unknown_image" });
      await submit(job, abort.signal);
      const view = await api.follow(job.job_id, { onView: showStage, isEnough: ({ state: now }) => FINISHED.has(now), signal: abort.signal });
      if (state.job !== job) return;
      await finish(job, view);
    } catch (error) {
      if (state.job === job) fail(error);
    }
  }

  async function submit(job, signal) {
    if (job.job_id) return;
    const body = { image_id: currentId(), request_id: job.request_id, strokes: job.strokes };
    if (job.quality === "high") body.options = { quality: "high" };
    job.upload_began_at = performance.now();
    job.job_id = await api.submit(body, signal);
    job.upload_ms = performance.now() - job.upload_began_at;
    save();
  }

  function showStage(view) {
    if (FINISHED.has(view.state)) return;
    if (view.state === "queued") say(view.position > 0 ? "queued" : "starting", { position: view.position });
    else if (view.stage === "refine") say("refining");
    else say("running");
  }

  function say(key, params) {
    state.status = { key, params, tone: "busy" };
    save();
    change();
  }

  async function finish(job, view) {
    if (view.state === "failed") throw new ApiError(500, view.error || {});
    if (view.state === "cancelled") return settle({ key: "cancelled" });
    const round = { image_id: view.image_id, box: view.patch.box, url: view.patch.url, strokes: job.strokes, notes: view.notes || [], saved: view.saved || null };
    const patch_began_at = performance.now();
    await layers.loadPatch(round, api.localUrl(round.url));
    const up_and_down_ms = (job.upload_ms || 0) + performance.now() - patch_began_at;
    round.times_ms = { ...view.timings_ms, upload: up_and_down_ms, total: Date.now() - job.began_at };
    state.rounds = [...state.rounds.slice(0, job.base_round), round];
    state.round = job.base_round + 1;
    Object.assign(state, { strokes: [], past: [], future: [], shown_id: round.image_id });
    settle(doneStatus(round));
    if (!round.saved) followSaved(job.job_id, round);
  }

  // The file in outputs/ is written after the patch is out: its path arrives with a later version of the job.
  async function followSaved(jobId, round) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), SAVED_WAIT_MS);
    try {
      const view = await api.follow(jobId, { onView: () => {}, isEnough: ({ saved }) => Boolean(saved), signal: abort.signal });
      round.saved = view.saved;
      round.times_ms = { ...view.timings_ms, ...round.times_ms };
      round.notes = view.notes || round.notes;
    } catch {
      return; // the picture is there; only its path is not known
    } finally {
      clearTimeout(timer);
    }
    if (state.rounds[state.round - 1] === round && !state.job && state.status.round === round.image_id) state.status = doneStatus(round);
    save();
    change();
  }

  function settle(status) {
    state.job = null;
    state.abort = null;
    state.status = status;
    save();
    change();
  }

  function fail(error) {
    if (!(error instanceof ApiError)) console.error(error);
    const { code = "server_error", message, params } = error instanceof ApiError ? error : {};
    settle({ error: { code, message, params } });
  }

  function cancel() {
    const { job, abort } = state;
    if (!job) return;
    settle({ key: "cancelled" });
    abort?.abort();
    if (job.job_id) api.cancel(job.job_id).catch(() => {}); // already finished, or gone: nothing left to stop
  }

  return { begin, resume: run, cancel, currentId };
}

function doneStatus(round) {
  const tone = "good";
  if (round.saved) return { key: "done_saved", params: { path: round.saved }, tone, round: round.image_id };
  return { key: "done", tone, round: round.image_id };
}
