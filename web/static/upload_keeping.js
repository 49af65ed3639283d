// Upload keeping: files that are going up, kept in the browser until the server has them, so that a reload goes on with
// them. IndexedDB, because localStorage holds no files.

/** @typedef {{file: File, kept_at: number}} Kept */

const NAME = "fftlama";
const STORE = "uploads";
const KEPT_MS = 7 * 24 * 3600 * 1000; // as long as a closed tab's photos

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function answered(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export function createUploadKeeping() {
  /** @type {Promise<IDBDatabase> | null} */
  let opening = null;

  function open() {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    return answered(request);
  }

  /**
   * Storage may be forbidden or full: then a reload has to be told the file again.
   * @template T @param {IDBTransactionMode} mode @param {(store: IDBObjectStore) => IDBRequest<T>} ask @returns {Promise<T | null>}
   */
  async function within(mode, ask) {
    try {
      const database = await (opening ||= open());
      return await answered(ask(database.transaction(STORE, mode).objectStore(STORE)));
    } catch {
      return null;
    }
  }

  /** @param {string} key @param {File} file */
  const keep = (key, file) => void within("readwrite", (store) => store.put({ file, kept_at: Date.now() }, key));

  /** @param {string} key @returns {Promise<File | null>} */
  const find = async (key) => /** @type {Kept | null} */ (await within("readonly", (store) => store.get(key)))?.file || null;

  /** @param {string} key */
  const drop = (key) => void within("readwrite", (store) => store.delete(key));

  /** Drop what tabs left that never came back. */
  async function clean() {
    for (const key of (await within("readonly", (store) => store.getAllKeys())) || []) {
      const kept = /** @type {Kept | null} */ (await within("readonly", (store) => store.get(key)));
      if (kept && Date.now() - kept.kept_at > KEPT_MS) drop(String(key));
    }
  }

  return { keep, find, drop, clean };
}

/** @typedef {ReturnType<typeof createUploadKeeping>} UploadKeeping */
