// Panel: everything beside the picture, written from the state and never read back: status, progress, times,
// notes, rounds, which buttons can be used.

function createPanel({ root, words, layers, onRound }) {
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const TIMES = ["total", "upload", "queued", "predict", "refine", "composite"];
  const FILE_NOTES = new Set(["not_exact", "animated_first_frame", "palette_converted", "heic_saved_as"]); // of the file, not the round
  const drawn = { rounds: "", photo: null, thumbnails: new Map() };

  function show(state) {
    root.dataset.phase = state.photo ? (state.job ? "running" : "ready") : "empty";
    root.dataset.tool = state.hand.tool;
    showStatus(state);
    showProgress(state);
    showResult(state);
    showPhoto(state);
    showControls(state);
    showRounds(state);
  }

  function text(name, value) {
    const node = part(name);
    if (node.textContent !== value) node.textContent = value; // unchanged text is not announced again
    node.hidden = !value;
  }

  function statusSentence({ status }) {
    if (status.error) return words.sayCoded("errors", status.error);
    return words.say(`status.${status.key}`, status.params);
  }

  function showStatus(state) {
    const node = part("status");
    node.dataset.tone = state.status.error ? "warn" : state.status.tone || "calm";
    text("status", statusSentence(state));
    part("offline").hidden = state.online;
  }

  function showProgress({ job, uploaded, photo }) {
    const bar = part("progress");
    const uploading = photo && uploaded !== null && uploaded < 1;
    part("progress-row").hidden = !job && !uploading;
    part("cancel").hidden = !job;
    bar.classList.toggle("fft-unknown", Boolean(job));
    const done = uploading && !job ? uploaded : 0;
    bar.style.setProperty("--done", done);
    bar.setAttribute("aria-valuenow", Math.round(done * 100));
  }

  function showResult({ rounds, round, photo }) {
    const last = rounds[round - 1];
    const times = last ? TIMES.filter((name) => last.times_ms[name] !== undefined) : [];
    text("times", times.map((name) => `${words.say(`time.${name}`)} ${words.duration(last.times_ms[name])}`).join(" · "));
    const notes = new Map([...(photo?.notes || []), ...(last?.notes || [])].map((note) => [note.code, note]));
    showNotes("notes", [...notes.values()].filter(({ code }) => !FILE_NOTES.has(code)));
    showNotes("photo-notes", [...notes.values()].filter(({ code }) => FILE_NOTES.has(code)));
  }

  function showNotes(name, notes) {
    const sentences = notes.map((note) => words.sayCoded("notes", note));
    const list = part(name);
    list.hidden = !sentences.length;
    list.replaceChildren(...sentences.map((textContent) => Object.assign(document.createElement("li"), { textContent })));
  }

  function showPhoto({ photo, round, rounds, uploaded }) {
    text("photo-name", photo ? photo.name : "");
    text("photo-size", photo?.width ? `${photo.width} × ${photo.height}${photo.format ? ` · ${photo.format}` : ""}` : "");
    const link = part("download");
    const id = round ? rounds[round - 1].image_id : photo?.image_id;
    const usable = Boolean(id) && (uploaded === null || uploaded >= 1);
    if (usable) link.href = `api/v1/images/${id}`;
    else link.removeAttribute("href");
    link.setAttribute("aria-disabled", String(!usable));
  }

  function showControls(state) {
    const { hand, job, photo, past, future, strokes, rounds, round } = state;
    const able = {
      undo: !job && (past.length || round), redo: !job && (future.length || round < rounds.length),
      clear: !job && strokes.length, repair: !job, "round-undo": !job && round, "round-redo": !job && round < rounds.length,
      compare: round,
    };
    for (const [name, usable] of Object.entries(able)) {
      for (const node of root.querySelectorAll(`[data-act="${name}"]`)) node.disabled = !usable;
    }
    for (const node of root.querySelectorAll("[data-tool-button]")) {
      node.setAttribute("aria-pressed", String(node.dataset.toolButton === hand.tool));
    }
    for (const node of root.querySelectorAll("[data-needs-photo]")) node.disabled = !photo;
    part("size-value").textContent = `${Math.round(hand.radius * 2)} px`;
    part("compare").setAttribute("aria-pressed", String(state.comparing));
    part("instant").checked = hand.instant;
    for (const node of root.querySelectorAll(".fft-quality input")) node.checked = node.value === hand.quality;
  }

  function showZoom(view) {
    part("zoom").textContent = view.width ? `${Math.round(view.scale * 100)} %` : "–";
  }

  function showRounds({ photo, rounds, round, shown_id }) {
    const list = part("rounds");
    part("rounds-block").hidden = !rounds.length;
    const key = JSON.stringify([rounds.map(({ image_id }) => image_id), shown_id, words.say("rounds.original")]);
    if (key !== drawn.rounds) {
      drawn.rounds = key;
      const entries = rounds.length ? [0, ...rounds.map((_, i) => i + 1)] : [];
      list.replaceChildren(...entries.map((number) => thumbnail(number, photo, rounds)));
      list.scrollTo(list.scrollWidth, list.scrollHeight); // not scrollIntoView: that moves the page under the picture
    }
    [...list.querySelectorAll("button")].forEach((button, i) => {
      button.setAttribute("aria-current", String(i === round));
      button.classList.toggle("fft-ahead", i > round);
    });
  }

  function thumbnail(number, photo, rounds) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const caption = document.createElement("span");
    caption.textContent = number ? words.say("rounds.number", { number }) : words.say("rounds.original");
    button.type = "button";
    button.append(thumbnailCanvas(number, photo, rounds), caption);
    button.addEventListener("click", () => onRound(number));
    item.append(button);
    return item;
  }

  // Drawn once, and after the patch is on the screen: the first one reads the whole photo, 0.25 s for 12 megapixels.
  function thumbnailCanvas(number, photo, rounds) {
    if (drawn.photo !== photo) Object.assign(drawn, { photo, thumbnails: new Map() });
    const id = number ? rounds[number - 1].image_id : photo.image_id;
    if (drawn.thumbnails.has(id)) return drawn.thumbnails.get(id);
    const canvas = Object.assign(document.createElement("canvas"), { width: 144, height: 108 });
    const applied = rounds.slice(0, number);
    const draw = () => drawn.photo === photo && layers.drawThumbnail(canvas, applied.at(-1)?.box, applied, photo);
    requestAnimationFrame(() => setTimeout(draw, 100));
    drawn.thumbnails.set(id, canvas);
    return canvas;
  }

  return { show, showZoom };
}
