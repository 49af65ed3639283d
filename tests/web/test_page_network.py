"""The page when things go wrong around it: cuts, reloads, restarts, queues, refusals."""

import json
import time
from collections.abc import Callable

from playwright.sync_api import expect

from tests.support.page_driver import DONE, NOTE_STATUS, Held, Person, choose, photo_file
from tests.support.serving import RunningServer, ask_repair, upload

Visit = Callable[..., Person]


def test_an_upload_that_stands_still_is_sent_anew(person: Person) -> None:
    """Where a server stood still, or a network swallowed what was sent, the page waited for ever."""
    person.page.evaluate(
        "() => (window.setTimeout = ((real) => (step, ms) => real(step, ms === 60_000 ? 300 : ms))(window.setTimeout))"
    )
    gate = Held(person, "*/api/v1/images")
    choose(person, photo_file())
    for _ in range(200):
        if len(gate.requests) > 1:
            break
        person.page.wait_for_timeout(50)
    assert len(gate.requests) > 1, "the first stands still"
    gate.is_open = True
    gate.requests[-1].continue_()
    person.paint((0.4, 0.4), (0.5, 0.4))
    person.repair()


def test_lost_answers_cuts_and_failed_repairs_cost_nothing(person: Person) -> None:
    # A click whose answer is lost is repeated under its request id.
    person.open(photo_file())
    lost: list[str] = []

    def lose_first(route) -> None:  # type: ignore[no-untyped-def]
        if lost:
            return route.continue_()
        lost.append(route.fetch().text())
        route.abort("connectionreset")

    person.page.route("**/api/v1/repairs", lose_first)
    person.paint((0.4, 0.4), (0.5, 0.4))
    with person.page.expect_response("**/api/v1/repairs") as repeated:
        person.repair()
    first, second = (json.loads(body) for body in person.posts("/api/v1/repairs"))
    assert first == second
    assert json.loads(lost[0])["job_id"] == repeated.value.json()["job_id"]
    person.unroute()
    # A failed repair gets a sentence and can be tried again, as a cancelled one.
    person.paint((0.4, 0.4), (0.5, 0.4))
    failed = {
        "job_id": "x",
        "state": "failed",
        "version": 1,
        "error": {"error": "timed_out", "message": "?", "params": {}},
    }
    status = person.page.locator('[data-part="status"]')
    person.slow_down(60)  # else the answer to the click may be the result
    person.stops.add("*/api/v1/jobs/*", lambda stopped: stopped.fulfill(failed))
    person.press("repair")
    expect(status).to_contain_text("took too long")
    assert len(person.strokes) == 1
    person.unroute()
    person.run_until_cancelled()
    person.press("repair")
    expect(status).to_have_text("Repairing…")
    person.press("cancel")
    expect(status).to_contain_text("Cancelled")
    assert len(person.strokes) == 1
    person.unroute()
    person.repair()
    # A cut of five seconds in mid-job.
    person.requests.clear()
    person.slow_down(300)  # long enough to be cut in the middle, and over before the cut is
    person.paint((0.4, 0.4), (0.5, 0.4))
    person.press("repair")
    expect(person.page.locator('[data-part="status"]')).to_have_text("Repairing…")
    person.context.set_offline(True)
    cut_s = time.monotonic()
    expect(person.page.locator(".fft-offline")).to_be_visible()
    person.page.wait_for_timeout(5000 - (time.monotonic() - cut_s) * 1000)
    assert person.shown_patches == 2
    person.context.set_offline(False)
    person.page.locator(DONE).wait_for(timeout=6000)
    assert person.shown_patches == 3
    expect(person.page.locator(".fft-offline")).to_be_hidden()
    assert len({json.loads(body)["request_id"] for body in person.posts("/api/v1/repairs")}) == 1
    # A search waits for the network, and one given up leaves no word of a lost connection.
    # It ended within a second with "Something went wrong on the server", and the banner stayed until another call.
    person.unroute()
    status, banner = person.page.locator('[data-part="status"]'), person.page.locator(".fft-offline")
    for is_given_up in (False, True):
        person.context.set_offline(True)
        person.press("find-spots")
        expect(banner).to_be_visible()
        person.page.wait_for_timeout(1500)  # longer than three tries took
        expect(status).to_have_text("Looking…")
        if is_given_up:
            person.press("cancel")
        person.context.set_offline(False)
        expect(banner).to_be_hidden(timeout=6000)
        expect(status).not_to_have_text("Looking…")
        expect(status).not_to_contain_text("went wrong")
    # A server that is away for long, while the browser has a network.
    person.page.evaluate(
        "() => (window.setTimeout = ((real) => (step, ms) => real(step, Math.min(ms, 20)))(window.setTimeout))"
    )
    person.stops.add("*/api/v1/detect", lambda stopped: stopped.abort())
    person.press("find-spots")
    expect(status).to_contain_text("cannot be reached")


def test_a_reload_and_a_tab_after_a_closed_one_restore_photo_strokes_rounds_and_the_running_job(
    person: Person,
) -> None:
    person.open(photo_file())
    person.paint((0.3, 0.3), (0.4, 0.3))
    person.repair()
    person.paint((0.6, 0.6), (0.7, 0.6))
    painted = person.strokes
    person.visit()
    person.page.locator(".fft-rounds li:nth-child(2)").wait_for()
    person.page.locator(".fft-patch").wait_for()  # the list is there before the pictures
    assert person.strokes == painted
    assert person.shown_patches == 1
    person.page.wait_for_function("document.querySelector('.fft-photo').naturalWidth === 640")
    person.slow_down(150)
    person.press("repair")
    expect(person.page.locator('[data-part="status"]')).to_have_text("Repairing…")
    person.unroute()
    person.visit()
    person.page.locator(".fft-rounds li:nth-child(3)").wait_for()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 2")
    assert person.shown_patches == 2
    assert len(person.posts("/api/v1/images")) == 1
    # A new tab takes over from a closed one, but not from an open one.
    second = person.context.new_page()
    second.goto(person.url)
    second.locator('[data-part="status"]:not([hidden])').wait_for()
    assert second.locator(".fft").get_attribute("data-phase") == "empty"
    second.close()
    person.page.close()
    third = person.context.new_page()
    third.goto(person.url)
    third.locator('.fft[data-phase="ready"]').wait_for()
    third.locator(".fft-rounds li:nth-child(3)").wait_for()
    third.close()


def test_people_who_wait_at_once_all_get_theirs_and_see_their_place(visit: Visit, server: RunningServer) -> None:
    # Behind somebody without the page; each in a profile of its own, which other tests have made.
    with server.client as client:
        image_id = upload(client, photo_file()["buffer"])["image_id"]
    people = [visit(server.url), visit(server.url, locale="en-US")]
    for seed, person in enumerate(people):
        person.page.evaluate(NOTE_STATUS)
        person.slow_down(20)
        person.open(photo_file(400 + 40 * seed, 300, seed=seed))
        person.paint((0.4, 0.4), (0.5, 0.4))
    with server.client as client:
        ask_repair(client, image_id, feather_px=300)  # all have pressed before this one is done
    for person in people:
        person.press("repair")
    for seed, person in enumerate(people):
        person.page.locator(DONE).wait_for()
        assert person.shown_patches == 1
        width = person.page.request.get(f"{server.url}/api/v1/images/{person.rounds[0]['image_id']}/info").json()[
            "width"
        ]
        assert width == 400 + 40 * seed
    waited = [" ".join(person.page.evaluate("seen")) for person in people]
    assert "place 1" in waited[0] and "place 2" in waited[1], waited


def test_what_is_no_photo_and_one_that_is_gone_get_a_sentence_and_samples_open(person: Person) -> None:
    too_large = {"error": "file_too_large", "message": "?", "params": {"max_mib": 1}}
    proxys = "<html>413 Too Large</html>"
    for name, data, sentence in (  # others are in test_page_photos.py
        ("notes.png", b"This is a text file.\n" * 50, "not a picture"),
        ("huge.jpg", b"\0" * 2000, "too large"),
        ("large.jpg", b"\0" * 2000, "A proxy in front of the server lets nothing so large through"),
    ):
        if name == "huge.jpg":  # the server's own refusal, without sending it a hundred megabytes
            person.stops.add("*/api/v1/images", lambda stopped: stopped.fulfill(too_large, 413))
        elif name == "large.jpg":  # nginx's, which lets one megabyte through unless it is told otherwise
            person.stops.add("*/api/v1/images", lambda stopped: stopped.fulfill(proxys, 413))
        person.page.set_input_files(".fft-file", {"name": name, "mimeType": "image/png", "buffer": data})
        expect(person.page.locator('[data-part="status"]')).to_contain_text(sentence)
        assert person.page.locator(".fft").get_attribute("data-phase") == "empty"
    person.unroute()
    person.open(photo_file())
    # A photo that is gone. The theme is kept over the reload.
    person.paint((0.4, 0.4), (0.5, 0.4))
    ground = "getComputedStyle(document.querySelector('.fft')).backgroundColor"
    light = person.page.evaluate(ground)
    person.press("theme")
    assert person.page.evaluate(ground) != light
    gone = {"error": "unknown_image", "message": "?", "params": {}}
    person.stops.add("*/api/v1/images/*/info", lambda stopped: stopped.fulfill(gone, 404))
    person.visit()
    expect(person.page.locator('[data-part="status"]')).to_contain_text("cleaned up on the server")
    assert person.page.locator(".fft").get_attribute("data-phase") == "empty"
    assert person.page.evaluate(ground) != light
    person.press("theme")
    assert person.page.evaluate(ground) == light
    # A sample opens at once.
    person.unroute()
    person.page.get_by_role("button", name="A bird").click()
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("1024 × 683")


def test_nothing_painted_and_no_photo_get_the_sentences_of_the_original(visit: Visit, server: RunningServer) -> None:
    person = visit(server.url, locale="zh-CN")
    assert person.status == "等待上传图像并标注修复区域"
    person.key("Enter")
    assert person.status == "⚠️ 请先上传图像"
    person.open(photo_file())
    person.key("Enter")
    assert person.status == "⚠️ 未检测到有效的mask标注"
    person.paint((0.5, 0.5))
    person.page.keyboard.down("Alt")
    person.key("]")
    person.paint((0.45, 0.5), (0.55, 0.5))
    person.page.keyboard.up("Alt")
    person.key("Enter")
    expect(person.page.locator('[data-part="status"]')).to_have_text("⚠️ 未检测到有效的mask标注")
    assert len(person.strokes) == 2
