"""Fixtures of the tests that drive the page: one Chromium for all of them, and people who were never here before."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.support.page_driver import CHROMIUM_NAMES, SHELL_NAMES, Person, launch_chromium
from tests.support.page_profiles import Profile, Profiles
from tests.support.serving import RunningServer


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this process.

    From here on an event loop runs in the main thread: a test that needs one runs it in a thread of its own.
    """
    with launch_chromium([*SHELL_NAMES, *CHROMIUM_NAMES]) as running:
        yield running


@pytest.fixture(scope="session")
def profiles(browser: Browser) -> Iterator[Profiles]:
    """The profiles of this process, in which one after another visits."""
    made = Profiles(browser)
    yield made
    made.close_most(0)


@pytest.fixture
def visit(profiles: Profiles) -> Iterator[Any]:
    """Open the page as somebody who was never here: `visit(url, **options) -> Person`.

    With options in a browser profile of their own.
    """
    people: dict[Person, Profile | None] = {}

    def open_page(url: str, **options: Any) -> Person:
        somebody, profile = profiles.visit(url, others=list(people), **options)
        people[somebody] = profile
        return somebody

    yield open_page
    for somebody, profile in people.items():
        if profile:
            profile.leave(somebody)
        else:
            somebody.close()
            somebody.context.close()
    profiles.close_most()


@pytest.fixture
def person(visit: Any, server: RunningServer) -> Person:
    """Somebody with the page of the shared server open."""
    somebody: Person = visit(server.url)
    return somebody
