"""People in a hurry: they go on while the page is still busy with what they did before."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import expect

from tests.support.page_driver import Person, photo_file

# The mask that was found, read or inverted waits here on its way to the strokes, as a large one on a slow machine does.
HOLD_MASKS = """() => {
  const read = Blob.prototype.arrayBuffer;
  const gate = new Promise((open) => (window.letMasksGo = () => { Blob.prototype.arrayBuffer = read; open(); }));
  Blob.prototype.arrayBuffer = function () { window.held = true; return gate.then(() => read.call(this)); };
}"""
TWO_STROKES = "JSON.parse(localStorage.getItem(sessionStorage.getItem('fftlama.tab'))).state.strokes.length === 2"
PHOTO_NAME = '[data-part="photo-name"]'


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
