"""The page from photo to patch: what a person does first, and everything that can be undone."""

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from tests.support.page_driver import DATA, DONE, Person, make_photo, photo_file
from tests.support.page_pointer import drag_at_once
from tests.support.serving import RunningServer

BODY_LIMIT_BYTES = 2000


def test_the_way_from_a_photo_to_its_rounds_by_mouse_and_by_keyboard_asks_this_server_alone(person: Person) -> None:
    person.visit()  # those of the first visit are not noted
    person.have_gradio()
    person.open(photo_file(640, 480))
    # The patch is shown in its place.
    photo = make_photo(640, 480)
    mean = photo.reshape(-1, 3).mean(axis=0)
    before = person.pixel(0.5, 0.5)
    person.paint((0.45, 0.5), (0.55, 0.5))
    person.repair()
    person.page.mouse.move(5, 5)
    after = np.array(person.pixel(0.5, 0.5), float)
    # The fake engine fills with the photo's mean colour, so a patch elsewhere or none would show.
    assert np.abs(after - mean).max() <= 3, (before, after, mean)
    assert np.abs(np.array(before, float) - mean).max() > 8
    assert person.strokes == []
    expect(person.page.locator('[data-part="status"]')).to_contain_text("Saved to outputs/")
    expect(person.page.locator(".fft-times")).to_be_hidden()
    person.press("timings")
    times = person.page.locator(".fft-times").inner_text()
    assert "Total" in times and "model" in times
    # The file differs from the photo inside the patch only.
    answer = person.page.request.get(f"{person.url}/api/v1/images/{person.rounds[0]['image_id']}")
    with Image.open(BytesIO(answer.body())) as file:
        result: Any = np.asarray(file.convert("RGB"))
    left, top, right, bottom = person.rounds[0]["box"]
    changed = (result != photo).any(axis=2)
    assert changed[top:bottom, left:right].any()
    changed[top:bottom, left:right] = False
    assert not changed.any()
    # Rounds build on each other, and can be undone and compared.
    person.paint((0.6, 0.6), (0.7, 0.6))
    person.repair()
    first, second = (json.loads(body) for body in person.posts("/api/v1/repairs"))
    assert second["image_id"] == person.rounds[0]["image_id"] != first["image_id"]
    assert person.shown_patches == 2
    person.page.keyboard.down("c")
    assert person.shown_patches == 0
    person.page.keyboard.up("c")
    assert person.shown_patches == 2
    person.key("Control+z")
    assert person.shown_patches == 1
    assert person.strokes == second["strokes"], "the undone round's strokes come back"
    link = person.page.locator('[data-part="download"]')
    assert person.rounds[0]["image_id"] in (link.get_attribute("href") or "")
    person.page.locator(".fft-rounds li:nth-child(1) button").click()
    assert person.shown_patches == 0
    person.press("round-redo")
    person.press("round-redo")
    assert person.shown_patches == 2
    # The keyboard alone paints and repairs.
    person.page.locator(".fft-stage").focus()
    for key in ("d", "ArrowRight", "ArrowRight", "ArrowDown", "d"):
        person.key(key)
    assert len(person.strokes[0]["points"]) >= 3
    person.key("Enter")
    person.page.locator(".fft-rounds li:nth-child(4)").wait_for()
    person.page.locator(DONE).wait_for()
    # No request of all that left the server.
    local = (person.url, "blob:", "data:")
    assert len(person.requests) > 50
    assert [url for _, url, _ in person.requests if not url.startswith(local)] == []


def test_where_the_file_is_moves_nothing_under_the_pointer_and_that_there_is_none_is_said(
    person: Person, server: RunningServer
) -> None:
    """The second line came a moment after "Done" and pushed away a button that was being pressed; on tablets longer.

    An outputs folder that cannot be written was never said: the page waited for the file's path only.
    """
    is_told = False

    def as_before_saving(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        view = body.get("job", body)  # a repair that has not ended at once has an id alone
        if is_told and view.get("saved"):  # the widest name: a number is added to those of the same second
            view |= {"saved": "outputs/outputs_20260828222222_100.png"}
        elif not is_told and "version" in view:
            view |= {"saved": None, "version": view["version"] - 1}  # so that it is asked again at once
        route.fulfill(response=answer, json=body)

    person.open(photo_file(640, 480))
    person.page.route(re.compile("/api/v1/(repairs|jobs/)"), as_before_saving)
    button, status = person.page.locator('[data-act="mask-again"]'), person.page.locator('[data-part="status"]')
    for width, height in ((768, 1024), (1200, 800)):
        person.page.set_viewport_size({"width": width, "height": height})
        is_told = False
        person.paint((0.45, 0.5), (0.55, 0.5))
        person.repair()
        expect(status).to_have_text("Done!")
        before = button.bounding_box()
        is_told = True
        expect(status).to_contain_text("Saved to outputs/")
        assert button.bounding_box() == before
    person.unroute()
    # No file is written.
    files = list(server.outputs_dir.glob("*"))
    moved = server.outputs_dir.with_name("moved") if server.outputs_dir.exists() else None
    if moved:
        server.outputs_dir.rename(moved)
    server.outputs_dir.write_text("a file stands where the folder should be")
    try:
        person.paint((0.45, 0.7), (0.55, 0.7))
        person.repair()
        expect(person.page.locator('[data-part="notes"]')).to_contain_text("could not be written to the outputs folder")
        assert person.shown_patches == 3
    finally:
        server.outputs_dir.unlink()
        if moved:
            moved.rename(server.outputs_dir)
    assert list(server.outputs_dir.glob("*")) == files


def test_undo_redo_clear_and_brush_size_over_rounds_and_without_a_click_into_the_canvas(person: Person) -> None:
    """Undo over a round dropped what was painted after it."""
    person.open(photo_file())
    for y in (0.2, 0.4):
        person.paint((0.3, y), (0.4, y))
        person.repair()
    for y in (0.6, 0.7):
        person.paint((0.3, y), (0.4, y))

    def step(keys: str) -> tuple[int, list[int]]:
        person.key(keys)
        return person.shown_patches, [round(stroke["points"][0][1]) for stroke in person.strokes]

    back = [step("Control+z") for _ in range(6)]
    assert back == [(2, [288]), (2, []), (1, [192]), (1, []), (0, [96]), (0, [])]
    forth = [step("Control+Shift+Z") for _ in range(6)]
    assert forth == [*back[-2::-1], (2, [288, 336])]
    # What is painted on the way is another way on.
    for _ in range(3):
        step("Control+z")
    person.paint((0.6, 0.6), (0.7, 0.6))
    assert [step("Control+Shift+Z") for _ in range(2)] == [(2, [192, 288])] * 2
    # Without a click into the canvas: undo, redo, clear, the brush's size and the eraser.
    person.page.locator(".fft-brand").click()
    person.key("Control+z")
    assert len(person.strokes) == 1
    person.key("Control+Shift+Z")
    assert len(person.strokes) == 2
    person.press("clear")
    assert person.strokes == []
    person.key("Control+z")
    assert len(person.strokes) == 2
    radius = person.kept["hand"]["radius"]
    person.key("]")
    person.paint((0.5, 0.5))
    assert person.strokes[-1]["radius"] == pytest.approx(radius * 1.2, abs=0.06)
    person.key("e")
    expect(person.page.get_by_role("status").and_(person.page.locator('[data-part="tool"]'))).to_have_text("Eraser")
    person.paint((0.5, 0.5))
    assert person.strokes[-1]["erase"]
    person.key("Enter")
    person.page.locator(".fft-rounds li:nth-child(4)").wait_for()
    person.page.locator(DONE).wait_for()
    # Instant mode repairs when the brush is lifted.
    person.key("b")
    person.page.locator('[data-part="instant"]').check()
    person.paint((0.4, 0.9), (0.5, 0.9))
    person.page.locator(".fft-rounds li:nth-child(5)").wait_for()
    person.page.locator(DONE).wait_for()
    assert person.shown_patches == 4


def test_photos_of_all_sorts_are_painted_as_they_are_shown_and_keep_format_and_name(person: Person) -> None:
    # TIFF is the first one, when no picture is there yet: Chromium can't show it, so the server's is shown instead.
    for number, (ending, format) in enumerate({"tif": "TIFF", "jpg": "JPEG", "webp": "WEBP"}.items()):
        width = 320 + 10 * number
        person.open(photo_file(width, 240, name=f"holiday.{ending}"))
        person.page.wait_for_function(f"document.querySelector('.fft-photo').naturalWidth === {width}")
        person.paint((0.4, 0.5), (0.6, 0.5))
        person.repair()
        with person.page.expect_download() as download:
            person.page.locator('[data-part="download"]').click()
        assert Path(download.value.suggested_filename).suffix[:4] == f".{ending}"[:4]
        assert download.value.suggested_filename.startswith("holiday")
        with Image.open(download.value.path()) as result:
            assert result.format == format and result.size == (width, 240)
    # One lying on its side is painted upright.
    exif = Image.Exif()
    exif[0x0112] = 6
    person.open(photo_file(400, 200, name="side.jpg", exif=exif.tobytes()))
    person.paint((0.5, 0.9))
    ((x, y),) = person.strokes[0]["points"]
    assert (round(x), round(y)) == (pytest.approx(100, abs=2), pytest.approx(360, abs=2))
    person.repair()
    assert person.rounds[0]["box"][3] > 300
    # A large one's click sends strokes only, and at most two kilobytes.
    person.requests.clear()
    person.open(photo_file(2000, 1100, name="photo.jpg"))
    for row in range(4):
        y = 0.2 + row * 0.15
        drag_at_once(person, [(0.2 + i * 0.05, y + 0.04 * (i % 3)) for i in range(12)], steps=9)
        person.page.mouse.up()
    assert len(person.strokes) == 4
    person.repair()
    (body,) = person.posts("/api/v1/repairs")
    assert len(body) <= BODY_LIMIT_BYTES, len(body)
    assert set(json.loads(body)) == {"image_id", "request_id", "strokes", "settle_s"}
    assert len(person.posts("/api/v1/images")) == 1
    # Dropped and pasted ones, and HEIC, which is shown through the server.
    script = """([type, bytes]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], 'dropped.png', { type: 'image/png' }));
      const stage = document.querySelector('.fft-stage');
      const drag = (name) => new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true });
      if (type === 'drop') ['dragenter', 'drop'].map((name) => stage.dispatchEvent(drag(name)));
      else stage.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }));
    }"""
    for kind, size in (("drop", (120, 90)), ("paste", (90, 120))):
        person.page.evaluate(script, [kind, list(photo_file(*size)["buffer"])])
        expect(person.page.locator('[data-part="photo-size"]')).to_contain_text(f"{size[0]} × {size[1]}")
    person.open(DATA / "flower.heic")
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("160 × 120 · HEIC")
    person.page.wait_for_function("document.querySelector('.fft-photo').naturalWidth > 0")
    # Lasso and rectangle fill their outline.
    person.requests.clear()
    person.open(photo_file(800, 600))
    person.key("r")
    person.paint((0.2, 0.2), (0.5, 0.5))
    assert mask_of(person)[130:290, 170:390].mean() > 0.99
    assert mask_of(person)[:115].sum() == 0
    person.key("Control+z")
    person.key("l")
    person.paint((0.2, 0.2), (0.6, 0.2), (0.6, 0.6), (0.4, 0.4), (0.2, 0.7), (0.2, 0.2))
    mask = mask_of(person)
    assert mask[150:200, 200:450].mean() > 0.98
    assert mask[400:, 300:340].sum() == 0, "the notch between the two legs stays free"
    person.repair()
    assert all(len(body) <= 2 * BODY_LIMIT_BYTES for body in person.posts("/api/v1/repairs"))


def mask_of(person: Person) -> np.ndarray:
    from imaging.strokes import parse_strokes, rasterize

    return rasterize(parse_strokes(person.strokes), (600, 800))
