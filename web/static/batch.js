// Batch: one repair of all photos of the visit: the mask that is painted, stretched to each photo's size, or the text that
// is found on each. A few at a time, so that one is sent while another is repaired. Each result is a round of its photo.

import { ApiError } from "./api.js";
import { withRound } from "./branches.js";
import { maskBody } from "./mask_body.js";
import { stretchStrokes } from "./stretch.js";
import { randomId } from "./session_storage.js";
import { imageOf, workOf } from "./shelf.js";

/** @typedef {import("./store.js").Stroke} Stroke */
/** @typedef {import("./store.js").Round} Round */
/** @typedef {{strokes: Stroke[], width: number, height: number}} Mask */

const AT_ONCE = 3; // browsers open six connections to one server, and the page needs some itself
const FINISHED = new Set(["done", "failed", "cancelled"]);

/** @param {{store: import("./store.js").Store, api: import("./api.js").Api, layers: import("./layers.js").Layers, shelf: import("./shelf.js").Shelf, whenUploaded: (number: number) => Promise<void>}} parts */
export function createBatch({ store, api, layers, shelf, whenUploaded }) {
  let stopping = new AbortController();

  /** What is painted, else what was repaired last on the shown photo. @returns {Mask | null} */
  function maskInUse() {
    const { strokes, rounds, round, photo } = store.get();
    const used = strokes.length ? strokes : round ? rounds[round - 1].strokes : [];
    if (!photo || !used.some(({ erase }) => !erase)) return null;
    return { strokes: used, width: photo.width, height: photo.height };
  }

  /** @param {"mask" | "text"} kind */
  async function start(kind) {
    const { batch, shelf: all, photo_number, job, strokes } = store.get();
    if (batch?.running || job) return;
    const mask = kind === "mask" ? maskInUse() : null;
    if (kind === "mask" && !mask) return store.update({ status: { key: "no_mask", tone: "warn" } });
    // A photo that has this mask's round already is left out.
    const isDone = (/** @type {number} */ number) => kind === "mask" && number === photo_number && !strokes.length;
    const numbers = all.map(({ number }) => number).filter((number) => !isDone(number));
    stopping = new AbortController();
    const { signal } = stopping;
    for (const number of numbers) if (store.get().doing[number]?.stage !== "uploading") shelf.say(number, { stage: "waiting" });
    store.update({ batch: { numbers, ended: 0, running: true }, status: { key: "ready" } });
    if (kind === "mask" && strokes.length) store.update({ strokes: [], past: [], future: [] });
    const waiting = [...numbers];
    const work = async () => {
      for (let number = waiting.shift(); number !== undefined && !signal.aborted; number = waiting.shift()) await runOne(number, mask, signal);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    if (stopping.signal === signal) end();
  }

  function end() {
    const { batch } = store.get();
    if (batch) store.update({ batch: { ...batch, running: false } });
  }

  /** @param {number} number @param {Mask | null} mask null for the text that is found @param {AbortSignal} signal */
  async function runOne(number, mask, signal) {
    try {
      await whenUploaded(number);
      if (!signal.aborted && workOf(store.get(), number)?.photo) shelf.say(number, await repairOne(number, mask, signal));
    } catch (error) {
      if (signal.aborted) return;
      const { code, message, params } = error instanceof ApiError ? error : new ApiError(0, {});
      shelf.say(number, { stage: "failed", error: { code, message, params } });
    } finally {
      const { batch } = store.get();
      if (batch && !signal.aborted) store.update({ batch: { ...batch, ended: batch.ended + 1 } });
    }
  }

  /** @param {number} number @param {Mask | null} mask @param {AbortSignal} signal @returns {Promise<import("./store.js").Doing | null>} how it ended */
  async function repairOne(number, mask, signal) {
    const work = workOf(store.get(), number);
    const image_id = imageOf(work);
    if (!work?.photo || !image_id) return null;
    const { width, height } = work.photo;
    const strokes = mask ? await stretchStrokes(mask, width, height) : [];
    /** @type {Record<string, any>} */
    const body = { image_id, request_id: randomId(), ...(await maskBody(strokes, width, height)) };
    if (!mask) {
      shelf.say(number, { stage: "looking" });
      const found = await api.detect({ image_id, kind: "text" }, signal);
      if (!found.regions.length) return { stage: "nothing" };
      body.mask_png = found.mask_png;
    }
    const { quality, dilate_px } = store.get().hand;
    const options = { ...(quality === "high" && { quality }), ...(dilate_px !== null && { dilate_px }) };
    if (Object.keys(options).length) body.options = options;
    shelf.say(number, { stage: "queued" });
    const began_at = Date.now();
    const job_id = await submit(body, signal);
    const stop = () => void api.cancel(job_id).catch(() => {}); // perhaps it is done already
    if (signal.aborted) return (stop(), null);
    signal.addEventListener("abort", stop);
    const onView = (/** @type {import("./api.js").JobView} */ view) => view.state === "running" && shelf.say(number, { stage: "running" });
    const view = await api.follow(job_id, { onView, isEnough: ({ state }) => FINISHED.has(state), signal });
    signal.removeEventListener("abort", stop);
    if (view.state === "failed") throw new ApiError(500, view.error || {});
    if (view.state !== "done") return null;
    /** @type {Round} */
    const round = {
      image_id: view.image_id, box: view.patch.box, url: view.patch.url, strokes, notes: view.notes || [], saved: view.saved || null,
      times_ms: { ...view.timings_ms, total: Date.now() - began_at },
    };
    await addRound(number, work.round, round, signal);
    return { stage: "done" };
  }

  // Where the queue is full, the next place in it is waited for.
  /** @param {object} body @param {AbortSignal} signal @returns {Promise<string>} */
  async function submit(body, signal) {
    for (;;) {
      try {
        return await api.submit(body);
      } catch (error) {
        const isFull = error instanceof ApiError && ["queue_full", "client_queue_full", "too_many_requests"].includes(error.code);
        if (!isFull || signal.aborted) throw error;
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
  }

  /** @param {number} number @param {number} base @param {Round} round @param {AbortSignal} signal */
  async function addRound(number, base, round, signal) {
    if (store.get().photo_number === number) await layers.loadPatch(round, signal);
    const work = workOf(store.get(), number);
    if (work) shelf.change(number, { ...withRound(work, base, round), shown_id: round.image_id });
    // It came onto the stage in the meantime, so its patch has to be there too.
    if (store.get().photo_number === number) await layers.loadPatch(round, signal).then(() => store.update({ shown_id: `${round.image_id} here` }));
  }

  function cancel() {
    const { batch, doing } = store.get();
    if (!batch?.running) return;
    stopping.abort();
    for (const number of batch.numbers) {
      if (["waiting", "looking", "queued", "running"].includes(doing[number]?.stage)) shelf.say(number, null);
    }
    store.update({ batch: { ...batch, running: false }, status: { key: "cancelled_many" } });
  }

  return { start, cancel };
}
