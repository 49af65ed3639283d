"""The page loses nothing: requests cut or late, pictures' too, and reloads at bad moments."""

import json

from playwright.sync_api import expect

from tests.support.page_driver import STATUS, Held, Person, choose, cut, photo_file, with_two_rounds

PICTURES = ("*/info", "*?max_px*", "*/patch")


def test_a_patch_whose_transfer_is_cut_appears_all_the_same(person: Person) -> None:
    person.open(photo_file())
    for number, times in enumerate((1, 3), start=1):
        person.slow_down(30)  # one that takes a moment comes with its patch
        broken = cut(person, "*/patch", times)
        person.paint((0.4, 0.3 * number), (0.5, 0.3 * number))
        person.repair()
        assert len(broken) == times
        assert person.shown_patches == number and len(person.rounds) == number
        expect(person.page.locator(".fft-offline")).to_be_hidden()
        person.unroute()


def test_pictures_cut_in_a_reload_come_later_and_nothing_is_wiped(person: Person) -> None:
    with_two_rounds(person)
    before = person.kept
    broken = {address: cut(person, address, 3) for address in ("*/patch", "*/api/v1/images/*?*", "*/info")}
    person.visit()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 2")
    person.page.wait_for_function("document.querySelector('.fft-photo').naturalWidth === 640")
    assert {address: len(urls) for address, urls in broken.items()} == dict.fromkeys(broken, 3)
    after = person.kept
    for key in ("photo", "strokes", "rounds", "round"):
        assert after[key] == before[key], key
    person.unroute()
    person.repair()
    assert person.shown_patches == 3


def test_pictures_of_the_strip_that_are_cut_off_are_fetched_again(person: Person) -> None:
    """They stayed away until their photo was repaired."""
    broken = cut(person, "*/api/v1/images/*?max_px=160*", times=2)
    choose(person, [photo_file(seed=seed, name=f"{seed}.png") for seed in range(2)])
    seen = "[...document.querySelectorAll('.fft-strip img')].filter((one) => one.naturalWidth).length === 2"
    person.page.wait_for_function(seen)
    assert len(broken) == 2


def test_a_browser_whose_storage_is_full_is_said_so_until_there_is_room(person: Person) -> None:
    """What was painted and repaired then was lost in a reload, without a word."""
    person.open(photo_file())
    note = person.page.locator('[data-part="not-kept"]')
    expect(note).to_be_hidden()
    person.page.evaluate(
        """() => {
          for (let size = 2 ** 20, n = 0; size >= 1; size /= 2) {
            try { for (;;) localStorage.setItem(`fill ${n += 1}`, 'x'.repeat(size)); } catch { continue; }
          }
        }"""
    )
    person.paint((0.3, 0.3), (0.5, 0.3))
    expect(note).to_contain_text("keeps nothing more")
    person.press("language")
    expect(note).to_contain_text("存储空间")
    person.press("language")
    person.page.evaluate(
        "Object.keys(localStorage).filter((k) => k.startsWith('fill')).forEach((k) => delete localStorage[k])"
    )
    person.paint((0.3, 0.6), (0.5, 0.6))
    expect(note).to_be_hidden()
    assert len(person.strokes) == 2


def test_a_duplicated_tab_goes_on_with_a_copy_of_its_own(person: Person) -> None:
    """It has the session storage of the other, and both wrote to one place."""
    with_two_rounds(person)
    old = {"state": None, "saved_at": 1, "closed": False}  # as a phone leaves them that ends tabs without a word
    person.page.evaluate(
        "old => [...Array(12)].forEach((_, n) => localStorage[`fftlama.tab.${n}`] = JSON.stringify(old))", old
    )
    with person.page.context.expect_page() as opened:
        person.page.evaluate("window.open(location.href)")
    other = opened.value
    other.wait_for_function("document.querySelectorAll('.fft-rounds li').length === 3")
    tabs = [page.evaluate("sessionStorage.getItem('fftlama.tab')") for page in (person.page, other)]
    assert tabs[0] != tabs[1]
    places = other.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('fftlama.tab.')).length")
    assert places <= 9, "the oldest go, or the room is full one day"
    other.locator('[data-act="undo"]').click()
    other.reload()
    other.wait_for_function("document.querySelectorAll('.fft-rounds li').length === 3")
    assert other.evaluate("sessionStorage.getItem('fftlama.tab')") == tabs[1], "its own place stays its own"
    person.visit()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 2")
    assert person.page.evaluate("sessionStorage.getItem('fftlama.tab')") == tabs[0]
    other.close()


def test_a_page_that_comes_back_by_the_browsers_button_leaves_its_place_to_the_tab_that_took_it(
    person: Person,
) -> None:
    """Both wrote to one place, so a reload of either brought back what was done last in the other."""
    with_two_rounds(person)
    name = "sessionStorage.getItem('fftlama.tab')"
    # As in the cache of pages gone back to, which Playwright's Chromium runs without.
    person.page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    other = person.page.context.new_page()
    other.goto(person.url)
    other.wait_for_function("document.querySelectorAll('.fft-rounds li').length === 3")
    assert other.evaluate(name) == person.page.evaluate(name)
    other.locator('[data-act="round-remove"]').click()
    person.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    assert other.evaluate(name) != person.page.evaluate(name)
    for page, count in ((person.page, 3), (other, 2)):
        page.reload()
        page.wait_for_function(f"document.querySelectorAll('.fft-rounds li').length === {count}")
    other.close()


def test_a_server_in_trouble_during_a_reload_wipes_nothing_and_a_round_that_is_gone_takes_no_other_along(
    person: Person,
) -> None:
    with_two_rounds(person)
    before = person.kept
    answer = {"error": "storage_unavailable", "message": "?", "params": {}}
    person.stops.add("*/patch", lambda stopped: stopped.fulfill(answer, 507))
    person.visit()
    expect(person.page.locator(STATUS)).to_contain_text("data folder")
    assert person.kept["rounds"] == before["rounds"] and person.strokes == before["strokes"]
    person.unroute()
    person.visit()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 2")
    # A round that is gone takes only those built on it.
    second = person.rounds[1]["image_id"]
    gone = {"error": "unknown_image", "message": "?", "params": {}}
    person.stops.add(f"*/{second}/patch", lambda stopped: stopped.fulfill(gone, 404))
    painted = person.strokes
    person.visit()
    person.page.wait_for_function("document.querySelectorAll('.fft-rounds li').length === 2")
    person.page.locator(".fft-patch").wait_for()  # the list is there before the pictures
    assert person.shown_patches == 1 and person.strokes == painted


def test_painting_and_repairing_while_a_reload_restores_keep_every_stroke_and_the_shown_round(
    person: Person,
) -> None:
    with_two_rounds(person)
    painted = person.strokes
    held = Held(person, *PICTURES)
    person.visit()
    held.wait()
    person.paint((0.2, 0.8), (0.3, 0.8))
    held.let_go()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 2")
    assert person.strokes[:1] == painted and len(person.strokes) == 2
    person.unroute()
    # A repair then is of the round that is shown.
    painted, shown = person.strokes, person.rounds[-1]["image_id"]
    held = Held(person, *PICTURES)
    person.visit()
    held.wait()
    person.press("repair")
    held.let_go()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 3")
    sent = json.loads(person.posts("/api/v1/repairs")[-1])
    assert sent["image_id"] == shown and sent["strokes"] == painted
