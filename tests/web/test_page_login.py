"""The page behind a login: strangers get to the login page, and who came in finds everything as without one."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, expect

from tests.support.page_driver import PATIENCE_MS, Person, open_browser, photo_file
from tests.support.page_profiles import Profile, Profiles
from tests.support.serving import RunningServer
from web.accounts import Accounts

NAME, OTHER, PASSWORD = "ann", "bob", "correct horse"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with page and login; ann may see how it is."""
    folder = tmp_path_factory.mktemp("closed")
    accounts = Accounts(folder / "accounts.json")
    for name in (NAME, OTHER):
        accounts.set_password(name, PASSWORD)
    settings = {"auth_file": accounts.path, "operators": NAME}
    running = RunningServer(folder, kind="page", settings=settings).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def profiles(browser: Browser, server: RunningServer) -> Iterator[Profiles]:
    """The profile of somebody who came in by the login page."""
    context = open_browser(browser)
    page = context.new_page()
    breaches: list[str] = []
    page.on("console", lambda message: breaches.append(message.text) if "Policy" in message.text else None)
    page.goto(f"{server.url}/?photo=1")
    page.fill("[name=name]", NAME)
    page.fill("[name=password]", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("body")).to_contain_text("Name or password is wrong")
    page.fill("[name=name]", NAME)
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.locator('[data-part="status"]:not([hidden])').wait_for(timeout=PATIENCE_MS)
    page.close()
    assert not breaches, breaches
    made = Profiles(browser, Profile(context))
    yield made
    made.close_most(0)


def test_who_has_logged_out_leaves_no_photo_in_the_browser(browser: Browser, server: RunningServer) -> None:
    """For a year the browser showed the photo to whoever went back to its address, without asking the server."""
    context = open_browser(browser)
    asked = context.request
    form: dict[str, Any] = {"name": NAME, "password": PASSWORD}
    file: dict[str, Any] = {"file": photo_file()}
    assert asked.post(f"{server.url}/login", form=form, max_redirects=0).status == 303
    sent = asked.post(f"{server.url}/api/v1/images", multipart=file)
    address = f"{server.url}/api/v1/images/{sent.json()['image_id']}?max_px=50"
    page = context.new_page()
    page.goto(f"{server.url}/status")
    look = "address => fetch(address).then((answer) => answer.status)"
    assert page.evaluate(look, address) == 200
    page.evaluate("() => fetch('/logout', { method: 'POST' })")
    assert page.evaluate(look, address) == 401
    context.close()


def test_download_and_reload_are_those_of_the_person(person: Person, browser: Browser) -> None:
    person.open(photo_file(name="holiday.png"))
    person.paint((0.3, 0.3), (0.4, 0.3))
    person.repair()
    person.page.reload()
    person.page.locator(".fft-patch").wait_for()
    with person.page.expect_download() as download:
        person.page.locator('a[data-part="download"]').click()
    assert download.value.suggested_filename.startswith("holiday")
    stranger = open_browser(browser)
    answer = stranger.request.get(person.url + person.rounds[0]["url"])
    assert answer.status == 401
    stranger.close()


def test_logging_out_leaves_nothing_for_who_comes_next(browser: Browser, server: RunningServer) -> None:
    """Who logged in where another had not logged out was told once that their last photo had been cleaned up."""
    context = open_browser(browser)

    def log_in(name: str) -> None:
        context.clear_cookies()
        context.request.post(f"{server.url}/login", form={"name": name, "password": PASSWORD})

    log_in(OTHER)
    person = Person(context, server.url)
    person.open(photo_file())
    person.paint((0.3, 0.3), (0.4, 0.3))
    person.repair()
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept()

    person.answer_dialogs(answer)
    status, photo = person.page.locator('[data-part="status"]'), person.page.locator(".fft-photo[src]")
    for name, is_there in ((NAME, False), (OTHER, True)):  # the session ran out, and another came; then the first again
        log_in(name)
        person.visit()
        expect(photo).to_have_count(int(is_there))
        expect(status).not_to_contain_text("cleaned up")
    asked.clear()
    with person.page.expect_navigation(url="**/login*"):
        person.page.locator('[data-part="logout"]').click()
    assert len(asked) == 1 and "not downloaded" in asked[0]
    assert context.request.get(server.url + "/api/v1/models").status == 401
    person.page.fill("[name=name]", NAME)
    person.page.fill("[name=password]", PASSWORD)
    person.page.keyboard.press("Enter")
    person.page.locator('[data-part="status"]:not([hidden])').wait_for(timeout=PATIENCE_MS)
    assert person.page.locator(".fft-patch, .fft-photo[src]").count() == 0
    expect(person.page.locator('[data-part="status"]')).not_to_contain_text("cleaned up")
    context.close()


def test_status_of_the_server_is_shown_to_operators_alone_and_a_breach_of_the_content_policy_is_noticed(
    person: Person, browser: Browser
) -> None:
    person.press("help")
    shown = person.page.locator('[data-part="server"]')
    expect(shown).to_contain_text("Repairs run.")
    expect(shown.locator("dd").last).to_have_text("1 idle")
    context = open_browser(browser, locale="zh-CN")
    context.request.post(f"{person.url}/login", form={"name": OTHER, "password": PASSWORD})
    page = context.new_page()
    page.goto(person.url)
    page.locator('[data-part="status"]:not([hidden])').wait_for()
    with page.expect_response("**/status") as told:
        page.locator('[data-act="help"]').click()
    assert told.value.status == 403
    expect(page.locator(".fft-help")).to_contain_text("快捷键")
    expect(page.locator('[data-part="server"]')).to_be_hidden()
    context.close()
    # The content policy keeps other sites out.
    with person.page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        person.page.evaluate("new Image().src = 'https://example.org/picture.png'")
    assert len(person.errors) == 1
    person.errors.clear()
