"""The mask as a thing of its own: selected, found, grown, inverted, from a file and to a file, and used again."""

import base64
import json
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import expect

from imaging.strokes import parse_strokes, rasterize
from tests.support.page_driver import RED_PIXELS, STATUS, Held, Person
from tests.support.serving import RunningServer, wait_until

Visit = Callable[..., Person]
# Odd, so that no row of bits ends with its byte; and no text is looked for in it twice as large, as in smaller ones.
WIDTH, HEIGHT = 641, 481
PATIENCE_MS = 120_000  # the text detector takes a while to load on a busy machine


def png(image: Image.Image, name: str = "photo.png") -> Any:
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


def until(person: Person, true_there: str, argument: Any = None) -> None:
    """Wait until a JavaScript function says so; to look in each frame would have the page draw them all."""
    person.page.wait_for_function(true_there, arg=argument, timeout=PATIENCE_MS, polling=30)


def changing(person: Person, action: Callable[[], Any], count: int = 1) -> None:
    """Do what gives the mask another content, and wait until it has it, in `count` strokes."""
    kept = "(JSON.parse(localStorage.getItem(sessionStorage.getItem('fftlama.tab')))?.state.strokes || [])"
    before = person.page.evaluate(f"JSON.stringify({kept})")
    action()
    until(
        person,
        f"([before, count]) => {kept}.length === count && JSON.stringify({kept}) !== before",
        [before, count],
    )


def painted(person: Person, height: int = HEIGHT) -> np.ndarray:
    """The mask as it is saved: (H, W) bool."""
    with person.page.expect_download() as download:
        person.press("mask-download")
    with Image.open(download.value.path()) as file:
        assert file.size == (WIDTH, height)
        return np.asarray(file.convert("L")) > 127


def disc(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(mask).ellipse((left, top, right, bottom), fill=255)
    return np.asarray(mask) > 127


RED, BLUE = disc(100, 80, 200, 180), disc(400, 80, 500, 180)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def click(person: Person, x: float, y: float) -> None:
    """Click a pixel of the photo with the tool in hand."""
    person.paint((x / WIDTH, y / HEIGHT))


def drag(person: Person, *points: tuple[float, float]) -> None:
    """Drag the tool in hand over pixels of the photo."""
    person.paint(*[(x / WIDTH, y / HEIGHT) for x, y in points])


def mask_file(sent: dict[str, Any]) -> np.ndarray:
    """The mask file of a repair that was asked for: (H, W) bool."""
    return np.asarray(Image.open(BytesIO(base64.b64decode(sent["mask_png"]))).convert("L")) > 127


def test_looking_can_be_given_up_and_clicks_and_boxes_select_add_and_take_away(person: Person) -> None:
    # Looking shows that it goes on, and is given up by key and button.
    row = person.page.locator('[data-part="progress-row"]')
    held = Held(person, "*/api/v1/detect")
    for give_up in (lambda: person.key("Escape"), lambda: person.press("cancel")):
        person.press("find-text")
        expect(row).to_be_visible()
        give_up()
        expect(row).to_be_hidden()
        expect(person.page.locator(STATUS)).not_to_contain_text("Looking")
    held.let_go()
    person.page.wait_for_timeout(300)
    assert person.strokes == []
    person.unroute()
    # A repair is told of again when a search beside it ends. It said "Looking…", and after Escape to press Repair,
    # until the repair's state was asked for again.
    person.run_until_cancelled()
    person.paint((0.1, 0.1), (0.2, 0.1))
    person.press("repair")
    status = person.page.locator(STATUS)
    expect(status).to_have_text("Repairing…")
    held = Held(person, "*/api/v1/detect")
    person.key("s")
    for end in (lambda: person.key("Escape"), lambda: changing(person, held.let_go)):
        click(person, 150, 130)
        expect(status).to_have_text("Looking…")
        end()
        person.page.wait_for_timeout(200)  # the next poll, up to ten seconds later, would say it again
        assert person.status == "Repairing…"
    person.press("cancel")
    person.unroute()
    # Clicks select, add and take away.
    changing(person, lambda: person.press("clear"), 0)
    changing(person, lambda: click(person, 150, 130))
    assert overlap(painted(person), RED) > 0.9
    changing(person, lambda: click(person, 450, 130))
    assert overlap(painted(person), RED | BLUE) > 0.9
    person.page.keyboard.down("Alt")
    changing(person, lambda: click(person, 150, 130))
    person.page.keyboard.up("Alt")
    assert overlap(painted(person), BLUE) > 0.9
    changing(person, lambda: person.key("Control+z"))
    assert overlap(painted(person), RED | BLUE) > 0.9
    # Two quick clicks count both, and a box selects what lies in it.
    changing(person, lambda: person.press("clear"), 0)
    person.key("s")

    def click_twice() -> None:
        click(person, 150, 130)
        click(person, 450, 130)

    changing(person, click_twice)  # by the first one's answer, or by both
    assert wait_until(lambda: overlap(painted(person), RED | BLUE) > 0.9, {True})
    changing(person, lambda: person.press("clear"), 0)
    changing(person, lambda: drag(person, (80, 60), (150, 130), (220, 200)))
    assert overlap(painted(person), RED) > 0.85
    # What is selected is what is repaired, less what is erased from it by hand.
    person.key("e")
    changing(person, lambda: drag(person, (126, 95), (126, 165)), 2)
    mask = painted(person)
    person.repair()
    sent = json.loads(person.posts("/api/v1/repairs")[-1])
    assert [stroke["erase"] for stroke in sent["strokes"]] == [True]
    drawn = rasterize(parse_strokes([{**stroke, "erase": False} for stroke in sent["strokes"]]), (HEIGHT, WIDTH))
    hole = mask_file(sent) & ~drawn
    assert (mask != hole).sum() < 60, "the rim of a stroke, at most"
    rows, columns = np.nonzero(hole)
    assert person.rounds[0]["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    # A click on another photo is a selection of its own. While the first photo's was looked for, the next photo's click
    # was sent with it.
    person.requests.clear()
    Held(person, "*/api/v1/detect")
    person.key("s")
    person.page.mouse.click(*person.stage_point(0.5, 0.5))
    person.open(png(scene(), "next.png"))
    person.page.mouse.click(*person.stage_point(0.2, 0.2))
    person.page.wait_for_function("document.querySelector('[data-part=\"status\"]').textContent.includes('Looking')")
    person.page.wait_for_timeout(200)
    asked = [json.loads(body) for body in person.posts("/api/v1/detect")]
    assert [len(one["points"]) for one in asked] == [1, 1] and asked[0]["image_id"] != asked[1]["image_id"]


def test_text_and_spots_are_found_as_masks_and_what_the_detector_refuses_is_a_sentence(
    visit: Visit, server: RunningServer
) -> None:
    """In a low photo: to look at a whole one for text takes three times as long."""
    person = visit(server.url)
    image = scene().crop((0, 300, WIDTH, HEIGHT))
    height = HEIGHT - 300
    ImageDraw.Draw(image).ellipse((560, 120, 600, 160), fill=(200, 30, 30))
    person.open(png(image))
    sensitivity = person.page.locator('[data-part="sensitivity"]')
    expect(sensitivity).to_be_hidden()
    changing(person, lambda: person.press("find-text"))
    found = painted(person, height)
    assert found[30:75, 180:500].mean() > 0.1
    assert found[100:].sum() == 0
    sensitivity.focus()
    with person.page.expect_response("**/api/v1/detect"):
        person.key("ArrowRight")
    assert [json.loads(body)["sensitivity"] for body in person.posts("/api/v1/detect")] == [0.5, 0.51]
    expect(person.page.locator(STATUS)).not_to_contain_text("Looking")
    assert overlap(painted(person, height), found) > 0.9 and len(person.strokes) == 1
    # Only in the box of what is painted, where there is none.
    changing(person, lambda: person.press("clear"), 0)
    expect(person.page.locator('[data-part="find-text"]')).to_have_text("Find text")
    person.key("r")
    changing(person, lambda: person.paint((32 / WIDTH, 95 / height), (315 / WIDTH, 160 / height)))
    expect(person.page.locator('[data-part="find-text"]')).to_have_text("Text in the mask")
    before = person.strokes
    person.press("find-text")
    expect(person.page.locator(STATUS)).to_contain_text("Nothing was found")
    assert json.loads(person.posts("/api/v1/detect")[-1])["box"] == pytest.approx((32, 95, 315, 160), abs=2)
    answer = {"error": "detector_missing", "message": "?", "params": {}}
    person.stops.add("*/api/v1/detect", lambda stopped: stopped.fulfill(answer, 503))
    person.press("find-text")
    expect(person.page.locator(STATUS)).to_contain_text("no text detector")
    assert person.strokes == before
    person.unroute()
    # Spots, to which text is added.
    draw = ImageDraw.Draw(image)
    places = [(60, 60), (300, 110), (500, 140), (320, 150)]
    for x, y in places:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(250, 250, 245))
    person.open(png(image))
    changing(person, lambda: person.press("find-spots"))
    found = painted(person, height)
    assert all(found[y, x] for x, y in places) and not found[120:160, 560:600].any()
    assert found[85:].sum() < 60 * len(places)
    # What was found stays, and is no box to look in.
    expect(person.page.locator('[data-part="find-text"]')).to_have_text("Find text")
    changing(person, lambda: person.press("find-text"), 2)
    asked = json.loads(person.posts("/api/v1/detect")[-1])
    assert asked["kind"] == "text" and "box" not in asked
    both = painted(person, height)
    assert both[30:75, 180:500].mean() > 0.1 and (both & found).sum() == found.sum()


def set_growth(person: Person, px: int, *, release: bool) -> None:
    script = """([node, px, release]) => {
      node.value = px;
      node.dispatchEvent(new Event('input'));
      if (release) node.dispatchEvent(new Event('change'));
    }"""
    slider = person.page.locator('[data-part="grow"]').element_handle()
    person.page.evaluate(script, [slider, px, release])


SIGNED = """async ([bits, width, height]) => {
  const { href } = document.querySelector('link[rel="modulepreload"][href$="/distance.js"]');
  const { signedDistances } = await import(href);
  return [...signedDistances(Uint8Array.from(atob(bits), (one) => one.charCodeAt(0)), width, height, 30)];
}"""


def grown(mask: np.ndarray, px: int) -> np.ndarray:
    """The mask grown by a disc of this radius, or shrunk by one."""
    if px > 0:
        return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= px + 1e-3
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > -px + 1e-3


def test_the_mask_grows_and_shrinks_by_exact_distances_is_inverted_and_comes_from_a_file(person: Person) -> None:
    # By exact distances, which are shown before.
    person.key("l")
    changing(person, lambda: drag(person, (189, 142), (440, 165), (378, 331), (315, 213), (220, 284)))
    before = painted(person)
    crop = np.ascontiguousarray(before[130:350, 180:450])
    bits = base64.b64encode(crop.astype(np.uint8).tobytes()).decode()
    field = np.array(person.page.evaluate(SIGNED, [bits, crop.shape[1], crop.shape[0]])).reshape(crop.shape)
    for px in (1, 2, 5, 13, 25, -1, -2, -5, -9):
        assert ((field <= px) == grown(crop, px)).all(), px
    for px in (13, -9):
        changing(person, partial(set_growth, person, px, release=True))
        expect(person.page.locator('[data-part="grow-value"]')).to_have_text("0 px")
        assert (painted(person) == grown(before, px)).all(), px
        changing(person, lambda: person.key("Control+z"))
        assert (painted(person) == before).all()
    # Moving the slider only shows what would be.
    person.wait_until_drawn()
    strokes, shown = person.strokes, person.red_pixels
    set_growth(person, 30, release=False)
    until(person, f"(shown) => ({RED_PIXELS})('.fft-overlay') > 1.3 * shown", shown)
    assert person.strokes == strokes
    set_growth(person, 0, release=True)
    until(person, f"(shown) => Math.abs(({RED_PIXELS})('.fft-overlay') - shown) < 0.01 * shown", shown)
    assert person.strokes == strokes
    changing(person, lambda: person.key("i"))
    assert (painted(person) == ~before).all()
    changing(person, lambda: person.key("i"))
    assert (painted(person) == before).all()
    # A photo that is marked as a whole: it was said that the picture could not be a mask, where nobody had chosen one.
    changing(person, lambda: person.press("clear"), 0)
    person.press("invert")
    person.press("repair")
    expect(person.page.locator(STATUS)).to_contain_text("Nearly all of the photo is marked")
    # A mask comes from a file, and what is none changes nothing.
    changing(person, lambda: person.press("clear"), 0)
    person.key("b")
    twice = white(RED).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.NEAREST)
    for image in (white(RED), layer(RED, (255, 255, 255)), layer(RED, (30, 0, 0)), twice):
        changing(person, partial(upload, person, image))
        assert (painted(person) == RED).all()
        changing(person, lambda: person.press("clear"), 0)
    changing(person, lambda: drag(person, (252, 236), (378, 236)))
    kept = person.strokes
    status = person.page.locator(STATUS)
    for image, sentence in (
        (Image.new("L", (300, 300), 255), "not the size"),
        (Image.new("L", (WIDTH, HEIGHT)), "cannot be used as a mask"),
    ):
        upload(person, image)
        expect(status).to_contain_text(sentence)
        expect(status).to_contain_text("mask.png")
        assert person.strokes == kept
    # Arrow keys add up on the slider that grows. Of five presses one counted: each was taken on its own, while the one
    # before was still computed.
    changing(person, lambda: person.press("clear"), 0)
    changing(person, lambda: upload(person, white(RED)))
    box = person.strokes[0]["box"]
    person.page.locator('[data-part="grow"]').focus()
    for _ in range(5):
        person.key("ArrowRight")
    expect(person.page.locator('[data-part="grow-value"]')).to_have_text("0 px")
    left, top, right, bottom = box
    assert person.strokes[-1]["box"] == [left - 5, top - 5, right + 5, bottom + 5]
    person.page.locator('[data-part="grow"]').focus()
    for _ in range(8):
        person.key("ArrowRight")
    person.key("Escape")  # gives the amount up and closes nothing
    assert person.page.locator('[data-part="grow-value"]').inner_text() == "0 px"  # at once
    for _ in range(3):
        person.key("ArrowRight")
    person.key("Enter")  # at once: what is repaired has grown by all of it
    person.page.locator(".fft-rounds li:nth-child(2)").wait_for()
    assert person.rounds[0]["strokes"][-1]["box"] == [left - 8, top - 8, right + 8, bottom + 8]
    # A mask this browser cannot read is read by the server.
    data = BytesIO()
    white(RED).save(data, "TIFF")
    file: Any = {"name": "mask.tif", "mimeType": "image/tiff", "buffer": data.getvalue()}
    mask_file = '[data-part="mask-file"]'
    status = person.page.locator(STATUS)
    held = Held(person, "*/api/v1/images")
    person.page.set_input_files(mask_file, file)
    expect(status).to_have_text("Reading the mask…")
    held.wait()
    changing(person, held.let_go)
    assert (painted(person) == RED).all()
    wrong: Any = {**file, "name": "no.tif", "buffer": b"nothing of the kind"}
    person.page.set_input_files(mask_file, wrong)
    expect(status).to_contain_text("no.tif is not a picture")
    # While a repair runs, what is said is its state.
    repairs = Held(person, "*/api/v1/repairs")
    person.press("repair")
    repairs.wait()
    changing(person, lambda: person.page.set_input_files(mask_file, file))
    assert person.status == "Starting…"


def upload(person: Person, image: Image.Image) -> None:
    person.page.set_input_files(".fft-mask-file", png(image, "mask.png"))


def white(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


def layer(mask: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    """A picture that is transparent but for the mask, as editors save a layer."""
    return Image.fromarray(np.dstack([np.full((*mask.shape, 3), colour, np.uint8), mask.astype(np.uint8) * 255]))


def test_the_menu_opens_by_keyboard_and_the_same_mask_comes_again_here_after_a_reload_and_on_the_next_photo(
    person: Person,
) -> None:
    # That of a phone is tried by touch.
    menu = person.page.locator('[data-part="mask-menu"]')
    expect(menu).to_be_visible()
    person.key("m")
    expect(menu).to_be_hidden()
    person.key("m")
    expect(menu).to_be_visible()
    person.page.locator('[data-act="invert"]').focus()
    person.key("Escape")
    expect(menu).to_be_hidden()
    expect(person.page.locator('[data-part="mask-button"]')).to_be_focused()
    person.key("m")
    # The same mask again.
    changing(person, lambda: upload(person, white(RED)))
    person.key("b")
    changing(person, lambda: drag(person, (315, 284), (378, 284)), 2)
    first = painted(person)
    # A reload brings a mask from a file back.
    person.visit()
    person.page.locator('.fft[data-phase="ready"]').wait_for()
    assert (painted(person) == first).all()
    person.repair()
    rows, columns = np.nonzero(first)
    assert person.rounds[0]["box"] == pytest.approx(
        [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], abs=1
    )
    changing(person, lambda: person.press("mask-again"), 2)
    assert (painted(person) == first).all()
    changing(person, lambda: person.key("Control+z"), 0)
    person.open(png(scene().resize((2 * WIDTH, 2 * HEIGHT)), "next.png"))
    # With nothing painted, the mark is what was repaired on the photo before.
    with person.page.expect_response("**/api/v1/detect", timeout=PATIENCE_MS) as looked:
        person.press("find-repeats")
    asked = json.loads(person.posts("/api/v1/detect")[-1])
    assert looked.value.status == 200 and asked["mark_image_id"] != asked["image_id"]
    assert mask_file(asked).shape == first.shape
    expect(person.page.locator(STATUS)).not_to_contain_text("Looking")
    while person.strokes:
        changing(person, lambda: person.key("Control+z"), 0)
    changing(person, lambda: person.press("mask-again"))
    person.repair()
    assert (mask_file(json.loads(person.posts("/api/v1/repairs")[-1])) == np.kron(first, np.ones((2, 2), bool))).all()
