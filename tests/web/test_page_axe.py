"""Accessibility as axe-core sees it, in both languages and both themes: what it calls serious or critical fails.

axe-core comes by `npm ci` (package.json), which `./run_tests.sh` does; nothing of it is served.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.page_driver import PATIENCE_MS, Person, open_browser, photo_file
from tests.support.serving import ROOT, RunningServer
from web.accounts import Accounts

Visit = Callable[..., Person]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
GRAVE = ("serious", "critical")
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
LAPTOP = {"viewport": {"width": 1280, "height": 800}}
# Every two of state, screen, language and theme meet: colours do not depend on words, nor names on colours.
# Each state is looked at in one language and theme on a laptop, and in the others on a phone.
LOOKS = ["en dark", "zh-CN dark", "zh-CN light", "en light"]
LOOK = "document.documentElement.lang + (document.body.classList.contains('dark') ? ' dark' : ' light')"
# Not as a mouse does it: some states hold the page back, or end when something else is pressed.
CHANGE_LOOK = "(act) => document.querySelector(`[data-act='${act}']`).click()"
NAME, PASSWORD = "ann", "correct horse"

# Rules with the nodes they were broken by; what axe cannot decide ("incomplete") is for people.
RUN = """async (grave) => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.filter(({ impact }) => grave.includes(impact))
    .flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 160)} ${node.any[0]?.message || ""}`));
}"""


def findings(page: Page) -> list[str]:
    """Return what axe-core finds grave on a page as it is now."""
    assert AXE.is_file(), "axe-core is not here; `npm ci` in the repository's root brings it"
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[str] = page.evaluate(RUN, list(GRAVE))
    return found


def choose(person: Person, *files: Any) -> None:
    person.page.locator(".fft-file").first.set_input_files(list(files))
    expect(person.page.locator('[data-part="strip-list"] img[src]')).to_have_count(len(files) + 1)


def select(person: Person) -> None:
    person.press("select")
    person.page.evaluate("document.querySelector('.fft').scrollTop = 0")  # a phone's buttons below were scrolled to
    with person.page.expect_response("**/api/v1/detect", timeout=60_000):
        person.paint((0.3, 0.7))


def cancel(person: Person) -> None:
    person.press("cancel")
    person.unroute()
    person.page.locator('[data-act="cancel"]').wait_for(state="hidden")


def states(person: Person) -> Iterator[str]:
    """Bring the page from one state into the next, and name each."""
    yield "empty"
    person.open(photo_file())
    person.press("repair")
    expect(person.page.locator('[data-part="status"][data-tone="warn"]')).to_be_visible()
    yield "photo open, no mask to repair"
    person.paint((0.4, 0.4), (0.5, 0.5))
    yield "strokes"
    person.run_until_cancelled()
    person.press("repair")
    person.page.locator('[data-act="cancel"]').wait_for()
    yield "running"
    cancel(person)
    person.repair()
    yield "repaired"
    person.press("timings")
    person.press("split")
    yield "line between original and result"
    person.key("Escape")
    person.press("save-menu")
    yield "saving"
    person.press("save-menu")
    person.press("mask-menu")
    yield "mask menu"
    person.key("Escape")
    select(person)
    yield "select"
    person.press("brush")
    person.page.evaluate("document.querySelector('.fft').scrollTop = 0")
    choose(person, *[photo_file(320, 240, seed=seed, name=f"{seed}.png") for seed in (1, 2)])
    person.paint((0.4, 0.4), (0.5, 0.5))
    person.slow_down(0, dilate_px=1001)  # the fake engine fails
    person.press("batch-mask")
    person.page.locator('[data-part="many-failed"] li').first.wait_for()
    yield "many photos, some failed"
    person.press("help")
    yield "shortcuts"
    person.unroute()


@pytest.mark.slow
@pytest.mark.parametrize(("screen", "first"), [(LAPTOP, 0), (PHONE, 2)], ids=["laptop", "phone"])
def test_no_state_of_the_page_has_a_grave_finding(
    visit: Visit, server: RunningServer, screen: dict[str, Any], first: int
) -> None:
    """Each is looked at when its language or its theme has just been changed."""
    language, theme = LOOKS[first - 1].split()
    person = visit(server.url, locale="en-US", color_scheme=theme, reduced_motion="reduce", **screen)
    person.have_gradio()  # what it has beside the canvas is looked at too
    if language != "en":
        person.press("language")
    looks = []
    found = []
    for number, state in enumerate(states(person)):
        person.page.evaluate(CHANGE_LOOK, ["theme", "language"][number % 2])
        looks.append(person.page.evaluate(LOOK))
        found += [f"{state}, {looks[-1]}: {finding}" for finding in findings(person.page)]
    assert not found, "\n".join(found)
    assert looks == [LOOKS[(first + number) % 4] for number in range(11)]


@pytest.fixture(scope="module")
def closed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a login; ann may see how it is."""
    folder = tmp_path_factory.mktemp("closed")
    accounts = Accounts(folder / "accounts.json")
    accounts.set_password(NAME, PASSWORD)
    running = RunningServer(folder, settings={"auth_file": accounts.path, "operators": NAME}).start()
    yield running
    running.stop()


@pytest.mark.parametrize(("locale", "scheme"), [("en-US", "light"), ("zh-CN", "dark")])
def test_login_status_and_the_document_of_routes_have_no_grave_finding(
    browser: Browser, closed_server: RunningServer, locale: str, scheme: str
) -> None:
    context = open_browser(browser, locale=locale, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{closed_server.url}/status")
    found = [f"login: {finding}" for finding in findings(page)]
    for password in ("wrong", PASSWORD):
        page.fill("[name=name]", NAME)
        page.fill("[name=password]", password)
        page.keyboard.press("Enter")
        page.locator("[role=alert]" if password == "wrong" else "[role=status]").wait_for()
        found += [f"after {password}: {finding}" for finding in findings(page)]
    page.goto(f"{closed_server.url}/docs")
    found += [f"routes: {finding}" for finding in findings(page)]
    context.close()
    assert not found, "\n".join(found)


def test_axe_finds_what_is_wrong(browser: Browser) -> None:
    context = open_browser(browser)
    page = context.new_page()
    page.set_content('<html lang="en"><title>x</title><main><button></button><p style="color: #aaa">pale</p></main>')
    assert sorted(finding.split(":")[0] for finding in findings(page)) == ["button-name", "color-contrast"]
    context.close()
