"""Many photos on the page: the visit's strip, one repair of all of them, what failed, the zip, and other ways in."""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import expect

from tests.support.fake_engine import FAIL
from tests.support.page_driver import DONE, STATUS, Held, Person, make_photo, photo_file
from tests.support.page_requests import Stopped
from tests.support.serving import RunningServer, ask_repair, follow, upload

Visit = Callable[..., Person]
STRIP = '[data-part="strip-list"] button'
STATE = '[data-part="many-state"]'
FAILED = '[data-part="many-failed"]'


def choose(person: Person, *files: Any) -> None:
    person.page.locator(".fft-file").first.set_input_files(list(files))


def wait_for_uploads(person: Person, count: int) -> None:
    expect(person.page.locator('[data-part="strip-list"] img[src]')).to_have_count(count)


def test_one_mask_repairs_all_photos_stretched_to_their_size(person: Person) -> None:
    """What failed was counted among those that went through, and said in the server's words."""
    damaged = {"name": "damaged.png", "mimeType": "image/png", "buffer": photo_file()["buffer"][:3000]}
    photos = [photo_file(640, 480, seed=seed, name=f"{seed}.png") for seed in (1, 2)]
    choose(person, photos[0], damaged, photos[1], photo_file(320, 240, seed=3, name="3.png"))
    wait_for_uploads(person, 3)
    expect(person.page.locator(STATUS)).to_contain_text("4 photos are open")
    expect(person.page.locator(FAILED)).to_contain_text("damaged.png")
    person.paint((0.5, 0.5), (0.6, 0.5))
    person.press("batch-mask")
    expect(person.page.locator(STATE)).to_have_text("3 of 4 photos went through")
    expect(person.page.locator('[data-stage="done"]')).to_have_count(3)
    expect(person.page.locator(FAILED)).to_have_text("⚠️ damaged.png is incomplete or damaged")
    person.press("batch-mask")
    expect(person.page.locator(STATUS)).to_contain_text("Nothing is left to do")
    sent = [json.loads(body) for body in person.posts("/api/v1/repairs")]
    by_width = sorted(max(x for x, _ in one["strokes"][0]["points"]) for one in sent)
    assert by_width[0] == pytest.approx(by_width[1] / 2, abs=1) and by_width[1] == by_width[2]
    assert person.shown_patches == 1 and len(person.rounds) == 1
    with person.page.expect_download() as download:
        person.page.locator('[data-part="zip"]').click()
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as archive:
        assert sorted(archive.namelist()) == [f"{i}_repaired.png" for i in (1, 2, 3)]
    # Each is where it was left, after a reload too; one that is removed is gone.
    person.page.locator(STRIP, has=person.page.locator("img")).last.click()
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text("3.png")
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 1")
    person.visit()
    expect(person.page.locator(STRIP)).to_have_count(3)
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text("3.png")
    person.page.get_by_role("button", name="1.png").focus()
    person.key("Enter")
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text("1.png")
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 1")
    person.press("photo-remove")
    expect(person.page.locator(STRIP)).to_have_count(2)
    expect(person.page.locator('[data-part="photo-name"]')).not_to_have_text("1.png")


def test_keys_go_from_photo_to_photo_and_what_of_a_batch_was_cancelled_or_failed_goes_again(person: Person) -> None:
    """The mask was gone for good then. It is painted again where it was painted, after a reload in between too."""
    # Keys go from photo to photo, download and cancel a batch.
    choose(person, *[photo_file(320, 240, seed=seed, name=f"{seed}.png") for seed in range(3)])
    wait_for_uploads(person, 3)
    name = person.page.locator('[data-part="photo-name"]')
    for key, shown in (("PageDown", "1.png"), ("PageDown", "2.png"), ("PageDown", "2.png"), ("PageUp", "1.png")):
        person.key(key)
        expect(name).to_have_text(shown)
    with person.page.expect_download() as download:
        person.key("Control+s")
    assert download.value.suggested_filename.startswith("1")
    person.paint((0.5, 0.5), (0.6, 0.5))
    person.run_until_cancelled()
    person.press("batch-mask")
    expect(person.page.locator('[data-stage="running"]')).not_to_have_count(0)
    expect(person.page).to_have_title("0 % fftlama")
    person.key("Escape")
    expect(person.page.locator(STATUS)).to_contain_text("What is done stays")
    expect(person.page.locator('[data-stage="running"]')).to_have_count(0)
    expect(person.page).to_have_title("fftlama")
    person.press("clear")
    person.key("PageUp")
    expect(name).to_have_text("0.png")
    # A batch is cancelled by its button, from another photo and after a reload, and a photo that fails says why.
    person.paint((0.5, 0.5), (0.6, 0.5))
    painted = person.strokes
    person.press("batch-mask")
    expect(person.page.locator('[data-stage="running"]')).not_to_have_count(0)  # those that came together are one batch
    assert person.strokes == []
    person.paint((0.2, 0.2))
    person.key("PageDown")
    expect(name).to_have_text("1.png")
    person.visit()
    expect(person.page.locator('[data-stage="running"]')).not_to_have_count(0)
    person.press("batch-cancel")
    expect(person.page.locator(STATUS)).to_contain_text("What is done stays")
    expect(person.page.locator("[data-stage]:not([data-stage=''])")).to_have_count(0)
    expect(person.page.locator('[data-part="mask-again"]')).to_be_enabled()
    assert person.strokes == []
    person.key("PageUp")
    expect(name).to_have_text("0.png")
    assert len(person.strokes) == 2 and person.strokes[:1] == painted
    person.key("Control+z")
    assert person.strokes == painted
    person.unroute()
    person.slow_down(0, dilate_px=1001)  # the fake engine fails
    person.press("batch-mask")
    expect(person.page.locator('[data-part="many-failed"] li')).to_have_count(3)
    expect(person.page.locator(FAILED)).to_contain_text("2.png: ⚠️")
    assert person.strokes == painted
    person.unroute()
    # One that failed and was repaired alone is not listed as failed.
    # The next repair of all left it out, and what had been wrong with it stayed.
    person.repair()
    expect(person.page.locator(f"{FAILED} li")).to_have_count(2)
    expect(person.page.locator(FAILED)).to_contain_text("1.png")
    expect(person.page.locator(FAILED)).not_to_contain_text("0.png")
    person.press("batch-mask")
    expect(person.page.locator(STATE)).to_have_text("2 of 2 photos went through")
    expect(person.page.locator(FAILED)).to_be_hidden()
    # What was cancelled or failed goes again, and what went through does not.
    person.requests.clear()
    held: list[Stopped] = []
    count = 0

    def send(stopped: Stopped) -> None:
        nonlocal count
        count += 1
        if count == 1:
            held.append(stopped)
        else:
            options = {"dilate_px": FAIL} if count == 4 else {}
            stopped.continue_(json.dumps({**json.loads(stopped.body), "options": options}))

    person.paint((0.5, 0.5), (0.6, 0.5))
    painted = person.strokes
    person.stops.add("*/api/v1/repairs", send)
    person.press("batch-mask")
    expect(person.page.locator('[data-stage="done"]')).to_have_count(2)
    person.press("batch-cancel")
    assert person.strokes == painted
    held[0].continue_()
    person.press("batch-mask")
    expect(person.page.locator(STATE)).to_have_text("0 of 1 photos went through")
    assert person.strokes == painted
    person.press("batch-mask")
    expect(person.page.locator(STATE)).to_have_text("1 of 1 photos went through")
    ids = [one["image_id"] for one in repaired(person)]
    assert len(set(ids[:3])) == 3 and ids[3:] == 2 * [ids[0]]
    # A repair of all takes what the keyboard's pen draws.
    # It said that nothing was painted, as a repair of one does not.
    person.unroute()
    person.page.locator(".fft-stage").focus()
    for key in ("d", "ArrowRight"):
        person.key(key)
    person.press("batch-mask")
    expect(person.page.locator(STATE)).to_have_text("3 of 3 photos went through")


def test_a_batch_is_cancelled_before_the_first_upload_has_ended(person: Person) -> None:
    """It had no Cancel, and that of the upload removed the photo, with what was painted on it."""
    broken: list[str] = []
    person.page.on("requestfailed", lambda request: broken.append(request.url))
    held = Held(person, "*/api/v1/images")
    name = person.page.locator('[data-part="photo-name"]')
    choose(person, *[photo_file(320, 240, seed=i, name=f"{i}.{'tif' if i == 3 else 'png'}") for i in range(4)])
    held.wait()
    expect(person.page.locator(STATUS)).to_contain_text("4 photos are open")
    for cancel in ("cancel", "batch-cancel", "Escape"):
        person.paint((0.5, 0.5), (0.6, 0.5))
        person.press("batch-mask")
        expect(person.page.locator(STATE)).to_have_text("0 of 4 done")
        person.press(cancel) if cancel != "Escape" else person.key(cancel)
        expect(person.page.locator(STATUS)).to_contain_text("What is done stays")
        expect(person.page.locator('[data-act="batch-cancel"]')).to_be_hidden()
        expect(person.page.locator('[data-act="clear"]')).to_be_enabled()  # the mask is there again
        person.press("clear")
        expect(person.page.locator('[data-stage="stopped"]')).to_have_count(4)
    person.page.wait_for_function("document.querySelector('[data-part=progress-row]').hidden")
    # One that is given up as it begins is not held before.
    assert len(person.posts("/api/v1/images")) == len(broken) and set(broken) == {f"{person.url}/api/v1/images"}
    # What is wanted is sent: by a repair of one, which a cancel of all does not hold up, by a look at one, and by all.
    person.paint((0.5, 0.5), (0.6, 0.5))
    person.press("batch-mask")
    person.paint((0.2, 0.2), (0.3, 0.2))
    person.press("repair")
    person.press("batch-cancel")
    asked = len(person.posts("/api/v1/images"))
    held.let_go()
    person.page.locator(DONE).wait_for()
    wait_for_uploads(person, 1)
    assert len(person.rounds) == len(person.strokes) == len(person.posts("/api/v1/repairs")) == 1
    person.page.locator(f'{STRIP}[title="3.tif"]').click()
    expect(name).to_have_text("3.tif")
    person.page.locator(f'{STRIP}[title="0.png"]').click()
    expect(name).to_have_text("0.png")
    expect(person.page.locator('[data-stage="stopped"]')).to_have_count(2)
    person.press("batch-mask")
    expect(person.page.locator(STATE)).to_have_text("4 of 4 photos went through")
    assert len(person.posts("/api/v1/repairs")) == 5 and len(person.posts("/api/v1/images")) <= asked + 4


def go_to(person: Person, name: str) -> None:
    person.page.locator(f'{STRIP}[title="{name}"]').click()
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text(name)


def repaired(person: Person) -> list[dict[str, Any]]:
    """What was asked for until now."""
    return [json.loads(body) for body in person.posts("/api/v1/repairs")]


def test_a_second_repair_of_all_leaves_out_what_went_through_and_is_as_it_was(person: Person) -> None:
    """It repaired all of them again, on top of their results."""
    sizes = [(320, 240), (320, 240), (487, 331)]
    choose(person, *[photo_file(*size, seed=seed, name=f"{seed}.png") for seed, size in enumerate(sizes)])
    wait_for_uploads(person, 3)

    def nothing_is_left() -> None:
        before = len(repaired(person))
        person.press("batch-mask")
        expect(person.page.locator(STATUS)).to_have_text(
            "Nothing is left to do: all photos went through with this already"
        )
        expect(person.page.locator('[data-act="batch-cancel"]')).to_be_hidden()
        assert len(repaired(person)) == before

    def goes_again(count: int) -> list[dict[str, Any]]:
        before = len(repaired(person))
        person.press("batch-mask")
        expect(person.page.locator(STATE)).to_have_text(f"{count} of {count} photos went through")
        assert len(repaired(person)) == before + count
        return repaired(person)[before:]

    person.paint((0.5, 0.5), (0.6, 0.5))
    first = goes_again(3)
    nothing_is_left()
    person.visit()
    go_to(person, "2.png")  # stretched to its size and back, it is the same mask
    nothing_is_left()
    person.press("language")
    expect(person.page.locator(STATUS)).to_have_text("没有需要处理的照片：全部都已这样处理过")
    person.press("language")
    # One that was repaired further and one that was undone go again; what was undone and redone does not.
    go_to(person, "1.png")
    person.paint((0.2, 0.2), (0.3, 0.2))
    person.repair()
    go_to(person, "0.png")
    (again,) = goes_again(1)
    go_to(person, "1.png")
    assert again["image_id"] == person.rounds[1]["image_id"] and len(person.rounds) == 3
    go_to(person, "2.png")
    person.key("Control+z")
    person.key("Control+y")
    nothing_is_left()
    person.key("Control+z")
    go_to(person, "0.png")
    assert goes_again(1)[0]["image_id"] in [one["image_id"] for one in first]
    # By another method all go, from the picture as it was before.
    person.page.locator('input[value="high"]').check()
    other = goes_again(3)
    assert {one["image_id"] for one in other} == {first[0]["image_id"], again["image_id"], first[2]["image_id"]}
    assert len(person.rounds) == len(person.kept["branches"]) == 1
    nothing_is_left()
    models = [{"name": name, "title": name, "size": 1, "active": name == "b", "installed": True} for name in "ab"]
    answer = {"models": models, "active": "b", "switching": None, "error": None}
    person.stops.add("*/api/v1/models", lambda stopped: stopped.fulfill(answer))
    person.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(person.page.locator('select[data-part="model"]')).to_have_value("b")
    other = goes_again(3)
    nothing_is_left()
    # The same mask painted on a result is a wish for more of it.
    person.press("mask-again")
    more = goes_again(3)
    assert not {one["image_id"] for one in more} & {one["image_id"] for one in other} and len(person.rounds) == 2


def test_a_reload_before_the_upload_has_ended_brings_back_the_mask_that_waited_for_it(person: Person) -> None:
    """What was to be repaired was gone then, without a word."""
    for number, action in enumerate(("batch-mask", "repair")):
        held = Held(person, "*/api/v1/images")
        choose(person, *[photo_file(320, 240, seed=seed, name=f"{action} {seed}.png") for seed in range(2)])
        held.wait()
        expect(person.page.locator('[data-part="photo-name"]')).to_have_text(f"{action} 0.png")
        person.paint((0.5, 0.5), (0.6, 0.5))
        person.press(action)
        person.paint((0.2, 0.2), (0.3, 0.2))
        person.visit()
        held.let_go()
        wait_for_uploads(person, 2 * number + 2)
        go_to(person, f"{action} 0.png")
        assert [stroke["points"][0] for stroke in person.strokes] == [[160, 120], [64, 48]]
        assert person.rounds == repaired(person) == []
        person.unroute()


def test_a_mark_on_a_photo_that_the_server_refuses_is_looked_for_on_none(person: Person) -> None:
    """All others were said to have failed: nothing could be selected "with that", with advice to click elsewhere."""
    held = Held(person, "*/api/v1/images")
    choose(person, *[photo_file(320, 240, seed=seed, name=f"{seed}.png") for seed in range(3)])
    held.wait()
    expect(person.page.locator(STATUS)).to_contain_text("3 photos are open")
    person.key("r")
    person.paint((0.5, 0.5), (0.6, 0.6))
    person.press("batch-mark")
    expect(person.page.locator(STATE)).to_have_text("0 of 3 done")
    held.requests.pop(0).fulfill({"error": "not_an_image", "message": "?", "params": {}}, 415)
    held.let_go()
    expect(person.page.locator(STATE)).to_have_text("0 of 3 photos went through")
    wait_for_uploads(person, 2)
    expect(person.page.locator("[data-stage]:not([data-stage=''])")).to_have_count(1)
    expect(person.page.locator(FAILED)).to_have_text("⚠️ 0.png is not a picture, or not in a format we can read")
    assert person.posts("/api/v1/detect") == []


def test_delete_goes_on_from_photo_to_photo_and_too_many_for_one_address_come_as_several_zips(person: Person) -> None:
    # Delete goes on from photo to photo and ends on the picture. After the first one no key did anything in the strip.
    choose(person, *[photo_file(320, 240, seed=seed, name=f"{seed}.png") for seed in range(3)])
    wait_for_uploads(person, 3)
    person.page.get_by_role("button", name="1.png").focus()
    person.key("Delete")
    expect(person.page.get_by_role("button", name="2.png")).to_be_focused()
    person.key("Delete")
    expect(person.page.locator(".fft-stage")).to_be_focused()
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text("0.png")
    third: Any = photo_file(320, 240, seed=3, name="3.png")
    person.page.locator(".fft-file").first.set_input_files(third)
    wait_for_uploads(person, 2)
    # Photos too many for one address come as several zips.
    # A proxy refused the address with all their names, or above 500 the server, and the page did not know why.
    person.page.evaluate(
        """() => {
          const key = sessionStorage.getItem('fftlama.tab').replace('tab', 'shelf');
          const other = JSON.parse(localStorage[key]).find((one) => one !== 'shown');
          localStorage[key] = JSON.stringify([...Array(299).fill(other), 'shown']);
        }"""
    )
    person.visit()
    link = person.page.locator('[data-part="zip"]')
    expect(link).to_have_text("Download all in 2 zips")
    downloads: list[Any] = []
    person.page.on("download", lambda download: downloads.append(download.url))
    person.requests.clear()
    with person.page.expect_event("download", lambda _: len(downloads) == 2):
        link.click()
    assert sorted(address.count("image=") for address in downloads) == [50, 250]  # the smaller may begin first
    # Nginx takes a line of 8 KiB.
    assert all(len(f"GET {url} HTTP/1.1") < 8000 for _, url, _ in person.requests if "archive" in url)


def with_mark(seed: int, left: int, top: int) -> Any:
    """A photo with a red plate that has two white bars."""
    photo = Image.fromarray(make_photo(480, 360, seed=seed) // 4 + 90)
    draw = ImageDraw.Draw(photo)
    draw.rectangle((left, top, left + 90, top + 54), fill=(220, 20, 40))
    draw.rectangle((left + 12, top + 8, left + 26, top + 44), fill=(250, 250, 250))
    draw.rectangle((left + 44, top + 24, left + 80, top + 44), fill=(250, 250, 250))
    data = io.BytesIO()
    photo.save(data, "PNG")
    return {"name": f"{seed}.png", "mimeType": "image/png", "buffer": data.getvalue()}


def test_a_mark_is_removed_from_all_wherever_it_is_on_each(person: Person) -> None:
    places = [(40, 40), (300, 200), (180, 280)]
    marked = [with_mark(seed, *place) for seed, place in enumerate(places)]
    choose(person, *marked, photo_file(480, 360, name="none.png"))
    wait_for_uploads(person, 4)
    person.key("r")
    person.paint((38 / 480, 38 / 360), (133 / 480, 97 / 360))
    person.press("batch-mark")
    expect(person.page.locator(STATE)).to_have_text("4 of 4 photos went through", timeout=60_000)
    expect(person.page.locator('[data-stage="done"]')).to_have_count(3)
    expect(person.page.locator('[data-stage="nothing"]')).to_have_count(1)
    for seed, (left, top) in enumerate(places):
        person.page.get_by_role("button", name=f"{seed}.png").click()
        expect(person.page.locator('[data-part="photo-name"]')).to_have_text(f"{seed}.png")
        (one,) = person.rounds
        assert one["box"] == pytest.approx([left, top, left + 90, top + 54], abs=8)
    # Those on which there was none are left out too; by another way the mark is looked for where it was.
    person.press("batch-mark")
    expect(person.page.locator(STATUS)).to_contain_text("Nothing is left to do")
    assert len(person.posts("/api/v1/detect")) == 4
    person.page.locator('input[value="high"]').check()
    person.press("batch-mark")
    expect(person.page.locator(STATE)).to_have_text("4 of 4 photos went through", timeout=60_000)
    expect(person.page.locator('[data-stage="done"]')).to_have_count(3)
    assert len(person.posts("/api/v1/detect")) == 8 and len(person.rounds) == 1


def test_an_address_opens_an_uploaded_photo_once(person: Person, server: RunningServer) -> None:
    with server.client as client:
        image_id = upload(client, photo_file(320, 240)["buffer"], "from-elsewhere.png")["image_id"]
        edit_id = follow(client, ask_repair(client, image_id))["image_id"]
    for opened in (image_id, edit_id):
        person.page.goto(f"{server.url}/?image={opened}")
        expect(person.page.locator('[data-part="photo-name"]')).to_have_text("from-elsewhere.png")
        assert "image=" not in person.page.url
        expect(person.page.locator(f'a[data-part="download"][href$="{opened}"]')).to_be_visible()
    person.paint((0.4, 0.5), (0.6, 0.5))
    person.repair()
    person.paint((0.4, 0.3), (0.6, 0.3))
    painted = person.strokes
    # The address of a photo that is open already shows it as it was left; a second, untouched copy took its place once.
    for opened in (image_id, edit_id):
        person.page.goto(f"{server.url}/?image={opened}")
        shown = person.page.locator(STRIP).nth((image_id, edit_id).index(opened))
        expect(shown).to_have_attribute("aria-current", "true")
        expect(person.page.locator(STRIP)).to_have_count(2)
    person.page.goto(f"{server.url}/?image={'0' * 32}")
    expect(person.page.locator(STATUS)).to_contain_text("no longer has this photo")
    expect(person.page.locator(STRIP)).to_have_count(2)
    assert person.strokes == painted and len(person.rounds) == 1
