"""The page before its scripts have come, and before Gradio's have: it is there, and nothing done on it is lost."""

import base64
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, ViewportSize, expect

from tests.support.page_driver import STATUS, VIEWPORT, Held, Person, cut, open_browser, photo_file
from tests.support.serving import RunningServer
from web.page_document import GRADIO_AFTER_MS

HAND_OVER = """([type, data, name]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const how = { bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer };
  const event = type === "drop" ? new DragEvent(type, how) : new ClipboardEvent(type, how);
  document.body.dispatchEvent(event);
  return event.defaultPrevented;
}"""


# When Gradio's first script was asked for, by the page's clock.
BEGUN = r"""() => Math.min(...performance.getEntriesByType('resource')
  .filter(({ name }) => /\/assets\/.*js$/.test(name)).map(({ startTime }) => startTime))"""


SCREENS: list[ViewportSize] = [
    {"width": 390, "height": 844}, {"width": 844, "height": 390}, {"width": 820, "height": 1180},
    {"width": 2560, "height": 1440}, VIEWPORT,
]  # fmt: skip


def without_scripts(person: Person) -> Held:
    """Load the page again without its scripts, which are held."""
    held = Held(person, "*/page/*/canvas.js")
    person.page.goto(person.url, wait_until="commit")
    held.wait()
    # The scripts are asked for before the document has run its own.
    person.page.wait_for_function("Boolean(window.fftEarly)")
    return held


def hand_over(person: Person, how: str, file: dict[str, Any]) -> bool:
    return bool(person.page.evaluate(HAND_OVER, [how, base64.b64encode(file["buffer"]).decode(), file["name"]]))


def test_the_page_is_there_in_the_readers_language_without_any_script(browser: Browser, server: RunningServer) -> None:
    with server.client as client:  # where scripts run, they would write English too
        page_in_english = client.get("/", headers={"Accept-Language": "en-US"}).text
    context = open_browser(browser, locale="zh-CN", java_script_enabled=False)
    page = context.new_page()
    page.goto(server.url)
    choose = page.locator('.fft-welcome [data-act="choose"]')
    expect(choose).to_have_text("选择照片")
    assert choose.inner_html() not in page_in_english
    assert choose.inner_html().replace("选择照片", "Choose a photo") in page_in_english
    box = page.locator(".fft-stage").bounding_box()
    assert box is not None and box["width"] == 1200 and box["height"] > 500
    context.close()


def test_a_file_chosen_and_a_press_before_the_scripts_have_come_count_and_are_there_at_once_when_they_come_back(
    person: Person,
) -> None:
    held = without_scripts(person)
    with person.page.expect_file_chooser() as choosing:
        person.page.locator('.fft-welcome [data-act="choose"]').click()
    file: Any = photo_file(320, 240)
    choosing.value.set_files(file)
    person.page.locator('[data-act="help"]').click()
    person.page.locator('[data-act="theme"]').click()
    held.let_go()
    expect(person.page.locator('[data-part="photo-size"]')).to_contain_text("320 × 240")
    person.page.locator('a[data-part="download"][aria-disabled="false"]').wait_for()
    expect(person.page.locator(".fft-help")).to_be_visible()
    expect(person.page.locator("body")).to_have_class("dark")
    # Theme and photo come back before the scripts.
    person.unroute()
    held = without_scripts(person)
    expect(person.page.locator("body")).to_have_class("dark")
    expect(person.page.locator(".fft-welcome")).to_be_hidden()
    held.let_go()
    person.page.locator('.fft[data-phase="ready"]').wait_for()


def test_a_file_dropped_or_pasted_before_the_scripts_have_come_is_opened(person: Person) -> None:
    size = person.page.locator('[data-part="photo-size"]')
    uploaded = person.page.locator('a[data-part="download"][aria-disabled="false"]')
    for how in ("drop", "paste"):
        held = without_scripts(person)
        person.requests.clear()
        assert hand_over(person, how, photo_file(300, 200)) or how == "paste", "the browser would leave the page"
        held.let_go()
        expect(size, how).to_contain_text("300 × 200")
        uploaded.wait_for()
        # Once, and what comes later is taken by the page itself.
        hand_over(person, how, photo_file(200, 300))
        expect(size, how).to_contain_text("200 × 300")
        uploaded.wait_for()
        assert len(person.posts("/api/v1/images")) == 2, how
        person.unroute()
        person.page.goto(f"{person.url}/health")
        person.page.evaluate("localStorage.clear(), sessionStorage.clear()")


def test_the_canvas_works_before_gradio_has_begun_moves_in_in_mid_stroke_and_needs_none(person: Person) -> None:
    held = Held(person, "*/assets/index-*.js")
    person.visit()
    person.begin_gradio()
    held.wait()
    person.open(photo_file())
    person.paint((0.3, 0.3), (0.4, 0.3))
    mouse = person.page.mouse
    mouse.move(*person.stage_point(0.3, 0.6))
    mouse.down()
    mouse.move(*person.stage_point(0.5, 0.6), steps=5)
    assert person.page.locator("body > .fft").count() == 1
    held.let_go()
    person.page.locator("#fftlama .fft").wait_for()
    mouse.move(*person.stage_point(0.7, 0.6), steps=5)
    mouse.up()
    _, second = person.strokes
    assert [round(x) for x, _ in (second["points"][0], second["points"][-1])] == [192, 448]
    person.repair()
    assert person.shown_patches == 1
    expect(person.page.locator(STATUS)).to_be_visible()
    # A Gradio that does not come takes nothing away.
    broken = cut(person, "*/assets/index-*.js", times=1)
    person.visit()
    person.begin_gradio()
    person.page.locator(".fft-patch").wait_for()
    person.paint((0.3, 0.3), (0.4, 0.3))
    person.repair()
    assert person.shown_patches == 2 and len(broken) == 1


def shown(person: Person) -> list[np.ndarray]:
    """Return what is on the screen, (H, W, 3), on each of a few."""
    pictures = []
    for screen in SCREENS:
        person.page.set_viewport_size(screen)
        person.photo_box()  # is placed anew
        person.wait_until_drawn()
        with Image.open(BytesIO(person.page.screenshot(animations="disabled"))) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    return pictures


def test_gradio_comes_later_by_itself_changes_no_pixel_and_asks_for_no_frames_then(
    browser: Browser, server: RunningServer
) -> None:
    """It took a third of what load, photo and repair cost, and its loader asked for frames when it was gone.

    A part of that for four seconds, another for ever: 8 % of a core in every open page.
    """
    context = open_browser(browser)
    context.add_init_script(
        "window.asked = 0; const ask = window.requestAnimationFrame;"
        "window.requestAnimationFrame = (step) => { window.asked += 1; return ask(step); };"
        "addEventListener('pointermove', () => (window.touchedMs = performance.now()), { capture: true });"
    )
    person = Person(context, server.url)
    held = Held(person, "*/assets/index-*.js")
    person.visit()
    person.open(photo_file())
    person.page.mouse.move(5, 5)
    before = shown(person)
    held.wait()
    held.let_go()
    person.page.locator("#fftlama .fft").wait_for()
    counts = [-1, person.page.evaluate("window.asked")]
    while counts[-1] != counts[-2] and len(counts) < 40:
        person.page.wait_for_timeout(500)
        counts.append(person.page.evaluate("window.asked"))
    assert counts[-1] == counts[-2] > 0, counts
    assert counts[-1] - counts[1] < 100, counts  # its springs ask for 220
    for screen, now, then in zip(SCREENS, shown(person), before, strict=True):
        assert np.array_equal(now, then), screen
    untouched_ms = person.page.evaluate(BEGUN) - person.page.evaluate("window.touchedMs")
    assert untouched_ms > 0.99 * GRADIO_AFTER_MS  # never less, but for how coarse the clock is
    person.close()
    context.close()
