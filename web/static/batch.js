// Batch: one repair of all photos of the visit. What goes is the mask that is painted, stretched to each photo's size, or
// what is found on each: text, or the mark that is painted over, wherever it is. A few photos at a time, so that one is sent
// while another is repaired. Each result is a round of its photo. Photos that went through already and are as they were
// then are left out; with other settings they go again, from before that. A reload goes on with it: asked for again under
// the same request ids, the server answers with the same jobs.

import { ApiError, ENDED, refusalOf } from "./api.js";
import { withRound } from "./branches.js";
import { baseFor, hasSeen, howOf, isThrough, whatOf, withNothing } from "./gone_through.js";
import { maskBody } from "./mask_body.js";
import { stretchStrokes } from "./stretch.js";
import { randomId } from "./session_storage.js";
import { allWork, imageOf, isNoPhoto, workOf } from "./shelf.js";
import { paintedAgain } from "./store.js";

/** @typedef {import("./store.js").Stroke} Stroke */
/** @typedef {import("./store.js").Round} Round */
/** @typedef {import("./store.js").Batch} Batch */
/** @typedef {import("./store.js").BatchMask} Mask */

const AT_ONCE = 3; // browsers open six connections to one server, and the page needs some itself

/** @param {{store: import("./store.js").Store, api: import("./api.js").Api, layers: import("./layers.js").Layers, shelf: import("./shelf.js").Shelf, whenUploaded: (number: number, signal: AbortSignal) => Promise<void>, stopUploads: (numbers: number[]) => void, sensitivity: () => number, model: () => string}} parts */
export function createBatch({ store, api, layers, shelf, whenUploaded, stopUploads, sensitivity, model }) {
  let stopping = new AbortController();

  /** What is painted, else what was repaired last on the shown photo. @param {Batch["kind"]} kind @returns {{mask: Mask | null, what: string} | null} */
  function maskInUse(kind) {
    if (kind === "text") return { mask: null, what: kind };
    const { strokes, rounds, round, photo, used } = store.get();
    if (!photo) return null;
    const last = rounds[round - 1];
    const painted = strokes.length ? strokes : last?.strokes || [];
    if (painted.some(({ erase }) => !erase)) {
      const { image_id } = (strokes.length ? last : rounds[round - 2]) || photo;
      const mask = { strokes: painted, width: photo.width, height: photo.height, image_id };
      const came = strokes.length ? "" : last.asked?.what || ""; // stretched to this photo, it is the same mask
      return { mask, what: came.startsWith(`${kind} `) ? came : whatOf(kind, mask, photo.image_id) };
    }
    const what = kind === "mark" && used ? whatOf(kind, used, null) : "";
    return what && hasSeen(store.get(), what) ? { mask: used, what } : null; // such a round has no strokes
  }

  /** @param {Batch["kind"]} kind */
  async function start(kind) {
    const state = store.get();
    const { batch, photo_number, strokes, hand: { quality, dilate_px } } = state;
    const works = allWork(state);
    if (batch?.running || works.some(({ work }) => work.job)) return;
    const found = maskInUse(kind);
    if (!found) return store.update({ status: { key: "no_mask", tone: "warn" } });
    const { mask, what } = found;
    const wanted = sensitivity();
    const asked = { what, how: howOf(kind, state.hand, wanted), model: model() };
    // A photo that the mark was taken from by itself is left out too.
    const isMarksOwn = kind === "mark" && !strokes.length && mask !== state.used;
    const isDone = (/** @type {typeof works[0]} */ { number, work }) => isThrough(work, asked) || (isMarksOwn && number === photo_number);
    const numbers = works.filter((one) => !isDone(one)).map(({ number }) => number);
    if (numbers.every((number) => isNoPhoto(state, number))) return store.update({ status: { key: "nothing_left" } });
    const options = { ...(quality === "high" && { quality }), ...(dilate_px !== null && { dilate_px }) };
    const items = Object.fromEntries(numbers.map((number) => [number, { request_id: randomId(), image_id: null }]));
    const painted_on = mask && strokes.length && numbers.includes(photo_number) ? photo_number : null;
    store.update({ status: { key: "ready" }, ...(mask && { used: mask }), ...(painted_on !== null && { strokes: [], past: [], future: [], taken_back: [], preview: null }) });
    const signal = begin({ kind, numbers, ended: 0, went: 0, running: true, mask, painted_on, sensitivity: wanted, options, asked, items });
    if (mask && !mask.image_id) await whenUploaded(photo_number, signal).catch(() => {}); // said there
    const { batch: begun } = store.get();
    if (signal.aborted || !begun) return;
    if (!mask || mask.image_id) return run(begun, signal);
    const image_id = imageOf(workOf(store.get(), photo_number));
    if (kind === "mark" && !image_id) return breakOff(begun); // the photo that it was painted over was refused or removed
    const marked = { ...mask, image_id };
    if (store.get().used === mask) store.update({ used: marked });
    await run({ ...begun, mask: marked, asked: { ...asked, what: whatOf(kind, marked, image_id) } }, signal);
  }

  /** Go on with what a reload broke off: photos that have not changed since. @param {Batch | null | undefined} kept */
  async function resume(kept) {
    if (!kept?.running) return;
    const works = allWork(store.get());
    /** @type {Batch["items"]} */
    const items = {};
    /** @type {number | null} */
    let painted_on = null; // numbers are others after a reload
    for (const [number, item] of Object.entries(kept.items)) {
      const found = item.image_id && works.find(({ work }) => imageOf(work) === item.image_id);
      if (!found) continue;
      items[found.number] = item;
      if (Number(number) === kept.painted_on) painted_on = found.number;
    }
    const numbers = works.map(({ number }) => number).filter((number) => items[number]);
    if (!numbers.length) return;
    const batch = { ...kept, asked: kept.asked || { what: "", how: "", model: "" }, numbers, ended: 0, went: 0, painted_on, items };
    await run(batch, begin(batch));
  }

  /** From here on it can be cancelled. @param {Batch} batch @returns {AbortSignal} */
  function begin(batch) {
    stopping = new AbortController();
    for (const number of batch.numbers) if (store.get().doing[number]?.stage !== "uploading") shelf.say(number, { stage: "waiting" });
    store.update({ batch });
    return stopping.signal;
  }

  /** @param {Batch} batch @param {AbortSignal} signal */
  async function run(batch, signal) {
    store.update({ batch });
    const known = batch.numbers.flatMap((number) => ({ number, image_id: imageOf(workOf(store.get(), number)) }));
    for (const { number, image_id } of known) if (image_id) setItem(number, { ...batch.items[number], image_id });
    const waiting = [...batch.numbers];
    const work = async () => {
      for (let number = waiting.shift(); number !== undefined && !signal.aborted; number = waiting.shift()) await runOne(number, batch, signal);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    if (stopping.signal === signal) end();
  }

  /** Without what is to be looked for. @param {Batch} batch */
  function breakOff({ numbers }) {
    sayNothing(numbers.filter((number) => imageOf(workOf(store.get(), number)))); // the others wait for their upload
    giveBack();
    end();
  }

  /** Of those that nobody goes on with. @param {number[]} numbers */
  function sayNothing(numbers) {
    const { doing } = store.get();
    for (const number of numbers) if (["waiting", "looking", "queued", "running"].includes(doing[number]?.stage)) shelf.say(number, null);
  }

  function end() {
    const { batch } = store.get();
    if (batch) store.update({ batch: { ...batch, running: false } });
  }

  /** What is kept of a photo until it has ended. @param {number} number @param {import("./store.js").BatchItem} item */
  function setItem(number, item) {
    const { batch } = store.get();
    if (batch) store.update({ batch: { ...batch, items: { ...batch.items, [number]: item } } });
  }

  /** @param {number} number @param {boolean} hasGone whether it went through; what failed or was removed has only ended */
  function endItem(number, hasGone) {
    const { batch } = store.get();
    if (!batch) return;
    const others = Object.entries(batch.items).filter(([key]) => Number(key) !== number);
    store.update({ batch: { ...batch, ended: batch.ended + 1, went: batch.went + (hasGone ? 1 : 0), items: Object.fromEntries(others) } });
  }

  /** The mask is painted again where it was painted, once: that photo did not get its round. */
  function giveBack() {
    const { batch } = store.get();
    if (!batch?.mask || batch.painted_on === null) return;
    const { painted_on, mask } = batch;
    const work = workOf(store.get(), painted_on);
    store.update({ batch: { ...batch, painted_on: null } });
    if (!work) return;
    const waiting = work.job?.waiting?.map((one) => ({ ...one, past: one.past + mask.strokes.length })); // drawn after the mask
    shelf.change(painted_on, { ...paintedAgain(work, mask.strokes), ...(work.job && waiting && { job: { ...work.job, waiting } }) });
  }

  /** What is said after a cancel would stay: nobody goes on with it. @param {number} number @param {AbortSignal} signal @param {import("./store.js").Doing | null} doing */
  function say(number, signal, doing) {
    if (!signal.aborted) shelf.say(number, doing);
  }

  /** @param {number} number @param {Batch} batch as it began @param {AbortSignal} signal */
  async function runOne(number, batch, signal) {
    let hasGone = false;
    try {
      await whenUploaded(number, signal);
      if (signal.aborted || !workOf(store.get(), number)?.photo) return;
      const ending = await repairOne(number, batch, signal);
      hasGone = ending !== null;
      say(number, signal, ending);
    } catch (error) {
      if (signal.aborted) return;
      shelf.say(number, { stage: "failed", error: refusalOf(error) });
    } finally {
      if (!signal.aborted) {
        if (store.get().batch?.painted_on === number) giveBack();
        endItem(number, hasGone);
      }
    }
  }

  /** @param {number} number @param {Batch} batch @param {AbortSignal} signal @returns {Promise<import("./store.js").Doing | null>} how it ended */
  async function repairOne(number, { kind, mask, options, asked, items, sensitivity: wanted }, signal) {
    const work = workOf(store.get(), number);
    const standing_id = imageOf(work);
    if (!work?.photo || !standing_id) return null;
    const { request_id } = items[number];
    setItem(number, { request_id, image_id: standing_id });
    const base = baseFor(work, asked.what);
    const image_id = imageOf({ ...work, round: base });
    const { width, height } = work.photo;
    const strokes = mask && kind === "mask" ? await stretchStrokes(mask, width, height) : [];
    /** @type {Record<string, any>} */
    const body = { image_id, request_id, ...(await maskBody(strokes, width, height)) };
    if (kind !== "mask") {
      say(number, signal, { stage: "looking" });
      const mark = mask && { ...(await maskBody(mask.strokes, mask.width, mask.height)), mark_image_id: mask.image_id };
      const found = await api.detect({ image_id, sensitivity: wanted, ...(mark ? { kind: "repeat", ...mark } : { kind: "text" }) }, signal);
      if (!found.regions.length) return noteNothing(number, standing_id, asked);
      body.mask_png = found.mask_png;
    }
    if (Object.keys(options).length) body.options = options;
    if (signal.aborted) return null;
    say(number, signal, { stage: "queued" });
    const began_at = Date.now();
    const { job_id } = await api.inTurn(() => api.submit(body), signal);
    const stop = () => void api.cancel(job_id).catch(() => {}); // perhaps it is done already
    if (signal.aborted) return (stop(), null);
    signal.addEventListener("abort", stop);
    const onView = (/** @type {import("./api.js").JobView} */ view) => view.state === "running" && say(number, signal, { stage: "running" });
    const view = await api.follow(job_id, { onView, isEnough: ({ state }) => ENDED.has(state), signal });
    signal.removeEventListener("abort", stop);
    if (view.state === "failed") throw new ApiError(500, view.error || {});
    if (view.state !== "done") return null;
    /** @type {Round} */
    const round = {
      image_id: view.image_id, box: view.patch.box, url: view.patch.url, strokes, notes: view.notes || [], saved: view.saved || null, asked,
      times_ms: { ...view.timings_ms, total: Date.now() - began_at },
    };
    await addRound(number, base, round, signal);
    return { stage: "done" };
  }

  /** @param {number} number @param {string} image_id that was looked at @param {Batch["asked"]} asked @returns {import("./store.js").Doing} */
  function noteNothing(number, image_id, asked) {
    const work = workOf(store.get(), number);
    if (work && imageOf(work) === image_id) shelf.change(number, withNothing(work, asked));
    return { stage: "nothing" };
  }

  /** @param {number} number @param {number} base @param {Round} round @param {AbortSignal} signal */
  async function addRound(number, base, round, signal) {
    if (store.get().photo_number === number) await layers.loadPatch(round, signal);
    const work = workOf(store.get(), number);
    if (signal.aborted) return; // the mask was given back
    const { batch } = store.get();
    if (batch?.painted_on === number) store.update({ batch: { ...batch, painted_on: null } });
    if (work) shelf.change(number, { ...withRound(work, base, round), shown_id: round.image_id });
    // It came onto the stage in the meantime, so its patch has to be there too.
    if (store.get().photo_number === number) await layers.loadPatch(round, signal).then(() => store.update({ shown_id: `${round.image_id} here` }));
  }

  function cancel() {
    const { batch } = store.get();
    if (!batch?.running) return false;
    stopping.abort();
    sayNothing(batch.numbers);
    stopUploads(batch.numbers);
    giveBack();
    store.update({ batch: { ...batch, running: false, painted_on: null }, status: { key: "cancelled_many" } });
    return true;
  }

  return { start, resume, cancel };
}
