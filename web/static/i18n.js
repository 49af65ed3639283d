// Language of the page: which words are shown, and putting them into the document.
// Strings come from locales/*.yaml; nothing here or elsewhere in the scripts is shown to people otherwise.

/** @param {Record<string, Record<string, string>>} strings language to key to text @param {string} preferred */
export function createI18n(strings, preferred) {
  const STORE_KEY = "fftlama.language";
  const COOKIE = "fftlama_language"; // for the pages that the server writes: login, status, and this one's first words
  const COOKIE_S = 365 * 24 * 3600;
  const languages = Object.keys(strings);
  let language = readChoice() || (languages.includes(preferred) ? preferred : fromBrowser());

  // Beside this page, wherever a proxy has put it; other programs of the same host do not get it.
  function tellServer(/** @type {string | null} */ chosen) {
    const path = location.pathname.replace(/[^/]*$/, "");
    document.cookie = `${COOKIE}=${chosen || ""}; path=${path}; max-age=${chosen ? COOKIE_S : 0}; samesite=lax`;
  }

  function readChoice() {
    try {
      const chosen = localStorage.getItem(STORE_KEY);
      return chosen && languages.includes(chosen) ? chosen : null;
    } catch {
      return null; // storage may be forbidden; the browser's language still decides
    }
  }

  function fromBrowser() {
    const first = (navigator.languages || [navigator.language]).find((tag) => /^(zh|en)/i.test(tag));
    return /^zh/i.test(first || "") ? "zh-CN" : "en";
  }

  function say(/** @type {string} */ key, /** @type {Record<string, any>} */ params = {}) {
    const text = strings[language][key] ?? strings.en[key] ?? key;
    return text.replace(/\{(\w+)\}/g, (hole, name) => params[name] ?? hole);
  }

  // Sentence for an answer {error|code, message, params}: ours where we have one, else the server's.
  /** @param {string} group @param {import("./store.js").Note} note */
  function sayCoded(group, { code, message, params }) {
    const general = `${group}.${code}`, special = `${general}_${params?.why}`; // of a code that has several reasons
    const key = special in strings.en ? special : general;
    const text = key in strings.en ? say(key, params || {}) : "";
    return text && !/\{\w+\}/.test(text) ? text : message || say("errors.server_error");
  }

  function duration(/** @type {number} */ ms) {
    return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
  }

  function bytes(/** @type {number} */ count) {
    return count < 1e6 ? `${Math.max(1, Math.round(count / 1e3))} kB` : `${(count / 1e6).toFixed(1)} MB`;
  }

  function apply(/** @type {HTMLElement} */ root) {
    const find = (/** @type {string} */ selector) => /** @type {NodeListOf<HTMLElement>} */ (root.querySelectorAll(selector));
    root.lang = language;
    document.documentElement.lang = language;
    for (const node of find("[data-say]")) node.textContent = say(node.dataset.say || "");
    for (const node of find("[data-hint]")) node.title = say(node.dataset.hint || "");
    for (const node of find("[data-label]")) {
      const label = say(node.dataset.label || "");
      node.setAttribute("aria-label", label);
      if (node.matches("button, a, input, select")) node.title = node.dataset.keys ? `${label} (${node.dataset.keys})` : label;
    }
  }

  function toggle() {
    language = languages[(languages.indexOf(language) + 1) % languages.length];
    tellServer(language);
    try {
      localStorage.setItem(STORE_KEY, language);
    } catch {
      // not remembered, still switched
    }
  }

  tellServer(readChoice());
  // Gradio writes the browser's language there when it comes.
  const keepLanguage = () => document.documentElement.lang !== language && (document.documentElement.lang = language);
  new MutationObserver(keepLanguage).observe(document.documentElement, { attributeFilter: ["lang"] });

  return { say, sayCoded, duration, bytes, apply, toggle };
}

/** @typedef {ReturnType<typeof createI18n>} Words */
