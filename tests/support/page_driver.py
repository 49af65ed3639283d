"""The page in a real Chromium, driven as a person would: open a photo, paint, press Repair, look at the picture."""

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    ViewportSize,
    expect,
    sync_playwright,
)
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.support.fake_engine import UNTIL_STOPPED
from tests.support.page_requests import Stopped, Stops

CHROMIUM_NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
    # macOS keeps programs out of the PATH.
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)  # fmt: skip
# The same browser without the windows around a page, which Debian packages apart: a third less to compute.
SHELL_NAMES = ("chromium-headless-shell", "chrome-headless-shell")
CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--process-per-site",
]  # fmt: skip
STATUS = '[data-part="status"]'
DONE = '[data-part="status"][data-tone="good"]'
RED_PIXELS = """(layer) => {
  const canvas = document.querySelector(layer);
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let red = 0;
  for (let i = 3; i < data.length; i += 4) red += data[i] > 127;
  return red;
}"""
# The box of the photo on the screen. A stage that has another size places its photo anew with the next frame; until
# then the overlay has the size of before, and whoever pointed at the box now would point beside what lies there then.
SETTLED_WORLD = """async () => {
  const stage = document.querySelector('.fft-stage');
  const overlay = document.querySelector('.fft-overlay');
  const fits = (length, pixels) => pixels === Math.max(1, Math.round(length * devicePixelRatio));
  for (;;) {
    const room = stage.getBoundingClientRect();
    if (fits(room.width, overlay.width) && fits(room.height, overlay.height)) break;
    await new Promise(requestAnimationFrame);
  }
  const box = document.querySelector('.fft-world').getBoundingClientRect();
  return [box.left, box.top, box.width, box.height];
}"""
# The document has Gradio's first script asked for when nobody touches the page for some seconds; it runs once only.
BEGIN_GRADIO = r"""() => {
  const own = [...document.scripts].map((script) => script.textContent).join();
  const [, address] = own.match(/import\("([^"]+)"\)\.catch/);
  import(new URL(address, document.baseURI).href).catch(() => {});
}"""
NOTE_STATUS = """() => {
  const status = document.querySelector('[data-part="status"]');
  window.seen = [];
  new MutationObserver(() => window.seen.push(status.textContent)).observe(status, { childList: true });
}"""  # all that the status line says from now on
PATIENCE_MS = 20_000
DATA = Path(__file__).parents[1] / "data"
VIEWPORT: ViewportSize = {"width": 1200, "height": 800}

expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def launch_chromium(names: Sequence[str] = CHROMIUM_NAMES) -> Iterator[Browser]:
    """Run the first of the system's Chromiums for the length of a with block; fails when there is none."""
    found = next(filter(None, map(shutil.which, names)), None)
    assert found, f"the page's tests need a Chromium; none of {', '.join(names)} is here"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@functools.cache
def make_photo(width: int, height: int, *, seed: int = 0) -> np.ndarray:
    """Return (H, W, 3) uint8 smooth colours, different for every seed; not to be written to.

    They come in steps of 16 levels, so that the file, which driver, browser and server read several times each, has a
    third of its bytes.
    """
    random = np.random.default_rng(seed)
    coarse = random.integers(30, 226, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) // 16 * 16


@functools.cache
def photo_bytes(width: int, height: int, seed: int, kind: str, **save: Any) -> bytes:
    """Return a photo as a file; most tests open the same one."""
    data = BytesIO()
    Image.fromarray(make_photo(width, height, seed=seed)).save(data, kind, **save)
    return data.getvalue()


def photo_file(
    width: int = 640, height: int = 480, *, seed: int = 0, name: str = "photo.png", **save: Any
) -> dict[str, Any]:
    """Return a photo as Playwright takes files to choose; the format follows the name."""
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(name.rsplit(".", 1)[-1], name.rsplit(".", 1)[-1].upper())
    return {
        "name": name,
        "mimeType": f"image/{kind.lower()}",
        "buffer": photo_bytes(width, height, seed, kind, **save),
    }


class Person:
    """Somebody with the page open.

    Every request after the first visit is noted, and every script error and every breach of the content policy.
    `keeps_tab` says whether the next person may go on in this tab: not after what a navigation does not undo.
    """

    def __init__(self, context: BrowserContext, url: str, tab: Page | None = None) -> None:
        self.context = context
        self.url = url
        self.errors: list[str] = []
        self.requests: list[tuple[str, str, bytes]] = []
        self.keeps_tab = True
        self.page: Page = tab or self.context.new_page()
        self.stops = Stops(self.page)
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", self._note_error)
        self.page.on("console", self._note_breach)
        self.visit()
        # Not before: a visit makes ninety, and to hear of them takes as long as a sixth of it.
        self.page.on("request", self._note_request)

    def answer_dialogs(self, answer: Callable[[Dialog], None]) -> None:
        """Answer what the browser asks from now on; nobody else goes on in this tab, where it would be answered so."""
        self.keeps_tab = False
        self.page.on("dialog", answer)

    def _note_error(self, error: PlaywrightError) -> None:
        self.errors.append(str(error))

    def _note_request(self, request: Request) -> None:
        self.requests.append((request.method, request.url, request.post_data_buffer or b""))

    def _note_breach(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            self.errors.append(message.text)

    def visit(self) -> None:
        """Load the page and wait until the canvas runs."""
        self.page.goto(self.url)
        self.page.locator('[data-part="status"]:not([hidden])').wait_for()

    def begin_gradio(self) -> None:
        """Have Gradio's scripts asked for at once, not when nobody has touched the page for some seconds."""
        self.page.evaluate(BEGIN_GRADIO)

    def have_gradio(self) -> None:
        """Have Gradio come at once and wait until the canvas lies in its page, with its style."""
        self.begin_gradio()
        self.page.locator("#fftlama .fft").wait_for()

    def slow_down(self, hundredths_s: int, **options: Any) -> None:
        """Ask the fake engine to take its time with this person's repairs."""

        def add_options(stopped: Stopped) -> None:
            body = {**json.loads(stopped.body), "options": {"feather_px": hundredths_s, **options}}
            stopped.continue_(json.dumps(body))

        self.stops.add("*/api/v1/repairs", add_options)

    def run_until_cancelled(self) -> None:
        """Ask the fake engine to go on with this person's repairs until they are cancelled, and to hold nobody up."""
        self.slow_down(0, dilate_px=UNTIL_STOPPED)

    def open(self, file: Any) -> None:
        """Choose a photo and wait until the server has it and the page shows it."""
        # By its request: the answer about a photo that was dropped a moment ago may still be on its way.
        with self.page.expect_request(lambda asked: asked.url.endswith("/api/v1/images")) as upload:
            self.page.set_input_files(".fft-file", file)
        answer = upload.value.response()
        assert answer is not None, "the upload was cut off"
        image_id = answer.json()["image_id"]
        self.page.locator(f'a[data-part="download"][href$="{image_id}"]').wait_for()

    def stage_point(self, x: float, y: float) -> tuple[float, float]:
        """Return where on the screen the fraction (x, y) of the photo lies."""
        (point,) = self.stage_points([(x, y)])
        return point

    def stage_points(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Return where on the screen fractions of the photo lie, asking the page once."""
        left, top, width, height = self.photo_box()
        return [(left + width * x, top + height * y) for x, y in points]

    def photo_box(self) -> tuple[float, float, float, float]:
        """Return left, top, width and height of the photo on the screen, in CSS pixels."""
        left, top, width, height = self.page.evaluate(SETTLED_WORLD)
        return left, top, width, height

    def paint(self, *points: tuple[float, float], steps: int = 1) -> None:
        """Drag the tool in hand over points given as fractions of the photo, in so many moves from each to the next."""
        first, *others = self.stage_points(points)
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for x, y in others:
            self.page.mouse.move(x, y, steps=steps)
        self.page.mouse.up()

    def press(self, action: str) -> None:
        """Click the button that does this."""
        self.page.locator(f'[data-act="{action}"]:visible').first.click()

    def key(self, keys: str) -> None:
        """Press a key or chord, wherever the focus is."""
        self.page.keyboard.press(keys)

    def repair(self) -> None:
        """Press Repair and wait until a further round is there."""
        before = len(self.rounds)
        self.press("repair")
        self.page.locator(f".fft-rounds li:nth-child({before + 2 if before else 2})").wait_for()
        self.page.locator(DONE).wait_for()

    @property
    def status(self) -> str:
        """What the status line says."""
        return self.page.locator('[data-part="status"]').inner_text()

    @property
    def kept(self) -> dict[str, Any]:
        """What a reload would bring back."""
        text = self.page.evaluate("localStorage.getItem(sessionStorage.getItem('fftlama.tab'))")
        place = json.loads(text or '{"state": {}}')
        state: dict[str, Any] = place["state"]
        return state

    @property
    def strokes(self) -> list[dict[str, Any]]:
        """The strokes of the round being painted."""
        return list(self.kept.get("strokes", []))

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """The rounds there are, applied or undone."""
        return list(self.kept.get("rounds", []))

    @property
    def shown_patches(self) -> int:
        """How many rounds' patches lie on the photo and are not hidden."""
        count = (
            "[...document.querySelectorAll('.fft-patch')].filter((p) => getComputedStyle(p).visibility == 'visible')"
        )
        return int(self.page.evaluate(f"{count}.length"))

    def wait_until_drawn(self) -> None:
        """Wait for two frames: the second one shows all that was done before. On a busy machine one takes its time."""
        self.page.evaluate("() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")

    @property
    def red_pixels(self) -> int:
        """How many pixels of the screen are marked as the hole."""
        return int(self.page.evaluate(RED_PIXELS, ".fft-overlay"))

    def posts(self, path: str) -> list[bytes]:
        """Bodies of this person's POSTs to an address."""
        return [body for method, url, body in self.requests if method == "POST" and url.endswith(path)]

    def pixel(self, x: float, y: float) -> tuple[int, int, int]:
        """Return the colour on the screen at the fraction (x, y) of the photo."""
        left, top = self.stage_point(x, y)
        shot = self.page.screenshot(clip={"x": int(left), "y": int(top), "width": 1, "height": 1})
        red, green, blue = Image.open(BytesIO(shot)).convert("RGB").getpixel((0, 0))  # type: ignore[misc]
        return red, green, blue

    def unroute(self) -> None:
        """Let all requests through from now on."""
        self.stops.end()
        self.page.unroute_all(behavior="ignoreErrors")

    def close(self) -> None:
        """Close the page; errors the person never saw fail the test here."""
        if not self.page.is_closed():
            self.unroute()
            self.page.close()
        assert not self.errors, self.errors

    def leave_tab(self) -> Page | None:
        """Leave the tab at an address that runs no script, for the next person, or close it.

        Returns:
            The tab; None for a closed one.

        Raises:
            AssertionError: errors the person never saw, or a page that answers nothing any more, after its timeout.
        """
        page = self.page
        if not self.keeps_tab or page.is_closed():
            self.close()
            return None
        self.unroute()
        for event, heard in (
            ("pageerror", self._note_error), ("console", self._note_breach), ("request", self._note_request)
        ):  # fmt: skip
            page.remove_listener(event, heard)
        try:
            page.goto(f"{self.url}/health")
            # No button is held then. A page that hangs would keep the mouse without an end, but has given way above.
            page.mouse.move(0, 0)
            page.mouse.up()
        except PlaywrightTimeoutError as error:
            page.close()
            raise AssertionError(f"The page did not answer any more when it was left: {error}") from error
        except PlaywrightError:  # the server is gone
            page.close()
        assert not self.errors, self.errors
        return None if page.is_closed() else page


def open_browser(browser: Browser, **options: Any) -> BrowserContext:
    """Return a browser profile: English and as large as a small laptop's unless told otherwise."""
    return browser.new_context(**{"locale": "en-US", "viewport": VIEWPORT, **options})


class Held:
    """Requests to an address, kept waiting until they are let go."""

    def __init__(self, person: Person, *addresses: str) -> None:
        self.page = person.page
        self.addresses = addresses
        self.requests: list[Stopped] = []
        self.is_open = False
        for address in addresses:
            person.stops.add(address, self.handle)

    def handle(self, stopped: Stopped) -> None:
        """Keep a request, or pass it on when the gate is open."""
        if self.is_open:
            stopped.continue_()
        else:
            self.requests.append(stopped)

    def wait(self) -> None:
        """Wait until one of them has been made."""
        for _ in range(PATIENCE_MS // 50):
            if self.requests:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"no request to {self.addresses}")

    def let_go(self) -> None:
        """Let those that wait and all later ones through."""
        self.is_open = True
        for stopped in self.requests:
            stopped.continue_()


def choose(person: Person, file: Any) -> None:
    """Choose a file, and wait for nothing."""
    person.page.set_input_files(".fft-file", file)


def cut(person: Person, address: str, times: int) -> list[str]:
    """Break off the first requests to an address; return a list of those that were."""
    broken: list[str] = []

    def handle(stopped: Stopped) -> None:
        if len(broken) < times:
            broken.append(stopped.url)
            return stopped.abort()
        stopped.continue_()

    person.stops.add(address, handle)
    return broken


def with_two_rounds(person: Person) -> None:
    """Bring a person to two repairs and a stroke painted for the third."""
    person.open(photo_file())
    for y in (0.2, 0.4):
        person.paint((0.3, y), (0.4, y))
        person.repair()
        person.page.locator(STATUS, has_text="outputs/").wait_for()  # the last that changes a round
    person.paint((0.6, 0.7), (0.7, 0.7))
