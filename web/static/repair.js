// Repair: one round from click to patch. Waits for the photo's upload if that is still under way, submits the
// strokes under one request id (so that a retry after a cut is harmless), follows the job, fetches the patch.

import { ApiError } from "./api.js";
import { withRound } from "./branches.js";
import { maskBody } from "./mask_body.js";
import { randomId } from "./session_storage.js";
import { doneStatus, earlierVersions } from "./store.js";

/** @typedef {import("./store.js").Job} Job */
/** @typedef {import("./store.js").Round} Round */
/** @typedef {import("./api.js").JobView} JobView */

const FINISHED = new Set(["done", "failed", "cancelled"]);
const SAVED_WAIT_MS = 20_000;

/** Whether the server has written the round's file, or has said that it can't. */
function isWritten(/** @type {JobView} */ { saved, notes }) {
  return Boolean(saved) || (notes || []).some(({ code }) => code === "not_saved");
}

/** @param {{api: import("./api.js").Api, store: import("./store.js").Store, layers: import("./layers.js").Layers, whenUploaded: () => Promise<void>, pace: import("./pace.js").Pace, onDone: () => void}} parts */
export function createRepair({ api, store, layers, whenUploaded, pace, onDone }) {
  /** @type {AbortController | null} */
  let following = null;

  /** The job under this id, null once it was cancelled or ended. */
  function current(/** @type {string} */ request_id) {
    const { job } = store.get();
    return job?.request_id === request_id ? job : null;
  }

  function currentId() {
    const { round, rounds, photo: shown } = store.get();
    return round ? rounds[round - 1].image_id : shown?.image_id;
  }

  /** @param {Pick<Job, "strokes" | "restored">} what @returns {Job} */
  function newJob(what) {
    const { round, hand } = store.get();
    return { ...what, request_id: randomId(), job_id: null, base_round: round, quality: hand.quality, dilate_px: hand.dilate_px, began_at: Date.now(), running_at: null, upload_ms: 0 };
  }

  /** Begin a repair of what is painted; further strokes belong to the next round. */
  function begin() {
    const { strokes, photo } = store.get();
    const job = newJob({ strokes, restored: null });
    const used = photo && { strokes, width: photo.width, height: photo.height, image_id: currentId() || null };
    store.update({ job, strokes: [], past: [], future: [], preview: null, used });
    return run(job.request_id);
  }

  /** Bring the original back; what is painted stays. @param {import("./store.js").BrushStroke[]} restored */
  function restore(restored) {
    const job = newJob({ strokes: [], restored });
    store.update({ job });
    return run(job.request_id);
  }

  /** @param {Job} job */
  function optionsOf({ quality, dilate_px, restored }) {
    if (restored) return { options: { restore: true } };
    const options = { ...(quality === "high" && { quality }), ...(dilate_px !== null && { dilate_px }) };
    return Object.keys(options).length ? { options } : {};
  }

  async function run(/** @type {string} */ request_id) {
    following = new AbortController();
    const { signal } = following;
    say("starting");
    try {
      await whenUploaded();
      const job_id = await submit(request_id);
      if (!job_id) return;
      const onView = (/** @type {JobView} */ view) => showStage(request_id, view);
      const view = await api.follow(job_id, { onView, isEnough: ({ state }) => FINISHED.has(state), signal });
      if (current(request_id)) await finish(request_id, view, signal);
    } catch (error) {
      if (current(request_id)) fail(error);
    }
  }

  // Null when it was cancelled meanwhile. The request is never given up half way: the server may have taken it, and
  // only its answer names the job that has to be cancelled.
  async function submit(/** @type {string} */ request_id) {
    const job = current(request_id);
    if (!job || job.job_id) return job?.job_id || null;
    const { photo } = store.get();
    const image_id = currentId();
    if (!image_id || !photo) throw new ApiError(404, { error: "unknown_image" });
    const mask = job.restored ? { strokes: job.restored } : await maskBody(job.strokes, photo.width, photo.height);
    const body = { image_id, request_id, ...mask, ...optionsOf(job) };
    if (!current(request_id)) return null;
    const began_at = performance.now();
    const job_id = await api.submit(body);
    const still = current(request_id);
    if (!still) {
      api.cancel(job_id).catch(() => {});
      return null;
    }
    store.update({ job: { ...still, job_id, upload_ms: performance.now() - began_at } });
    return job_id;
  }

  function showStage(/** @type {string} */ request_id, /** @type {JobView} */ view) {
    const job = current(request_id);
    if (!job || FINISHED.has(view.state)) return;
    if (view.state === "queued") {
      if (job.running_at) store.update({ job: { ...job, running_at: null } }); // given back: what computed it went away
      if (view.waiting_for) return say(`waits_${view.waiting_for}`);
      return say(view.position > 0 ? "queued" : "starting", { position: view.position });
    }
    if (!job.running_at) store.update({ job: { ...job, running_at: Date.now() } });
    say({ refine: "refining", composite: "composing" }[view.stage || ""] || "running");
  }

  function say(/** @type {string} */ key, /** @type {any} */ params = undefined) {
    store.update({ status: { key, params, tone: "busy" } });
  }

  async function finish(/** @type {string} */ request_id, /** @type {JobView} */ view, /** @type {AbortSignal} */ signal) {
    const began_at = performance.now();
    if (view.state === "failed") throw new ApiError(500, view.error || {});
    if (view.state === "cancelled") return giveBack({ key: "cancelled" });
    const patch = { image_id: view.image_id, box: view.patch.box, url: view.patch.url };
    await layers.loadPatch(patch, signal);
    const job = current(request_id);
    if (!job) return;
    const upload = job.upload_ms + performance.now() - began_at;
    const times_ms = { ...view.timings_ms, upload, total: Date.now() - job.began_at };
    /** @type {Round} */
    const round = { ...patch, strokes: job.strokes, notes: view.notes || [], saved: view.saved || null, times_ms, restored: Boolean(job.restored) };
    if (job.running_at && !job.restored) pace.learn(job.quality, job.strokes, Date.now() - job.running_at);
    store.update({
      ...withRound(store.get(), job.base_round, round), shown_id: round.image_id, job: null, status: doneStatus(round),
    });
    if (!isWritten(view) && job.job_id) void followSaved(job.job_id, round.image_id);
    onDone();
  }

  // The file in outputs/ is written after the patch is out: its path, or a note that it could not be written, arrives with
  // a later version of the job.
  async function followSaved(/** @type {string} */ job_id, /** @type {string} */ image_id) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), SAVED_WAIT_MS);
    try {
      const view = await api.follow(job_id, { onView: () => {}, isEnough: isWritten, signal: abort.signal });
      if (isWritten(view)) showSaved(image_id, view);
    } catch {
      return; // the picture is there; only its path is not known
    } finally {
      clearTimeout(timer);
    }
  }

  function showSaved(/** @type {string} */ image_id, /** @type {JobView} */ view) {
    const { rounds, round, status, job } = store.get();
    const updated = rounds.map((one) => one.image_id !== image_id ? one : {
      ...one, saved: view.saved, times_ms: { ...view.timings_ms, ...one.times_ms }, notes: view.notes || one.notes,
    });
    const isShown = !job && status.round === image_id && updated[round - 1]?.image_id === image_id;
    store.update({ rounds: updated, status: isShown ? doneStatus(updated[round - 1]) : status });
  }

  // The job's strokes are painted again, under those that were added while it ran.
  function giveBack(/** @type {import("./store.js").Status} */ status) {
    const { job, strokes, past } = store.get();
    following?.abort();
    if (!job) return;
    store.update({
      job: null, status, future: [], strokes: [...job.strokes, ...strokes],
      past: [...earlierVersions(job.strokes), ...past.map((version) => [...job.strokes, ...version])],
    });
  }

  function fail(/** @type {unknown} */ error) {
    if (!(error instanceof ApiError)) console.error(error);
    const { code, message, params } = error instanceof ApiError ? error : new ApiError(0, {});
    giveBack({ error: { code, message, params } });
  }

  function cancel() {
    const { job } = store.get();
    if (!job) return;
    giveBack({ key: "cancelled" });
    if (job.job_id) api.cancel(job.job_id).catch(() => {}); // already finished, or gone: nothing left to stop
  }

  /** The way on after a reload: a job without an id is submitted again under its request id. */
  function resume() {
    const { job } = store.get();
    if (job) void run(job.request_id);
  }

  return { begin, restore, resume, cancel };
}
