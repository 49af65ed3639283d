// Early: what somebody does before the scripts have come is kept until they have: files dropped or pasted, buttons
// pressed. Files that were chosen stay in their input. It stands in the document itself, to be there with the first pixel.

(() => {
  const root = /** @type {HTMLElement} */ (document.querySelector(".fft"));
  const stopping = new AbortController();
  /** @type {import("../setup.js").Early} */
  const seen = { acts: [], drops: [], pastes: [] };
  const hasFiles = (/** @type {DataTransfer | null} */ data) => [...(data?.types || [])].includes("Files");

  function press(/** @type {Event} */ { target }) {
    const node = /** @type {Element} */ (target);
    const button = node.closest("[data-act]");
    const act = button instanceof HTMLElement ? button.dataset.act : node.closest(".fft-welcome") && "choose";
    const input = { choose: ".fft-file", "choose-folder": ".fft-folder" }[act || ""];
    // A dialog of files opens only while the press is fresh.
    if (input) /** @type {HTMLElement} */ (root.querySelector(input)).click();
    else if (act) seen.acts.push(act);
  }

  function drop(/** @type {DragEvent} */ event) {
    event.preventDefault(); // else the browser leaves the page and shows the file
    const { items, files } = /** @type {DataTransfer} */ (event.dataTransfer);
    // To be asked for at once: the browser empties it when this call returns.
    seen.drops.push({ entries: [...items].flatMap((item) => item.webkitGetAsEntry?.() || []), files: [...files] });
  }

  // As the scripts will have it in a moment, so that nothing flashes: the theme, and no welcome where a photo comes back.
  function dress() {
    try {
      const theme = localStorage.getItem("fftlama.theme");
      document.body.classList.toggle("dark", theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
      const place = JSON.parse(localStorage.getItem(sessionStorage.getItem("fftlama.tab") || "") || "null");
      if (place?.state?.photo) root.dataset.phase = "opening";
    } catch {
      return; // storage may be forbidden
    }
  }

  dress();
  const { signal } = stopping;
  document.addEventListener("click", press, { signal });
  document.addEventListener("dragover", (event) => event.preventDefault(), { signal });
  document.addEventListener("drop", drop, { signal });
  document.addEventListener("paste", ({ clipboardData }) => hasFiles(clipboardData) && seen.pastes.push([.../** @type {DataTransfer} */ (clipboardData).files]), { signal });
  window.fftEarly = () => (stopping.abort(), seen);
})();
