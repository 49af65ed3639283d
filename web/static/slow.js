// Slow: what is waited for is said when it takes longer than a moment, and what was said before comes back after it.

/** @typedef {import("./store.js").Status} Status */

const MOMENT_MS = 500;
/** What was said before each sentence whose wait is over: one wait may begin during another and outlast it. @type {WeakMap<Status, Status>} */
const before = new WeakMap();

/** @param {Status} status */
function withoutWhatIsOver(status) {
  let said = status;
  for (let one = before.get(said); one; one = before.get(said)) said = one;
  return said;
}

/**
 * @param {import("./store.js").Store} store @param {{key: string}} what
 * @returns {() => void} to be called when it is over
 */
export function sayIfSlow(store, { key }) {
  const { status: said } = store.get();
  /** @type {Status} */
  const slow = { key, tone: "busy", round: said.round };
  const timer = setTimeout(() => {
    const { status, job } = store.get();
    if (status === withoutWhatIsOver(said) && !job) store.update({ status: slow });
  }, MOMENT_MS);
  return () => {
    clearTimeout(timer);
    before.set(slow, said);
    const { status } = store.get();
    const back = withoutWhatIsOver(status);
    if (back !== status) store.update({ status: back });
  };
}
