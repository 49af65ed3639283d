// File input: the three ways a photo comes onto the page: chosen, dropped anywhere, or pasted.

/** @param {{root: HTMLElement, onFile: (file: File, others: number) => void, onNothing: () => void}} parts */
export function createFileInput({ root, onFile, onNothing }) {
  const input = /** @type {HTMLInputElement} */ (root.querySelector(".fft-file"));
  let inside = 0; // dragenter and dragleave come in pairs for every element that is crossed

  // By name too: browsers give no type for HEIC and some others.
  function pick(files) {
    const all = [...(files || [])];
    return all.find((file) => /^image\//.test(file.type)) || all[0];
  }

  function take(files) {
    const file = pick(files);
    if (file) onFile(file, files.length - 1);
  }

  function highlight(on) {
    root.classList.toggle("fft-dragging", on);
  }

  const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");

  input.addEventListener("change", () => {
    take(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("dragenter", (event) => hasFiles(event) && (event.preventDefault(), (inside += 1), highlight(true)));
  document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  document.addEventListener("dragleave", (event) => hasFiles(event) && (inside -= 1) <= 0 && ((inside = 0), highlight(false)));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    highlight(false);
    if (event.dataTransfer?.files.length) take(event.dataTransfer.files);
    else onNothing();
  });
  document.addEventListener("paste", (event) => take(event.clipboardData?.files));
}
