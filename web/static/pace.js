// Pace: how long repairs took on this server so far, for an estimate of the next; kept from visit to visit.

import { boxOf } from "./strokes.js";

/** @typedef {import("./store.js").Stroke} Stroke */

const KEY = "fftlama.pace";
const NEWEST_SHARE = 0.4; // of the average; machines and models change

/** @returns {Record<string, number>} */
function read() {
  try {
    return JSON.parse(localStorage.getItem(KEY) || "{}") || {};
  } catch {
    return {}; // storage may be forbidden; then the first repair of a visit has no estimate
  }
}

// Repairs of about the same size take about the same time: classes are a factor of four of the strokes' box apart.
/** @param {string} quality @param {Stroke[]} strokes */
function classOf(quality, strokes) {
  const [left, top, right, bottom] = boxOf(strokes, Infinity, Infinity) || [0, 0, 1, 1];
  const area_px = (right - left) * (bottom - top);
  return { quality, size: Math.round(Math.log2(area_px) / 2) };
}

export function createPace() {
  let known = read();

  /** @param {string} quality @param {Stroke[]} strokes @param {number} took_ms */
  function learn(quality, strokes, took_ms) {
    const { size } = classOf(quality, strokes);
    const key = `${quality} ${size}`;
    const before_ms = known[key] ?? took_ms;
    known = { ...known, [key]: (1 - NEWEST_SHARE) * before_ms + NEWEST_SHARE * took_ms };
    try {
      localStorage.setItem(KEY, JSON.stringify(known));
    } catch {
      // not remembered, still known during this visit
    }
  }

  /** @param {string} quality @param {Stroke[]} strokes @returns {number | null} null where nothing of the kind was repaired */
  function expect_ms(quality, strokes) {
    const { size } = classOf(quality, strokes);
    for (const distance of [0, 1, -1, 2, -2]) {
      const took_ms = known[`${quality} ${size + distance}`];
      if (took_ms) return took_ms;
    }
    return null;
  }

  return { learn, expect_ms };
}

/** @typedef {ReturnType<typeof createPace>} Pace */

/**
 * How much of a repair is done: in proportion up to nine tenths, then ever slower, because no estimate is sure.
 * @param {number} passed_ms @param {number} expected_ms
 */
export function shareDone(passed_ms, expected_ms) {
  const ratio = passed_ms / Math.max(1, expected_ms);
  return ratio < 0.9 ? ratio : 1 - 0.1 * Math.exp(-(ratio - 0.9) / 0.3);
}
