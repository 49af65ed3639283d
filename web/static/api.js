// Talking to /api/v1: every call is retried until the network is back, so a cut costs time and nothing else.
// A refusal (4xx, 500, 507) is an ApiError with the server's code, sentence and params and is not retried.

class ApiError extends Error {
  constructor(status, answer) {
    super(answer.message || `HTTP ${status}`);
    this.status = status;
    this.code = answer.error || "server_error";
    this.params = answer.params || {};
  }
}

function createApi(onConnection) {
  const AWAY_STATUSES = new Set([502, 503, 504]); // a proxy, or a server that is starting
  const LONGEST_PAUSE_MS = 4000;
  const POLL_S = 10;

  function pause(ms, signal) {
    return new Promise((resolve) => {
      const timer = setTimeout(done, ms);
      function done() {
        clearTimeout(timer);
        removeEventListener("online", done);
        signal?.removeEventListener("abort", done);
        resolve();
      }
      addEventListener("online", done, { once: true });
      signal?.addEventListener("abort", done, { once: true });
    });
  }

  async function untilAnswered(attempt, { signal, tries = Infinity } = {}) {
    for (let n = 1, wait_ms = 250; ; n += 1, wait_ms = Math.min(wait_ms * 2, LONGEST_PAUSE_MS)) {
      try {
        const answer = await attempt(signal);
        onConnection(true);
        return answer;
      } catch (error) {
        const refused = error instanceof ApiError && !AWAY_STATUSES.has(error.status);
        if (refused) onConnection(true);
        if (refused || signal?.aborted || n >= tries) throw error;
        onConnection(false);
        await pause(wait_ms, signal);
        if (signal?.aborted) throw error;
      }
    }
  }

  async function readAnswer(response) {
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new ApiError(response.status, answer);
    return answer;
  }

  // fetch with a limit: a connection that hangs without an error is given up and tried again.
  async function fetchOnce(path, options, signal, limit_ms = 30_000) {
    const own = new AbortController();
    const stop = () => own.abort();
    const timer = setTimeout(stop, limit_ms);
    signal?.addEventListener("abort", stop);
    addEventListener("offline", stop);
    try {
      return await readAnswer(await fetch(`api/v1/${path}`, { ...options, signal: own.signal }));
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
      removeEventListener("offline", stop);
    }
  }

  function call(path, options, { signal, limit_ms, tries } = {}) {
    return untilAnswered((given) => fetchOnce(path, options, given, limit_ms), { signal, tries });
  }

  // XMLHttpRequest only here: fetch cannot say how much of a body has gone up.
  function uploadOnce(file, onProgress, signal) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      const form = new FormData();
      form.append("file", file, file.name || "photo");
      request.open("POST", "api/v1/images");
      request.responseType = "json";
      request.upload.onprogress = (event) => onProgress(event.loaded / (event.total || 1));
      request.onload = () => {
        const answer = request.response || {};
        if (request.status < 300) resolve(answer);
        else reject(new ApiError(request.status, answer));
      };
      request.onerror = request.onabort = () => reject(new TypeError("upload broke off"));
      signal?.addEventListener("abort", () => request.abort(), { once: true });
      request.send(form);
    });
  }

  function upload(file, onProgress, signal) {
    // A server that refuses a body half way closes the connection, which looks like a cut: so not forever.
    return untilAnswered((given) => uploadOnce(file, onProgress, given), { signal, tries: 12 });
  }

  async function submit(body, signal) {
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    return (await call("repairs", options, { signal })).job_id;
  }

  // The first answer says how things stand, at once; the later ones wait on the server for a change.
  function poll(jobId, seen, signal) {
    const query = seen === null ? "wait_s=0" : `wait_s=${POLL_S}&seen=${encodeURIComponent(seen)}`;
    return call(`jobs/${jobId}?${query}`, {}, { signal, limit_ms: (POLL_S + 5) * 1000 });
  }

  // Calls onView for every change until isEnough(view); the server holds each poll until something changes.
  async function follow(jobId, { onView, isEnough, signal }) {
    for (let seen = null; ; ) {
      const view = await poll(jobId, seen, signal);
      if (signal?.aborted) return view;
      onView(view);
      if (isEnough(view)) return view;
      if (view.version === seen) await pause(300, signal);
      seen = view.version ?? null;
    }
  }

  const cancel = (jobId) => call(`jobs/${jobId}`, { method: "DELETE" }, { tries: 3 });
  const models = () => call("models", {}, { tries: 3 });
  const chooseModel = (name) =>
    call("models", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ name }) });
  const info = (imageId) => call(`images/${imageId}/info`, {});
  const photoUrl = (imageId, query = "") => `api/v1/images/${imageId}${query}`;
  // Relative, because a proxy may serve this under a path that the server does not know.
  const localUrl = (url) => url.replace(/^.*?(?=api\/v1\/)/, "");

  return { upload, submit, follow, cancel, models, chooseModel, info, photoUrl, localUrl };
}
