"""Results on the page: compared by a line, gone back to, branched from, removed, downloaded as one likes, copied."""

from collections.abc import Callable
from io import BytesIO

from PIL import Image
from playwright.sync_api import Dialog, expect

from tests.support.page_driver import Person, choose, photo_file, with_two_rounds
from tests.support.serving import RunningServer

Visit = Callable[..., Person]
ROUNDS = '[data-part="rounds"] button'
BRANCHES = '[data-part="branches"] button'


def repair_at(person: Person, x: float, y: float) -> str:
    """Repair one stroke and return the new round's id."""
    person.paint((x, y), (x + 0.1, y))
    with person.page.expect_response("**/api/v1/repairs"):
        person.press("repair")
    person.page.locator('[data-part="status"][data-tone="good"]').wait_for()
    return str(person.rounds[-1]["image_id"])


def test_the_line_shows_the_original_to_its_left_and_what_is_painted_stays_wherever_one_goes_in_the_rounds(
    person: Person,
) -> None:
    # The line moves by mouse and keys.
    person.open(photo_file(640, 480))
    repair_at(person, 0.45, 0.3)
    person.page.mouse.move(5, 5)
    fill = person.pixel(0.53, 0.3)
    person.key("c")
    person.key("v")
    handle = person.page.get_by_role("slider", name="Line between original and result")
    expect(handle).to_be_focused()
    expect(handle).to_have_attribute("aria-valuenow", "50")
    assert person.pixel(0.53, 0.3) == fill and person.pixel(0.46, 0.3) != fill
    for _ in range(3):
        person.key("Shift+ArrowRight")
    expect(handle).to_have_attribute("aria-valuetext", "80 % original")
    person.key("PageDown")
    expect(handle).to_have_attribute("aria-valuenow", "70")
    person.key("PageUp")
    expect(handle).to_have_attribute("aria-valuenow", "80")
    original = person.pixel(0.53, 0.3)
    assert original != fill
    person.paint((0.9, 0.2), (0.3, 0.2))
    expect(handle).to_have_attribute("aria-valuenow", "30")
    assert person.pixel(0.53, 0.3) == fill and person.strokes == [], "nothing is painted while the line is there"
    person.press("brush")
    expect(handle).to_be_hidden()
    person.press("split")
    person.key("Escape")
    expect(handle).to_be_hidden()
    assert person.pixel(0.46, 0.3) == fill
    # Without a round there is no line, and it does not keep anybody from painting.
    for leave in (lambda: person.key("Control+z"), lambda: person.press("round-remove")):
        person.press("split")
        expect(handle).to_be_visible()
        leave()
        before = len(person.strokes)
        person.paint((0.2, 0.7), (0.3, 0.7))
        assert len(person.strokes) == before + 1
        if before == 1:
            person.press("round-redo")
            expect(handle).to_be_hidden()
    # What is painted stays. A click on a round threw it away, and no undo brought it back.
    with_two_rounds(person)
    painted = person.strokes
    rounds = person.page.locator(".fft-rounds li button")
    for number in (1, 0, 2, 1):
        rounds.nth(number).click()
        expect(rounds.nth(number)).to_have_attribute("aria-current", "true")
        assert person.strokes == painted
    person.press("repair")  # on round 1: the second one becomes another way
    person.page.locator(BRANCHES).wait_for()
    assert len(person.rounds) == 2 and person.strokes == []
    person.page.locator(BRANCHES).click()
    expect(rounds.nth(2)).to_have_attribute("aria-current", "true")
    # What an undo brought back is no painting of its own: it goes with its round.
    person.key("Control+z")
    assert person.strokes == person.rounds[1]["strokes"]
    person.visit()
    rounds.nth(2).click()
    expect(rounds.nth(2)).to_have_attribute("aria-current", "true")
    assert person.strokes == []


def test_a_reload_keeps_how_to_download_and_rounds_that_branch_and_can_be_removed(person: Person) -> None:
    # A download has the format, quality and size that are chosen.
    person.open(photo_file(640, 480, name="holiday.jpg", quality=95))
    repair_at(person, 0.4, 0.4)
    person.press("save-menu")
    size, form = person.page.locator('[data-part="file-size"]'), person.page.get_by_label("Format", exact=True)
    expect(form.locator("option").first).to_have_text("As the photo (JPEG)")
    expect(person.page.get_by_label("Quality", exact=True).locator("visible=true")).to_have_count(1)  # of the repair
    form.select_option("webp")
    quality = person.page.locator('[data-part="file-quality"]')
    with person.page.expect_response(lambda answer: answer.request.method == "HEAD" and "quality=40" in answer.url):
        quality.fill("40")
    expect(size).to_contain_text("kB")
    with person.page.expect_download() as download:
        person.page.locator('[data-part="download"]').click()
    assert download.value.suggested_filename == "holiday_repaired.webp"
    data = download.value.path().read_bytes()
    assert Image.open(BytesIO(data)).format == "WEBP"
    assert size.inner_text() == f"{max(1, round(len(data) / 1000))} kB"
    # Rounds branch and can be removed, and a reload keeps all.
    person.press("save-menu")
    choose(person, photo_file(640, 480))
    expect(person.page.locator('[data-part="strip-list"] img[src]')).to_have_count(2)
    first = repair_at(person, 0.2, 0.2)
    second = repair_at(person, 0.2, 0.4)
    person.page.locator(ROUNDS).nth(1).click()
    person.press("clear")
    third = repair_at(person, 0.2, 0.6)
    assert [one["image_id"] for one in person.rounds] == [first, third]
    branch = person.page.locator(BRANCHES)
    expect(branch).to_have_text("From round 1")
    person.visit()
    expect(branch).to_have_count(1)
    assert "format=webp&quality=40" in (person.page.locator('[data-part="download"]').get_attribute("href") or "")
    branch.click()
    assert [one["image_id"] for one in person.rounds] == [first, second]
    expect(branch).to_have_count(1)
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 2")

    answers: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        answers.append(dialog.message)
        dialog.dismiss()

    person.page.locator(ROUNDS).nth(1).click()
    person.page.once("dialog", dismiss)
    person.press("round-remove")
    assert answers == ["Remove round 1 and those built on it (1)?"] and len(person.rounds) == 2
    person.press("round-redo")
    person.press("round-remove")
    assert [one["image_id"] for one in person.rounds] == [first], "the last round goes without asking"
    expect(branch).to_have_count(1)
    person.page.once("dialog", lambda dialog: dialog.accept())
    person.press("round-remove")
    assert person.rounds == [] and person.shown_patches == 0
    expect(branch).to_have_count(0)


def would_ask(person: Person) -> bool:
    """Tell whether the browser would ask who leaves now; that it does is seen where somebody leaves."""
    return not person.page.evaluate("dispatchEvent(new Event('beforeunload', { cancelable: true }))")


def test_leaving_asks_until_the_picture_was_copied_or_downloaded_in_a_format_that_can_hold_it(
    visit: Visit, server: RunningServer
) -> None:
    # The picture is copied.
    person = visit(server.url, permissions=["clipboard-read", "clipboard-write"])
    asked: list[str] = []

    def leave(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept()

    person.answer_dialogs(leave)
    person.open(photo_file(320, 240))
    assert not would_ask(person)
    repair_at(person, 0.4, 0.4)
    person.visit()
    assert asked == ["beforeunload"] and would_ask(person)
    person.press("save-menu")
    person.press("copy")
    expect(person.page.locator('[data-part="status"]')).to_have_text("Copied")
    copied = person.page.evaluate(
        """async () => {
          const [item] = await navigator.clipboard.read();
          const picture = await createImageBitmap(await item.getType('image/png'));
          return [picture.width, picture.height];
        }"""
    )
    assert copied == [320, 240]
    person.visit()
    assert asked == ["beforeunload"] and not would_ask(person)
    status = person.page.locator('[data-part="status"]')
    status.select_text()
    person.key("Control+c")  # the sentence
    assert person.page.evaluate("navigator.clipboard.readText()") == status.inner_text() != "Copied"
    person.page.evaluate("getSelection().empty()")
    person.key("Control+c")  # the picture
    expect(status).to_have_text("Copied")
    # What the server says is no fault of the browser's.
    gone = {"error": "unknown_image", "message": "?", "params": {}}
    person.stops.add("*/api/v1/images/*?format=png", lambda stopped: stopped.fulfill(gone, 404))
    person.press("save-menu")
    person.press("copy")
    expect(person.page.locator('[data-part="status"]')).to_contain_text("The server no longer has this photo")
    person.unroute()
    # A format that cannot hold a photo is said, and leaving asks on.
    # The download failed without a word here, and counted as one: leaving asked no more.
    asked.clear()
    downloaded: list[str] = []

    person.page.on("download", lambda download: downloaded.append(download.suggested_filename))
    person.open(photo_file(16_400, 48, name="wide.png"))
    repair_at(person, 0.45, 0.4)
    form, status = person.page.get_by_label("Format", exact=True), person.page.locator('[data-part="status"]')
    form.select_option("webp")
    sentence = "wide.png is 16400 × 48, more than a file in WEBP can hold"
    expect(person.page.locator('[data-part="file-size"]')).to_contain_text(sentence)
    expect(status).to_contain_text("Done!")
    person.page.locator('[data-part="download"]').click()
    expect(status).to_contain_text(sentence)
    with person.page.expect_response(lambda answer: answer.request.method == "GET" and answer.status == 422):
        person.key("Control+s")
    person.press("language")
    expect(person.page.locator('[data-part="file-size"]')).to_contain_text("WEBP 文件存不下")
    person.press("language")
    # A zip is refused too, and says which photo it is.
    choose(person, photo_file(320, 240, name="small.png"))
    archive = person.page.locator('[data-part="zip"][href*="&image="]')
    archive.click()
    expect(status).to_contain_text(sentence)
    assert downloaded == [] and would_ask(person)
    form.select_option("png")
    with person.page.expect_download():
        archive.click()
    assert downloaded == ["fftlama.zip"] and not would_ask(person)
    assert asked == []
