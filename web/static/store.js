// Store: the page's one state. Modules read it with get() and replace parts of it with update(); nobody changes an
// object that came out of it.

/** @typedef {{points: number[][], radius: number, erase: boolean}} BrushStroke in image pixels, corners at integers */
/** @typedef {{polygon: number[][], erase: boolean}} PolygonStroke */
/** @typedef {{mask: string, box: number[], erase: boolean}} MaskStroke a region's pixels, as a PNG in base64, and where they lie */
/** @typedef {BrushStroke | PolygonStroke | MaskStroke} Stroke */
/** @typedef {{strokes: Stroke[], width: number, height: number, image_id: string | null}} UsedMask of a photo of this size; image_id: before the repair */
/** @typedef {{code: string, message?: string, params?: Record<string, any>}} Note */
/** @typedef {{what: string, how: string, model: string}} Asked a repair; what: the mask, or what is looked for; how: with which settings; model: "" where it was not known */
/** @typedef {{name: string, width: number, height: number, format: string, image_id: string | null, notes: Note[], nothing?: Asked[]}} Photo nothing: which repairs of all found nothing on it */
/** @typedef {{image_id: string, box: number[], url: string, strokes: Stroke[], notes: Note[], times_ms: Record<string, number>, saved: string | null, restored?: boolean, downloaded?: boolean, asked?: Asked, nothing?: Asked[]}} Round restored: the original came back in it; asked: which repair it came of; nothing: as a photo's */
/** @typedef {{stroke: BrushStroke, past: number, future: number}} Waiting drawn during a job; past: how many steps back there were in the strokes then; future: how many forth when undo took it */
/** @typedef {{request_id: string, job_id: string | null, base_round: number, strokes: Stroke[], quality: string, dilate_px: number | null, model: string, began_at: number, running_at: number | null, upload_ms: number, restored: BrushStroke[] | null, waiting?: Waiting[]}} Job restored: where the original comes back, in place of a repair; waiting: where it does once this is done */
/** @typedef {{tool: string, takes_away: boolean, radius: number, instant: boolean, quality: string, dilate_px: number | null, timings: boolean, file_format: string, file_quality: number}} Hand takes_away: what the outline in hand marks is taken out of the mask; dilate_px: null leaves it to the engine */
/** @typedef {{key?: string, params?: Record<string, any>, tone?: string, round?: string, error?: Note}} Status */

/** @typedef {Pick<State, "photo" | "strokes" | "past" | "future" | "taken_back" | "rounds" | "round" | "branches" | "job" | "status" | "shown_id">} Work */
/** @typedef {{number: number, name: string, work: Work, upload_key: string | null}} Shelved the work is not the newest while the photo is shown; upload_key: of its file, until the server has it */
/** @typedef {{stage: "waiting" | "uploading" | "looking" | "queued" | "running" | "done" | "nothing" | "failed" | "stopped", share?: number, error?: Note}} Doing stopped: on the way to the server; it is sent when somebody needs it */
/** @typedef {{strokes: Stroke[], width: number, height: number, image_id: string | null}} BatchMask image_id: what it was painted on */
/** @typedef {{request_id: string, image_id: string | null}} BatchItem image_id: what is repaired, once the server has it */
/** @typedef {{kind: "mask" | "text" | "mark", numbers: number[], ended: number, went: number, running: boolean, mask: BatchMask | null, painted_on: number | null, sensitivity: number, options: object, asked: Asked, items: Record<number, BatchItem>}} Batch ended: how many have, went: how many of those went through; mask: null for the text that is found; painted_on: the photo that the mask is given back to unless it gets its round; items: those that have not ended, by number */

/**
 * @typedef {object} State
 * @property {Photo | null} photo
 * @property {number} photo_number another for every photo that is opened, so that late answers find out
 * @property {Shelved[]} shelf the photos of this visit, the shown one included
 * @property {Record<number, Doing>} doing what goes on with them, by their numbers
 * @property {Batch | null} batch a repair of all of them
 * @property {Stroke[]} strokes of the round being painted
 * @property {Stroke[][]} past earlier versions of strokes
 * @property {Stroke[][]} future undone ones
 * @property {Waiting[]} taken_back what was to bring the original back, undone before its turn came
 * @property {MaskStroke | null} preview shown in place of the strokes while a slider is moved
 * @property {UsedMask | null} used the mask of the last repair, for the same again
 * @property {Round[]} rounds
 * @property {number} round how many of them are applied
 * @property {Round[][]} branches other paths of rounds from the photo on
 * @property {Job | null} job of the shown photo; others' are on the shelf
 * @property {Hand} hand
 * @property {number | null} looking since when something is looked for to select
 * @property {boolean} comparing
 * @property {number | null} split where the original ends and the result begins, as a fraction of the width; null without
 * @property {boolean} online
 * @property {string | null} shown_id changes when the thumbnails must be drawn anew
 * @property {Status} status
 */

/** @type {State} */
export const FIRST_STATE = {
  photo: null, photo_number: 0, shelf: [], doing: {}, batch: null, strokes: [], past: [], future: [], taken_back: [], preview: null,
  used: null, rounds: [], round: 0, branches: [], job: null, hand: { tool: "brush", takes_away: false, radius: 20, instant: false, quality: "fast", dilate_px: null, timings: false, file_format: "original", file_quality: 90 }, looking: null, comparing: false, split: null, online: true,
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

const ON_THIS_MACHINE = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

/** @param {Round} round @returns {Status} */
export function doneStatus(round) {
  const tone = "good";
  // A path on another machine is of no use to somebody who looks from a phone.
  if (round.saved && ON_THIS_MACHINE.test(location.hostname)) return { key: "done_saved", params: { path: round.saved }, tone, round: round.image_id };
  return { key: "done", tone, round: round.image_id };
}

/**
 * What undo goes back to where the real past is not known: the strokes one by one.
 * @param {Stroke[]} strokes
 */
export function earlierVersions(strokes) {
  return strokes.map((_, i) => strokes.slice(0, i));
}

/**
 * What did not become a round is painted again, under what was painted since.
 * @param {Pick<Work, "strokes" | "past" | "future">} work @param {Stroke[]} given @returns {Pick<Work, "strokes" | "past" | "future" | "taken_back">}
 */
export function paintedAgain({ strokes, past, future }, given) {
  const over = (/** @type {Stroke[]} */ version) => [...given, ...version];
  return { strokes: over(strokes), past: [...earlierVersions(given), ...past.map(over)], future: future.map(over), taken_back: [] };
}
