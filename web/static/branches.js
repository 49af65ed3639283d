// Branches: rounds that another way was taken from. A path is the rounds from the photo on; the one in use is the
// state's `rounds`, the others are kept whole, so that each can be taken again. No path is the beginning of another.

/** @typedef {import("./store.js").Round} Round */
/** @typedef {import("./store.js").State} State */
/** @typedef {Pick<State, "rounds" | "round" | "branches">} Paths */

/** How many rounds two paths have in common. @param {Round[]} a @param {Round[]} b */
export function commonLength(a, b) {
  let length = 0;
  while (length < a.length && a[length].image_id === b[length]?.image_id) length += 1;
  return length;
}

const isBeginning = (/** @type {Round[]} */ a, /** @type {Round[]} */ b) => commonLength(a, b) === a.length;

/** Only paths that lead somewhere else than `rounds` and than each other. @param {Round[][]} paths @param {Round[]} rounds */
function distinct(paths, rounds) {
  const isOwn = (/** @type {Round[]} */ path, /** @type {number} */ i) =>
    !isBeginning(path, rounds) && !paths.some((other, j) => i !== j && isBeginning(path, other) && (path.length < other.length || j < i));
  return paths.filter(isOwn);
}

/** A round made on round number `base`: what came after that becomes a branch. @param {Paths} paths @param {number} base @param {Round} made @returns {Paths} */
export function withRound({ rounds, branches }, base, made) {
  const now = [...rounds.slice(0, base), made];
  return { rounds: now, round: now.length, branches: distinct([...branches, rounds], now) };
}

/** Go over to a branch; the path in use becomes one. @param {Paths} paths @param {number} index @returns {Paths} */
export function onBranch({ rounds, branches }, index) {
  const now = branches[index];
  return { rounds: now, round: now.length, branches: distinct([...branches.filter((_, i) => i !== index), rounds], now) };
}

/** Without a round of the path in use and all that was built on it. @param {Paths} paths @param {number} number from 1 @returns {Paths} */
export function withoutRound({ rounds, round, branches }, number) {
  const { image_id } = rounds[number - 1];
  const before = (/** @type {Round[]} */ path) => {
    const at = path.findIndex((one) => one.image_id === image_id);
    return at < 0 ? path : path.slice(0, at);
  };
  const now = before(rounds);
  return { rounds: now, round: Math.min(round, now.length), branches: distinct(branches.map(before), now) };
}
