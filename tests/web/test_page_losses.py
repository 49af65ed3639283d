"""The page loses nothing: requests cut or late, pictures' too, and reloads at bad moments."""

import json

from playwright.sync_api import expect

from tests.support.page_driver import STATUS, Held, Person, choose, cut, photo_file, with_two_rounds

PICTURES = ("*/info", "*?max_px*", "*/patch")


def test_cuts_and_a_server_in_trouble_during_repairs_and_reloads_lose_no_patch_stroke_or_round(person: Person) -> None:
    # A patch whose transfer is cut appears all the same.
    person.open(photo_file())
    for number, times in enumerate((1, 3), start=1):
        person.slow_down(60)  # one that takes a moment comes with its patch
        cut_off = cut(person, "*/patch", times)
        person.paint((0.4, 0.3 * number), (0.5, 0.3 * number))
        person.repair()
        assert len(cut_off) == times
        assert person.shown_patches == number and len(person.rounds) == number
        expect(person.page.locator(".fft-offline")).to_be_hidden()
        person.unroute()
    # Pictures cut in a reload come later, and nothing is wiped.
    person.page.locator(STATUS, has_text="outputs/").wait_for()  # the last that changes a round
    person.paint((0.6, 0.7), (0.7, 0.7))
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
    person.page.locator(STATUS, has_text="outputs/").wait_for()
    # Painting and repairing while a reload restores keep every stroke and the shown round.
    person.paint((0.6, 0.8), (0.7, 0.8))
    painted = person.strokes
    held = Held(person, *PICTURES)
    person.visit()
    held.wait()
    person.paint((0.2, 0.8), (0.3, 0.8))
    assert person.strokes[:1] == painted and len(person.strokes) == 2
    # A repair then is of the round that is shown.
    painted, shown = person.strokes, person.rounds[-1]["image_id"]
    assert len(person.rounds) == 3
    person.press("repair")
    held.let_go()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 4")
    sent = json.loads(person.posts("/api/v1/repairs")[-1])
    assert sent["image_id"] == shown and sent["strokes"] == painted
    person.unroute()
    person.page.locator(STATUS, has_text="outputs/").wait_for()
    # A server in trouble during a reload wipes nothing.
    person.paint((0.6, 0.9), (0.7, 0.9))
    before = person.kept
    answer = {"error": "storage_unavailable", "message": "?", "params": {}}
    person.stops.add("*/patch", lambda stopped: stopped.fulfill(answer, 507))
    person.visit()
    expect(person.page.locator(STATUS)).to_contain_text("data folder")
    assert person.kept["rounds"] == before["rounds"] and person.strokes == before["strokes"]
    person.unroute()
    # A round that is gone takes only those built on it.
    third = person.rounds[2]["image_id"]
    gone = {"error": "unknown_image", "message": "?", "params": {}}
    person.stops.add(f"*/{third}/patch", lambda stopped: stopped.fulfill(gone, 404))
    painted = person.strokes
    person.visit()
    person.page.wait_for_function("document.querySelectorAll('.fft-rounds li').length === 3")
    # The list is there before the pictures.
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 2")
    assert person.shown_patches == 2 and person.strokes == painted


def test_pictures_of_the_strip_that_are_cut_off_come_and_a_browser_whose_storage_is_full_is_said_so(
    person: Person,
) -> None:
    """They stayed away until their photo was repaired, and the browser drew an icon of a torn page in their place."""
    broken = cut(person, "*/api/v1/images/*?max_px=160*", times=2)
    person.page.evaluate(
        """() => {
          window.looks = [];
          const look = ({ type, target }) => requestAnimationFrame(() => {
            if (target.matches?.(".fft-strip img")) window.looks.push(`${type} ${getComputedStyle(target).visibility}`);
          });
          document.addEventListener("error", look, true);
          document.addEventListener("load", look, true);
        }"""
    )
    choose(person, [photo_file(seed=seed, name=f"{seed}.png") for seed in range(2)])
    seen = "[...document.querySelectorAll('.fft-strip img')].filter((one) => one.naturalWidth).length === 2"
    person.page.wait_for_function(seen)
    assert len(broken) == 2
    person.page.wait_for_function("window.looks.filter((one) => one.startsWith('load')).length >= 2")
    assert set(person.page.evaluate("window.looks")) == {"error hidden", "load visible"}
    # It is said until there is room. What was painted and repaired then was lost in a reload, without a word.
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


def test_tabs_that_begin_with_one_place_go_on_with_places_of_their_own(person: Person) -> None:
    """Two wrote to one place, so a reload of either brought back what was done last in the other."""
    # A page that comes back by the browser's button leaves its place to the tab that took it.
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
    # A duplicated tab, which has the session storage of the other, goes on with a copy of its own.
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
