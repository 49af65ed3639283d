// Status of the server, in the window of the shortcuts: who waits, what runs, who repairs. Only for whom the server
// tells it (the setting `operators`); to others this part of the window does not exist.

/** @typedef {{waiting: {interactive: number, batch: number}, running: number, waiting_for: string[], ended: Record<string, number>, workers: {state: string}[]}} Told */

const EVERY_MS = 2000;

/** @param {{dialog: HTMLDialogElement, words: import("./i18n.js").Words}} parts */
export function createServerStatus({ dialog, words }) {
  const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (dialog.querySelector(`[data-part="${name}"]`));
  let timer = 0;

  function open() {
    dialog.showModal();
    // It would open where the only button is, at its end.
    dialog.tabIndex = -1;
    dialog.focus();
    dialog.scrollTop = 0;
    void look();
  }

  async function look() {
    clearTimeout(timer);
    const told = await ask();
    part("server").hidden = !told;
    if (told) show(told);
    if (told && dialog.open) timer = window.setTimeout(look, EVERY_MS);
  }

  /** @returns {Promise<Told | null>} null for people who may not see it, and while the server is away */
  async function ask() {
    try {
      const answer = await fetch("status", { headers: { Accept: "application/json" } });
      return answer.ok ? await answer.json() : null;
    } catch {
      return null;
    }
  }

  function show(/** @type {Told} */ { waiting, running, waiting_for, ended, workers }) {
    const obstacles = waiting_for.map((obstacle) => words.say(`server.waits_${obstacle}`));
    part("server-summary").textContent = obstacles.join(" ") || words.say("server.ready");
    const states = [...new Set(workers.map(({ state }) => state))];
    const counted = states.map((state) => `${workers.filter((one) => one.state === state).length} ${words.say(`server.${state}`)}`);
    const facts = { waiting: waiting.interactive, batch: waiting.batch, running, done: ended.done, failed: ended.failed, name: counted.join(", ") || 0 };
    part("server-facts").replaceChildren(...Object.entries(facts).map(([name, value]) => row(words.say(`server.${name}`), String(value))));
  }

  function row(/** @type {string} */ label, /** @type {string} */ value) {
    const line = document.createElement("div");
    line.append(Object.assign(document.createElement("dt"), { textContent: label }), Object.assign(document.createElement("dd"), { textContent: value }));
    return line;
  }

  dialog.addEventListener("close", () => clearTimeout(timer));

  return { open };
}
