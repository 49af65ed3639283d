"""Fixtures of the tests that drive the page: one Chromium for all of them, and people who were never here before."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.support.page_driver import (
    CHROMIUM_NAMES,
    SHELL_NAMES,
    Person,
    forget_everybody,
    launch_chromium,
    open_browser,
)
from tests.support.serving import RunningServer


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this process.

    From here on an event loop runs in the main thread: a test that needs one runs it in a thread of its own.
    """
    with launch_chromium([*SHELL_NAMES, *CHROMIUM_NAMES]) as running:
        yield running


@pytest.fixture(scope="session")
def usual_browser(browser: Browser) -> Iterator[BrowserContext]:
    """One profile for people without wishes, so that Gradio's files are loaded once."""
    context = open_browser(browser)
    yield context
    context.close()


@pytest.fixture
def visit(browser: Browser, usual_browser: BrowserContext) -> Iterator[Any]:
    """Open the page as somebody who was never here: `visit(url, **options) -> Person`.

    With options in a browser profile of its own.
    """
    people: list[Person] = []

    def open_page(url: str, **options: Any) -> Person:
        if not options:
            forget_everybody(usual_browser, url)
        people.append(Person(open_browser(browser, **options) if options else usual_browser, url))
        return people[-1]

    yield open_page
    for person in people:
        person.close()
        if person.context is not usual_browser:
            person.context.close()


@pytest.fixture
def person(visit: Any, server: RunningServer) -> Person:
    """Somebody with the page of the shared server open."""
    somebody: Person = visit(server.url)
    return somebody
