// What a reload must bring back, in localStorage. Each tab has its own place, so that two tabs do not overwrite each
// other; a new tab takes over the newest place whose tab is closed. Who logs in where another did not log out finds nothing
// of the other's, who finds it again.

/** @typedef {Pick<import("./store.js").State, "photo" | "strokes" | "rounds" | "round" | "branches" | "job" | "hand" | "used" | "batch">} Kept */
/** @typedef {Pick<import("./store.js").Work, "photo" | "strokes" | "rounds" | "round" | "branches" | "job"> & {name?: string, upload_key?: string}} KeptWork upload_key: its file has not gone up yet */
/** @typedef {(KeptWork | "shown")[]} KeptShelf the photos of the visit */
/** @typedef {{state: Kept, saved_at: number, closed: boolean, owner?: string}} Place */

/** @param {(isKept: boolean) => void} onKept told after every change whether a reload would bring it back @param {string} owner who is logged in, "" without a login */
export function createSessionStorage(onKept, owner) {
  const PREFIX = "fftlama.tab.";
  const TAB_KEY = "fftlama.tab";
  const SHELF_PREFIX = "fftlama.shelf.";
  const PLACES_KEPT = 8;
  const KEPT_MS = 7 * 24 * 3600 * 1000;
  const kept = { place: true, shelf: true };
  /** @type {string | null} */
  let tab = null;
  /** @type {{place: Place | null, shelf: KeptShelf | null}} */
  const written = { place: null, shelf: null }; // by this page, the newest

  /** @param {string} key @returns {Place | null} */
  function read(key) {
    try {
      return JSON.parse(localStorage.getItem(key) || "null");
    } catch {
      return null;
    }
  }

  /** @param {string} key @param {Place | KeptShelf} value @returns {boolean} false where storage is full or forbidden */
  function write(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  }

  function tell(/** @type {Partial<typeof kept>} */ now) {
    Object.assign(kept, now);
    onKept(kept.place && kept.shelf);
  }

  // Where there is no room for the masks of all rounds, a reload does without those of rounds that were undone.
  function withoutOldMasks(/** @type {Kept} */ state) {
    const rounds = state.rounds.map((one) => ({ ...one, strokes: one.strokes.filter((stroke) => !("mask" in stroke)) }));
    return { ...state, rounds, used: null, batch: null };
  }

  // Beside the place, because it is large and rarely changes.
  const shelfKey = (/** @type {string} */ key) => SHELF_PREFIX + key.slice(PREFIX.length);

  function drop(/** @type {string} */ key) {
    localStorage.removeItem(key);
    localStorage.removeItem(shelfKey(key));
  }

  function places() {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
    const all = keys.map((key) => ({ key, closed: false, saved_at: 0, ...read(key) }));
    return all.sort((a, b) => b.saved_at - a.saved_at);
  }

  function claim() {
    const free = dropOldest().find((place) => place.closed && isOwn(place) && Date.now() - place.saved_at < KEPT_MS);
    return take(free ? free.key : PREFIX + randomId());
  }

  // The room is small, and a phone that ends tabs without a word leaves a place each time.
  function dropOldest() {
    const all = places();
    for (const place of all.slice(PLACES_KEPT)) drop(place.key);
    return all;
  }

  // Places of before owners were noted have none.
  const isOwn = (/** @type {{owner?: string}} */ place) => (place.owner ?? owner) === owner;

  function take(/** @type {string} */ name) {
    sessionStorage.setItem(TAB_KEY, name);
    return name;
  }

  // A tab that is reloaded has closed its place before. Where it is open, another tab is there: this one was duplicated,
  // which copies sessionStorage too, and goes on with a copy. So does a tab that comes back after the browser crashed.
  function own(/** @type {string} */ name) {
    const found = read(name);
    // Who came in between may have done nothing here, so that the name is theirs and leads to no place.
    if (found ? !isOwn(found) : owner) return claim();
    if (found?.closed) return name;
    dropOldest();
    const copy = PREFIX + randomId();
    if (found && !write(copy, found)) return name;
    const shelf = found && localStorage.getItem(shelfKey(name));
    if (shelf) write(shelfKey(copy), JSON.parse(shelf));
    return take(copy);
  }

  function open() {
    try {
      const name = sessionStorage.getItem(TAB_KEY);
      tab = name ? own(name) : claim();
    } catch {
      return null;
    }
    const found = read(tab);
    if (found) write(tab, { ...found, closed: false });
    addEventListener("pagehide", () => setClosed(true));
    addEventListener("pageshow", (event) => event.persisted && comeBack());
    return found ? { state: found.state, shelf: readShelf(tab) } : null;
  }

  function readShelf(/** @type {string} */ key) {
    const found = read(shelfKey(key));
    return /** @type {KeptShelf} */ (/** @type {unknown} */ (Array.isArray(found) ? found : []));
  }

  // The browser brings the page back as it was. If another tab took its place over meanwhile, it goes on in a new one.
  function comeBack() {
    if (!tab || read(tab)?.closed) return setClosed(false);
    tab = take(PREFIX + randomId());
    if (written.place) write(tab, written.place);
    if (written.shelf) write(shelfKey(tab), written.shelf);
  }

  function setClosed(/** @type {boolean} */ closed) {
    const found = tab && read(tab);
    if (tab && found) write(tab, { ...found, closed });
  }

  // While a photo is going up, a reload brings the one before, and the upload goes on beside it.
  function follow(/** @type {import("./store.js").State} */ now, /** @type {import("./store.js").State} */ before) {
    const { photo, strokes, rounds, round, branches, job, hand, used, batch } = now;
    const isSame = photo === before.photo && strokes === before.strokes && rounds === before.rounds && round === before.round && branches === before.branches && job === before.job && hand === before.hand && batch === before.batch;
    if (!tab) tell({ place: !photo }); // storage is forbidden
    if (!tab || isSame || (photo ? !photo.image_id : !before.photo)) return;
    const state = { photo, strokes, rounds, round, branches, job, hand, used, batch: batch?.running ? batch : null };
    const place = (written.place = { state, saved_at: Date.now(), closed: false, owner });
    tell({ place: write(tab, place) || write(tab, { ...place, state: withoutOldMasks(state) }) });
  }

  /** Keep the other photos of the visit, and what is painted on those that are still going up: no reload goes on with their repair. */
  function followShelf(/** @type {import("./store.js").State} */ now, /** @type {import("./store.js").State} */ before) {
    const isPainted = now.photo && !now.photo.image_id && (now.strokes !== before.strokes || now.job !== before.job || now.batch !== before.batch);
    const { mask, painted_on } = (now.batch?.running && now.batch) || { mask: null, painted_on: null };
    if (!tab || (now.shelf === before.shelf && now.photo_number === before.photo_number && !isPainted)) return;
    /** @type {KeptShelf} */
    const others = [];
    for (const { number, name, upload_key, work: { photo, strokes, rounds, round, branches, job } } of now.shelf) {
      const isShown = number === now.photo_number;
      const painted = isShown ? [...(now.job?.strokes || []), ...now.strokes] : [...(job?.strokes || []), ...strokes];
      const all = number === painted_on ? [...(mask?.strokes || []), ...painted] : painted;
      if (upload_key) others.push({ name, upload_key, photo: null, strokes: all, rounds: [], round: 0, branches: [], job: null });
      else if (isShown) others.push("shown");
      else if (photo?.image_id) others.push({ photo, strokes, rounds, round, branches, job });
    }
    written.shelf = others;
    const isShelfKept = write(shelfKey(tab), others);
    const nothing = { photo: null, strokes: [], rounds: [], round: 0, branches: [], job: null, used: null, batch: null };
    // Without a place the shelf would not be looked for.
    const hasPlace = Boolean(read(tab)) || write(tab, { state: { ...nothing, hand: now.hand }, saved_at: Date.now(), closed: false, owner });
    tell({ shelf: isShelfKept && hasPlace });
  }

  /** Forget everything that this browser keeps, of all tabs: who comes next at this machine may be somebody else. */
  function forget() {
    tab = null;
    try {
      sessionStorage.removeItem(TAB_KEY);
      for (const { key } of places()) drop(key);
    } catch {
      // Where storage is forbidden nothing was kept.
    }
  }

  return { open, follow, followShelf, forget };
}

/** Return 128 random bits; crypto.randomUUID exists only on https and localhost, and this page is also used over a LAN. */
export function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
