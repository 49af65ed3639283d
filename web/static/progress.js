// Progress: the bar while photos go up, something is looked for or a repair runs, how long it will still take, and the tab's title,
// a repair of all too.

import { shareDone } from "./pace.js";
import { isComing } from "./shelf.js";

/** @typedef {import("./store.js").State} State */

const TICK_MS = 250;
const WORTH_SAYING_MS = 3000; // shorter repairs are over before a sentence about them is read
const TITLE = "fftlama";

/** @param {{root: HTMLElement, words: import("./i18n.js").Words, store: import("./store.js").Store, pace: import("./pace.js").Pace}} parts */
export function createProgress({ root, words, store, pace }) {
  const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (root.querySelector(`[data-part="${name}"]`));
  let ticking = 0;
  let most = 0; // files that were on their way at once, since none was
  let unseen = false; // a repair, of one or of all, ended while nobody looked at the tab

  /** The running repair's share and the time left; both null where nothing tells. */
  function estimate(/** @type {State} */ { job, looking }) {
    if (!job && looking) return { share: null, left_ms: null, passed_ms: Date.now() - looking };
    const expected_ms = job?.running_at ? pace.expect_ms(job.quality, job.strokes) : null;
    if (!job?.running_at || !expected_ms) return { share: null, left_ms: null, passed_ms: Date.now() - (job?.running_at || Date.now()) };
    const passed_ms = Date.now() - job.running_at;
    const left_ms = Math.max(expected_ms - passed_ms, 0);
    return { share: shareDone(passed_ms, expected_ms), left_ms: expected_ms < WORTH_SAYING_MS ? null : left_ms, passed_ms };
  }

  /** How much of the files on their way has gone up; null when there are none. @param {State} state */
  function shareSent({ doing, batch }) {
    const coming = Object.values(doing).filter((one) => (batch?.running ? one.stage === "uploading" : isComing(one))); // others wait for the repair
    most = coming.length && Math.max(most, coming.length);
    const sent = coming.reduce((sum, { share = 0 }) => sum + share, most - coming.length);
    return most ? sent / most : null;
  }

  function sentence(/** @type {ReturnType<typeof estimate>} */ { left_ms, passed_ms }) {
    if (left_ms !== null) return left_ms > 1000 ? words.say("progress.left", { s: Math.ceil(left_ms / 1000) }) : words.say("progress.soon");
    return passed_ms > WORTH_SAYING_MS ? words.say("progress.passed", { s: Math.floor(passed_ms / 1000) }) : "";
  }

  function show() {
    const state = store.get();
    const { job, looking, batch } = state;
    const bar = part("progress");
    const now = estimate(state);
    const isAsked = Boolean(job || looking);
    const sent = shareSent(state);
    const share = isAsked ? now.share : sent;
    part("progress-row").hidden = !isAsked && sent === null;
    part("cancel").title = isAsked ? "Esc" : ""; // the key would take along what is painted on a photo that goes up
    bar.classList.toggle("fft-unknown", share === null);
    bar.style.setProperty("--done", String(share || 0));
    if (share === null) bar.removeAttribute("aria-valuenow");
    else bar.setAttribute("aria-valuenow", String(Math.floor(share * 100)));
    const line = isAsked ? sentence(now) : "";
    if (part("estimate").textContent !== line) part("estimate").textContent = line;
    part("estimate").hidden = !line;
    const running = job ? share : batch?.running ? batch.ended / batch.numbers.length : undefined; // null: nobody knows how far
    showTitle(running === null ? "…" : running !== undefined ? `${Math.floor(running * 100)} %` : unseen ? "✓" : "");
    tick(isAsked);
  }

  function showTitle(/** @type {string} */ mark) {
    const title = mark ? `${mark} ${TITLE}` : TITLE;
    if (document.title !== title) document.title = title;
  }

  function tick(/** @type {boolean} */ wanted) {
    if (wanted && !ticking) ticking = window.setInterval(show, TICK_MS);
    if (!wanted && ticking) ticking = (clearInterval(ticking), 0);
  }

  store.subscribe((now, before) => {
    const hasEnded = (before.job && !now.job) || (before.batch?.running && !now.batch?.running);
    if (hasEnded && document.hidden) unseen = true;
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    unseen = false;
    show();
  });

  return { show };
}
