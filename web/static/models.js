// Models: the choice of weights where the server has more than one. Going over to another takes a moment, in which
// repairs wait; it counts for everybody who uses the server.

import { ApiError } from "./api.js";

/** @typedef {import("./store.js").Note} Note */
/** @typedef {{name: string, title: string, size: number, active: boolean, installed: boolean}} Model */
/** @typedef {{models: Model[], active: string | null, switching: string | null, error?: any}} Models */

/** @param {{root: HTMLElement, words: import("./i18n.js").Words, api: import("./api.js").Api}} parts */
export function createModels({ root, words, api }) {
  const POLL_MS = 1000;
  const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (root.querySelector(`[data-part="${name}"]`));
  const select = /** @type {HTMLSelectElement} */ (part("model"));
  /** @type {Models} */
  let known = { models: [], active: null, switching: null, error: null };
  /** @type {string | null} */
  let wanted = null; // chosen here and not in use yet
  /** @type {Note | null} */
  let refusal = null;

  const pause = () => new Promise((resolve) => setTimeout(resolve, POLL_MS));
  const titleOf = (/** @type {string} */ name) => known.models.find((model) => model.name === name)?.title || name;

  function show() {
    const usable = known.models.filter(({ installed }) => installed);
    const coming = wanted || known.switching;
    part("model-row").hidden = usable.length < 2;
    showOptions(usable);
    select.value = coming || known.active || "";
    select.setAttribute("aria-busy", String(Boolean(coming)));
    part("model-busy").hidden = !coming;
    const sentence = coming ? words.say("model.loading", { model: titleOf(coming) }) : refusal ? words.sayCoded("errors", refusal) : "";
    const line = part("model-state");
    if (line.textContent !== sentence) line.textContent = sentence;
    line.dataset.tone = coming ? "calm" : "warn";
    line.hidden = !sentence;
  }

  function showOptions(/** @type {Model[]} */ usable) {
    const texts = usable.map(({ title, size }) => `${title} · ${Math.max(1, Math.round(size / 2 ** 20))} MiB`);
    if ([...select.options].map(({ text }) => text).join() === texts.join()) return; // an open list stays open
    select.replaceChildren(...usable.map(({ name }, i) => new Option(texts[i], name)));
  }

  // Also called when the page is looked at again: somebody else may have chosen, or fetched a model.
  async function refresh() {
    try {
      await follow(await api.models(), null);
    } catch {
      return; // the choice stays as it was; whatever is wrong, a repair will say it
    }
  }

  async function follow(/** @type {Models} */ first, /** @type {string | null} */ name) {
    for (let answer = first; wanted === name; ) {
      known = answer;
      if (!answer.switching) return;
      show();
      await pause();
      answer = await api.models();
    }
  }

  async function choose(/** @type {string} */ name) {
    wanted = name;
    refusal = null;
    show();
    try {
      await follow(await api.chooseModel(name), name);
      if (wanted === name && known.active !== name) refusal = asRefusal(known.error);
    } catch (error) {
      if (wanted === name) refusal = error instanceof ApiError ? error : asRefusal(null);
    }
    if (wanted !== name) return; // another was chosen meanwhile and speaks for itself
    wanted = null;
    await refresh();
    show();
  }

  function asRefusal(/** @type {any} */ answer) {
    return { code: answer?.error || "server_error", message: answer?.message, params: answer?.params };
  }

  /** What a repair that begins now will run on. */
  const inUse = () => wanted || known.switching || known.active || "";

  const look = () => void (document.hidden || wanted || refresh().then(show));

  function start() {
    select.addEventListener("change", () => void choose(select.value));
    document.addEventListener("visibilitychange", look);
    look();
  }

  return { show, start, look, inUse };
}
