// Slow: what is waited for is said when it takes longer than a moment, and what was said before comes back after it.

const MOMENT_MS = 500;

/**
 * @param {import("./store.js").Store} store @param {{key: string}} what
 * @returns {() => void} to be called when it is over
 */
export function sayIfSlow(store, { key }) {
  const { status: said } = store.get();
  /** @type {import("./store.js").Status} */
  const slow = { key, tone: "busy", round: said.round };
  const timer = setTimeout(() => {
    const { status, job } = store.get();
    if (status === said && !job) store.update({ status: slow });
  }, MOMENT_MS);
  return () => {
    clearTimeout(timer);
    if (store.get().status === slow) store.update({ status: said });
  };
}
