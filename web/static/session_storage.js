// What a reload must bring back, in localStorage. Each tab has its own place, so that two tabs do not overwrite each
// other; a new tab takes over the newest place whose tab is closed.

/** @typedef {Pick<import("./store.js").State, "photo" | "strokes" | "rounds" | "round" | "job" | "hand" | "used">} Kept */
/** @typedef {{state: Kept, saved_at: number, closed: boolean}} Place */

export function createSessionStorage() {
  const PREFIX = "fftlama.tab.";
  const TAB_KEY = "fftlama.tab";
  const PLACES_KEPT = 8;
  const KEPT_MS = 7 * 24 * 3600 * 1000;
  /** @type {string | null} */
  let tab = null;

  /** @param {string} key @returns {Place | null} */
  function read(key) {
    try {
      return JSON.parse(localStorage.getItem(key) || "null");
    } catch {
      return null;
    }
  }

  /** @param {string} key @param {Place} value @returns {boolean} false where storage is full or forbidden */
  function write(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  }

  // Where there is no room for the masks of all rounds, a reload does without those of rounds that were undone.
  function withoutOldMasks(/** @type {Kept} */ state) {
    const rounds = state.rounds.map((one) => ({ ...one, strokes: one.strokes.filter((stroke) => !("mask" in stroke)) }));
    return { ...state, rounds, used: null };
  }

  function places() {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
    const all = keys.map((key) => ({ key, closed: false, saved_at: 0, ...read(key) }));
    return all.sort((a, b) => b.saved_at - a.saved_at);
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

  function setClosed(/** @type {boolean} */ closed) {
    const found = tab && read(tab);
    if (tab && found) write(tab, { ...found, closed });
  }

  // A photo that is still going up can't be brought back; until it is there, a reload brings the one before.
  function follow(/** @type {import("./store.js").State} */ now, /** @type {import("./store.js").State} */ before) {
    const { photo, strokes, rounds, round, job, hand, used } = now;
    const isSame = photo === before.photo && strokes === before.strokes && rounds === before.rounds && round === before.round && job === before.job && hand === before.hand;
    if (!tab || isSame || (photo ? !photo.image_id : !before.photo)) return;
    const state = { photo, strokes, rounds, round, job, hand, used };
    const place = { state, saved_at: Date.now(), closed: false };
    if (!write(tab, place)) write(tab, { ...place, state: withoutOldMasks(state) });
  }

  return { open, follow };
}

/** Return 128 random bits; crypto.randomUUID exists only on https and localhost, and this page is also used over a LAN. */
export function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
