"""The page loses nothing: requests cut or late, pictures' too, reloads at bad moments, wrong files, further strokes."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Route, expect

from imaging import encode_png
from tests.support.page_driver import DONE, Person, photo_file
from tests.support.serving import RunningServer

Visit = Callable[..., Person]
STATUS = '[data-part="status"]'


@pytest.fixture
def person(visit: Visit, server: RunningServer) -> Person:
    return visit(server.url)


class Held:
    """Requests to an address, kept waiting until they are let go."""

    def __init__(self, person: Person, address: str | re.Pattern[str]) -> None:
        self.page = person.page
        self.address = address
        self.routes: list[Route] = []
        self.is_open = False
        self.page.route(address, self.handle)

    def handle(self, route: Route) -> None:
        """Keep a request, or pass it on when the gate is open."""
        if self.is_open:
            route.continue_()
        else:
            self.routes.append(route)

    def wait(self) -> None:
        """Wait until one of them has been made."""
        for _ in range(200):
            if self.routes:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"no request to {self.address}")

    def let_go(self) -> None:
        """Let those that wait and all later ones through."""
        self.is_open = True
        for route in self.routes:
            route.continue_()


def choose(person: Person, file: Any) -> None:
    """Choose a file, and wait for nothing."""
    person.page.set_input_files(".fft-file", file)


def cut(person: Person, address: str, times: int) -> list[str]:
    """Break off the first requests to an address; return a list of those that were."""
    broken: list[str] = []

    def handle(route: Route) -> None:
        if len(broken) < times:
            broken.append(route.request.url)
            return route.abort("connectionreset")
        route.continue_()

    person.page.route(address, handle)
    return broken


def with_two_rounds(person: Person) -> None:
    """Bring a person to two repairs and a stroke painted for the third."""
    person.open(photo_file())
    for y in (0.2, 0.4):
        person.paint((0.3, y), (0.4, y))
        person.repair()
    person.paint((0.6, 0.7), (0.7, 0.7))


@pytest.mark.parametrize("times", [1, 3])
def test_a_patch_whose_transfer_is_cut_appears_all_the_same(person: Person, times: int) -> None:
    person.open(photo_file())
    broken = cut(person, "**/patch", times)
    person.paint((0.4, 0.4), (0.5, 0.4))
    person.repair()
    assert len(broken) == times
    assert person.shown_patches == 1 and len(person.rounds) == 1
    expect(person.page.locator(".fft-offline")).to_be_hidden()


@pytest.mark.parametrize("address", ["**/patch", "**/api/v1/images/*?*", "**/info"], ids=["patch", "photo", "info"])
def test_pictures_cut_in_a_reload_come_later_and_nothing_is_wiped(person: Person, address: str) -> None:
    with_two_rounds(person)
    before = person.kept
    broken = cut(person, address, 3)
    person.visit()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 2")
    person.page.wait_for_function("document.querySelector('.fft-photo').naturalWidth === 640")
    assert len(broken) == 3
    after = person.kept
    assert [after[key] for key in ("photo", "strokes", "rounds", "round")] == [
        before[key] for key in ("photo", "strokes", "rounds", "round")
    ]
    person.repair()
    assert person.shown_patches == 3


def test_a_server_in_trouble_during_a_reload_wipes_nothing(person: Person) -> None:
    with_two_rounds(person)
    before = person.kept
    answer = {"error": "storage_unavailable", "message": "?", "params": {}}
    person.page.route("**/patch", lambda route: route.fulfill(status=507, json=answer))
    person.visit()
    expect(person.page.locator(STATUS)).to_contain_text("data folder")
    assert person.kept["rounds"] == before["rounds"] and person.strokes == before["strokes"]
    person.page.unroute_all()
    person.visit()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 2")


def test_a_round_that_is_gone_takes_only_those_built_on_it(person: Person) -> None:
    with_two_rounds(person)
    second = person.rounds[1]["image_id"]
    gone = {"error": "unknown_image", "message": "?", "params": {}}
    person.page.route(f"**/{second}/patch", lambda route: route.fulfill(status=404, json=gone))
    painted = person.strokes
    person.visit()
    person.page.wait_for_function("document.querySelectorAll('.fft-rounds li').length === 2")
    person.page.locator(".fft-patch").wait_for()  # the list is there before the pictures
    assert person.shown_patches == 1 and person.strokes == painted


def test_painting_while_a_reload_restores_keeps_every_stroke(person: Person) -> None:
    with_two_rounds(person)
    painted = person.strokes
    held = Held(person, re.compile(r"/info$|\?max_px|/patch$"))
    person.visit()
    held.wait()
    person.paint((0.2, 0.8), (0.3, 0.8))
    held.let_go()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 2")
    assert person.strokes[:1] == painted and len(person.strokes) == 2


def test_repairing_while_a_reload_restores_is_of_the_round_that_is_shown(person: Person) -> None:
    with_two_rounds(person)
    painted, shown = person.strokes, person.rounds[-1]["image_id"]
    held = Held(person, re.compile(r"/info$|\?max_px|/patch$"))
    person.visit()
    held.wait()
    person.press("repair")
    held.let_go()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 3")
    sent = json.loads(person.posts("/api/v1/repairs")[-1])
    assert sent["image_id"] == shown and sent["strokes"] == painted


@pytest.mark.parametrize("has_arrived", [False, True], ids=["before it arrives", "after it arrived"])
def test_cancel_before_the_answer_to_the_post_leaves_nothing_running(
    person: Person, server: RunningServer, has_arrived: bool
) -> None:
    person.open(photo_file(seed=7 + has_arrived))
    before = set(server.outputs_dir.glob("*"))
    person.paint((0.4, 0.4), (0.5, 0.4))
    posts: list[tuple[Route, dict[str, Any]]] = []

    def hold(route: Route) -> None:
        body = {**json.loads(route.request.post_data or ""), "options": {"feather_px": 150}}
        answer = route.fetch(post_data=json.dumps(body)) if has_arrived else None
        posts.append((route, {"response": answer} if answer else {"post_data": json.dumps(body)}))

    person.page.route("**/api/v1/repairs", hold)
    person.press("repair")
    while not posts:
        person.page.wait_for_timeout(20)
    person.press("cancel")
    expect(person.page.locator(STATUS)).to_contain_text("Cancelled")
    route, rest = posts[0]
    with person.page.expect_response(lambda r: r.request.method == "DELETE" and "/jobs/" in r.url) as deleted:
        route.fulfill(**rest) if has_arrived else route.continue_(**rest)
    assert deleted.value.ok
    job = re.sub(r".*/jobs/", "", deleted.value.url)
    view = person.page.request.get(f"{server.url}/api/v1/jobs/{job}?wait_s=5").json()
    assert view["state"] == "cancelled"
    person.page.wait_for_timeout(2000)  # longer than the repair would take
    assert set(server.outputs_dir.glob("*")) == before
    assert len(person.strokes) == 1 and person.shown_patches == 0


def test_strokes_painted_during_a_repair_are_for_the_next_round(person: Person) -> None:
    person.open(photo_file())
    person.paint((0.3, 0.3), (0.4, 0.3))
    held = Held(person, "**/api/v1/repairs")
    person.press("repair")
    for y in (0.5, 0.6, 0.7):
        person.paint((0.3, y), (0.4, y))
    assert len(person.strokes) == 3
    held.wait()
    held.let_go()
    person.page.locator(DONE).wait_for()
    assert len(person.strokes) == 3 and person.shown_patches == 1
    person.key("Control+z")
    assert len(person.strokes) == 2
    person.repair()
    first, second = (json.loads(body) for body in person.posts("/api/v1/repairs"))
    assert (len(first["strokes"]), len(second["strokes"])) == (1, 2)
    assert second["image_id"] == person.rounds[0]["image_id"]


def test_instant_mode_works_off_what_was_painted_meanwhile(person: Person) -> None:
    person.open(photo_file())
    person.page.locator('[data-part="instant"]').check()
    held = Held(person, "**/api/v1/repairs")
    for y in (0.2, 0.4, 0.6, 0.8):
        person.paint((0.3, y), (0.4, y))
    held.wait()
    held.let_go()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 2")
    person.page.locator(DONE).wait_for()
    sent = [json.loads(body)["strokes"] for body in person.posts("/api/v1/repairs")]
    assert [len(strokes) for strokes in sent] == [1, 3]
    assert person.strokes == []


def test_cancel_gives_its_strokes_back_under_those_painted_since(person: Person) -> None:
    person.slow_down(300)
    person.open(photo_file())
    person.paint((0.3, 0.3), (0.4, 0.3))
    person.press("repair")
    expect(person.page.locator(STATUS)).to_have_text("Repairing…")
    person.paint((0.3, 0.6), (0.4, 0.6))
    person.press("cancel")
    assert [round(stroke["points"][0][1]) for stroke in person.strokes] == [144, 288]
    person.key("Control+z")
    person.key("Control+z")
    assert person.strokes == []


WRONG_FILES = [
    ("notes.png", b"This is a text file.\n" * 50, "notes.png is not a picture"),
    ("empty.png", b"", "empty.png is empty"),
    ("cut.png", photo_file(900, 700)["buffer"][:20_000], "cut.png is incomplete or damaged"),
]


@pytest.mark.parametrize(("name", "data", "sentence"), WRONG_FILES, ids=["text", "empty", "cut"])
def test_a_wrong_file_leaves_photo_strokes_and_rounds(person: Person, name: str, data: bytes, sentence: str) -> None:
    with_two_rounds(person)
    before = person.kept
    choose(person, {"name": name, "mimeType": "image/png", "buffer": data})
    expect(person.page.locator(STATUS)).to_contain_text(sentence)
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text("photo.png")
    assert person.shown_patches == 2
    for _ in range(2):
        after = person.kept
        assert [after[key] for key in ("photo", "strokes", "rounds")] == [
            before[key] for key in ("photo", "strokes", "rounds")
        ]
        person.visit()
    person.repair()
    assert len(person.rounds) == 3


def test_one_can_go_back_to_the_photo_that_another_replaced(person: Person) -> None:
    with_two_rounds(person)
    painted = person.strokes
    person.open(photo_file(320, 200, seed=5, name="other.png"))
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("320 × 200")
    assert person.shown_patches == 0
    first, other = (person.page.get_by_role("button", name=name) for name in ("photo.png", "other.png"))
    first.click()
    expect(first).to_have_attribute("aria-current", "true")
    assert person.shown_patches == 2 and person.strokes == painted
    person.repair()
    other.click()
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("320 × 200")
    person.paint((0.4, 0.4), (0.5, 0.4))
    person.repair()
    assert len(person.rounds) == 1


def test_a_photo_replaced_before_it_was_up_can_be_gone_back_to(person: Person) -> None:
    held = Held(person, "**/api/v1/images")
    choose(person, photo_file())
    held.wait()
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("640 × 480")
    person.paint((0.3, 0.3), (0.4, 0.3))
    choose(person, photo_file(320, 200, name="other.png"))
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("320 × 200")
    held.let_go()
    person.page.get_by_role("button", name="photo.png").click()
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("640 × 480")
    person.repair()
    assert person.shown_patches == 1


def test_a_reload_during_an_upload_brings_the_photo_before(person: Person) -> None:
    with_two_rounds(person)
    before = person.kept
    Held(person, "**/api/v1/images")
    choose(person, photo_file(320, 200, name="other.png"))
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("320 × 200")
    person.visit()
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("640 × 480")
    assert person.kept["rounds"] == before["rounds"] and person.strokes == before["strokes"]


def test_an_upload_that_fails_for_long_keeps_the_photo_and_repair_tries_again(person: Person) -> None:
    person.page.clock.install()
    person.page.route("**/api/v1/images", lambda route: route.abort("connectionreset"))
    choose(person, photo_file())
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("640 × 480")
    person.paint((0.3, 0.3), (0.4, 0.3))
    for _ in range(40):
        if "upload failed" in person.status:
            break
        person.page.clock.fast_forward(4000)
        person.page.wait_for_timeout(50)
    expect(person.page.locator(STATUS)).to_contain_text("upload failed")
    person.page.unroute_all()
    person.page.clock.resume()
    person.repair()
    assert person.shown_patches == 1


def test_of_several_dropped_files_the_first_is_shown_and_all_are_opened(person: Person) -> None:
    script = """(files) => {
      const data = new DataTransfer();
      for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name, { type: 'image/png' }));
      const drop = new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
      document.querySelector('.fft-stage').dispatchEvent(drop);
    }"""
    names = ["a.png", "b.png", "c.png"]
    person.page.evaluate(script, [[name, list(photo_file(90, 60)["buffer"])] for name in names])
    expect(person.page.locator(STATUS)).to_contain_text("3 photos are open")
    expect(person.page.locator('[data-part="photo-name"]')).to_have_text("a.png")
    expect(person.page.locator('[data-part="strip-list"] img[src]')).to_have_count(3)


def test_after_a_reload_every_pixel_of_a_large_photo_comes_back(person: Person) -> None:
    person.open(photo_file(3000, 1200, name="large.jpg"))
    person.visit()
    person.page.wait_for_function("document.querySelector('.fft-photo').naturalWidth === 3000")


def test_a_large_tiff_is_shown_in_full(person: Person) -> None:
    person.open(photo_file(2600, 700, name="large.tif"))
    person.page.wait_for_function("document.querySelector('.fft-photo').naturalWidth === 2600")


def test_a_photo_of_few_levels_is_shown_bright_by_photo_and_patch(person: Person) -> None:
    """A 10-bit photo in a 16-bit PNG is black in a browser; the server stretches it, and patches alike."""
    values = np.random.default_rng(0).integers(400, 900, (300, 400, 3), dtype=np.uint16)
    person.open({"name": "few.png", "mimeType": "image/png", "buffer": encode_png(values, fast=True)})
    expect(person.page.locator('[data-part="photo-notes"]')).to_contain_text("few of its 16-bit values")
    person.page.wait_for_function("document.querySelector('.fft-photo').src.startsWith('blob:')")
    person.page.wait_for_timeout(300)
    assert min(person.pixel(0.8, 0.8)) > 80
    person.paint((0.3, 0.3), (0.4, 0.3))
    person.repair()
    assert min(person.pixel(0.35, 0.3)) > 80


def test_strokes_stay_as_they_were_painted(person: Person) -> None:
    person.open(photo_file(2000, 1500))
    versions: list[list[dict[str, Any]]] = []
    for row in range(14):
        y = 0.06 * (row + 1)
        person.paint(*[(0.1 + i * 0.05, y + 0.02 * (i % 3)) for i in range(14)])
        versions.append(person.strokes)
    for i, version in enumerate(versions):
        assert version == versions[-1][: i + 1]
    person.repair()
    sent = json.loads(person.posts("/api/v1/repairs")[0])
    assert sent["strokes"] == versions[-1]


def test_progress_tells_share_time_left_and_the_tabs_title(person: Person) -> None:
    person.open(photo_file())
    person.paint((0.3, 0.3), (0.4, 0.3))
    known = {f"fast {size}": 20_000 for size in range(14)}
    person.page.evaluate("known => localStorage.setItem('fftlama.pace', JSON.stringify(known))", known)
    person.visit()
    person.slow_down(150)
    person.press("repair")
    expect(person.page.locator('[data-part="estimate"]')).to_have_text(re.compile(r"about \d+ s left"))
    bar = person.page.locator('[data-part="progress"]')
    expect(bar).to_have_attribute("aria-valuenow", re.compile(r"^[1-9]"))
    expect(person.page).to_have_title(re.compile(r"^\d+ % fftlama$"))
    expect(person.page.locator('[data-part="times"]')).to_be_hidden()
    person.page.locator(DONE).wait_for()
    expect(person.page).to_have_title("fftlama")
    expect(person.page.locator('[data-part="estimate"]')).to_be_hidden()
    learned = json.loads(person.page.evaluate("localStorage.getItem('fftlama.pace')"))
    assert min(learned.values()) < 20_000
