// Layers: the pictures on the stage. The photo lies at the bottom, each round's patch above it at its box. Which patches
// are shown follows from the round one is at, so undo, redo and compare move no pixels. Draws the rounds' thumbnails too.

/** @typedef {import("./store.js").Round} Round */
/** @typedef {Pick<Round, "image_id" | "box" | "url">} Patch */
/** @typedef {{photo: HTMLImageElement, patches: Map<string, HTMLImageElement>}} Pictures */

/** @param {{world: HTMLElement, api: import("./api.js").Api}} parts */
export function createLayers({ world, api }) {
  /** @type {Map<string, HTMLImageElement>} */
  let patches = new Map(); // by the round's image id
  let photo = /** @type {HTMLImageElement} */ (world.querySelector(".fft-photo"));

  function newPhotoElement() {
    return Object.assign(new Image(), { className: "fft-photo", alt: "", draggable: false });
  }

  // Null when this browser cannot show it (HEIC, TIFF, no picture at all). The element keeps the bytes by itself.
  async function decode(/** @type {Blob} */ blob, image = newPhotoElement()) {
    const url = URL.createObjectURL(blob);
    try {
      return await decodeFrom(url, image);
    } finally {
      URL.revokeObjectURL(url);
    }
  }

  async function decodeFrom(/** @type {string} */ url, /** @type {HTMLImageElement} */ image) {
    image.src = url;
    try {
      await image.decode();
      return image;
    } catch {
      return image.naturalWidth > 0 ? image : null;
    }
  }

  /** Fetch a picture, as often as the network needs; resolves to an element, or throws what the server answered. */
  async function load(/** @type {string} */ url, /** @type {AbortSignal} */ signal, image = newPhotoElement()) {
    const shown = await decode(await api.picture(url, signal), image);
    if (!shown) throw new TypeError(`${url} is not a picture this browser can show`);
    return shown;
  }

  function showPhoto(/** @type {HTMLImageElement} */ picture) {
    photo.replaceWith(picture);
    photo = picture;
  }

  /** @param {Patch} round @param {AbortSignal} signal @param {string} [png] the patch in base64, where it is here already */
  async function loadPatch(round, signal, png) {
    if (patches.has(round.image_id)) return;
    const kept = patches; // another photo may be opened meanwhile
    const [left, top, right, bottom] = round.box;
    const image = Object.assign(new Image(), { className: "fft-patch", alt: "", draggable: false });
    Object.assign(image.style, { left: `${left}px`, top: `${top}px`, width: `${right - left}px`, height: `${bottom - top}px` });
    image.style.setProperty("--left", `${left}px`);
    // Not by way of a blob, which lives in another process.
    const here = png ? await decodeFrom(`data:image/png;base64,${png}`, image) : null;
    kept.set(round.image_id, here || (await load(api.localUrl(round.url), signal, image)));
  }

  // Exactly these rounds' patches, in their order, hidden while comparing.
  /** @param {Patch[]} rounds @param {boolean} comparing */
  function show(rounds, comparing) {
    const wanted = rounds.flatMap(({ image_id }) => patches.get(image_id) || []);
    for (const image of [...world.querySelectorAll(".fft-patch")]) if (!wanted.includes(/** @type {HTMLImageElement} */ (image))) image.remove();
    for (const image of wanted) if (image.parentNode !== world) world.append(image);
    world.classList.toggle("fft-comparing", comparing);
  }

  /** Take all pictures off the stage; put() brings them back. @returns {Pictures} */
  function take() {
    const taken = { photo, patches };
    show([], false);
    patches = new Map();
    showPhoto(newPhotoElement());
    return taken;
  }

  function put(/** @type {Pictures} */ taken) {
    patches = taken.patches;
    showPhoto(taken.photo);
  }

  /** Tell whether the photo and these rounds' patches are all here. */
  const has = (/** @type {Patch[]} */ rounds) => photo.naturalWidth > 0 && rounds.every(({ image_id }) => patches.has(image_id));

  // Part of the photo around box, with the patches of `rounds` on it, drawn into a small canvas.
  /**
   * @param {HTMLCanvasElement} canvas @param {number[] | undefined} box @param {Patch[]} rounds
   * @param {{width: number, height: number}} size of the photo
   */
  function drawThumbnail(canvas, box, rounds, { width, height }) {
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const area = thumbnailArea(box, width, height, canvas.width / canvas.height);
    const zoom = canvas.width / area.width;
    const fraction = photo.naturalWidth / width; // the preview after a reload has fewer pixels than the photo
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!photo.naturalWidth) return;
    context.drawImage(photo, area.left * fraction, area.top * fraction, area.width * fraction, area.height * fraction, 0, 0, canvas.width, canvas.height);
    context.setTransform(zoom, 0, 0, zoom, -area.left * zoom, -area.top * zoom);
    for (const { image_id, box: [left, top, right, bottom] } of rounds) {
      const image = patches.get(image_id);
      if (image) context.drawImage(image, left, top, right - left, bottom - top);
    }
  }

  // The box with as much around it again, at the thumbnail's proportions, inside the photo where that is possible.
  /** @param {number[] | undefined} box @param {number} width @param {number} height @param {number} ratio */
  function thumbnailArea(box, width, height, ratio) {
    const [left, top, right, bottom] = box || [0, 0, width, height];
    const around = box ? 1.8 : 1;
    let w = Math.max((right - left) * around, (bottom - top) * around * ratio, 48);
    const most = box ? Math.min(width, height * ratio) : Math.max(width, height * ratio);
    w = Math.min(w, most);
    const h = w / ratio;
    const inside = (/** @type {number} */ middle, /** @type {number} */ size, /** @type {number} */ length) => (size >= length ? (length - size) / 2 : Math.max(0, Math.min(length - size, middle - size / 2)));
    return { left: inside((left + right) / 2, w, width), top: inside((top + bottom) / 2, h, height), width: w, height: h };
  }

  return { load, decode, showPhoto, loadPatch, show, take, put, has, drawThumbnail };
}

/** @typedef {ReturnType<typeof createLayers>} Layers */
