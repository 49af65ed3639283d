"""What comes from other sites without a file: links and texts, dropped and pasted."""

from playwright.sync_api import expect

from tests.support.page_driver import STATUS, Person

# What a browser does by itself with a link that the page does not take is to leave the page for it.
BRING = """(how) => {
  const data = new DataTransfer();
  data.setData('text/uri-list', 'https://example.org/photo.jpg');
  const event = (name) => new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true });
  const stage = document.querySelector('.fft-stage');
  if (how === 'paste') return stage.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }));
  stage.dispatchEvent(event('dragenter'));
  const isTaken = !stage.dispatchEvent(event('dragover'));
  if (isTaken) stage.dispatchEvent(event('drop'));
  return isTaken;
}"""


def test_a_link_is_taken_and_said_not_to_be_a_picture(person: Person) -> None:
    """The browser left the page for a link that was dropped, and a pasted one was passed over without a word."""
    for how in ("drop", "paste"):
        person.key("Enter")
        expect(person.page.locator(STATUS)).to_contain_text("Open a photo first")
        assert person.page.evaluate(BRING, how)
        expect(person.page.locator(STATUS)).to_contain_text("That was a link or a text")
    # What is dragged here from the page itself, its own link to a file say, is let go where it was.
    person.page.evaluate("document.dispatchEvent(new DragEvent('dragstart'))")
    assert not person.page.evaluate(BRING, "drop")
