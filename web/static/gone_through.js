// Gone through: which repair a picture came of, or found nothing on it, so that a repair of all photos leaves out what it
// would only do once more. It is kept with the picture: undo and redo bring it back with that, and so does a reload.

/** @typedef {import("./store.js").Asked} Asked */
/** @typedef {import("./store.js").UsedMask} UsedMask */
/** @typedef {Pick<import("./store.js").Work, "photo" | "rounds" | "round">} Pictures */
/** @typedef {import("./store.js").Batch["kind"]} Kind */

/**
 * What is to go. On photos as they were opened the same strokes are the same mask; on a result they ask for more, and a
 * mark is what lies under them.
 * @param {Kind} kind @param {UsedMask} mask @param {string | null} photo_id of the photo it was painted on, as it was opened
 */
export function whatOf(kind, { strokes, width, height, image_id }, photo_id) {
  const under = kind === "mark" || image_id !== photo_id ? image_id : null;
  return `${kind} ${hash(JSON.stringify([strokes, width, height, under]))}`;
}

/** With which settings. @param {Kind} kind @param {{quality: string, dilate_px: number | null}} hand @param {number} [sensitivity] of what looks for something */
export function howOf(kind, { quality, dilate_px }, sensitivity) {
  return [quality, dilate_px ?? "auto", ...(kind === "mask" ? [] : [sensitivity])].join(" ");
}

/** The picture as it stands. @param {Pictures} pictures */
const standing = ({ photo, rounds, round }) => (round ? rounds[round - 1] : photo);

/** What this photo's picture came of, and what found nothing on it. @param {Pictures} pictures @returns {Asked[]} */
function allAsked(pictures) {
  const { asked = null, nothing = [] } = /** @type {{asked?: Asked, nothing?: Asked[]}} */ (standing(pictures) || {});
  return asked ? [asked, ...nothing] : nothing;
}

/** Whether a photo went through and is as it was then. @param {Pictures} pictures @param {Asked} now */
export function isThrough(pictures, { what, how, model }) {
  const isModel = (/** @type {string} */ other) => other === model || !other || !model; // another is seldom chosen
  return allAsked(pictures).some((one) => one.what === what && one.how === how && isModel(one.model));
}

/** The same, whatever the settings were. @param {Pictures} pictures @param {string} what */
export function hasSeen(pictures, what) {
  return allAsked(pictures).some((one) => one.what === what);
}

/** The round to repair from: with other settings, the one before what came of the same. @param {Pictures} pictures @param {string} what */
export function baseFor({ rounds, round }, what) {
  return rounds[round - 1]?.asked?.what === what ? round - 1 : round;
}

/** Note that nothing was found on the picture as it stands. @param {Pictures} pictures @param {Asked} asked @returns {Partial<Pictures>} */
export function withNothing({ photo, rounds, round }, asked) {
  const noted = (/** @type {{nothing?: Asked[]}} */ { nothing = [] }) => ({ nothing: [...nothing, asked] });
  if (round) return { rounds: rounds.map((one, i) => (i === round - 1 ? { ...one, ...noted(one) } : one)) };
  return { photo: photo && { ...photo, ...noted(photo) } };
}

/** FNV-1a of 64 bits, enough to tell a visit's masks apart; crypto.subtle is not there over a LAN. @param {string} text */
function hash(text) {
  let sum = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(text)) sum = BigInt.asUintN(64, (sum ^ BigInt(byte)) * 0x100000001b3n);
  return sum.toString(36);
}
