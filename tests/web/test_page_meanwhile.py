"""What a person does while a repair runs: paints on, cancels, watches how far it is."""

import json
import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Route, expect

from tests.support.page_driver import DONE, STATUS, Held, Person, photo_file
from tests.support.page_pointer import drag_at_once
from tests.support.serving import RunningServer


def test_a_cancelled_repair_leaves_nothing_running_and_gives_its_strokes_back(
    person: Person, server: RunningServer
) -> None:
    # Cancelled before the answer to the POST, which has not arrived yet, or has.
    for has_arrived in (False, True):
        cancel_before_the_answer(person, server, has_arrived=has_arrived)
    # Its strokes come back under those painted since.
    person.press("clear")
    person.run_until_cancelled()
    person.paint((0.3, 0.3), (0.4, 0.3))
    person.press("repair")
    expect(person.page.locator(STATUS)).to_have_text("Repairing…")
    person.paint((0.3, 0.6), (0.4, 0.6))
    person.press("cancel")
    assert [round(stroke["points"][0][1]) for stroke in person.strokes] == [144, 288]
    person.key("Control+z")
    person.key("Control+z")
    assert person.strokes == []


def cancel_before_the_answer(person: Person, server: RunningServer, *, has_arrived: bool) -> None:
    """Have a person open a photo and cancel its repair before the page knows the job."""
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
    person.unroute()


def test_strokes_stay_as_they_were_painted_and_a_phones_first_brush_is_a_finger_wide(
    visit: Callable[..., Person], server: RunningServer
) -> None:
    """When all of them together passed two kilobytes, those painted before were made coarser."""
    phone = visit(
        server.url, viewport={"width": 390, "height": 844}, device_scale_factor=2, is_mobile=True, has_touch=True
    )
    phone.open(photo_file(700, 525, name="photo.jpg"))
    photo_width = phone.photo_box()[2]
    versions: list[list[dict[str, Any]]] = []
    for row in range(6):
        y = 0.13 * (row + 1)
        drag_at_once(phone, [(0.1 + i * 0.02, y + 0.02 * (i % 2)) for i in range(40)])
        phone.page.mouse.up()
        versions.append(phone.strokes)
    assert 2 * versions[0][0]["radius"] * photo_width / 700 >= 24
    for i, version in enumerate(versions):
        assert version == versions[-1][: i + 1]
    phone.page.locator('[data-act="repair"]').tap()
    phone.page.locator(".fft-rounds li:nth-child(2)").wait_for()
    sent = json.loads(phone.posts("/api/v1/repairs")[0])
    assert sent["strokes"] == versions[-1]
    assert len(json.dumps(versions[-2], separators=(",", ":"))) > 2048  # one more was painted after that


TONE_AT_PATCH = """() => {
  new MutationObserver((changes, observer) => {
    if (document.querySelectorAll('.fft-patch').length < 3) return;
    observer.disconnect();
    window.toneAtPatch = document.querySelector('[data-part="status"]').dataset.tone;
    requestAnimationFrame(() => {
      const overlay = document.querySelector('.fft-overlay').getContext('2d').getImageData(0, 0, 1200, 800).data;
      window.redAtPatch = overlay.some((value, i) => i % 4 === 3 && value);
    });
  }).observe(document.querySelector('.fft-world'), { childList: true });
}"""


def test_progress_is_told_the_patch_comes_first_and_strokes_painted_during_a_repair_are_for_the_next_round(
    person: Person,
) -> None:
    """The panel, the thumbnails and what a reload needs were written before it: 20 of 65 ms from click to patch."""
    # Share, time left and the tab's title.
    person.open(photo_file())
    person.paint((0.3, 0.3), (0.4, 0.3))
    known = {f"fast {size}": 20_000 for size in range(14)}
    person.page.evaluate("known => localStorage.setItem('fftlama.pace', JSON.stringify(known))", known)
    person.visit()
    person.slow_down(300)  # all of it is looked at meanwhile
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
    # A reload right after the press.
    person.unroute()
    person.slow_down(50)
    person.paint((0.4, 0.4), (0.5, 0.4))
    with person.page.expect_navigation():
        person.page.evaluate("() => (document.querySelector('[data-act=repair]').click(), location.reload())")
    person.page.locator(".fft-rounds li:nth-child(3)").wait_for()
    expect(person.page.locator(DONE)).to_be_visible()
    assert len(person.rounds) == 2 and person.strokes == []
    # The patch comes first.
    person.unroute()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 2")
    person.paint((0.4, 0.4), (0.5, 0.4))
    person.page.evaluate(TONE_AT_PATCH)
    person.press("repair")
    person.page.locator(".fft-rounds li:nth-child(4)").wait_for()
    expect(person.page.locator(DONE)).to_be_visible()
    assert person.page.evaluate("window.toneAtPatch") != "good"
    assert person.page.evaluate("window.redAtPatch") is False
    # Strokes painted during a repair are for the next round.
    person.requests.clear()
    person.paint((0.3, 0.3), (0.4, 0.3))
    held = Held(person, "*/api/v1/repairs")
    person.press("repair")
    for y in (0.5, 0.6, 0.7):
        person.paint((0.3, y), (0.4, y))
    assert len(person.strokes) == 3
    held.wait()
    held.let_go()
    person.page.locator(".fft-rounds li:nth-child(5)").wait_for()
    person.page.locator(DONE).wait_for()
    assert len(person.strokes) == 3 and person.shown_patches == 4
    person.key("Control+z")
    assert len(person.strokes) == 2
    person.repair()
    first, second = (json.loads(body) for body in person.posts("/api/v1/repairs"))
    assert (len(first["strokes"]), len(second["strokes"])) == (1, 2)
    assert second["image_id"] == person.rounds[3]["image_id"]
    # Instant mode works off what was painted meanwhile.
    person.requests.clear()
    person.unroute()
    person.page.locator('[data-part="instant"]').check()
    held = Held(person, "*/api/v1/repairs")
    for y in (0.2, 0.4, 0.6, 0.8):
        person.paint((0.3, y), (0.4, y))
    held.wait()
    held.let_go()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 7")
    person.page.locator(DONE).wait_for()
    sent = [json.loads(body)["strokes"] for body in person.posts("/api/v1/repairs")]
    assert [len(strokes) for strokes in sent] == [1, 3]
    assert person.strokes == []
