// Panel: everything beside the picture, written from the state and never read back: status, progress, times,
// notes, rounds, which buttons can be used.

import { createRoundsList } from "./rounds_list.js";

/** @typedef {import("./store.js").State} State */
/** @typedef {import("./store.js").Note} Note */

const TIMES = ["total", "upload", "queued", "predict", "refine", "composite"];
const FILE_NOTES = new Set(["not_exact", "animated_first_frame", "first_page_only", "channels_left_out", "layers_left_out", "film_left_out", "fewer_bits", "few_levels", "stretched", "palette_converted", "heic_saved_as"]); // of the file, not the round

/** @param {{root: HTMLElement, words: import("./i18n.js").Words, layers: import("./layers.js").Layers, onRound: (number: number) => void, onBranch: (index: number) => void}} parts */
export function createPanel({ root, words, layers, onRound, onBranch }) {
  const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (root.querySelector(`[data-part="${name}"]`));
  const find = (/** @type {string} */ selector) => /** @type {NodeListOf<any>} */ (root.querySelectorAll(selector));
  const roundsList = createRoundsList({ list: part("rounds"), branchList: part("branches"), words, layers, onRound, onBranch });

  function show(/** @type {State} */ state) {
    root.dataset.phase = state.photo ? (state.job ? "running" : "ready") : "empty";
    showTool(state.hand.tool);
    showStatus(state);
    showResult(state);
    showPhoto(state);
    showControls(state);
    part("rounds-block").hidden = !state.rounds.length && !state.branches.length;
    roundsList.show(state);
  }

  // A tool that is taken by its key leaves the focus on the picture, where nothing else would tell it to who can't see.
  function showTool(/** @type {string} */ tool) {
    if (root.dataset.tool !== tool) part("tool").textContent = words.say(`tool.${tool}`);
    root.dataset.tool = tool;
  }

  function text(/** @type {string} */ name, /** @type {string} */ value) {
    const node = part(name);
    if (node.textContent !== value) node.textContent = value; // unchanged text is not announced again
    node.hidden = !value;
  }

  // A search has the line while it goes on, and leaves it to a repair that runs beside it.
  function showStatus(/** @type {State} */ { looking, online, ...state }) {
    const node = part("status");
    const status = looking && !state.status.error ? { key: "looking", tone: "busy" } : state.status;
    node.dataset.tone = status.error ? "warn" : status.tone || "calm";
    text("status", status.error ? words.sayCoded("errors", status.error) : words.say(`status.${status.key}`, status.params));
    if (!status.error && status.params?.path) setPathApart(node, status.params.path);
    part("offline").hidden = online;
  }

  // A path has a line to itself and is never broken: a third line would move what stands below.
  function setPathApart(/** @type {HTMLElement} */ node, /** @type {string} */ path) {
    const sentence = node.firstChild;
    if (node.querySelector("bdi") || !(sentence instanceof Text)) return;
    const line = Object.assign(document.createElement("span"), { className: "fft-path", title: path });
    line.append(Object.assign(document.createElement("bdi"), { textContent: path }));
    const [before, after] = sentence.data.split(path);
    node.replaceChildren(before, line, after);
  }

  function showResult(/** @type {State} */ { rounds, round, photo, job, hand }) {
    const last = job ? undefined : rounds[round - 1]; // another's times beside a repair that runs would mislead
    const times = last ? TIMES.filter((name) => last.times_ms[name] !== undefined) : [];
    part("timings-button").hidden = !times.length;
    part("timings-button").setAttribute("aria-expanded", String(hand.timings));
    text("times", !hand.timings ? "" : times.map((name) => `${words.say(`time.${name}`)} ${words.duration(last?.times_ms[name] || 0)}`).join(" · "));
    const notes = new Map([...(photo?.notes || []), ...(last?.notes || [])].map((note) => [note.code, note]));
    showNotes("notes", [...notes.values()].filter(({ code }) => !FILE_NOTES.has(code)));
    showNotes("photo-notes", [...notes.values()].filter(({ code }) => FILE_NOTES.has(code)));
  }

  function showNotes(/** @type {string} */ name, /** @type {Note[]} */ notes) {
    const sentences = notes.map((note) => words.sayCoded("notes", note));
    const list = part(name);
    list.hidden = !sentences.length;
    list.replaceChildren(...sentences.map((textContent) => Object.assign(document.createElement("li"), { textContent })));
  }

  function showPhoto(/** @type {State} */ { photo }) {
    text("photo-name", photo ? photo.name : "");
    text("photo-size", photo?.width ? `${photo.width} × ${photo.height}${photo.format ? ` · ${photo.format}` : ""}` : "");
  }

  function showControls(/** @type {State} */ { hand, job, photo, past, future, taken_back, strokes, rounds, round, comparing }) {
    const able = {
      undo: past.length || (job ? job.waiting?.length : round), redo: future.length || taken_back.length || (!job && round < rounds.length), clear: strokes.length,
      repair: photo && !job, "round-undo": !job && round, "round-redo": !job && round < rounds.length, compare: round, "round-remove": !job && round,
    };
    for (const [name, usable] of Object.entries(able)) {
      for (const node of find(`[data-act="${name}"]`)) node.disabled = !usable;
    }
    part("take-away").setAttribute("aria-pressed", String(Boolean(hand.takes_away)));
    for (const node of find("[data-tool-button]")) node.setAttribute("aria-pressed", String(node.dataset.toolButton === hand.tool));
    for (const node of find("[data-needs-photo]")) node.disabled = !photo;
    part("size-value").textContent = `${Math.round(hand.radius * 2)} px`;
    part("compare").setAttribute("aria-pressed", String(comparing));
    /** @type {HTMLInputElement} */ (part("instant")).checked = hand.instant;
    part("quality-note").textContent = hand.quality === "high" ? words.say("quality.high_note") : words.say("quality.fast_note");
    for (const node of find(".fft-quality input")) node.checked = node.value === hand.quality;
  }

  function showZoom(/** @type {import("./view.js").Placement} */ view) {
    // Of the screen's own pixels, so that 100 % is one of the photo's for one of the screen's.
    const zoom = view.width ? `${Math.round(view.scale * devicePixelRatio * 100)} %` : "–";
    const button = part("zoom");
    const label = words.say(view.fitted ? "view.actual_now" : "view.fit", { zoom });
    button.textContent = zoom;
    button.setAttribute("aria-label", label);
    button.title = `${label} (${view.fitted ? 1 : 0})`;
  }

  return { show, showZoom };
}
