// Keyboard: shortcuts that work anywhere on the page except while something is being typed. Painting without a pointer
// is pen.js's.

/** @param {{root: HTMLElement, stage: HTMLElement, actions: Record<string, any>, holdSpace: (held: boolean) => void, pen: any}} parts */
export function createKeyboard({ root, stage, actions, holdSpace, pen }) {
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const KEYS = {
    "[": actions.smaller, "]": actions.larger, b: actions.brush, e: actions.eraser, l: actions.lasso, r: actions.rectangle,
    s: actions.select, u: actions.restore, m: actions["mask-menu"], i: actions.invert,
    "+": actions.zoomIn, "=": actions.zoomIn, "-": actions.zoomOut, 0: actions.fit, 1: actions.actualSize, v: actions.split, "?": actions.help,
    pageup: actions["photo-before"], pagedown: actions["photo-after"],
  };

  // On a keyboard of other letters, Greek or Cyrillic say, what has none of ours is found by its place.
  const PLACES = { BracketLeft: "[", BracketRight: "]" };
  const isForeign = (key) => /^\p{L}$/u.test(key) && !/^\p{Script=Latin}$/u.test(key);
  const keyOf = ({ key, code }) => (isForeign(key) && (PLACES[code] || /^Key(.)$/.exec(code)?.[1])?.toLowerCase()) || key.toLowerCase();

  const isTyping = (target) => target.closest?.("textarea, select, [contenteditable=true], input:not([type=range], [type=file], [type=radio], [type=checkbox])");
  const isControl = (target) => target.closest?.("button, a, summary, input:not([type=range]), dialog"); // what the space bar works
  const isSlider = (target) => target.closest?.("input[type=range]"); // what Page Up and Page Down work
  const isPressed = (target) => target.closest?.("button, a, summary, dialog"); // and what Enter does

  function press(event) {
    if (event.defaultPrevented || isTyping(event.target) || root.querySelector("dialog[open]")) return;
    const done = event.ctrlKey || event.metaKey ? withControl(event) : plain(event);
    if (done) event.preventDefault();
  }

  function withControl(event) {
    const key = keyOf(event);
    if (key === "z" && !event.altKey) (event.shiftKey ? actions.redo : actions.undo)();
    else if (key === "y") actions.redo();
    else if (key === "s" && !event.shiftKey && !event.altKey) actions.save();
    else if (key === "c" && !event.shiftKey && !event.altKey && !String(getSelection())) actions.copy(); // a sentence that is selected is copied itself
    else return false;
    return true;
  }

  function plain(event) {
    if (event.altKey) return false;
    if (event.key === "Escape") return actions.escape();
    if (event.key === "Enter") return !isPressed(event.target) && (actions.repair(), true);
    if (event.key === " ") return !isControl(event.target) && (holdSpace(true), true);
    const key = keyOf(event);
    if (key === "c") return event.repeat || (actions.compare(true), true);
    if (event.target === stage && event.key in ARROWS) return pen.move(ARROWS[event.key], event.shiftKey), true;
    if (event.target === stage && key === "d") return event.repeat || (pen.toggle(), true);
    if (isSlider(event.target) && ["PageUp", "PageDown"].includes(event.key)) return false;
    const act = KEYS[key];
    if (act) act();
    return Boolean(act);
  }

  function release(event) {
    if (event.key === " ") holdSpace(false);
    if (keyOf(event) === "c") actions.compare(false);
  }

  document.addEventListener("keydown", press);
  document.addEventListener("keyup", release);
  addEventListener("blur", () => (holdSpace(false), actions.compare(false)));
}
