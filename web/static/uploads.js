// Uploads: sending files to the server, a few at a time, in its turn; until it has them they are kept for a reload. One that
// is stopped is sent when somebody needs it.

import { ApiError } from "./api.js";
import { isOfTheFile } from "./file_faults.js";
import { randomId } from "./session_storage.js";
import { workOf } from "./shelf.js";

/** @typedef {{number: number, file: File | null, key: string | null, name: string, isOneOfMany: boolean, uploading: Promise<void> | null, sending: AbortController | null, leaving: AbortController}} Opened sending: stops the upload that runs; key: under which the file is kept until the server has it */

const UPLOADS_AT_ONCE = 2;

/** @param {{store: import("./store.js").Store, api: import("./api.js").Api, shelf: import("./shelf.js").Shelf, keeping: import("./upload_keeping.js").UploadKeeping, opened: Map<number, Opened>, onAccepted: (one: Opened, answer: import("./api.js").Uploaded) => Promise<void>, onRefused: (one: Opened, error: unknown) => import("./api.js").ApiError}} parts opened: by number */
export function createUploads({ store, api, shelf, keeping, opened, onAccepted, onRefused }) {
  /** @param {Opened} one @param {File} file */
  function keep(one, file) {
    one.key = randomId();
    keeping.keep(one.key, file);
  }

  /** A few at a time. @param {Opened[]} all */
  async function sendAll(all) {
    const waiting = [...all];
    const work = async () => {
      for (let one = waiting.shift(); one; one = waiting.shift()) if (opened.has(one.number)) await (one.uploading || send(one)).catch(() => {}); // said already
    };
    await Promise.all(Array.from({ length: UPLOADS_AT_ONCE }, work));
  }

  /** Upload; rejects with an ApiError. @param {Opened} one @returns {Promise<void>} */
  function send(one) {
    one.uploading = upload(one);
    one.uploading.catch(() => {}); // whoever repairs looks at it, perhaps nobody does
    return one.uploading;
  }

  async function upload(/** @type {Opened} */ one) {
    if (!one.file) return;
    const sending = new AbortController();
    const { signal } = sending;
    const leave = () => sending.abort();
    one.sending = sending;
    one.leaving.signal.addEventListener("abort", leave);
    const onProgress = (/** @type {number} */ fraction) => {
      shelf.say(one.number, { stage: "uploading", share: Math.min(0.99, fraction) });
    };
    onProgress(0);
    try {
      const file = one.file;
      await onAccepted(one, await api.inTurn(() => api.upload(file, onProgress, signal), signal));
      shelf.say(one.number, null);
    } catch (error) {
      if (one.leaving.signal.aborted) throw error; // nobody wants it any more
      if (signal.aborted) throw notSent();
      const refusal = onRefused(one, error);
      if (isOfTheFile(refusal)) letGo(one);
      throw refusal;
    } finally {
      one.leaving.signal.removeEventListener("abort", leave);
      one.sending = null;
    }
  }

  const notSent = () => new ApiError(0, { error: "upload_failed" });

  /** Send no more of these photos. @param {number[]} numbers */
  function stop(numbers) {
    for (const number of numbers) {
      const one = opened.get(number);
      if (!one?.key) continue; // it is there, or was refused
      one.sending?.abort();
      if (!one.uploading) (one.uploading = Promise.reject(notSent())).catch(() => {}); // its turn is over
      shelf.say(number, { stage: "stopped" });
    }
  }

  // The server has the file, or nobody wants it.
  function letGo(/** @type {Opened} */ one) {
    if (one.key) keeping.drop(one.key);
    if (one.key) shelf.setKey(one.number, (one.key = null));
  }

  /** Find the file of an upload that a reload broke off; false when it is gone. @param {Opened} one @returns {Promise<boolean>} */
  async function recall(one) {
    one.file = one.key ? await keeping.find(one.key) : null;
    return Boolean(one.file);
  }

  /**
   * Resolves when the server has a photo; rejects with what it said, or "upload_failed". What was not refused for the file is tried once more.
   * @param {number} number @param {AbortSignal} [signal] after which it is not sent for this
   */
  async function whenUploaded(number, signal) {
    const one = opened.get(number);
    if (!one || workOf(store.get(), number)?.photo?.image_id) return;
    const first = (one.uploading ||= send(one)); // its turn has not come yet
    await first.catch((error) => {
      if (isOfTheFile(error) || signal?.aborted) throw error;
      return one.uploading === first ? send(one) : one.uploading; // a click on Repair is the other try
    });
  }

  return { keep, sendAll, stop, letGo, recall, whenUploaded };
}
