"""The mask as a thing of its own: selected, found, grown, inverted, from a file and to a file, and used again."""

import base64
import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import expect

from imaging.strokes import parse_strokes, rasterize
from tests.support.page_driver import DONE, Person, browser, usual_browser, visit
from tests.support.serving import RunningServer

__all__ = ["browser", "usual_browser", "visit"]  # fixtures
Visit = Callable[..., Person]
WIDTH, HEIGHT = 631, 473  # odd, so that no row of bits ends with its byte
STATUS = '[data-part="status"]'


def png(image: Image.Image, name: str = "photo.png") -> dict[str, Any]:
    data = BytesIO()
    image.save(data, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": data.getvalue()}


def scene() -> Image.Image:
    """A smooth sky with a red and a blue disc and a caption."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    sky = np.stack([150 + rows // 8, 180 + columns // 20, 205 + rows // 16], axis=2).astype(np.uint8)
    image = Image.fromarray(sky)
    draw = ImageDraw.Draw(image)
    draw.ellipse((100, 80, 200, 180), fill=(200, 30, 30))
    draw.ellipse((400, 80, 500, 180), fill=(20, 40, 190))
    draw.text((180, 330), "Harbour View 2026", fill=(20, 20, 20), font=ImageFont.load_default(36))
    return image


@pytest.fixture
def person(visit: Visit, server: RunningServer) -> Person:
    somebody = visit(server.url)
    somebody.open(png(scene()))
    return somebody


def painted(person: Person) -> np.ndarray:
    """The mask as it is saved: (H, W) bool."""
    if not person.page.locator('[data-part="mask-menu"]').is_visible():
        person.press("mask-menu")
    with person.page.expect_download() as download:
        person.press("mask-download")
    with Image.open(download.value.path()) as file:
        assert file.size == (WIDTH, HEIGHT)
        return np.asarray(file.convert("L")) > 127


def disc(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(mask).ellipse((left, top, right, bottom), fill=255)
    return np.asarray(mask) > 127


RED, BLUE = disc(100, 80, 200, 180), disc(400, 80, 500, 180)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def when_found(person: Person, count: int = 1) -> None:
    """Wait until the server's answer is part of the mask."""
    person.page.wait_for_function("!document.querySelector('[data-part=status]').textContent.startsWith('Looking')")
    assert len(person.strokes) == count, person.status


def click(person: Person, x: float, y: float) -> None:
    """Click a pixel of the photo, and wait for what it selects."""
    with person.page.expect_response("**/api/v1/detect"):
        person.paint((x / WIDTH, y / HEIGHT))


def test_a_click_selects_another_adds_and_alt_takes_away(person: Person) -> None:
    person.key("s")
    click(person, 150, 130)
    when_found(person)
    assert overlap(painted(person), RED) > 0.9
    click(person, 450, 130)
    when_found(person)
    assert overlap(painted(person), RED | BLUE) > 0.9
    person.page.keyboard.down("Alt")
    click(person, 150, 130)
    person.page.keyboard.up("Alt")
    when_found(person)
    assert overlap(painted(person), BLUE) > 0.9
    person.key("Control+z")
    person.page.wait_for_timeout(100)
    assert overlap(painted(person), RED | BLUE) > 0.9


def test_two_quick_clicks_both_count(person: Person) -> None:
    person.key("s")
    person.paint((150 / WIDTH, 130 / HEIGHT))
    person.paint((450 / WIDTH, 130 / HEIGHT))
    person.page.wait_for_timeout(300)
    when_found(person)
    assert overlap(painted(person), RED | BLUE) > 0.9


def test_a_box_selects_what_lies_in_it(person: Person) -> None:
    person.key("s")
    with person.page.expect_response("**/api/v1/detect"):
        person.paint((80 / WIDTH, 60 / HEIGHT), (150 / WIDTH, 130 / HEIGHT), (220 / WIDTH, 200 / HEIGHT))
    when_found(person)
    assert overlap(painted(person), RED) > 0.85


def test_what_is_selected_is_what_is_repaired_less_what_was_erased(person: Person) -> None:
    person.key("s")
    click(person, 150, 130)
    when_found(person)
    person.key("e")
    person.paint((0.2, 0.2), (0.2, 0.35))
    mask = painted(person)
    person.press("mask-close")
    person.repair()
    sent = json.loads(person.posts("/api/v1/repairs")[0])
    file = np.asarray(Image.open(BytesIO(base64.b64decode(sent["mask_png"]))).convert("L")) > 127
    drawn = rasterize(parse_strokes([{**stroke, "erase": False} for stroke in sent["strokes"]]), (HEIGHT, WIDTH))
    assert [stroke["erase"] for stroke in sent["strokes"]] == [True]
    assert (mask != (file & ~drawn)).sum() < 60, "the rim of a stroke, at most"
    rows, columns = np.nonzero(file & ~drawn)
    assert person.rounds[0]["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_text_is_found_as_a_mask_and_sensitivity_replaces_it(person: Person) -> None:
    person.press("mask-menu")
    expect(person.page.locator('[data-part="sensitivity-row"]')).to_be_hidden()
    with person.page.expect_response("**/api/v1/detect", timeout=60_000):
        person.press("find-text")
    when_found(person)
    found = painted(person)
    assert found[330:375, 180:500].mean() > 0.1
    assert found[:300].sum() == 0
    slider = person.page.locator('[data-part="sensitivity"]')
    slider.focus()
    with person.page.expect_response("**/api/v1/detect"):
        person.key("ArrowRight")
    when_found(person)
    assert [json.loads(body)["sensitivity"] for body in person.posts("/api/v1/detect")] == [0.5, 0.51]


def test_text_is_looked_for_inside_what_is_painted(person: Person) -> None:
    person.key("r")
    person.paint((0.05, 0.1), (0.5, 0.5))
    person.press("mask-menu")
    expect(person.page.locator('[data-part="find-text"]')).to_have_text("Text in the mask")
    before = person.strokes
    with person.page.expect_response("**/api/v1/detect", timeout=60_000):
        person.press("find-text")
    expect(person.page.locator(STATUS)).to_contain_text("Nothing was found")
    assert person.strokes == before
    left, top, right, bottom = json.loads(person.posts("/api/v1/detect")[0])["box"]
    assert (left, top, right, bottom) == pytest.approx((0.05 * WIDTH, 0.1 * HEIGHT, 0.5 * WIDTH, 0.5 * HEIGHT), abs=2)


def test_a_refusal_of_the_detector_is_a_sentence_and_changes_nothing(person: Person) -> None:
    person.paint((0.4, 0.5), (0.5, 0.5))
    before = person.strokes
    answer = {"error": "detector_missing", "message": "?", "params": {}}
    person.page.route("**/api/v1/detect", lambda route: route.fulfill(status=503, json=answer))
    person.press("mask-menu")
    person.press("find-text")
    expect(person.page.locator(STATUS)).to_contain_text("no text detector")
    assert person.strokes == before


def set_growth(person: Person, px: int, *, release: bool) -> None:
    script = """([node, px, release]) => {
      node.value = px;
      node.dispatchEvent(new Event('input'));
      if (release) node.dispatchEvent(new Event('change'));
    }"""
    slider = person.page.locator('[data-part="grow"]').element_handle()
    person.page.evaluate(script, [slider, px, release])
    person.page.wait_for_timeout(700)


@pytest.mark.parametrize("px", [1, 13, -1, -9])
def test_the_mask_grows_and_shrinks_by_exact_distances(person: Person, px: int) -> None:
    person.key("l")
    person.paint((0.3, 0.3), (0.7, 0.35), (0.6, 0.7), (0.5, 0.45), (0.35, 0.6))
    before = painted(person)
    set_growth(person, px, release=True)
    expect(person.page.locator('[data-part="grow-value"]')).to_have_text("0 px")
    after = painted(person)
    if px > 0:
        expected = cv2.distanceTransform((~before).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= px + 1e-3
    else:
        expected = cv2.distanceTransform(before.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > -px + 1e-3
    assert (after == expected).all()
    person.key("Control+z")
    assert (painted(person) == before).all()


def test_moving_the_slider_only_shows_what_would_be(person: Person) -> None:
    person.paint((0.4, 0.5), (0.6, 0.5))
    before = person.strokes
    person.press("mask-menu")
    red = """() => {
      const canvas = document.querySelector('.fft-overlay');
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      let red = 0;
      for (let i = 3; i < data.length; i += 4) red += data[i] > 127;
      return red;
    }"""
    person.page.wait_for_timeout(100)
    small = person.page.evaluate(red)
    set_growth(person, 30, release=False)
    assert person.page.evaluate(red) > 2 * small
    assert person.strokes == before
    set_growth(person, 0, release=True)
    assert person.page.evaluate(red) == pytest.approx(small, rel=0.01)
    assert person.strokes == before


def test_invert_turns_the_mask_round_and_back(person: Person) -> None:
    person.key("r")
    person.paint((0.25, 0.25), (0.5, 0.5))
    before = painted(person)
    person.key("i")
    person.page.wait_for_timeout(300)
    assert (painted(person) == ~before).all()
    person.key("i")
    person.page.wait_for_timeout(300)
    assert (painted(person) == before).all()


def upload(person: Person, image: Image.Image) -> None:
    if not person.page.locator('[data-part="mask-menu"]').is_visible():
        person.press("mask-menu")
    person.page.set_input_files(".fft-mask-file", png(image, "mask.png"))


def white(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


def layer(mask: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """A picture that is transparent but for the mask, as editors save a layer."""
    return Image.fromarray(np.dstack([np.full((*mask.shape, 3), colour, np.uint8), mask.astype(np.uint8) * 255]))


@pytest.mark.parametrize(
    "image",
    [white(RED), layer(RED, (255, 255, 255)), layer(RED, (30, 0, 0)), white(RED).resize((2 * WIDTH, 2 * HEIGHT), 0)],
    ids=["white", "white layer", "dark layer", "twice the size"],
)
def test_a_mask_comes_from_a_file(person: Person, image: Image.Image) -> None:
    upload(person, image)
    person.page.wait_for_function("document.querySelector('[data-act=mask-download]').disabled === false")
    assert (painted(person) == RED).all()
    person.repair()


@pytest.mark.parametrize(
    ("image", "sentence"),
    [(Image.new("L", (300, 300), 255), "not the size"), (Image.new("L", (WIDTH, HEIGHT)), "cannot be used as a mask")],
)
def test_a_file_that_is_no_mask_is_said_and_changes_nothing(person: Person, image: Image.Image, sentence: str) -> None:
    person.paint((0.4, 0.5), (0.6, 0.5))
    before = person.strokes
    upload(person, image)
    expect(person.page.locator(STATUS)).to_contain_text(sentence)
    assert person.strokes == before


def test_the_same_mask_again_on_this_photo_and_on_the_next(person: Person) -> None:
    upload(person, white(RED))
    person.page.wait_for_function("document.querySelector('[data-act=mask-download]').disabled === false")
    person.key("b")
    person.paint((0.5, 0.6), (0.6, 0.6))
    first = painted(person)
    person.repair()
    person.press("mask-again")
    assert (painted(person) == first).all()
    person.key("Control+z")
    person.open(png(scene().resize((2 * WIDTH, 2 * HEIGHT)), "next.png"))
    person.press("mask-again")
    person.page.wait_for_timeout(300)
    person.repair()
    sent = json.loads(person.posts("/api/v1/repairs")[-1])
    file = np.asarray(Image.open(BytesIO(base64.b64decode(sent["mask_png"]))).convert("L")) > 127
    assert (file == np.kron(first, np.ones((2, 2), bool))).all()


def test_a_reload_brings_a_found_mask_back(person: Person) -> None:
    upload(person, white(BLUE))
    person.page.wait_for_function("document.querySelector('[data-act=mask-download]').disabled === false")
    person.visit()
    person.page.locator('.fft[data-phase="ready"]').wait_for()
    assert (painted(person) == BLUE).all()
    person.press("mask-close")
    person.key("Enter")
    person.page.locator(DONE).wait_for()
    assert person.rounds[0]["box"] == [400, 80, 501, 181]


def test_the_menu_opens_and_closes_by_keyboard(person: Person) -> None:
    menu = person.page.locator('[data-part="mask-menu"]')
    person.key("m")
    expect(menu).to_be_visible()
    person.key("Escape")
    expect(menu).to_be_hidden()
    expect(person.page.locator('[data-part="mask-button"]')).to_be_focused()
