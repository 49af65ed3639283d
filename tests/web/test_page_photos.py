"""Photos that are opened: wrong ones, several, large and dark ones, and one in the place of another."""

import io

import numpy as np
from PIL import Image
from playwright.sync_api import expect

from imaging import encode_png
from tests.support.page_driver import STATUS, Held, Person, choose, photo_file, with_two_rounds
from tests.support.page_requests import Stopped
from tests.web.test_page_looks import check_layout

WRONG_FILES = [
    ("notes.png", b"This is a text file.\n" * 50, "notes.png is not a picture"),
    ("empty.png", b"", "empty.png is empty (0 bytes)"),
    ("cut.png", photo_file(900, 700)["buffer"][:20_000], "cut.png is incomplete or damaged"),
]


def test_wrong_files_and_a_reload_during_an_upload_leave_photo_strokes_and_rounds_to_which_one_can_go_back(
    person: Person,
) -> None:
    with_two_rounds(person)

    def state() -> list[object]:
        return [person.kept[key] for key in ("photo", "strokes", "rounds")]

    before = state()
    for name, data, sentence in WRONG_FILES:
        choose(person, {"name": name, "mimeType": "image/png", "buffer": data})
        expect(person.page.locator(STATUS)).to_contain_text(sentence)
        expect(person.page.locator('[data-part="photo-name"]')).to_have_text("photo.png")
        assert person.shown_patches == 2 and state() == before
    person.repair()
    assert len(person.rounds) == 3
    person.page.locator(STATUS, has_text="outputs/").wait_for()  # the last that changes a round
    # A reload during an upload brings the photo before, and one can go back to a replaced one.
    person.paint((0.6, 0.9), (0.7, 0.9))
    rounds, painted = person.rounds, person.strokes
    held = Held(person, "*/api/v1/images")
    choose(person, photo_file(320, 200, name="other.png"))
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("320 × 200")
    person.visit()
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("640 × 480")
    assert person.rounds == rounds and person.strokes == painted
    held.let_go()
    expect(person.page.locator('[data-part="strip-list"] img[src]')).to_have_count(2)
    first, other = (person.page.get_by_role("button", name=name) for name in ("photo.png", "other.png"))
    other.click()
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("320 × 200")
    assert person.shown_patches == 0
    first.click()
    expect(first).to_have_attribute("aria-current", "true")
    assert person.shown_patches == 3 and person.strokes == painted
    person.repair()
    other.click()
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("320 × 200")
    person.paint((0.4, 0.4), (0.5, 0.4))
    person.repair()
    assert len(person.rounds) == 1


def test_photos_that_a_browser_shows_otherwise_are_shown_as_they_are_repaired(person: Person) -> None:
    # Of an animation the first frame. It went on playing under the result.
    frames = [Image.new("RGB", (320, 240), colour) for colour in ((200, 30, 30), (30, 200, 30), (30, 30, 200))]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=80, loop=0)
    person.open({"name": "moving.gif", "mimeType": "image/gif", "buffer": file.getvalue()})
    expect(person.page.locator('[data-part="photo-notes"]')).to_contain_text("only its first frame")
    person.page.wait_for_timeout(300)
    seen = set()
    for _ in range(6):
        seen.add(person.pixel(0.8, 0.8))
        person.page.wait_for_timeout(60)
    assert len(seen) == 1 and seen.pop()[0] > 150
    # One of few levels bright, by photo and patch: a 10-bit photo in a 16-bit PNG is black in a browser; the server
    # stretches it, and patches alike.
    values = np.random.default_rng(0).integers(400, 900, (300, 400, 3), dtype=np.uint16)
    person.open({"name": "few.png", "mimeType": "image/png", "buffer": encode_png(values, fast=True)})
    expect(person.page.locator('[data-part="photo-notes"]')).to_contain_text("few of its 16-bit values")
    person.page.wait_for_function("document.querySelector('.fft-photo').src.startsWith('blob:')")
    person.page.wait_for_timeout(300)
    assert min(person.pixel(0.8, 0.8)) > 80
    person.paint((0.3, 0.3), (0.4, 0.3))
    person.repair()
    assert min(person.pixel(0.35, 0.3)) > 80
    # A large TIFF in full, and after a reload every pixel of a large photo.
    width = 2100  # more than the server's picture has, PREVIEW_PX of web/page.py, for which Gradio would be imported
    person.open(photo_file(width, 120, name="large.tif"))
    person.page.wait_for_function(f"document.querySelector('.fft-photo').naturalWidth === {width}")
    person.open(photo_file(width, 160, name="large.jpg"))
    person.visit()
    person.page.wait_for_function(f"document.querySelector('.fft-photo').naturalWidth === {width}")


DROP = """(files) => {
  const data = new DataTransfer();
  for (const [name, bytes, type] of files) data.items.add(new File([new Uint8Array(bytes)], name, { type }));
  const drop = new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
  document.querySelector('.fft-stage').dispatchEvent(drop);
}"""
KEPT_FILES = """() => new Promise((resolve) => {
  const opening = indexedDB.open('fftlama', 1);
  opening.onsuccess = () => {
    const asked = opening.result.transaction('uploads').objectStore('uploads').count();
    asked.onsuccess = () => (opening.result.close(), resolve(asked.result));
  };
})"""


def test_a_reload_goes_on_with_uploads_and_one_that_fails_for_long_keeps_the_photo(person: Person) -> None:
    """A photo that had not gone up yet was lost in a reload, and what was painted on it."""
    person.answer_dialogs(lambda dialog: dialog.accept())  # the page asks before it is left
    held = Held(person, "*/api/v1/images")
    choose(person, photo_file(seed=4, name="first.png"))
    held.wait()
    person.paint((0.3, 0.3), (0.4, 0.3))
    person.visit()
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text("first.png")
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("640 × 480")
    held.let_go()
    person.page.locator('a[data-part="download"][aria-disabled="false"]').wait_for()
    person.repair()
    assert len(person.rounds[0]["strokes"]) == 1 and person.shown_patches == 1
    # Beside a photo that is there: that one is shown, and the others go on.
    held = Held(person, "*/api/v1/images")
    choose(person, photo_file(320, 200, name="second.png"))
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("320 × 200")
    person.paint((0.5, 0.5), (0.6, 0.5))
    person.visit()
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text("first.png")
    person.page.locator(".fft-patch").wait_for()
    held.let_go()
    expect(person.page.locator('[data-part="strip-list"] img[src]')).to_have_count(2)
    person.page.get_by_role("button", name="second.png").click()
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("320 × 200")
    assert len(person.strokes) == 1
    person.page.wait_for_function(f"({KEPT_FILES})().then((count) => count === 0)")
    # An upload that fails for long keeps the photo, and Repair tries again.
    person.unroute()
    # Nothing takes the clock out again: the tab is not kept.
    person.page.clock.install()
    person.stops.add("*/api/v1/images", lambda stopped: stopped.abort())
    choose(person, photo_file(seed=5))
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("640 × 480")
    person.paint((0.3, 0.3), (0.4, 0.3))
    for _ in range(40):
        if "upload failed" in person.status:
            break
        person.page.clock.fast_forward(4000)
        person.page.wait_for_timeout(50)
    expect(person.page.locator(STATUS)).to_contain_text("upload failed")
    person.unroute()
    person.page.clock.resume()
    person.repair()
    assert person.shown_patches == 1


def test_an_upload_is_cancelled_or_waits_and_of_several_files_photos_are_opened_and_others_are_named(
    person: Person,
) -> None:
    # An upload is cancelled.
    held = Held(person, "*/api/v1/images")
    choose(person, photo_file())
    held.wait()
    person.press("cancel")
    expect(person.page.locator(STATUS)).to_contain_text("not uploaded")
    expect(person.page.locator(".fft-welcome")).to_be_visible()
    person.unroute()
    # What is no photo among several is named, and can be taken off the list.
    good = list(photo_file(90, 60)["buffer"])
    damaged = list(photo_file()["buffer"][:3000])
    person.page.evaluate(DROP, [["empty.png", [], "image/png"], ["cut.png", damaged, "image/png"]])
    expect(person.page.locator(STATUS)).to_contain_text("None of these is a photo we can read: empty.png, cut.png")
    expect(person.page.locator('[data-part="strip"]')).to_be_hidden()
    expect(person.page.locator('[data-part="progress-row"]')).to_be_hidden()
    files = [
        ["good.png", good, "image/png"],
        ["notes.pdf", [1, 2], "application/pdf"],
        ["cut.png", damaged, "image/png"],
    ]
    person.page.evaluate(DROP, files)
    failed = person.page.locator('[data-part="many-failed"]')
    for name in ("notes.pdf is not a picture", "cut.png is incomplete"):
        expect(failed).to_contain_text(name)
    check_layout(person)
    person.press("failed-remove")
    expect(person.page.locator('[data-part="strip"]')).to_be_hidden()  # one photo needs none
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text("good.png")
    # An upload that comes too often waits for its turn.
    answers = [{"error": "too_many_requests", "message": "?", "params": {"wait_s": 1}}]

    def refuse_once(stopped: Stopped) -> None:
        if answers:
            stopped.fulfill(answers.pop(), 429)
        else:
            stopped.continue_()

    person.stops.add("*/api/v1/images", refuse_once)
    choose(person, photo_file(name="later.png"))
    person.page.locator('a[data-part="download"][aria-disabled="false"]').wait_for()
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text("later.png")
    assert not answers
    # Of several dropped files the first is shown, and all are opened.
    person.page.evaluate(
        DROP, [[name, list(photo_file(90, 60)["buffer"]), "image/png"] for name in ("a.png", "b.png", "c.png")]
    )
    expect(person.page.locator(STATUS)).to_contain_text("3 photos are open")
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text("a.png")
    expect(person.page.locator('[data-part="strip-list"] img[src]')).to_have_count(5)


def test_a_photo_that_is_not_up_stays_with_what_is_painted_on_it_until_it_is_taken_or_gone_back_to(
    person: Person,
) -> None:
    """It went, its strokes too, though whoever had to log in again was told that they stay; so did the rest of many."""
    # For now it cannot be taken.
    refusals = {"disk_full": (507, "disk is full"), "login_required": (401, "log in again")}
    held = Held(person, "*/api/v1/images")
    choose(person, photo_file())
    held.wait()
    person.paint((0.3, 0.3), (0.4, 0.3))
    for code, (status, sentence) in refusals.items():
        held.requests.pop().fulfill({"error": code, "message": "?", "params": {}}, status)
        expect(person.page.locator(STATUS)).to_contain_text(sentence)
        expect(person.page.locator('[data-part="photo-name"]')).to_have_text("photo.png")
        person.press("repair")  # sends it once more
        held.wait()
    person.visit()
    held.let_go()
    person.page.locator('a[data-part="download"][aria-disabled="false"]').wait_for()
    assert len(person.strokes) == 1
    person.repair()
    person.unroute()
    # It is replaced before it was up.
    held = Held(person, "*/api/v1/images")
    choose(person, photo_file(seed=6, name="before.png"))
    held.wait()
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("640 × 480")
    person.paint((0.3, 0.3), (0.4, 0.3))
    choose(person, photo_file(320, 200, name="other.png"))
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("320 × 200")
    held.let_go()
    person.page.get_by_role("button", name="before.png").click()
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("640 × 480")
    person.repair()
    assert person.shown_patches == 1
