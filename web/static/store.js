// Store: the page's one state. Modules read it with get() and replace parts of it with update(); nobody changes an
// object that came out of it.

/** @typedef {{points: number[][], radius: number, erase: boolean}} BrushStroke in image pixels, corners at integers */
/** @typedef {{polygon: number[][], erase: boolean}} PolygonStroke */
/** @typedef {{mask: string, box: number[], erase: boolean}} MaskStroke a region's pixels, as a PNG in base64, and where they lie */
/** @typedef {BrushStroke | PolygonStroke | MaskStroke} Stroke */
/** @typedef {{strokes: Stroke[], width: number, height: number, image_id: string | null}} UsedMask of a photo of this size; image_id: before the repair */
/** @typedef {{code: string, message?: string, params?: Record<string, any>}} Note */
/** @typedef {{name: string, width: number, height: number, format: string, image_id: string | null, notes: Note[]}} Photo */
/** @typedef {{image_id: string, box: number[], url: string, strokes: Stroke[], notes: Note[], times_ms: Record<string, number>, saved: string | null, restored?: boolean}} Round restored: the original came back in it */
/** @typedef {{request_id: string, job_id: string | null, base_round: number, strokes: Stroke[], quality: string, dilate_px: number | null, began_at: number, running_at: number | null, upload_ms: number, restored: BrushStroke[] | null}} Job restored: where the original comes back, in place of a repair */
/** @typedef {{tool: string, radius: number, instant: boolean, quality: string, dilate_px: number | null}} Hand dilate_px: null leaves it to the engine */
/** @typedef {{key?: string, params?: Record<string, any>, tone?: string, round?: string, error?: Note}} Status */

/**
 * @typedef {object} State
 * @property {Photo | null} photo
 * @property {number} photo_number another for every photo that is opened, so that late answers find out
 * @property {number | null} uploaded fraction of the file chosen last; null when nothing is going up
 * @property {string | null} previous name of the photo that this one replaced, if one can go back to it
 * @property {Stroke[]} strokes of the round being painted
 * @property {Stroke[][]} past earlier versions of strokes
 * @property {Stroke[][]} future undone ones
 * @property {MaskStroke | null} preview shown in place of the strokes while a slider is moved
 * @property {UsedMask | null} used the mask of the last repair, for the same again
 * @property {Round[]} rounds
 * @property {number} round how many of them are applied
 * @property {Job | null} job
 * @property {Hand} hand
 * @property {boolean} comparing
 * @property {boolean} online
 * @property {string | null} shown_id changes when the thumbnails must be drawn anew
 * @property {Status} status
 */

/** @type {State} */
export const FIRST_STATE = {
  photo: null, photo_number: 0, uploaded: null, previous: null, strokes: [], past: [], future: [], preview: null,
  used: null, rounds: [], round: 0, job: null, hand: { tool: "brush", radius: 20, instant: false, quality: "fast", dilate_px: null }, comparing: false, online: true,
  shown_id: null, status: { key: "waiting" },
};

/** @param {State} initial */
export function createStore(initial) {
  let state = Object.freeze({ ...initial });
  /** @type {((now: State, before: State) => void)[]} */
  const listeners = [];

  /** @param {Partial<State>} changes */
  function update(changes) {
    const before = state;
    state = Object.freeze({ ...before, ...changes });
    for (const listener of listeners) listener(state, before);
  }

  /** @param {Partial<Hand>} changes */
  const updateHand = (changes) => update({ hand: { ...state.hand, ...changes } });

  /** @param {(now: State, before: State) => void} listener called after every change */
  const subscribe = (listener) => void listeners.push(listener);

  return { get: () => state, update, updateHand, subscribe };
}

/** @typedef {ReturnType<typeof createStore>} Store */

/** @param {Round} round @returns {Status} */
export function doneStatus(round) {
  const tone = "good";
  if (round.saved) return { key: "done_saved", params: { path: round.saved }, tone, round: round.image_id };
  return { key: "done", tone, round: round.image_id };
}

/**
 * What undo goes back to where the real past is not known: the strokes one by one.
 * @param {Stroke[]} strokes
 */
export function earlierVersions(strokes) {
  return strokes.map((_, i) => strokes.slice(0, i));
}
