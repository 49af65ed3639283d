"""Fixtures of the tests that drive the page: one Chromium for all of them, and people who were never here before."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.support.page_driver import CHROMIUM_NAMES, SHELL_NAMES, Person, Profile, launch_chromium, open_browser
from tests.support.serving import RunningServer


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this process.

    From here on an event loop runs in the main thread: a test that needs one runs it in a thread of its own.
    """
    with launch_chromium([*SHELL_NAMES, *CHROMIUM_NAMES]) as running:
        yield running


@pytest.fixture(scope="session")
def usual_profile(browser: Browser) -> Iterator[Profile]:
    """One profile for people without wishes, so that Gradio's files are loaded once.

    Nothing slides or fades for them: without a GPU each frame of it takes the cores that the tests need. It does for
    people with wishes.
    """
    context = open_browser(browser, reduced_motion="reduce")
    yield Profile(context)
    context.close()


@pytest.fixture
def visit(browser: Browser, usual_profile: Profile) -> Iterator[Any]:
    """Open the page as somebody who was never here: `visit(url, **options) -> Person`.

    With options in a browser profile of its own.
    """
    people: list[Person] = []

    def open_page(url: str, **options: Any) -> Person:
        people.append(Person(open_browser(browser, **options), url) if options else usual_profile.visit(url))
        return people[-1]

    yield open_page
    for person in people:
        if person.context is usual_profile.context:
            usual_profile.leave(person)
        else:
            person.close()
            person.context.close()


@pytest.fixture
def person(visit: Any, server: RunningServer) -> Person:
    """Somebody with the page of the shared server open."""
    somebody: Person = visit(server.url)
    return somebody
