// Rounds: the pictures. The photo lies at the bottom, each round's patch above it at its box; which are shown
// follows from the round one is at, so undo, redo and compare move no pixels. Also the rounds' thumbnails.

function createLayers({ world, photo }) {
  const patches = new Map(); // image id -> <img>

  // Resolves when the picture can be drawn, false when this browser cannot show it (HEIC, TIFF).
  async function showPhoto(url) {
    photo.src = url;
    try {
      await photo.decode();
      return true;
    } catch {
      return photo.naturalWidth > 0;
    }
  }

  async function loadPatch(round, url) {
    if (patches.has(round.image_id)) return;
    const image = new Image();
    const [left, top, right, bottom] = round.box;
    Object.assign(image.style, { left: `${left}px`, top: `${top}px`, width: `${right - left}px`, height: `${bottom - top}px` });
    image.className = "fft-patch";
    image.alt = "";
    image.draggable = false;
    image.src = url;
    await image.decode();
    patches.set(round.image_id, image);
  }

  // Exactly these rounds' patches, in their order, hidden while comparing.
  function show(rounds, comparing) {
    const wanted = rounds.map((round) => patches.get(round.image_id)).filter(Boolean);
    for (const image of [...world.querySelectorAll(".fft-patch")]) if (!wanted.includes(image)) image.remove();
    for (const image of wanted) if (image.parentNode !== world) world.append(image);
    world.classList.toggle("fft-comparing", comparing);
  }

  function clear() {
    patches.clear();
    show([], false);
    photo.removeAttribute("src");
  }

  // Part of the photo around box, with the patches of `rounds` on it, drawn into a small canvas.
  function drawThumbnail(canvas, box, rounds, { width, height }) {
    const context = canvas.getContext("2d");
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
  function thumbnailArea(box, width, height, ratio) {
    const [left, top, right, bottom] = box || [0, 0, width, height];
    const around = box ? 1.8 : 1;
    let w = Math.max((right - left) * around, (bottom - top) * around * ratio, 48);
    const most = box ? Math.min(width, height * ratio) : Math.max(width, height * ratio);
    w = Math.min(w, most);
    const h = w / ratio;
    const inside = (middle, size, length) => (size >= length ? (length - size) / 2 : Math.max(0, Math.min(length - size, middle - size / 2)));
    return { left: inside((left + right) / 2, w, width), top: inside((top + bottom) / 2, h, height), width: w, height: h };
  }

  return { showPhoto, loadPatch, show, clear, drawThumbnail };
}
