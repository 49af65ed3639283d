// Talking to /api/v1: every call is retried until the network is back, so a cut costs time and nothing else.
// A refusal (4xx, 500, 507) is an ApiError with the server's code, sentence and params and is not retried.

/** @typedef {import("./store.js").Note} Note */
/** @typedef {{image_id: string, width: number, height: number, format: string, notes?: Note[]}} Uploaded */
/** @typedef {{state: string, position: number, waiting_for?: string | null, stage: string | null, version?: number, image_id: string, patch: {box: number[], url: string}, timings_ms: Record<string, number>, notes?: Note[], saved: string | null, error?: any}} JobView */
/** @typedef {{signal?: AbortSignal, tries?: number, waitsOffline?: boolean, limit_ms?: number}} Patience waitsOffline: what fails while the browser has no network counts as no try, and an answer that says why is soon believed */

/** @typedef {{job_id: string, job?: JobView, patch_png?: string}} Submitted job: as it ended; patch_png: in base64, where it is small */

export class ApiError extends Error {
  /** @param {number} status @param {any} answer the body, as the server's routes refuse */
  constructor(status, answer) {
    super(answer.message || `HTTP ${status}`);
    this.status = status;
    /** @type {string} */
    this.code = answer.error || (status === TOO_LARGE_STATUS ? "too_large_for_proxy" : "server_error");
    /** @type {Record<string, any>} */
    this.params = answer.params || {};
  }
}

/** What to say of a failed call. @param {unknown} error @param {string} [name] of the photo, where it is one @returns {Note} */
export function refusalOf(error, name) {
  const { code, message, params } = error instanceof ApiError ? error : new ApiError(0, {});
  return { code, message, params: { ...(name && { name }), ...params } };
}

/** The states of a job that has ended. */
export const ENDED = new Set(["done", "failed", "cancelled"]);

const TOO_LARGE_STATUS = 413; // without a code it is a proxy's, which lets through less than the server takes
const AWAY_STATUSES = new Set([502, 503, 504]); // a proxy, or a server that is starting
const AWAY_CODES = new Set(["server_error", "starting"]); // of such an answer, where it is a proxy's or the door's
const TRIES_WHERE_TOLD = 3;
const FULL = new Set(["queue_full", "client_queue_full", "too_many_requests"]);
const LONGEST_TURN_MS = 10_000;
const LONGEST_PAUSE_MS = 4000;
const POLL_S = 10;
const SETTLE_S = 0.15; // a repair that takes less is told of once, when it is done
const NOTHING_SEEN = -1; // versions begin at 0
const CALL_LIMIT_MS = 30_000;
const PICTURE_LIMIT_MS = 300_000;
const STILL_LIMIT_MS = 60_000; // of an upload of which nothing more goes up
const DETECT_LIMIT_MS = 180_000; // text in 100 megapixels, behind other people's

/** @param {number} ms @param {AbortSignal} [signal] ends it early, as coming online does @returns {Promise<void>} */
function pause(ms, signal) {
  return new Promise((resolve) => {
    function done() {
      clearTimeout(timer);
      removeEventListener("online", done);
      signal?.removeEventListener("abort", done);
      resolve();
    }
    const timer = setTimeout(done, ms);
    addEventListener("online", done, { once: true });
    signal?.addEventListener("abort", done, { once: true });
  });
}

/** @param {Response} response */
async function readAnswer(response) {
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(response.status, answer);
  return answer;
}

/**
 * fetch with a limit: a connection that hangs without an error is given up, to be tried again.
 * @template T
 * @param {string} url @param {RequestInit} options @param {(response: Response) => Promise<T>} read
 * @param {number} limit_ms @param {AbortSignal} [signal] @returns {Promise<T>}
 */
async function fetchOnce(url, options, read, limit_ms, signal) {
  const own = new AbortController();
  const stop = () => own.abort();
  const timer = setTimeout(stop, limit_ms);
  signal?.addEventListener("abort", stop);
  addEventListener("offline", stop);
  try {
    return await read(await fetch(url, { ...options, signal: own.signal }));
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
    removeEventListener("offline", stop);
  }
}

// XMLHttpRequest only here: fetch cannot say how much of a body has gone up.
/** @param {File} file @param {(fraction: number) => void} onProgress @param {AbortSignal} [signal] @returns {Promise<Uploaded>} */
function uploadOnce(file, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    // A connection that hangs, or a server that stands still, gives no error: it would be waited for without end.
    let timer = 0;
    const giveUpAfter = (/** @type {number} */ ms) => {
      clearTimeout(timer);
      timer = window.setTimeout(() => request.abort(), ms);
    };
    const form = new FormData();
    form.append("file", file, file.name || "photo");
    request.open("POST", "api/v1/images");
    request.responseType = "json";
    request.upload.onprogress = (event) => {
      giveUpAfter(STILL_LIMIT_MS);
      onProgress(event.loaded / (event.total || 1));
    };
    request.upload.onload = () => giveUpAfter(PICTURE_LIMIT_MS); // the server opens it
    request.onloadend = () => clearTimeout(timer);
    request.onload = () => {
      const answer = request.response || {};
      if (request.status < 300) resolve(answer);
      else reject(new ApiError(request.status, answer));
    };
    request.onerror = request.onabort = () => reject(new TypeError("upload broke off"));
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    giveUpAfter(STILL_LIMIT_MS);
    request.send(form);
  });
}

/** @param {Response} response @returns {Promise<number>} */
async function readSize(response) {
  if (!response.ok) return readAnswer(response);
  await response.body?.cancel();
  return Number(response.headers.get("content-length"));
}

/** @param {(online: boolean) => void} onConnection */
export function createApi(onConnection) {
  let isLost = false;
  let isWatching = false;

  function note(/** @type {boolean} */ online) {
    isLost = !online;
    onConnection(online);
  }

  // Where a call was given up, nothing else would notice that the network is back.
  async function watch() {
    if (isWatching) return;
    isWatching = true;
    await untilAnswered((given) => fetchOnce("health", {}, readAnswer, CALL_LIMIT_MS, given)).catch(() => {}); // a refusal is an answer too
    isWatching = false;
  }

  /**
   * @template T
   * @param {(signal?: AbortSignal) => Promise<T>} attempt @param {Patience} [patience] @returns {Promise<T>}
   */
  async function untilAnswered(attempt, { signal, tries = Infinity, waitsOffline = false } = {}) {
    const giveUp = (/** @type {unknown} */ error) => {
      if (isLost) void watch();
      throw error;
    };
    for (let n = 1, wait_ms = 250; ; n += waitsOffline && !navigator.onLine ? 0 : 1, wait_ms = Math.min(wait_ms * 2, LONGEST_PAUSE_MS)) {
      try {
        const answer = await attempt(signal);
        note(true);
        return answer;
      } catch (error) {
        const refused = error instanceof ApiError && !AWAY_STATUSES.has(error.status);
        if (refused) note(true);
        // A server that says what it lacks, as a detector, says the same in half a minute.
        const isTold = error instanceof ApiError && !AWAY_CODES.has(error.code);
        if (refused || signal?.aborted || n >= (isTold && waitsOffline ? TRIES_WHERE_TOLD : tries)) return giveUp(error);
        note(false);
        await pause(wait_ms, signal);
        if (signal?.aborted) return giveUp(error);
      }
    }
  }

  /** Rejects with an ApiError, or because of the signal. @param {string} path @param {RequestInit} options @param {Patience} [patience] @returns {Promise<any>} */
  async function call(path, options, { limit_ms = CALL_LIMIT_MS, ...patience } = {}) {
    try {
      return await untilAnswered((given) => fetchOnce(`api/v1/${path}`, options, readAnswer, limit_ms, given), patience);
    } catch (error) {
      if (error instanceof ApiError || patience.signal?.aborted) throw error;
      throw new ApiError(0, { error: "no_connection" });
    }
  }

  /** @param {string} path @param {object} body @param {Patience} [patience] */
  function post(path, body, patience) {
    const headers = { "Content-Type": "application/json" };
    return call(path, { method: "POST", headers, body: JSON.stringify(body) }, patience);
  }

  // A picture as bytes: an <img> that is cut off says nothing about why, and does not try again.
  /** @param {string} url @param {AbortSignal} [signal] @returns {Promise<Blob>} */
  function picture(url, signal) {
    const read = (/** @type {Response} */ response) => (response.ok ? response.blob() : readAnswer(response));
    return untilAnswered((given) => fetchOnce(url, {}, read, PICTURE_LIMIT_MS, given), { signal });
  }

  /**
   * Have the server make a file for a download; an ApiError says why there is none.
   * @param {string} url @param {AbortSignal} [signal] @returns {Promise<number>} its bytes, 0 where they are not known before
   */
  async function prepareFile(url, signal) {
    const ask = (/** @type {string} */ method) => untilAnswered((given) => fetchOnce(url, { method }, readSize, PICTURE_LIMIT_MS, given), { signal });
    try {
      return await ask("HEAD");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      return ask("GET"); // an answer to HEAD has no body, so only this one has the sentence
    }
  }

  /** @param {File} file @param {(fraction: number) => void} onProgress @param {AbortSignal} [signal] */
  function upload(file, onProgress, signal) {
    // A server that refuses a body half way closes the connection, which looks like a cut: so not forever.
    return untilAnswered((given) => uploadOnce(file, onProgress, given), { signal, tries: 12 });
  }

  /**
   * Where the server has no room for now, or was asked too often, the next place is waited for.
   * @template T
   * @param {() => Promise<T>} attempt @param {AbortSignal} signal @returns {Promise<T>}
   */
  async function inTurn(attempt, signal) {
    for (;;) {
      try {
        return await attempt();
      } catch (error) {
        if (!(error instanceof ApiError) || !FULL.has(error.code) || signal.aborted) throw error;
        await pause(Math.min(LONGEST_TURN_MS, 1000 * (error.params.wait_s || 1)), signal);
        if (signal.aborted) throw error;
      }
    }
  }

  /** @param {object} body @returns {Promise<Submitted>} */
  const submit = (body) => post("repairs", body);

  /** The same, and what came of it where that takes a moment only. @param {object} body @returns {Promise<Submitted>} */
  const submitAndLook = (body) => submit({ ...body, settle_s: SETTLE_S });

  /** @param {string} jobId @param {number} seen @param {AbortSignal} signal @returns {Promise<JobView>} */
  function poll(jobId, seen, signal) {
    return call(`jobs/${jobId}?wait_s=${POLL_S}&settle_s=${SETTLE_S}&seen=${seen}`, {}, { signal, limit_ms: (POLL_S + 5) * 1000 });
  }

  /**
   * Call onView for every change until isEnough(view); the server holds each poll until something changes.
   * @param {string} jobId
   * @param {{onView: (view: JobView) => void, isEnough: (view: JobView) => boolean, signal: AbortSignal, known?: JobView}} parts known: what is told only if it changes
   */
  async function follow(jobId, { onView, isEnough, signal, known }) {
    for (let seen = known?.version ?? NOTHING_SEEN; ; ) {
      const view = await poll(jobId, seen, signal);
      if (signal.aborted) return view;
      onView(view);
      if (isEnough(view)) return view;
      if (view.version === seen) await pause(300, signal);
      seen = view.version ?? NOTHING_SEEN;
    }
  }

  const cancel = (/** @type {string} */ jobId) => call(`jobs/${jobId}`, { method: "DELETE" });
  // Not forever: a search that ends the server each time would do so again and again.
  /** @param {object} body @param {AbortSignal} signal @returns {Promise<{mask_png: string, regions: {polygon: number[][], score: number}[]}>} */
  const detect = (body, signal) => post("detect", body, { signal, limit_ms: DETECT_LIMIT_MS, tries: 12, waitsOffline: true });
  const models = () => call("models", {}, { tries: 3 });
  const chooseModel = (/** @type {string} */ name) => post("models", { name });
  const weights = () => call("weights", {}, { tries: 3 });
  const fetchWeights = (/** @type {string} */ name) => call(`weights/${name}/fetch`, { method: "POST" }, { tries: 3 });
  const stopFetch = (/** @type {string} */ name) => call(`weights/${name}/fetch`, { method: "DELETE" }, { tries: 3 });
  const info = (/** @type {string} */ imageId, /** @type {AbortSignal} */ signal) => call(`images/${imageId}/info`, {}, { signal });
  const photoUrl = (/** @type {string} */ imageId, query = "") => `api/v1/images/${imageId}${query}`;
  // Relative, because a proxy may serve this under a path that the server does not know.
  const localUrl = (/** @type {string} */ url) => url.replace(/^.*?(?=api\/v1\/)/, "");

  return { picture, prepareFile, upload, inTurn, submit, submitAndLook, follow, cancel, detect, models, chooseModel, weights, fetchWeights, stopFetch, info, photoUrl, localUrl };
}

/** @typedef {ReturnType<typeof createApi>} Api */
