"""What goes on with photos that are not shown: repairs and batches go on, land where they were begun, and survive."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import expect

from tests.support.page_driver import Person, photo_file
from tests.support.page_requests import Stopped
from tests.support.serving import RunningServer, ask_repair, upload
from tests.web.test_page_many import STATE, STRIP, wait_for_uploads

Visit = Callable[..., Person]
NAME = '[data-part="photo-name"]'
PATCHES = "document.querySelectorAll('.fft-patch').length === {count}"


def choose(person: Person, *files: Any) -> None:
    """Open files and wait until the server has all of them."""
    person.page.locator(".fft-file").first.set_input_files(list(files))
    wait_for_uploads(person, len(files))


def show(person: Person, name: str) -> None:
    person.page.locator(f'{STRIP}[title="{name}"]').click()
    expect(person.page.locator(NAME)).to_have_text(name)


def stage(person: Person, name: str) -> Any:
    return person.page.locator("[data-part='strip-list'] li", has=person.page.locator(f'[title="{name}"]'))


def three_photos() -> list[dict[str, Any]]:
    return [photo_file(320, 240, seed=seed, name=f"{seed}.png") for seed in range(3)]


def until_shown(person: Person, count: int) -> None:
    person.page.wait_for_function(PATCHES.format(count=count))


def test_what_is_being_drawn_stays_off_the_photo_that_comes(person: Person) -> None:
    """It became a stroke there, with the coordinates of the photo before."""
    choose(person, photo_file(640, 480, name="0.png"), photo_file(100, 80, name="1.png"))
    show(person, "0.png")

    def go(key: str, name: str) -> None:
        person.key(key)
        expect(person.page.locator(NAME)).to_have_text(name)

    def begin_a_drag() -> None:
        first, second = person.stage_points([(0.06, 0.06), (0.1, 0.06)])
        person.page.mouse.move(*first)
        person.page.mouse.down()
        person.page.mouse.move(*second, steps=3)

    for tool in ("b", "r"):
        person.key(tool)
        begin_a_drag()
        go("PageDown", "1.png")
        person.page.mouse.up()
        assert person.strokes == []
        go("PageUp", "0.png")
        assert person.strokes == []
    person.key("b")
    person.page.locator(".fft-stage").focus()
    for key in (*["ArrowRight"] * 3, "d", *["ArrowDown"] * 3):
        person.key(key)
    go("PageDown", "1.png")
    assert person.strokes == []
    # The keyboard is inside of the smaller photo.
    person.key("d")
    person.key("d")
    assert [stroke["points"] for stroke in person.strokes] == [[[100, 80]]]
    begin_a_drag()
    person.open(photo_file(320, 240, name="2.png"))
    person.page.mouse.up()
    assert person.strokes == []


def test_repairs_of_a_photo_that_is_not_shown_are_cancelled_fail_and_land_there_after_a_reload_too(
    person: Person, server: RunningServer
) -> None:
    # One comes back to a repair that still runs, and can cancel it.
    choose(person, *three_photos()[:2])
    show(person, "0.png")
    person.run_until_cancelled()
    person.paint((0.3, 0.3), (0.4, 0.3))
    painted = person.strokes
    person.press("repair")
    person.page.locator('[data-act="cancel"]').wait_for()
    show(person, "1.png")
    assert person.strokes == []
    show(person, "0.png")
    person.press("cancel")
    person.page.locator('[data-act="cancel"]').wait_for(state="hidden")
    assert person.strokes == painted and person.rounds == []
    person.unroute()
    # One that fails says why there.
    with server.client as client:  # somebody whom it waits for
        ask_repair(client, upload(client, photo_file()["buffer"])["image_id"], feather_px=300)
    person.slow_down(0, dilate_px=1001)  # the fake engine fails
    person.press("repair")
    person.page.locator('[data-act="cancel"]').wait_for()
    show(person, "1.png")
    expect(stage(person, "0.png")).to_have_attribute("data-stage", "failed")
    show(person, "0.png")
    expect(person.page.locator('[data-part="status"]')).to_have_attribute("data-tone", "warn")
    assert person.strokes == painted
    person.unroute()
    # A repair goes on while another photo is shown, and lands on its own. Going to another photo cancelled it.
    person.slow_down(250)
    person.press("repair")
    person.page.locator('[data-act="cancel"]').wait_for()
    show(person, "1.png")
    expect(stage(person, "0.png")).to_have_attribute("data-stage", "running")
    assert person.page.locator('[data-act="cancel"]').is_hidden()
    # The other one can be repaired meanwhile; each round is its own photo's.
    person.paint((0.6, 0.6), (0.7, 0.6))
    person.repair()
    assert len(person.rounds) == 1 and person.shown_patches == 1
    expect(stage(person, "0.png")).to_have_attribute("data-stage", "done")
    assert len(person.rounds) == 1 and person.shown_patches == 1
    own = person.rounds[0]["image_id"]
    show(person, "0.png")
    until_shown(person, 1)
    assert len(person.rounds) == 1 and person.rounds[0]["image_id"] != own and person.strokes == []
    expect(stage(person, "0.png")).to_have_attribute("data-stage", "")
    left, _, right, _ = person.rounds[0]["box"]
    assert right < 160 and left > 50, "the stroke was painted in the left half"
    # A reload brings it home.
    person.paint((0.3, 0.3), (0.4, 0.3))
    person.press("repair")
    person.page.locator('[data-act="cancel"]').wait_for()
    show(person, "1.png")
    person.visit()
    expect(stage(person, "0.png")).to_have_attribute("data-stage", "done")
    assert len(person.rounds) == 1
    show(person, "0.png")
    until_shown(person, 2)
    assert len(person.rounds) == 2


def test_a_batch_goes_on_after_a_reload_repairs_nothing_twice_and_is_seen_on_a_photo_that_was_shown_before(
    person: Person,
) -> None:
    choose(person, *three_photos())
    person.paint((0.4, 0.4), (0.5, 0.4))
    delays: dict[str, int] = {}  # by request id: asked again after the reload, a repair is the same one
    held: list[Stopped] = []

    def add_delay(stopped: Stopped) -> None:
        body = json.loads(stopped.body)
        is_new = body["request_id"] not in delays
        # The last is never answered before the reload, so that the old page's batch can't end, however long the new
        # page takes to come.
        delay = delays.setdefault(body["request_id"], 50 if delays else 20)
        if is_new and len(delays) == 3:
            held.append(stopped)
        else:
            stopped.continue_(json.dumps({**body, "options": {"feather_px": delay}}))

    person.stops.add("*/api/v1/repairs", add_delay)
    person.press("batch-mask")
    person.page.locator('[data-stage="done"]').first.wait_for()
    for _ in range(500):
        if held:
            break
        person.page.wait_for_timeout(20)
    person.visit()
    expect(person.page.locator(STATE)).to_contain_text("photos went through")
    sent = {json.loads(body)["request_id"] for body in person.posts("/api/v1/repairs")}
    assert len(sent) == 3
    for name in ("0.png", "1.png", "2.png"):
        show(person, name)
        until_shown(person, 1)
        assert len(person.rounds) == 1
    person.unroute()
    # A photo shown before a batch has its round when it is shown again. Its pictures were kept, so that the patch of a
    # round that came meanwhile was never fetched.
    show(person, "0.png")
    show(person, "1.png")
    person.paint((0.4, 0.4), (0.5, 0.4))
    person.press("batch-mask")
    expect(person.page.locator('[data-stage="done"]')).to_have_count(3)
    show(person, "0.png")
    until_shown(person, 2)


def captioned(name: str, text: str) -> dict[str, Any]:
    """Return a photo of a smooth sky with a caption, or without: too wide to be looked at twice as large."""
    rows, columns = np.mgrid[0:128, 0:640]
    sky = np.stack([150 + rows // 8, 180 + columns // 20, 205 + rows // 16], axis=2).astype(np.uint8)
    image = Image.fromarray(sky)
    ImageDraw.Draw(image).text((90, 48), text, fill=(20, 20, 20), font=ImageFont.load_default(36))
    data = BytesIO()
    image.save(data, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": data.getvalue()}


def test_text_is_removed_from_all_and_a_photo_without_any_says_so(person: Person) -> None:
    choose(person, captioned("one.png", "Harbour 2026"), captioned("none.png", ""), captioned("two.png", "12:45 NOON"))
    person.press("batch-text")
    expect(person.page.locator(STATE)).to_have_text("3 of 3 photos went through", timeout=120_000)
    for name, how in (("one.png", "done"), ("two.png", "done"), ("none.png", "nothing")):
        expect(stage(person, name)).to_have_attribute("data-stage", how)
    show(person, "two.png")
    until_shown(person, 1)
    left, top, right, bottom = person.rounds[0]["box"]
    assert 60 < left < 120 and 28 < top < bottom < 113 and right < 420, "what was repaired is the caption"
    show(person, "none.png")
    assert person.rounds == []


def make_folder(folder: Path) -> Path:
    """A folder with two photos, one of them in a folder of its own, and what is none."""
    (folder / "trip" / "inner").mkdir(parents=True)
    (folder / "trip" / "b2.png").write_bytes(photo_file(320, 240, seed=1)["buffer"])
    (folder / "trip" / "inner" / "b10.png").write_bytes(photo_file(320, 240, seed=2)["buffer"])
    (folder / "trip" / "notes.txt").write_text("no photo", encoding="utf-8")
    return folder / "trip"


def test_a_folder_is_dropped_or_chosen_and_the_strip_tells_which_of_its_photos_were_repaired_and_downloaded(
    person: Person, tmp_path: Path
) -> None:
    """Of thirty photos nobody saw which were done: small repairs are not seen in the small pictures."""
    folder = make_folder(tmp_path)
    session = person.context.new_cdp_session(person.page)
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 300, "data": data})
    wait_for_uploads(person, 2)
    names = person.page.locator(STRIP).evaluate_all("(all) => all.map((one) => one.title)")
    assert names == ["b2.png", "b10.png"]
    mark = stage(person, "b2.png").locator(".fft-mark")
    expect(mark).to_be_empty()
    person.paint((0.4, 0.4), (0.5, 0.4))
    person.repair()
    expect(mark).to_have_text("repaired")
    person.key("Control+z")
    expect(mark).to_be_empty()
    person.key("Control+y")
    with person.page.expect_download():
        person.key("Control+s")
    expect(person.page.get_by_role("button", name="b2.png, downloaded")).to_be_visible()
    expect(person.page.locator(NAME)).to_have_role("status")  # PageDown says which photo comes
    # One that is chosen.
    person.page.locator(".fft-folder").set_input_files(folder)
    wait_for_uploads(person, 4)
    names = person.page.locator(STRIP).evaluate_all("(all) => all.map((one) => one.title)")
    assert sorted(names[2:]) == ["b10.png", "b2.png"]
