// Memory: what a reload must bring back, in localStorage. Each tab has its own place, so that two tabs do not
// overwrite each other; a new tab takes over the newest place whose tab is closed.

function createMemory() {
  const PREFIX = "fftlama.tab.";
  const TAB_KEY = "fftlama.tab";
  const PLACES_KEPT = 8;
  const KEPT_MS = 7 * 24 * 3600 * 1000;
  let tab = null;

  function read(key) {
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch {
      return null;
    }
  }

  function write(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
    } catch {
      // storage full or forbidden: the page works, only a reload starts afresh
    }
  }

  function places() {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
    return keys.map((key) => ({ key, ...read(key) })).sort((a, b) => (b.saved_at || 0) - (a.saved_at || 0));
  }

  function claim() {
    const all = places();
    const free = all.find((place) => place.closed && Date.now() - place.saved_at < KEPT_MS);
    for (const place of all.slice(PLACES_KEPT)) localStorage.removeItem(place.key);
    const name = free ? free.key : PREFIX + randomId();
    sessionStorage.setItem(TAB_KEY, name);
    return name;
  }

  function open() {
    try {
      tab = sessionStorage.getItem(TAB_KEY) || claim();
    } catch {
      return null;
    }
    const found = read(tab);
    if (found) write(tab, { ...found, closed: false });
    addEventListener("pagehide", () => setClosed(true));
    addEventListener("pageshow", (event) => event.persisted && setClosed(false));
    return found?.state || null;
  }

  function setClosed(closed) {
    const found = tab && read(tab);
    if (found) write(tab, { ...found, closed });
  }

  function save(state) {
    if (tab) write(tab, { state, saved_at: Date.now(), closed: false });
  }

  return { open, save };
}

// 128 random bits; crypto.randomUUID exists only on https and localhost, and this page is also used over a LAN.
function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
