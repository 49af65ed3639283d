// File input: the ways photos come onto the page: chosen, dropped anywhere, or pasted; one, several, or a folder.

const PICTURE_NAMES = /\.(jpe?g|jfif|png|webp|tiff?|hei[cf]|avif|bmp|gif)$/i;

/** By name too: browsers give no type for HEIC and some others. @param {File} file */
export const isPicture = (file) => /^image\//.test(file.type) || PICTURE_NAMES.test(file.name);

/** @param {FileSystemDirectoryEntry} folder @returns {Promise<FileSystemEntry[]>} */
async function entriesOf(folder) {
  const reader = folder.createReader();
  /** @type {FileSystemEntry[]} */
  const all = [];
  for (;;) {
    // A browser gives a hundred at a time, and none at the end.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all;
    all.push(...some);
  }
}

/** @param {FileSystemEntry} entry @returns {Promise<File[]>} */
async function filesOf(entry) {
  if (entry.isDirectory) {
    const entries = await entriesOf(/** @type {FileSystemDirectoryEntry} */ (entry));
    const files = (await Promise.all(entries.map(filesOf))).flat();
    return files.filter(isPicture);
  }
  return [await new Promise((resolve, reject) => /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject))];
}

/** @param {{root: HTMLElement, onFiles: (files: File[]) => void, onNothing: (why?: string) => void}} parts onNothing: there was no picture; why: "link", where there was no file at all */
export function createFileInput({ root, onFiles, onNothing }) {
  const inputs = /** @type {NodeListOf<HTMLInputElement>} */ (root.querySelectorAll(".fft-file"));
  let isOwn = false;
  let inside = 0; // dragenter and dragleave come in pairs for every element that is crossed

  function take(/** @type {Iterable<File> | null | undefined} */ files) {
    const all = [...(files || [])];
    if (all.length) onFiles(all);
    return all.length > 0;
  }

  function drop(/** @type {DataTransfer | null} */ data) {
    // To be asked for at once: the browser empties it when this call returns.
    const entries = [...(data?.items || [])].flatMap((item) => item.webkitGetAsEntry?.() || []);
    return takeDropped(entries, [...(data?.files || [])]);
  }

  /** @param {FileSystemEntry[]} entries @param {File[]} files the same as files, where they are */
  async function takeDropped(entries, files) {
    const found = entries.some(({ isDirectory }) => isDirectory) ? await Promise.all(entries.map(filesOf)).catch(() => []) : [files];
    const all = found.flat();
    if (entries.some(({ isDirectory }) => isDirectory)) all.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
    if (!take(all)) onNothing(entries.length ? "" : "link");
  }

  function highlight(/** @type {boolean} */ on) {
    root.classList.toggle("fft-dragging", on);
  }

  const hasFiles = (/** @type {DragEvent} */ event) => [...(event.dataTransfer?.types || [])].includes("Files");

  function takeChosen(/** @type {HTMLInputElement} */ input) {
    const isFolder = input.webkitdirectory;
    const files = [...(input.files || [])].filter((file) => !isFolder || isPicture(file));
    if (!take(files) && isFolder) onNothing();
    input.value = ""; // so that the same file can be chosen again
  }

  /** Take what came before there were scripts. @param {import("./setup.js").Early} early */
  function catchUp({ drops, pastes }) {
    for (const input of inputs) if (input.files?.length) takeChosen(input);
    for (const files of pastes) take(files);
    for (const { entries, files } of drops) void takeDropped(entries, files);
  }

  for (const input of inputs) input.addEventListener("change", () => takeChosen(input));
  document.addEventListener("dragenter", (event) => hasFiles(event) && (event.preventDefault(), (inside += 1), highlight(true)));
  // A link from another site too: the browser would leave the page for it. What is dragged here from the page itself is nothing.
  document.addEventListener("dragstart", () => (isOwn = true));
  document.addEventListener("dragend", () => (isOwn = false));
  document.addEventListener("dragover", (event) => isOwn || event.preventDefault());
  document.addEventListener("dragleave", (event) => hasFiles(event) && (inside -= 1) <= 0 && ((inside = 0), highlight(false)));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    highlight(false);
    void drop(event.dataTransfer);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData?.files) || onNothing("link"));

  return { catchUp };
}
