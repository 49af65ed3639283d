"""The page on screens from a phone's to 4K: what is painted lies under the pointer, and fingers find everything.

Gradio has not come yet; that it changes no pixel on such screens is tried in test_page_early.py.
"""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.page_driver import VIEWPORT, Person, photo_file
from tests.support.serving import RunningServer
from tests.web.test_page_looks import check_layout

Visit = Callable[..., Person]
TOUCH = {"is_mobile": True, "has_touch": True}
SCREENS: dict[str, dict[str, Any]] = {
    "4K": {"viewport": {"width": 3840, "height": 2160}},
    "WQHD": {"viewport": {"width": 2560, "height": 1440}},
    "tablet": {"viewport": {"width": 820, "height": 1180}, **TOUCH},
    "small phone": {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, **TOUCH},
    "phone on its side": {"viewport": {"width": 844, "height": 390}, "device_scale_factor": 2, **TOUCH},
    "small phone on its side": {"viewport": {"width": 740, "height": 360}, "device_scale_factor": 2, **TOUCH},
}
WIDTHS_ROUND_A_SECOND_ROW = (360, 600, 800, 1000, 1100, 1150, 1200, 1250, 1300)
TOOL_KEYS = "beulrs"  # brush, eraser, restore, lasso, rectangle, select
LEAST_TARGET_PX = 44
ROWS_OF_TOOLS = {"small phone": 2, "phone on its side": 8}

SMALL_TARGETS = """(least) => [...document.querySelectorAll('.fft :is(button, a, select, summary, input, label)')]
  .filter((node) => node.checkVisibility({ visibilityProperty: true }))
  .filter((node) => !node.matches('[type=file]') && !node.closest('dialog'))
  // A checkbox and a choice are worked by the label round them; a label round a slider is no target of its own.
  .filter((node) => !(node.matches('[type=checkbox], [type=radio]') && node.closest('label')))
  .filter((node) => !(node.matches('label') && node.querySelector('[type=range], select')))
  .map((node) => [node.dataset.act || node.dataset.part || node.className, node.getBoundingClientRect()])
  .filter(([, { width, height }]) => width < least - 0.5 || height < least - 0.5)
  .map(([name, { width, height }]) => `${name}: ${width.toFixed(0)} x ${height.toFixed(0)}`)"""


@pytest.mark.parametrize("screen", SCREENS)
def test_paint_lies_under_the_pointer_nothing_is_cut_off_and_a_finger_hits_everything(
    visit: Visit, server: RunningServer, screen: str
) -> None:
    """At 4K the stage was enlarged with the page, so that photo and mask lay somewhere else and were cut off."""
    person = visit(server.url, **SCREENS[screen])
    small: list[str] = []

    def note_targets(state: str) -> None:
        if "has_touch" in SCREENS[screen]:
            small.extend(f"{state}, {target}" for target in targets(person))

    check_layout(person)
    note_targets("empty")
    # Larger than the window, which the touch screens are small for.
    width, height = (800, 600) if "has_touch" in SCREENS[screen] else (1600, 1200)
    person.open(photo_file(width, height))
    stage = person.page.locator(".fft-stage").bounding_box()
    assert stage is not None
    middle = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
    assert person.stage_point(0.5, 0.5) == pytest.approx(middle, abs=2)
    window = person.page.viewport_size
    assert window is not None
    assert stage["width"] * stage["height"] > 0.45 * window["width"] * window["height"]
    if screen in ROWS_OF_TOOLS:
        check_tools(person, ROWS_OF_TOOLS[screen])
    person.paint((0.3, 0.4), (0.6, 0.7))
    points = person.strokes[0]["points"]
    assert points[0] == pytest.approx([0.3 * width, 0.4 * height], abs=3)
    assert points[-1] == pytest.approx([0.6 * width, 0.7 * height], abs=3)
    assert is_red_drawn(person, 0.45, 0.55) and not is_red_drawn(person, 0.7, 0.4)
    note_targets("painted")
    person.repair()
    check_layout(person)
    person.press("save-menu")
    note_targets("repaired")
    if not person.page.locator('[data-part="mask-menu"]').is_visible():
        person.press("mask-menu")
    note_targets("mask menu")
    assert small == []
    if "device_scale_factor" in SCREENS[screen]:  # on the others test_page_tools.py does
        person.key("1")
        expect(person.page.locator('[data-part="zoom"]')).to_have_text("100 %")
        assert person.photo_box()[2] * 2 == pytest.approx(width)
    if screen == "tablet":
        person.open(photo_file(320, 240, name="second.png"))
        state, mask = (person.page.locator(part).bounding_box() for part in (".fft-state", ".fft-mask"))
        assert state and mask
        assert mask["y"] - state["y"] - state["height"] < 60  # it was below all that is for many photos


# Where the stage lies with each tool in hand, and the tool, so that none that did not come counts.
STAGE_BY_TOOL = """async (keys) => {
  const boxes = [], tools = new Set();
  for (const key of keys) {
    const code = `Key${key.toUpperCase()}`;
    document.body.dispatchEvent(new KeyboardEvent('keydown', { key, code, bubbles: true, cancelable: true }));
    for (let frames = 0; frames < 2; frames += 1) await new Promise(requestAnimationFrame);
    tools.add(document.querySelector('.fft').dataset.tool);
    const { left, top, width, height } = document.querySelector('.fft-stage').getBoundingClientRect();
    boxes.push([left, top, width, height].join(' '));
  }
  return tools.size === keys.length ? boxes : ['tools', ...tools];
}"""
WELCOME = """() => {
  const welcome = document.querySelector('.fft-welcome'), room = welcome.getBoundingClientRect();
  return [...welcome.querySelectorAll('p, button')].filter((node) => node.checkVisibility())
    .map((node) => ({ name: node.textContent.trim(), box: node.getBoundingClientRect() }))
    .filter(({ box }) => box.top < room.top || box.left < room.left || box.right > room.right || box.height < 18)
    .map(({ name }) => name);
}"""


@pytest.mark.parametrize("is_touch", [False, True])
def test_the_welcome_can_be_read_and_scrolled_in_small_windows_and_no_tool_in_hand_moves_the_photo(
    visit: Visit, server: RunningServer, is_touch: bool
) -> None:
    """It was cut off at the top, where nothing can be scrolled to, and the link in it had no height."""
    person = visit(server.url, **(TOUCH if is_touch else {}))
    for width, height in ((320, 460), (375, 553), (360, 560), (320, 256)):
        person.page.set_viewport_size({"width": width, "height": height})
        assert person.page.evaluate(WELCOME) == [], (width, height)
        check_layout(person, f"{width} x {height}")
    if is_touch:  # less is said, and all of it fits
        return
    person.page.locator(".fft-welcome-title:visible").hover()
    person.page.mouse.wheel(0, 400)
    person.page.wait_for_function("document.querySelector('.fft-welcome').scrollTop > 0")
    # Where the brush's size took the toolbar a second row, an outline moved the photo by half a row.
    person.page.set_viewport_size(VIEWPORT)
    person.open(photo_file(640, 480))
    moved = {}
    for width in WIDTHS_ROUND_A_SECOND_ROW:
        person.page.set_viewport_size({"width": width, "height": 800})
        boxes = person.page.evaluate(STAGE_BY_TOOL, list(TOOL_KEYS))
        if len(set(boxes)) > 1:
            moved[width] = boxes
    assert moved == {}


def is_red_drawn(person: Person, x: float, y: float) -> bool:
    """Tell whether the overlay has the mask's colour at this fraction of the photo."""
    left, top = person.stage_point(x, y)
    return bool(
        person.page.evaluate(
            """([x, y]) => {
              const canvas = document.querySelector('.fft-overlay'), box = canvas.getBoundingClientRect();
              const at = [(x - box.left) * canvas.width / box.width, (y - box.top) * canvas.height / box.height];
              return canvas.getContext('2d').getImageData(...at.map(Math.floor), 1, 1).data[3] > 127;
            }""",
            [left, top],
        )
    )


def targets(person: Person) -> list[str]:
    """Return the targets that are too small for a finger."""
    found: list[str] = person.page.evaluate(SMALL_TARGETS, LEAST_TARGET_PX)
    return found


def check_tools(person: Person, rows: int) -> None:
    """All tools are there without scrolling, in so many rows."""
    bar = person.page.locator(".fft-bar")
    assert bar.evaluate("(bar) => bar.scrollHeight - bar.clientHeight") <= 1
    tops = bar.evaluate(
        "(bar) => [...bar.querySelectorAll('button, input')]"
        ".filter((node) => node.checkVisibility({ visibilityProperty: true }))"
        ".map((node) => Math.round(node.getBoundingClientRect().top / 10))"
    )
    assert len(set(tops)) == rows
    window = person.page.viewport_size
    repair = person.page.locator(".fft-repair").bounding_box()
    assert window is not None and repair is not None
    assert repair["y"] + repair["height"] <= window["height"]
