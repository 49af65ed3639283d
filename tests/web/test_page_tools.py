"""The tools: outlines are what was red, the brush's ring and size, straight lines, giving up, and the space bar."""

import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from imaging.strokes import parse_strokes, rasterize
from tests.support.page_driver import STATUS, VIEWPORT, Person, photo_file
from tests.support.page_pointer import drag_at_once
from tests.support.serving import RunningServer

Visit = Callable[..., Person]
Points = list[tuple[float, float]]
WIDTH, HEIGHT = 640, 480


@pytest.fixture
def person(visit: Visit, server: RunningServer) -> Person:
    somebody = visit(server.url)
    somebody.open(photo_file(WIDTH, HEIGHT))
    return somebody


def star(corners: int, inner: float) -> Points:
    """An outline with `corners` tips around the middle of the photo, its notches at `inner` of the tips' distance."""
    turns = [math.pi * i / corners for i in range(2 * corners)]
    far = [0.4 if i % 2 == 0 else 0.4 * inner for i in range(2 * corners)]
    return [(0.5 + r * math.sin(t) * HEIGHT / WIDTH, 0.5 - r * math.cos(t)) for t, r in zip(turns, far, strict=True)]


def scalloped(lobes: int) -> Points:
    """A round outline with lobes, as one draws round a tree."""
    turns = [2 * math.pi * i / 80 for i in range(80)]
    return [
        (0.5 + r * math.sin(t) * HEIGHT / WIDTH, 0.5 - r * math.cos(t))
        for t, r in ((t, 0.3 + 0.08 * math.cos(lobes * t)) for t in turns)
    ]


OUTLINES = {
    "star": star(8, 0.35),
    "spiky": star(16, 0.6),
    "tree": scalloped(10),
    "eight": [(0.2, 0.2), (0.8, 0.8), (0.8, 0.2), (0.2, 0.8)],
}


def test_outlines_are_what_was_red_and_end_by_escape_or_by_the_tool_that_began_them(person: Person) -> None:
    """A rectangle that ended as a lasso had its first two corners, and was no outline at all."""
    # What is red while a lasso is drawn is what is repaired.
    person.key("l")
    scale = person.photo_box()[2] / WIDTH
    for name, outline in OUTLINES.items():
        drag_at_once(person, outline)
        person.wait_until_drawn()
        while_drawing = person.red_pixels
        person.page.mouse.up()
        person.wait_until_drawn()
        released = person.red_pixels
        sent = rasterize(parse_strokes(person.strokes), (HEIGHT, WIDTH)).sum() * scale**2
        assert len(person.strokes) == 1
        assert released == pytest.approx(while_drawing, rel=0.02), name
        assert released == pytest.approx(sent, rel=0.02), name
        person.key("Control+z")
        person.wait_until_drawn()
        assert person.strokes == [] and person.red_pixels == 0
    # Escape gives up a lasso, and resizing the window in mid-stroke adds no leg.
    person.page.mouse.move(*person.stage_point(0.2, 0.2))
    person.page.mouse.down()
    person.page.mouse.move(*person.stage_point(0.5, 0.2), steps=4)
    person.page.mouse.move(*person.stage_point(0.5, 0.5), steps=4)
    person.key("Escape")
    person.page.mouse.up()
    person.wait_until_drawn()
    assert person.strokes == [] and person.red_pixels == 0
    person.key("b")
    person.page.mouse.move(*person.stage_point(0.3, 0.3))
    person.page.mouse.down()
    person.page.mouse.move(*person.stage_point(0.4, 0.3), steps=3)
    person.page.set_viewport_size({"width": 900, "height": 600})
    person.page.wait_for_timeout(150)
    person.page.mouse.move(*person.stage_point(0.4, 0.3), steps=1)
    person.page.mouse.up()
    points = np.array([point for stroke in person.strokes for point in stroke["points"]])
    assert np.abs(points[:, 1] - 0.3 * HEIGHT).max() <= 3
    person.page.set_viewport_size(VIEWPORT)
    # The keyboard's outline ends by the tool that began it.
    person.press("clear")
    person.page.locator(".fft-stage").focus()
    for tool, other in (("r", "b"), ("l", "r")):
        person.key(tool)
        person.key("d")
        for key in ("ArrowRight", "ArrowDown", other, "ArrowRight", "ArrowDown", "ArrowDown", "d"):
            person.key(key)
    rectangle, lasso = person.strokes
    (left, top), _, (right, bottom), _ = rectangle["polygon"]
    assert len(rectangle["polygon"]) == 4 and bottom - top == pytest.approx(1.5 * (right - left)) and right > left
    assert len(lasso["polygon"]) == 6
    # So does what is drawn by mouse.
    person.press("clear")

    def drag(tool: str, other: str) -> None:
        person.key(tool)
        start, middle, end = person.stage_points([(0.2, 0.2), (0.5, 0.3), (0.6, 0.6)])
        person.page.mouse.move(*start)
        person.page.mouse.down()
        person.page.mouse.move(*middle)
        person.key(other)
        person.page.mouse.move(*end)
        person.page.mouse.up()

    def newest() -> dict[str, Any]:
        return dict(person.strokes[-1])

    for other in ("l", "b", "s", "u"):
        drag("r", other)
        (left, top), _, (right, bottom), _ = newest()["polygon"]
        assert (left, top, right, bottom) == pytest.approx([128, 96, 384, 288], abs=1.5), other
    for other in ("r", "s", "e"):
        drag("l", other)
        assert len(newest()["polygon"]) == 3, other  # of two straight legs
    drag("b", "u")
    assert "points" in newest() and not newest()["erase"]
    drawn = person.strokes
    with person.page.expect_response("**/api/v1/detect"):
        drag("s", "r")
    assert json.loads(person.posts("/api/v1/detect")[0])["box"] == pytest.approx([128, 96, 384, 288], abs=1.5)
    drag("u", "b")
    expect(person.page.locator(STATUS)).to_contain_text("nothing to bring back")
    assert person.strokes[: len(drawn)] == drawn and "points" not in person.strokes[-1]


def test_a_click_with_shift_draws_a_line_on_its_photo_and_window_space_bar_and_zoom_move_the_picture(
    person: Person,
) -> None:
    # What lies beside the photo is no stroke.
    person.paint((0.2, 0.2))
    person.page.keyboard.down("Shift")
    person.paint((0.8, 0.6))
    person.page.keyboard.up("Shift")
    line = np.array(person.strokes[1]["points"])
    assert np.abs(line - [[0.2 * WIDTH, 0.2 * HEIGHT], [0.8 * WIDTH, 0.6 * HEIGHT]]).max() <= 1.5
    person.open(photo_file(200, 400, seed=3, name="tall.png"))
    person.page.keyboard.down("Shift")
    person.page.mouse.click(*person.stage_point(0.7, 0.7))
    person.page.keyboard.up("Shift")
    assert [len(stroke["points"]) for stroke in person.strokes] == [1]
    person.page.locator('[data-part="instant"]').check()
    person.page.mouse.click(*person.stage_point(-0.9, 0.5))
    person.page.wait_for_timeout(300)
    assert len(person.strokes) == 1 and not person.posts("/api/v1/repairs")
    person.page.locator('[data-part="instant"]').uncheck()
    person.key("PageUp")
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text("photo.png")
    # A smaller window keeps the photo in sight, and the shortcuts open at their top.
    for _ in range(3):
        person.press("zoomOut")
    person.page.keyboard.down(" ")
    person.paint((0.5, 0.5), (1.6, 1.6))
    person.page.keyboard.up(" ")
    person.page.set_viewport_size({"width": 600, "height": 500})
    stage = person.page.locator(".fft-stage").bounding_box()
    assert stage is not None
    left, top, width, height = person.photo_box()
    assert left + width > stage["x"] and left < stage["x"] + stage["width"]
    assert top + height > stage["y"] and top < stage["y"] + stage["height"]
    for _ in range(2):
        person.press("help")
        assert person.page.evaluate("document.querySelector('.fft-help').scrollTop") == 0
        person.key("Escape")
    person.page.set_viewport_size(VIEWPORT)
    # Actual size is one hundred percent.
    person.key("1")
    expect(person.page.locator('[data-part="zoom"]')).to_have_text("100 %")
    assert person.photo_box()[2] == pytest.approx(WIDTH)
    person.key("0")
    # The space bar moves the picture after a click on a button too, and actual size has one.
    for action in ("brush", "undo", "zoomIn"):
        person.paint((0.3, 0.3))
        person.press(action)
        painted = person.strokes
        before = person.stage_point(0, 0)
        person.page.keyboard.down(" ")
        person.paint((0.4, 0.4), (0.45, 0.5))
        person.page.keyboard.up(" ")
        assert person.strokes == painted, action
        assert person.stage_point(0, 0) != pytest.approx(before, abs=2), action
    painted, before = person.strokes, person.stage_point(0, 0)
    person.page.locator(".fft-size").click()  # a slider that has the focus does nothing with the space bar
    person.page.keyboard.down(" ")
    person.paint((0.4, 0.4), (0.45, 0.5))
    person.page.keyboard.up(" ")
    assert person.strokes == painted and person.stage_point(0, 0) != pytest.approx(before, abs=2)
    person.open(photo_file(1600, 300))
    zoom = person.page.locator('[data-part="zoom"]')
    fitted = zoom.inner_text()
    assert fitted != "100 %"
    person.page.get_by_role("button", name="1:1").click()
    expect(zoom).to_have_text("100 %")
    person.page.get_by_role("button", name="100 %: fit to window").click()
    expect(zoom).to_have_text(fitted)
    person.page.get_by_role("button", name=f"{fitted}: show at 100 %").click()
    expect(zoom).to_have_text("100 %")
    person.press("language")
    expect(zoom).to_have_attribute("aria-label", "100 %：适应窗口")
    person.press("language")


def ring_px(person: Person) -> float:
    """How wide the brush's ring is on the screen; 0 when it is not shown."""
    expression = "(r) => r.classList.contains('fft-shown') ? r.getBoundingClientRect().width : 0"
    return float(person.page.locator(".fft-ring").evaluate(expression))


def test_tools_are_known_by_the_place_of_their_keys_and_seen_and_the_ring_has_the_brushs_place_and_size(
    person: Person,
) -> None:
    """No shortcut but those of digits and signs worked on a keyboard with other letters, undo neither."""
    press = """([key, code, ctrlKey]) => document.querySelector('.fft-stage').dispatchEvent(
        new KeyboardEvent('keydown', { key, code, ctrlKey, bubbles: true, cancelable: true }))"""
    root = person.page.locator(".fft")
    # Cyrillic, Greek; a Latin keyboard's own letters are no others, wherever they lie.
    for key, code, tool in (
        ("у", "KeyE", "eraser"),
        ("λ", "KeyL", "lasso"),
        ("ü", "KeyR", "lasso"),
        ("И", "KeyB", "brush"),
    ):
        person.page.evaluate(press, [key, code, False])
        expect(root).to_have_attribute("data-tool", tool)
    person.paint((0.3, 0.3), (0.4, 0.3))
    assert len(person.strokes) == 1
    person.page.evaluate(press, ["я", "KeyZ", True])
    person.page.wait_for_timeout(100)
    assert person.strokes == []
    # What is chosen is seen in high contrast: by the pixels, since computed styles tell of colours that the system
    # replaces.
    person.page.emulate_media(forced_colors="active")
    colours = []
    for tool in ("brush", "eraser"):
        shot = person.page.locator(f'[data-act="{tool}"]').screenshot()
        pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))
        colours.append(tuple(pixels[5, 5].tolist()))
    person.page.emulate_media(forced_colors="none")
    assert colours[0] != colours[1]

    # The keyboard's ring stays on its place of the photo, and has the brush's size.
    def ring_on_photo() -> tuple[float, float]:
        box = person.page.locator(".fft-ring").bounding_box()
        assert box is not None
        left, top, width, _ = person.photo_box()
        middle_x, middle_y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        return (middle_x - left) * WIDTH / width, (middle_y - top) * WIDTH / width

    person.page.locator(".fft-stage").focus()
    for _ in range(6):
        person.key("ArrowRight")
    place, before_px = ring_on_photo(), ring_px(person)
    for _ in range(3):
        person.key("+")
    assert ring_on_photo() == pytest.approx(place, abs=1)
    assert ring_px(person) == pytest.approx(before_px * 1.25**3, abs=1)
    person.key("]")
    assert ring_px(person) == pytest.approx(before_px * 1.25**3 * 1.2, abs=1)
    person.key(" ")
    assert ring_px(person) > 0, "it is away only while the picture is moved"
    person.key("d")
    person.key("d")
    assert person.strokes[0]["points"][0] == pytest.approx(ring_on_photo(), abs=1)
    person.page.mouse.move(*person.stage_point(0.5, 0.5))
    person.key("0")
    assert ring_px(person) == pytest.approx(before_px * 1.2, abs=1), "the mouse's has the size that is shown too"
    # The mouse's has it at once, and the largest grows with the photo.
    person.page.mouse.move(*person.stage_point(0.5, 0.5))
    before = ring_px(person)
    person.key("]")
    assert ring_px(person) == pytest.approx(before * 1.2, abs=1)
    person.page.keyboard.down("Alt")
    person.page.mouse.wheel(0, -100)
    person.page.keyboard.up("Alt")
    person.wait_until_drawn()
    assert ring_px(person) == pytest.approx(before * 1.2 * 1.1, abs=1)
    person.page.mouse.move(5, 5)
    assert ring_px(person) == 0
    slider = person.page.locator(".fft-size")
    slider.focus()
    person.key("ArrowRight")
    assert ring_px(person) > before
    by_arrow_px = ring_px(person)
    person.key("PageUp")  # the next larger step, and not the photo before
    assert ring_px(person) > by_arrow_px
    value = person.page.locator('[data-part="size-value"]')
    expect(slider).to_have_attribute("aria-valuetext", value.inner_text())
    person.open(photo_file(1640, 1640, name="large.jpg"))
    slider.focus()
    person.key("End")
    expect(value).to_have_text("820 px")  # on a smaller photo 800
