// Repair: one round from click to patch. Waits for the photo's upload if that is still under way, submits the
// strokes under one request id (so that a retry after a cut is harmless), follows the job, fetches the patch. The job
// belongs to its photo: when another is shown it goes on, and its round lands where it was begun.

import { ApiError, ENDED, refusalOf } from "./api.js";
import { withRound } from "./branches.js";
import { howOf, whatOf } from "./gone_through.js";
import { maskBody } from "./mask_body.js";
import { randomId } from "./session_storage.js";
import { allWork, imageOf, workOf } from "./shelf.js";
import { doneStatus, paintedAgain } from "./store.js";

/** @typedef {import("./store.js").Job} Job */
/** @typedef {import("./store.js").Round} Round */
/** @typedef {import("./api.js").JobView} JobView */
/** @typedef {import("./api.js").Submitted & {sent_ms: number}} Sent */

/** @type {import("./store.js").Status} */
const STARTING = { key: "starting", tone: "busy" };
const SAVED_WAIT_MS = 20_000;
const SAVED_AFTER_MS = 100; // asked for when the patch is on the screen, which has the processor first

/** Whether the server has written the round's file, or has said that it can't. */
function isWritten(/** @type {JobView} */ { saved, notes }) {
  return Boolean(saved) || (notes || []).some(({ code }) => code === "not_saved");
}

/** @param {{api: import("./api.js").Api, store: import("./store.js").Store, shelf: import("./shelf.js").Shelf, layers: import("./layers.js").Layers, whenUploaded: (number: number) => Promise<void>, pace: import("./pace.js").Pace, model: () => string, onDone: () => void}} parts model: which is in use; onDone: of the shown photo */
export function createRepair({ api, store, shelf, layers, whenUploaded, pace, model, onDone }) {
  /** @type {Map<string, AbortController>} */
  const following = new Map();

  /** The job under this id and the photo it belongs to, shown or not; null once it was cancelled or ended. */
  function find(/** @type {string} */ request_id) {
    for (const { number, work } of allWork(store.get())) {
      if (work.job?.request_id === request_id) return { number, work, job: work.job };
    }
    return null;
  }

  const isShown = (/** @type {number} */ number) => store.get().photo_number === number;

  /** @param {number} number of the photo @param {Pick<Job, "strokes" | "restored">} what @returns {Job} */
  function newJob(number, what) {
    const { hand } = store.get();
    const base_round = workOf(store.get(), number)?.round || 0;
    return { ...what, request_id: randomId(), job_id: null, base_round, quality: hand.quality, dilate_px: hand.dilate_px, model: model(), began_at: Date.now(), running_at: null, upload_ms: 0 };
  }

  /** Begin a repair of what is painted; further strokes belong to the next round. */
  function begin() {
    const { strokes, photo, photo_number } = store.get();
    const job = newJob(photo_number, { strokes, restored: null });
    const used = photo && { strokes, width: photo.width, height: photo.height, image_id: imageOf(store.get()) };
    store.update({ job, strokes: [], past: [], future: [], taken_back: [], preview: null, used, status: STARTING });
    return run(job.request_id);
  }

  /** Bring the original back; what is painted stays. @param {import("./store.js").BrushStroke[]} restored */
  function restore(restored, number = store.get().photo_number) {
    const job = newJob(number, { strokes: [], restored });
    shelf.change(number, { job, status: STARTING });
    return run(job.request_id);
  }

  /** What a round of this job came of. @param {Job} job @param {import("./store.js").Work} work */
  function askedOf(job, { photo, rounds }) {
    const { strokes, base_round, restored } = job;
    if (restored || !photo) return undefined;
    const image_id = base_round ? rounds[base_round - 1]?.image_id : photo.image_id;
    return { what: whatOf("mask", { strokes, width: photo.width, height: photo.height, image_id }, photo.image_id), how: howOf("mask", job), model: job.model };
  }

  /** @param {Job} job */
  function optionsOf({ quality, dilate_px, restored }) {
    if (restored) return { options: { restore: true } };
    const options = { ...(quality === "high" && { quality }), ...(dilate_px !== null && { dilate_px }) };
    return Object.keys(options).length ? { options } : {};
  }

  async function run(/** @type {string} */ request_id) {
    const stopping = new AbortController();
    const { signal } = stopping;
    const begun = find(request_id);
    if (!begun) return;
    following.set(request_id, stopping);
    if (begun.work.status !== STARTING) say(begun.number, "starting");
    try {
      await whenUploaded(begun.number);
      const submitted = await submit(request_id);
      if (!submitted) return;
      const onView = (/** @type {JobView} */ view) => showStage(request_id, view);
      const isEnough = (/** @type {JobView} */ { state }) => ENDED.has(state);
      const view = submitted.job || (await api.follow(submitted.job_id, { onView, isEnough, signal }));
      if (find(request_id)) await finish(request_id, view, submitted, signal);
    } catch (error) {
      fail(request_id, error);
    } finally {
      following.delete(request_id);
    }
  }

  // Null when it was cancelled meanwhile. The request is never given up half way: the server may have taken it, and
  // only its answer names the job that has to be cancelled.
  /** @param {string} request_id @returns {Promise<Sent | null>} */
  async function submit(request_id) {
    const found = find(request_id);
    if (!found) return null;
    if (found.job.job_id) return { job_id: found.job.job_id, sent_ms: found.job.upload_ms };
    const { job, work: { photo, rounds } } = found;
    const image_id = job.base_round ? rounds[job.base_round - 1]?.image_id : photo?.image_id;
    if (!image_id || !photo) throw new ApiError(404, { error: "unknown_image" });
    const mask = job.restored ? { strokes: job.restored } : await maskBody(job.strokes, photo.width, photo.height);
    const body = { image_id, request_id, ...mask, ...optionsOf(job) };
    if (!find(request_id)) return null;
    const began_at = performance.now();
    const submitted = await api.submitAndLook(body);
    const { job_id, job: ended } = submitted;
    const still = find(request_id);
    if (!still) {
      api.cancel(job_id).catch(() => {});
      return null;
    }
    // What has ended is shown next; to show its id before would only take time.
    const { queued = 0, total = 0 } = ended?.timings_ms || {};
    const sent_ms = Math.max(0, performance.now() - began_at - queued - total);
    if (!ended) shelf.change(still.number, { job: { ...still.job, job_id, upload_ms: sent_ms } });
    return { ...submitted, sent_ms };
  }

  function showStage(/** @type {string} */ request_id, /** @type {JobView} */ view) {
    const found = find(request_id);
    if (!found || ENDED.has(view.state)) return;
    const { number, job } = found;
    if (view.state === "queued") {
      if (job.running_at) shelf.change(number, { job: { ...job, running_at: null } }); // given back: what computed it went away
      if (view.waiting_for) return say(number, `waits_${view.waiting_for}`);
      return say(number, view.position > 0 ? "queued" : "starting", { position: view.position });
    }
    if (!job.running_at) shelf.change(number, { job: { ...job, running_at: Date.now() } });
    say(number, { refine: "refining", composite: "composing" }[view.stage || ""] || "running");
  }

  /** @param {number} number of the photo @param {string} key @param {any} [params] */
  function say(number, key, params = undefined) {
    shelf.change(number, { status: { key, params, tone: "busy" } });
    if (!isShown(number)) shelf.say(number, { stage: ["running", "refining", "composing"].includes(key) ? "running" : "queued" });
  }

  /** @param {string} request_id @param {JobView} view @param {Sent} sent @param {AbortSignal} signal */
  async function finish(request_id, view, { job_id, patch_png, sent_ms }, signal) {
    const began_at = performance.now();
    if (view.state === "failed") throw new ApiError(500, view.error || {});
    if (view.state === "cancelled") return giveBack(request_id);
    const patch = { image_id: view.image_id, box: view.patch.box, url: view.patch.url };
    const begun = find(request_id);
    if (begun && isShown(begun.number)) await layers.loadPatch(patch, signal, patch_png); // else when it is shown again
    const found = find(request_id);
    if (!found) return;
    const { number, work, job } = found;
    const upload = sent_ms + performance.now() - began_at;
    const times_ms = { ...view.timings_ms, upload, total: Date.now() - job.began_at };
    /** @type {Round} */
    const round = { ...patch, strokes: job.strokes, notes: view.notes || [], saved: view.saved || null, times_ms, restored: Boolean(job.restored), asked: askedOf(job, work) };
    const took_ms = job.running_at ? Date.now() - job.running_at : view.timings_ms.total;
    shelf.change(number, { ...withRound(work, job.base_round, round), shown_id: round.image_id, job: null, status: doneStatus(round) });
    if (took_ms && !job.restored) pace.learn(job.quality, job.strokes, took_ms);
    if (!isWritten(view)) setTimeout(() => void followSaved(job_id, round.image_id, view), SAVED_AFTER_MS);
    if (job.waiting?.length) void restore(job.waiting.map(({ stroke }) => stroke), number);
    else if (!isShown(number)) shelf.say(number, { stage: "done" });
    else {
      if (store.get().doing[number]?.error) shelf.say(number, null); // of a repair of all: it went through now
      onDone();
    }
  }

  // The file in outputs/ is written after the patch is out: its path, or a note that it could not be written, arrives with
  // a later version of the job.
  async function followSaved(/** @type {string} */ job_id, /** @type {string} */ image_id, /** @type {JobView} */ known) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), SAVED_WAIT_MS);
    try {
      const view = await api.follow(job_id, { onView: () => {}, isEnough: isWritten, signal: abort.signal, known });
      if (isWritten(view)) showSaved(image_id, view);
    } catch {
      return; // the picture is there; only its path is not known
    } finally {
      clearTimeout(timer);
    }
  }

  function showSaved(/** @type {string} */ image_id, /** @type {JobView} */ view) {
    const owner = allWork(store.get()).find(({ work }) => work.rounds.some((one) => one.image_id === image_id));
    if (!owner) return;
    const { rounds, round, status, job } = owner.work;
    const updated = rounds.map((one) => one.image_id !== image_id ? one : {
      ...one, saved: view.saved, times_ms: { ...view.timings_ms, ...one.times_ms }, notes: view.notes || one.notes,
    });
    const isLast = !job && status.round === image_id && updated[round - 1]?.image_id === image_id;
    shelf.change(owner.number, { rounds: updated, status: isLast ? doneStatus(updated[round - 1]) : status });
  }

  // The job's strokes are painted again, under those that were added while it ran. Where the original was to come back
  // is dropped: the repair that was painted over did not come.
  /** @param {string} request_id @param {import("./store.js").Note | null} [error] null when it was cancelled */
  function giveBack(request_id, error = null) {
    const found = find(request_id);
    following.get(request_id)?.abort();
    if (!found) return;
    const { number, work, job } = found;
    const cancelled = job.restored ? { key: "cancelled_restore" } : { key: "cancelled" };
    const status = error ? { error } : cancelled;
    shelf.change(number, { job: null, status, ...paintedAgain(work, job.strokes) });
    if (!isShown(number)) shelf.say(number, error ? { stage: "failed", error } : null);
  }

  function fail(/** @type {string} */ request_id, /** @type {unknown} */ error) {
    if (!find(request_id)) return;
    if (!(error instanceof ApiError)) console.error(error);
    giveBack(request_id, refusalOf(error));
  }

  function cancel(number = store.get().photo_number) {
    const job = workOf(store.get(), number)?.job;
    if (!job) return;
    giveBack(job.request_id);
    if (job.job_id) api.cancel(job.job_id).catch(() => {}); // already finished, or gone: nothing left to stop
  }

  /** The way on after a reload: a job without an id is submitted again under its request id. */
  function resume() {
    for (const { work } of allWork(store.get())) if (work.job) void run(work.job.request_id);
  }

  return { begin, restore, resume, cancel };
}
