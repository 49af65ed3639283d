"""People in a hurry: they go on while the page is still busy with what they did before."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Dialog, expect

from tests.support.page_driver import STATUS, Held, Person, choose, photo_file

# The mask that was found, read or inverted waits here on its way to the strokes, as a large one on a slow machine does.
HOLD_MASKS = """() => {
  const read = Blob.prototype.arrayBuffer;
  const gate = new Promise((open) => (window.letMasksGo = () => { Blob.prototype.arrayBuffer = read; open(); }));
  Blob.prototype.arrayBuffer = function () { window.held = true; return gate.then(() => read.call(this)); };
}"""
TWO_STROKES = "JSON.parse(localStorage.getItem(sessionStorage.getItem('fftlama.tab'))).state.strokes.length === 2"
PHOTO_NAME = '[data-part="photo-name"]'
ONE_PATCH = "document.querySelectorAll('.fft-patch').length === 1"


def find(person: Person) -> None:
    person.key("s")
    person.page.mouse.click(*person.stage_point(0.5, 0.5))


def from_file(person: Person) -> None:
    mask: Any = photo_file(320, 240, name="mask.png")
    person.page.set_input_files(".fft-mask-file", mask)


def invert(person: Person) -> None:
    person.key("i")


def held(person: Person, begin: Callable[[Person], Any]) -> None:
    person.page.evaluate(HOLD_MASKS)
    begin(person)
    person.page.wait_for_function("window.held")


def test_what_is_painted_while_a_mask_comes_stays_and_the_mask_does_not_go_to_another_photo(person: Person) -> None:
    """Strokes painted while a found mask or one from a file was made ready were lost; and the next photo got it."""
    person.open(photo_file(320, 240, name="first.png"))
    for begin in (find, from_file):
        held(person, begin)
        person.key("b")
        person.paint((0.2, 0.2), (0.3, 0.2))
        person.page.evaluate("letMasksGo()")
        person.page.wait_for_function(TWO_STROKES)
        assert any("points" in stroke for stroke in person.strokes)
        person.press("clear")
    person.open(photo_file(320, 240, seed=1, name="second.png"))
    person.open(photo_file(320, 240, seed=2, name="third.png"))
    for begin, other in ((find, "second.png"), (from_file, "third.png"), (invert, "second.png")):
        held(person, begin)
        person.page.get_by_role("button", name=other).click()
        expect(person.page.locator(PHOTO_NAME)).to_have_text(other)
        person.page.evaluate("letMasksGo()")
        person.page.wait_for_timeout(100)
        assert person.strokes == [], begin.__name__


def test_a_folder_opened_by_mistake_is_cancelled_and_the_list_emptied_and_a_sample_pressed_twice_is_opened_once(
    person: Person,
) -> None:
    """Cancel was there for the photo that is shown alone, and went when that was up; each of the others stayed."""
    person.open(photo_file(320, 240, name="first.png"))
    strip = person.page.locator('[data-part="strip-list"] button')
    status = person.page.locator(STATUS)
    gate = Held(person, "*/api/v1/images")
    choose(person, [photo_file(320, 240, seed=seed, name=f"{seed}.png") for seed in range(4)])
    expect(strip).to_have_count(5)
    gate.wait()
    gate.requests[0].continue_()
    expect(person.page.locator('[data-part="strip-list"] img[src]')).to_have_count(2)
    sent = len(person.posts("/api/v1/images"))
    person.press("cancel")
    expect(strip).to_have_count(2)
    expect(status).to_have_text("Cancelled, 3 photos were not uploaded")
    expect(person.page.locator('[data-part="progress-row"]')).to_be_hidden()
    assert len(person.posts("/api/v1/images")) == sent
    hint = "What is painted here, wherever it lies"
    expect(person.page.locator('[data-act="batch-mark"]')).to_have_accessible_description(hint)
    expect(person.page.get_by_text(hint)).to_be_visible()
    answers = [Dialog.dismiss, Dialog.accept]
    person.answer_dialogs(lambda dialog: answers.pop(0)(dialog))
    for count in (2, 0):
        person.press("all-remove")
        expect(strip).to_have_count(count)
    expect(person.page.locator('.fft[data-phase="empty"]')).to_be_visible()
    assert answers == []
    # Nothing told that a sample was on its way on a slow line, and who pressed it again had it twice.
    person.unroute()
    person.requests.clear()
    gate = Held(person, "*/samples/bird.jpg")
    bird = person.page.get_by_role("button", name="A bird")
    bird.click()
    expect(status).to_have_text("Opening the photo…")
    gate.wait()
    bird.click()
    gate.let_go()
    expect(person.page.locator(PHOTO_NAME)).to_have_text("bird.jpg")
    expect(person.page.locator('a[data-part="download"][aria-disabled="false"]')).to_be_visible()
    assert len(person.posts("/api/v1/images")) == 1


def test_a_tab_that_hangs_is_left_with_a_sentence(person: Person) -> None:
    """A whole run of the tests hung there: the mouse waits for the page without an end."""
    person.page.on("dialog", lambda dialog: None)  # nobody answers, so the page stands still
    with person.page.expect_event("dialog"):
        person.page.evaluate("() => void setTimeout(alert)")
    person.page.set_default_timeout(300)
    with pytest.raises(AssertionError, match="did not answer any more"):
        person.leave_tab()


def test_what_takes_its_time_is_said_and_what_was_said_before_comes_back(person: Person) -> None:
    """On a slow line a download, and a photo that came back after a reload, kept people waiting without a word."""
    status = person.page.locator(STATUS)
    person.open(photo_file(320, 240))
    person.paint((0.4, 0.4), (0.5, 0.4))
    person.repair()
    expect(status).to_contain_text("Saved to")
    done = person.status

    with person.page.expect_download():
        gate = Held(person, "*/api/v1/images/*")
        person.key("Control+s")
        expect(status).to_have_text("Preparing the file…")
        gate.let_go()
        expect(status).to_have_text(done)
    file = f"*/api/v1/images/{person.rounds[0]['image_id']}"
    opening = Held(person, "*/api/v1/images/*/info")
    person.visit()
    expect(status).to_have_text("Opening the photo…")
    with person.page.expect_download():
        preparing = Held(person, file)  # it began later and ends later
        person.key("Control+s")
        expect(status).to_have_text("Preparing the file…")
        opening.let_go()
        person.page.wait_for_function(ONE_PATCH)
        preparing.let_go()
    expect(status).to_have_text(done)
