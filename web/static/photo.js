// Photo: opening one. It is shown from the file at once, while it goes up; after a reload, and for formats that this
// browser cannot show, the server's picture of it is shown instead. Sizes are of the upright photo.

function createPhoto({ state, api, layers, view, image, setup, words, change, save, onReplace, onSize }) {
  function refuse(code) {
    state.status = { error: { code, message: "" } };
    change();
  }

  function open(file) {
    if (file.size === 0) return refuse("empty_file");
    if (file.size > setup.max_file_mib * 2 ** 20) return refuse("file_too_large");
    onReplace();
    forget();
    const photo = { name: file.name || words.say("photo.pasted"), width: 0, height: 0, format: "", image_id: null, notes: [] };
    Object.assign(state, { photo, uploaded: 0, status: { key: "uploading", tone: "busy" } });
    state.uploading = upload(photo, file, showLocally(photo, file));
    change();
  }

  function forget() {
    if (state.local_url) URL.revokeObjectURL(state.local_url);
    state.leaving?.abort();
    layers.clear();
    Object.assign(state, { photo: null, local_url: null, leaving: new AbortController(), uploaded: null, shown_id: null });
    Object.assign(state, { strokes: [], past: [], future: [], rounds: [], round: 0 });
    view.setSize(0, 0);
  }

  async function showLocally(photo, file) {
    state.local_url = URL.createObjectURL(file);
    const shown = await layers.showPhoto(state.local_url);
    if (!shown || state.photo !== photo) return false;
    resize(photo, image.naturalWidth, image.naturalHeight);
    if (state.status.key === "uploading") state.status = { key: "ready" };
    change();
    return true;
  }

  function resize(photo, width, height) {
    const isNew = photo.width !== width || photo.height !== height;
    Object.assign(photo, { width, height });
    state.shown_id = photo.image_id || "local";
    view.setSize(width, height);
    if (isNew) onSize(width, height);
  }

  async function upload(photo, file, local) {
    const { signal } = state.leaving;
    const onProgress = (fraction) => {
      if (state.photo !== photo) return;
      state.uploaded = Math.min(0.99, fraction);
      change();
    };
    try {
      const answer = await api.upload(file, onProgress, signal);
      const shown = await local;
      if (state.photo !== photo) return;
      await accept(photo, answer, shown);
    } catch (error) {
      if (state.photo !== photo) return;
      onReplace();
      forget();
      const { code = "upload_failed", message, params } = error;
      state.status = { error: { code, message, params } };
    }
    save();
    change();
  }

  async function accept(photo, { image_id, width, height, format, notes = [] }, shown) {
    const same = shown && photo.width === width && photo.height === height;
    Object.assign(photo, { image_id, format, notes });
    if (!same) await showPreview(photo, width, height);
    state.uploaded = null;
    if (state.status.key === "uploading") state.status = { key: "ready" };
  }

  async function showPreview(photo, width, height) {
    await layers.showPhoto(api.photoUrl(photo.image_id, `?max_px=${setup.preview_px}&format=webp`));
    resize(photo, width, height);
  }

  // What a reload brings back; resolves true when there was something.
  async function restore(kept) {
    try {
      const known = await api.info(kept.photo.image_id);
      if (state.photo) return false; // another was dropped while we asked
      forget();
      state.photo = kept.photo;
      await Promise.all([
        showPreview(kept.photo, known.width, known.height),
        ...kept.rounds.map((round) => layers.loadPatch(round, api.localUrl(round.url))),
      ]);
      return state.photo === kept.photo;
    } catch (error) {
      if (state.photo && state.photo !== kept.photo) return false;
      forget();
      refuse(error.code === "unknown_image" ? "photo_gone" : "server_error");
      save();
      return false;
    }
  }

  return { open, refuse, restore };
}
