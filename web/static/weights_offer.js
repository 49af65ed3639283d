// Weights offer: published weights that the server can fetch, with their size, source and terms, and how far that is.
// What was fetched is chosen with the models; everybody who opens the list sees the same download.

import { ApiError } from "./api.js";

/** @typedef {import("./store.js").Note} Note */
/** @typedef {{state: string, done: number, size: number, host: string, error: any}} Download */
/** @typedef {{name: string, size: number, source: string, licence: string, photos: string, installed: boolean, download: Download | null}} Offer */

const POLL_MS = 500;
const MIB = 2 ** 20;

/** @param {{root: HTMLElement, words: import("./i18n.js").Words, api: import("./api.js").Api, isOffered: boolean, onFetched: () => void}} parts */
export function createWeightsOffer({ root, words, api, isOffered, onFetched }) {
  const details = /** @type {HTMLDetailsElement} */ (root.querySelector('[data-part="weights-offer"]'));
  const list = /** @type {HTMLElement} */ (details.querySelector("ul"));
  const line = /** @type {HTMLElement} */ (details.querySelector('[role="status"]'));
  /** @type {Offer[]} */
  let offers = [];
  /** @type {Note | null} */
  let refusal = null;
  let isFollowing = false;

  const mib = (/** @type {number} */ bytes) => Math.round(bytes / MIB);
  const isBusy = (/** @type {Offer} */ { download }) => ["running", "stopping"].includes(download?.state || "");

  function show() {
    details.hidden = !isOffered;
    const names = [...list.children].map((row) => /** @type {HTMLElement} */ (row).dataset.name);
    // Rows stay the same elements, so that a button keeps the focus while the figures beside it change.
    if (names.join() !== offers.map(({ name }) => name).join()) list.replaceChildren(...offers.map(makeRow));
    offers.forEach((offer, i) => showRow(/** @type {HTMLElement} */ (list.children[i]), offer));
    const sentence = refusal ? words.sayCoded("errors", refusal) : offers.map(sayState).filter(Boolean).join(" ");
    if (line.textContent !== sentence) line.textContent = sentence;
    line.dataset.tone = refusal || offers.some(({ download }) => download?.state === "failed") ? "warn" : "calm";
    line.hidden = !sentence;
  }

  function makeRow(/** @type {Offer} */ { name }) {
    const row = document.createElement("li");
    row.dataset.name = name;
    const title = document.createElement("strong");
    title.textContent = name;
    const terms = document.createElement("p");
    const bar = document.createElement("div");
    bar.className = "fft-progress";
    bar.setAttribute("role", "progressbar");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "fft-secondary";
    button.addEventListener("click", () => void press(name));
    row.append(title, terms, bar, button);
    return row;
  }

  function showRow(/** @type {HTMLElement} */ row, /** @type {Offer} */ offer) {
    const [, terms, bar, button] = /** @type {HTMLElement[]} */ ([...row.children]);
    const { name, size, source, licence, photos, installed, download } = offer;
    const share = download ? download.done / download.size : 0;
    terms.textContent = words.say("offer.terms", { size: mib(size), source, licence, photos });
    bar.hidden = !isBusy(offer);
    bar.style.setProperty("--done", String(share));
    bar.setAttribute("aria-label", words.say("offer.fetching", { name }));
    bar.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    button.hidden = installed;
    button.textContent = words.say(isBusy(offer) ? "offer.stop" : "offer.fetch");
    button.setAttribute("aria-label", `${button.textContent}: ${name}`);
    button.toggleAttribute("disabled", download?.state === "stopping" || (!isBusy(offer) && offers.some(isBusy)));
  }

  function sayState(/** @type {Offer} */ { name, download }) {
    if (!download) return "";
    if (download.state === "failed") return words.sayCoded("errors", { code: download.error.error, ...download.error });
    return words.say(`offer.${download.state}`, { name, done: mib(download.done), size: mib(download.size), host: download.host });
  }

  async function press(/** @type {string} */ name) {
    const isRunning = offers.some((offer) => offer.name === name && isBusy(offer));
    await ask(() => (isRunning ? api.stopFetch(name) : api.fetchWeights(name)));
  }

  /** @param {() => Promise<{weights: Offer[]}>} question */
  async function ask(question) {
    try {
      offers = (await question()).weights;
      refusal = null;
    } catch (error) {
      refusal = error instanceof ApiError ? error : { code: "server_error" };
    }
    show();
    void follow();
  }

  async function follow() {
    if (isFollowing) return;
    isFollowing = true;
    while (offers.some(isBusy) && !refusal) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      await ask(api.weights);
      if (offers.some(({ download }) => download?.state === "done")) onFetched();
    }
    isFollowing = false;
  }

  details.addEventListener("toggle", () => details.open && void ask(api.weights));
  return { show };
}
