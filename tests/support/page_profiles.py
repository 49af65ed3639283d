"""Browser profiles in which one after another visits the page, as somebody who was never here."""

import json
from collections.abc import Sequence
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize

from tests.support.page_driver import VIEWPORT, Person, open_browser

MOST_KEPT = 4  # each holds a process of a hundred MiB
USUAL = "{}"  # the options of those without options, by which their profile is found
ENGLISH = {"locale": "en-US"}  # so that nobody with options is in the profile of those without


class Profile:
    """A browser profile in which one after another visits who was never here.

    Whoever comes takes the tab that was left last: with a tab stays the site's process. A new tab with a new process
    would take as long again as the visit.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self._tabs: list[Page] = []

    def visit(self, url: str, *, viewport: ViewportSize = VIEWPORT, **media: Any) -> Person:
        """Open the page; the site knows nobody in this profile then.

        Args:
            url: of the site.
            viewport: how large the tab is.
            **media: what the person wishes, as `Page.emulate_media` takes it.

        Returns:
            the person.
        """
        tab = self._tabs.pop() if self._tabs else self.context.new_page()
        if tab.viewport_size != viewport:
            tab.set_viewport_size(viewport)
        if media:
            tab.emulate_media(**media)
        if tab.url != f"{url}/health":
            tab.goto(f"{url}/health")
        tab.evaluate("localStorage.clear(), sessionStorage.clear()")
        self.context.clear_cookies(name="fftlama_language")
        return Person(self.context, url, tab)

    def leave(self, person: Person) -> None:
        """Have a person go; errors the person never saw fail the test here."""
        tab = person.leave_tab()
        if tab:
            self._tabs.append(tab)


class Profiles:
    """Profiles that are kept, one for each sort of person: those of a language, of a phone, and so on.

    In a new one the browser would load and compile the page's scripts anew. Those that were visited last are kept.
    """

    def __init__(self, browser: Browser, usual: Profile | None = None) -> None:
        """Have none yet, or that of the people without options."""
        self._browser = browser
        self._kept: dict[str, Profile] = {} if usual is None else {USUAL: usual}

    def visit(self, url: str, *, others: Sequence[Person] = (), **options: Any) -> tuple[Person, Profile | None]:
        """Open the page as somebody who was never here.

        Nothing slides or fades for people without options: without a GPU each frame of it takes the cores that the
        tests need. It does for the others.

        Args:
            url: of the site.
            others: who is there already. People without options share their profile, nobody else does.
            **options: of the browser profile, as `open_browser` takes them.

        Returns:
            the person, and the profile in which to leave; None for one that nobody else will use.
        """
        looks = {name: options[name] for name in ("viewport", "color_scheme", "reduced_motion") if name in options}
        own = {name: value for name, value in options.items() if name not in looks}
        profile = self._profile({**ENGLISH, **own} if options else own)
        if options and any(other.context is profile.context for other in others):
            return Person(open_browser(self._browser, **options), url), None
        motion = "no-preference" if options else "reduce"
        return profile.visit(url, **{"color_scheme": "light", "reduced_motion": motion, **looks}), profile

    def _profile(self, options: dict[str, Any]) -> Profile:
        """Return the kept profile with these options, or a new one."""
        key = json.dumps(options, sort_keys=True)
        found = self._kept.pop(key, None) or Profile(open_browser(self._browser, **options))
        self._kept[key] = found  # the last of the dictionary is the one that was visited last
        return found

    def close_most(self, kept: int = MOST_KEPT) -> None:
        """Close all but those that were visited last; nobody may be there."""
        for key in list(self._kept)[: max(len(self._kept) - kept, 0)]:
            self._kept.pop(key).context.close()
