// Theme: light, dark, or as the system has it. Gradio marks the body for dark; its own choice is the system's.

const KEY = "fftlama.theme";

/** @returns {string | null} "light", "dark", or null for the system's */
function readChoice() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // storage may be forbidden
  }
}

export function createTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (readChoice() ? readChoice() === "dark" : system.matches);

  function show() {
    const on = isDark();
    if (document.body.classList.contains("dark") !== on) document.body.classList.toggle("dark", on);
  }

  /** The other of the two; where that is the system's, it follows the system again. */
  function toggle() {
    const dark = !isDark();
    try {
      if (dark === system.matches) localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, dark ? "dark" : "light");
    } catch {
      document.body.classList.toggle("dark", dark); // for this visit
      return;
    }
    show();
  }

  system.addEventListener("change", show);
  new MutationObserver(show).observe(document.body, { attributeFilter: ["class"] }); // Gradio sets its own when it has loaded
  show();
  return { toggle };
}
