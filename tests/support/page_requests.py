"""Requests of the page that are stopped on their way out: to be held, changed, answered here or broken off.

Playwright's `route` has every request stopped and takes the browser's cache away: a visit takes twice as long then.
Here only those to the addresses asked for are stopped, by a DevTools session.
"""

import base64
import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import CDPSession, Page
from playwright.sync_api import Error as PlaywrightError


class Stopped:
    """One request that the browser keeps until it is told what to do with it."""

    def __init__(self, session: CDPSession, event: dict[str, Any]) -> None:
        self._session = session
        self._id = event["requestId"]
        self.url: str = event["request"]["url"]
        self.body: str = event["request"].get("postData", "")

    def _tell(self, what: str, **how: Any) -> None:
        with contextlib.suppress(PlaywrightError):  # the page has given the request up meanwhile
            self._session.send(f"Fetch.{what}", {"requestId": self._id, **how})

    def continue_(self, body: str | None = None) -> None:
        """Let it go on, with another body if one is given."""
        self._tell("continueRequest", **({} if body is None else {"postData": _base64(body)}))

    def fulfill(self, answer: Any, status: int = 200) -> None:
        """Answer it with a text as HTML or anything else as JSON; the server never hears of it."""
        is_text = isinstance(answer, str)
        headers = [{"name": "content-type", "value": "text/html" if is_text else "application/json"}]
        body = _base64(answer if is_text else json.dumps(answer))
        self._tell("fulfillRequest", responseCode=status, responseHeaders=headers, body=body)

    def abort(self) -> None:
        """Break it off, as a lost connection does."""
        self._tell("failRequest", errorReason="ConnectionReset")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Stops:
    """What a tab's requests are stopped for. Of several that want the same one the newest gets it."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._session: CDPSession | None = None
        self._handlers: list[tuple[str, Callable[[Stopped], None]]] = []

    def add(self, address: str, handle: Callable[[Stopped], None]) -> None:
        """Stop requests to an address, in which * is anything, from now on.

        Scripts are asked for in each visit then: those that are kept for good would be in no request.
        """
        if self._session is None:
            self._session = self._page.context.new_cdp_session(self._page)
            self._session.on("Fetch.requestPaused", self._hear)
        self._handlers.append((address, handle))
        patterns = [{"urlPattern": address.replace("?", r"\?")} for address, _ in self._handlers]
        self._session.send("Fetch.enable", {"patterns": patterns})
        # The page is told of it on the way that this comes, too. A key comes on another and may be there before:
        # without this, one request in twenty that a key makes was not stopped.
        with contextlib.suppress(PlaywrightError):  # the page is just left; the next one begins with it
            self._page.evaluate("0")
        if address.endswith(".js"):
            self._session.send("Network.setCacheDisabled", {"cacheDisabled": True})

    def _hear(self, event: dict[str, Any]) -> None:
        if self._session is None:  # it has ended meanwhile, and the browser lets go what it had stopped
            return
        stopped = Stopped(self._session, event)
        for address, handle in reversed(self._handlers):
            if re.fullmatch(re.escape(address).replace(r"\*", ".*"), stopped.url):
                return handle(stopped)
        stopped.continue_()  # what it was stopped for has ended meanwhile

    def end(self) -> None:
        """Stop none any more; those that are held go on."""
        session, self._session = self._session, None
        self._handlers.clear()
        if session is not None:
            with contextlib.suppress(PlaywrightError):  # the tab is closed
                session.detach()
