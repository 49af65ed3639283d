"""The brush that brings the original back, the line round what the engine dilates, and every tool by keyboard."""

import base64
import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from imaging.strokes import parse_strokes, rasterize
from masks.dilation import dilate_mask
from tests.support.page_driver import RED_PIXELS, STATUS, Held, Person, make_photo, photo_file
from tests.support.serving import RunningServer

Visit = Callable[..., Person]
WIDTH, HEIGHT = 640, 480


@pytest.fixture
def person(visit: Visit, server: RunningServer) -> Person:
    somebody = visit(server.url)
    somebody.open(photo_file(WIDTH, HEIGHT))
    return somebody


def result(person: Person) -> np.ndarray:
    """What Download gives: (H, W, 3) uint8."""
    href = person.page.locator('a[data-part="download"]').get_attribute("href")
    answer = person.page.request.get(f"{person.url}/{href}")
    return np.asarray(Image.open(BytesIO(answer.body())).convert("RGB"))


def drawn(strokes: list[dict[str, Any]]) -> np.ndarray:
    return rasterize(parse_strokes(strokes), (HEIGHT, WIDTH))


def test_the_original_comes_back_under_the_brush_in_any_round(person: Person) -> None:
    original = make_photo(WIDTH, HEIGHT)
    person.key("u")
    person.paint((0.3, 0.3), (0.4, 0.3))
    expect(person.page.locator(STATUS)).to_contain_text("nothing to bring back")
    person.key("r")
    person.paint((0.2, 0.2), (0.6, 0.6))
    person.repair()
    person.key("b")
    person.paint((0.8, 0.8), (0.9, 0.8))
    person.repair()
    person.paint((0.1, 0.9), (0.2, 0.9))  # painted and not repaired yet: stays
    painted, repaired = person.strokes, result(person)
    person.key("u")
    person.paint((0.3, 0.3), (0.5, 0.45))
    person.page.locator(".fft-rounds li:nth-child(4)").wait_for()
    sent = json.loads(person.posts("/api/v1/repairs")[-1])
    back = drawn(sent["strokes"])
    now = result(person)
    assert sent["options"] == {"restore": True} and back.sum() > 500
    assert (now[back] == original[back]).all() and (now[~back] == repaired[~back]).all() and (now != repaired).any()
    assert person.strokes == painted
    expect(person.page.locator(".fft-rounds li:nth-child(4)")).to_contain_text("Restored")
    # Strokes drawn during a repair wait for it; an undo takes a restored round back like any other.
    person.slow_down(200)
    person.key("Enter")
    person.page.locator('.fft[data-phase="running"]').wait_for()
    person.paint((0.85, 0.8))
    person.unroute()
    person.page.locator(".fft-rounds li:nth-child(6)").wait_for()
    assert [one.get("restored") for one in person.rounds] == [False, False, True, False, True]
    person.key("Control+z")
    expect(person.page.locator(".fft-rounds li:nth-child(5) button")).to_have_attribute("aria-current", "true")
    assert person.strokes == []


def test_strokes_that_wait_for_a_repair_go_with_undo_and_a_cancel_and_stay_with_their_photo(person: Person) -> None:
    """They stayed on the screen, nothing removed them, and the next repair of any photo ran them unasked.

    Undo passed over them, to what was painted before.
    """
    status = person.page.locator(STATUS)
    person.paint((0.2, 0.2), (0.6, 0.2))
    person.repair()
    person.paint((0.2, 0.6), (0.4, 0.6))
    person.wait_until_drawn()
    marked = person.red_pixels
    held = Held(person, "*/api/v1/repairs")
    person.press("repair")
    person.key("u")
    person.paint((0.3, 0.2), (0.4, 0.2))
    held.wait()
    person.wait_until_drawn()
    assert person.red_pixels > marked
    person.key("Escape")
    expect(status).to_have_text("Cancelled. What you painted is still there")
    person.page.wait_for_function(f"(marked) => ({RED_PIXELS})('.fft-overlay') === marked", arg=marked)
    held.let_go()
    person.repair()
    assert [one["restored"] for one in person.rounds] == [False, False]
    # What is given up is the original that was to come back: nothing was painted.
    held = Held(person, "*/api/v1/repairs")
    person.paint((0.3, 0.2), (0.4, 0.2))
    held.wait()
    person.press("cancel")
    expect(status).to_have_text("Cancelled. The original was not brought back")
    held.let_go()
    # The photo is left while its strokes wait: they are worked off there.
    held = Held(person, "*/api/v1/repairs")
    person.paint((0.3, 0.2), (0.4, 0.2))
    held.wait()
    person.paint((0.5, 0.2), (0.6, 0.2))
    person.open(photo_file(320, 240, seed=1))
    held.let_go()
    expect(person.page.locator('[data-stage="done"]')).to_have_count(1)
    assert len(person.posts("/api/v1/repairs")) == 6
    person.key("PageUp")
    person.page.locator(".fft-rounds li:nth-child(5)").wait_for()
    assert [one["restored"] for one in person.rounds] == [False, False, True, True]
    # Undo and redo take them in the order in which they were drawn.
    person.unroute()
    person.key("b")
    person.open(photo_file(WIDTH, HEIGHT, seed=2))
    person.paint((0.2, 0.2), (0.6, 0.2))
    person.repair()
    person.paint((0.2, 0.6), (0.4, 0.6))
    held = Held(person, "*/api/v1/repairs")
    person.press("repair")
    held.wait()
    undo, redo = (person.page.locator(f'[data-act="{name}"]').first for name in ("undo", "redo"))

    def draw(tool: str, y: float) -> None:
        person.key(tool)
        person.paint((0.3, y), (0.5, y))

    def rows(strokes: list[dict[str, Any]]) -> list[int]:
        return [round(10 * stroke["points"][0][1] / HEIGHT) for stroke in strokes]

    def now() -> tuple[list[int], list[int]]:
        kept = person.kept
        return rows(kept["strokes"]), rows([one["stroke"] for one in kept["job"].get("waiting", [])])

    expect(undo).to_be_disabled()
    steps: list[tuple[list[int], list[int]]] = [([], [])]
    for tool, y in (("u", 0.2), ("b", 0.4), ("u", 0.3), ("u", 0.5), ("b", 0.8)):
        draw(tool, y)
        steps.append(now())
    assert steps[-1] == ([4, 8], [2, 3, 5])
    for step in reversed(steps[:-1]):
        person.press("undo")
        assert now() == step
    expect(undo).to_be_disabled()
    for step in steps[1:]:
        person.key("Control+y")
        assert now() == step
    expect(redo).to_be_disabled()
    # What is drawn next leaves nothing to redo, whichever it is.
    for tool, y in (("u", 0.7), ("b", 0.9)):
        person.key("Control+z")
        person.key("Control+z")
        draw(tool, y)
        expect(redo).to_be_disabled()
    assert now() == ([4, 9], [2])
    # What was taken back before its turn comes when it is wanted, after the repair too.
    draw("u", 0.3)
    for _ in range(2):
        person.key("Control+z")
    assert now() == ([4], [2])
    held.let_go()
    person.page.locator(".fft-rounds li:nth-child(4)").wait_for()
    person.page.locator('.fft[data-phase="ready"]').wait_for()
    for _ in range(2):
        person.key("Control+y")
    person.page.locator(".fft-rounds li:nth-child(5)").wait_for()
    sent = [json.loads(body)["strokes"] for body in person.posts("/api/v1/repairs")[-2:]]
    assert list(map(rows, [*sent, person.strokes])) == [[2], [3], [4, 9]]
    person.unroute()
    # Undo takes them before the mask that a cancel of all gave back. They were drawn after it, and it went first.
    person.key("b")
    person.open(photo_file(320, 240, seed=1))
    person.paint((0.5, 0.5), (0.6, 0.5))
    person.repair()
    person.paint((0.2, 0.2), (0.3, 0.2))
    held = Held(person, "*/api/v1/repairs")
    person.press("batch-mask")
    held.wait()
    person.key("u")
    for x in (0.5, 0.6):  # the first is being done, the second waits
        person.paint((x, 0.5), (x + 0.05, 0.5))
    person.press("batch-cancel")
    left = []
    for key in ("", "Control+z", "Control+z", "Control+y", "Control+y"):
        person.key(key) if key else None
        left.append((len(person.strokes), len(person.kept["job"]["waiting"])))
    assert left == [(1, 1), (1, 0), (0, 0), (1, 0), (1, 1)]


FIELD = """async ([bits, width, height, dilate_px]) => {
  const { href } = document.querySelector('link[rel="modulepreload"][href$="/rings.js"]');
  const { outsideDilated } = await import(href);
  const data = Uint8Array.from(atob(bits), (letter) => letter.charCodeAt(0));
  const grid = { left: 0, top: 0, width, height, scale: 1, data };
  return [...outsideDilated(grid, dilate_px, Math.min(width, height))].map((px) => px <= 0 ? '1' : '0').join('');
}"""
LINES = """async ([bits, width, height]) => {
  const { href } = document.querySelector('link[rel="modulepreload"][href$="/rings.js"]');
  const { dilationOutline } = await import(href);
  const data = Uint8Array.from(atob(bits), (letter) => letter.charCodeAt(0));
  return dilationOutline({ left: 0, top: 0, width, height, scale: 1, data }, 7, Math.min(width, height));
}"""
IN_ITS_MARGIN = """async ([dilate_px, scale]) => {
  const { href } = document.querySelector('link[rel="modulepreload"][href$="/rings.js"]');
  const { dilationOutline, lineMargin } = await import(href);
  const [half_px, margin] = [300, lineMargin(dilate_px, scale)];
  const [near, far] = [margin, margin + 40].map((around) => {
    const [start, size] = [-half_px - around, Math.round(2 * (half_px + around) * scale)];
    const place = (cell) => Math.abs(start + (cell + 0.5) / scale) < half_px;
    const data = Uint8Array.from({ length: size ** 2 }, (_, i) => place(i % size) && place(Math.floor(i / size)));
    const lines = dilationOutline({ left: start, top: start, width: size, height: size, scale, data }, dilate_px, 900);
    return JSON.stringify(lines.map((line) => line.map(([x, y]) => [x.toFixed(3), y.toFixed(3)])));
  });
  return near === far && near.length > 90;
}"""
THIN = """async ([radius, isRegion]) => {
  const { href } = document.querySelector('link[rel="modulepreload"][href$="/rings.js"]');
  const { sample } = await import(new URL("rasterize.js", href).href);
  const { toPreview } = await import(new URL("regions.js", href).href);
  const { dilationOutline } = await import(href);
  const region = { left: 100, top: 100, width: 7800, height: 5800, data: new Uint8Array(isRegion ? 7800 * 5800 : 0) };
  for (let x = 0; isRegion && x < 7800; x += 1) {
    const y = Math.floor(x * 5800 / 7800);
    for (let k = -radius; k < radius; k += 1) region.data[Math.max(0, Math.round(y + k)) * 7800 + x] = 1;
  }
  const wire = isRegion ? toPreview(region) : { points: [[100, 100], [7900, 5900]], radius, erase: false };
  const lines = dilationOutline(await sample([wire], [60, 60, 7940, 5940], 0.15), null, 6000);
  const away = ([x, y]) => Math.abs(5800 * (x - 100) - 7800 * (y - 100)) / Math.hypot(5800, 7800);
  return [lines.length, Math.max(...lines.flat().map(away))];
}"""
HOLES: list[dict[str, Any]] = [
    {"points": [[100, 100], [300, 120]], "radius": 30},
    {"points": [[60, 300], [400, 330]], "radius": 3},
    {"polygon": [[450, 60], [620, 60], [620, 460], [450, 460]]},
]


def test_the_line_round_what_the_engine_dilates_can_be_set_and_every_tool_works_by_keyboard(person: Person) -> None:
    # The line has few corners and lies where the dilation ends. Drawn cell by cell, the line round ten strokes on 12
    # megapixels held up the moving pointer for 50 ms.
    mask = drawn([*HOLES, {"points": [[20, 470], [20, 479]], "radius": 9}])  # the last one's line leaves the photo
    bits = base64.b64encode(mask.astype(np.uint8).tobytes()).decode()
    lines = person.page.evaluate(LINES, [bits, WIDTH, HEIGHT])
    assert len(lines) == 4 and sum(map(len, lines)) < 400  # of 2700 cells that it crosses
    closed = [line for line in lines if line[0] == line[-1]]
    assert len(closed) == 3
    inside = np.zeros((HEIGHT, WIDTH), np.uint8)
    corners = [np.round(np.subtract(line, 0.5) * 256).astype(np.int32) for line in lines]
    cv2.fillPoly(inside, corners, 1, shift=8)
    dilated = dilate_mask(mask, dilate_px=7)
    assert dilated is not None
    expected = dilated.layers((0, 0, WIDTH, HEIGHT))[0]
    assert (inside.astype(bool) != expected).sum() < 0.02 * expected.sum()
    # Nothing farther away than its margin need be looked at, however far the engine dilates and on a coarse grid too.
    for dilate_px, scale in ((None, 0.25), (64, 0.25), (5, 0.5)):
        assert person.page.evaluate(IN_ITS_MARGIN, [dilate_px, scale]), (dilate_px, scale)
    # A wire across 48 megapixels, where a cell of the grid has seven pixels: it had no line, or hundreds of crumbs.
    # So was one that came as pixels, of a selection or a file.
    for radius, is_region in ((0.5, False), (1, False), (2, False), (3, False), (0.5, True), (2, True)):
        count, farthest_px = person.page.evaluate(THIN, [radius, is_region])
        assert count == 1 and farthest_px < 25, (radius, is_region)
    # Round several holes of different thickness the line's field is the engine's but for a rim's pixels.
    mask = drawn(HOLES)
    bits = base64.b64encode(mask.astype(np.uint8).tobytes()).decode()
    for dilate_px in (None, 7):
        answer = person.page.evaluate(FIELD, [bits, WIDTH, HEIGHT, dilate_px])
        inside = np.frombuffer(answer.encode(), np.uint8).reshape(HEIGHT, WIDTH) == ord("1")
        dilated = dilate_mask(mask, dilate_px=dilate_px)
        assert dilated is not None
        expected = dilated.layers((0, 0, WIDTH, HEIGHT))[0]
        assert (inside != expected).sum() < 0.01 * expected.sum()
    person.paint((0.4, 0.5), (0.6, 0.5))
    person.page.wait_for_function(f"() => ({RED_PIXELS})('.fft-line') > 100")  # the line
    expect(person.page.locator('[data-part="dilate-value"]')).to_have_text("auto")
    slider = person.page.locator('[data-part="dilate"]')
    slider.focus()
    for _ in range(6):
        person.key("ArrowRight")
    expect(person.page.locator('[data-part="dilate-value"]')).to_have_text("5 px")
    person.repair()
    assert json.loads(person.posts("/api/v1/repairs")[0])["options"] == {"dilate_px": 5}
    slider.focus()
    person.key("Home")
    expect(person.page.locator('[data-part="dilate-value"]')).to_have_text("auto")
    # Every tool works by keyboard.
    person.page.locator(".fft-stage").focus()

    def draw(tool: str, *keys: str) -> None:
        person.key(tool)
        person.key("d")
        for key in keys:
            person.key(key)
        person.key("d")

    draw("r", *["ArrowRight"] * 3, *["ArrowDown"] * 3)
    draw("l", *["ArrowUp"] * 3, *["ArrowLeft"] * 3, *["ArrowDown"] * 4)
    draw("b", "ArrowRight", "ArrowRight")
    first, second, third = person.strokes
    (left, top), _, (right, bottom), _ = first["polygon"]
    assert (left, top) == (WIDTH / 2, HEIGHT / 2) and right > left and bottom > top
    assert len(second["polygon"]) > 8 and len(third["points"]) >= 2
    person.key("l")
    person.key("d")
    person.key("ArrowUp")
    person.key("ArrowLeft")
    person.key("Escape")
    person.key("ArrowDown")
    assert len(person.strokes) == 3
    person.key("s")
    with person.page.expect_response("**/api/v1/detect"):
        person.key("d")
    point = json.loads(person.posts("/api/v1/detect")[0])["points"][0]
    assert point[2] is True and 0 <= point[0] <= WIDTH and 0 <= point[1] <= HEIGHT
