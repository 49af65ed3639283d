"""How the page looks and speaks: languages, names for everything, a phone's screen, and the mask that is drawn."""

import base64
import re
import struct
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from imaging import open_photo, png, shown_profile
from imaging.strokes import parse_strokes, rasterize
from tests.support.page_driver import Person, photo_file
from tests.support.serving import RunningServer
from web.page_files import STATIC_FOLDER
from web.samples import SAMPLES
from web.words import LANGUAGES, load_strings

Visit = Callable[..., Person]
ADOBE_RGB = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)  # white, red, green, blue, as cHRM has them
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


def scripts() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(STATIC_FOLDER.glob("*.js")))


def test_both_languages_have_the_same_keys_and_placeholders() -> None:
    chinese, english = (load_strings()[language] for language in LANGUAGES)
    assert list(chinese) == list(english)
    for key, text in english.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", chinese[key])), key
        assert text.strip() and chinese[key].strip(), key


def test_every_key_that_is_used_exists_and_every_key_is_used() -> None:
    keys = set(load_strings()["en"])
    used = set(
        re.findall(r'data-(?:say|label|hint)="([^"]+)"', (STATIC_FOLDER / "canvas.html").read_text(encoding="utf-8"))
    )
    code = scripts()
    used |= set(re.findall(r'say\("(\w+\.\w+)"', code))
    # Keys that are chosen between before they are said.
    groups = {key.split(".")[0] for key in keys}
    used |= {text for text in re.findall(r'"(\w+\.\w+)"', code) if text.split(".")[0] in groups}
    # Keys of which a state of the server is the end; those of status and time are listed below one by one.
    for start in set(re.findall(r"say\((?:number, )?`(\w+[._])\$\{", code)) - {"status.", "time."}:
        used |= {key for key in keys if key.startswith(start if "." in start else f"status.{start}")}
    statuses = set(re.findall(r'\bkey: "(\w+)"', code)) | set(re.findall(r'\bsay\((?:number, )?"(\w+)"', code))
    statuses |= set(*re.findall(r'position > 0 \? "(\w+)" : "(\w+)"', code))
    statuses |= set(re.findall(r'state\.photo \? "(\w+)" : "(\w+)"', code)[0])
    statuses |= {
        "queued",
        "running",
        *re.findall(r'"(\w+)"', re.findall(r"say\(number, \{ (refine.*) \}", code)[0]),
    } - {""}
    used |= {f"status.{name}" for name in statuses}
    used |= {f"time.{name}" for name in re.findall(r'"(\w+)"', code.split("const TIMES = ")[1].split("]")[0])}
    used |= {f"errors.{code}" for code in re.findall(r'(?:refuse\(|code = |error: )"(\w+)"', code)}
    used |= {f"strip.{stage}" for stage in re.findall(r'"(\w+)"', code.split("{stage: ")[1].split(",")[0])}
    used |= {f"samples.{sample['key']}" for sample in SAMPLES}
    used |= {"errors.photo_gone", "errors.server_error", "app.incomplete"}
    login = (STATIC_FOLDER.parent / "auth.py").read_text(encoding="utf-8")
    used |= set(re.findall(r'"(login\.\w+)"', login))
    assert used - keys == set()
    # tests/web/test_operators.py reads the page of /status, which says all that begin with server.
    spoken_by_server = {key for key in keys if key.startswith(("errors.", "notes.", "server."))}
    assert keys - used - spoken_by_server == set()


def test_every_script_is_short() -> None:
    for path in STATIC_FOLDER.glob("*.js"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path.name


# Two sets of words in one page would write its language by turns.
LANGUAGE_FOR = """async (languages) => {
  const { href } = document.querySelector('link[rel="modulepreload"][href$="/i18n.js"]');
  const { createI18n } = await import(href);
  const { MutationObserver } = window;
  window.MutationObserver = class { observe() {} };
  Object.defineProperty(navigator, "languages", { value: languages, configurable: true });
  const words = createI18n({ en: { name: "en" }, "zh-CN": { name: "zh-CN" } }, "auto");
  delete navigator.languages;
  Object.assign(window, { MutationObserver });
  return words.say("name");
}"""


def test_the_language_is_the_browsers_and_can_be_switched(visit: Visit, server: RunningServer) -> None:
    person = visit(server.url, locale="zh-CN")
    repair = person.page.locator('[data-act="repair"]')
    expect(repair).to_have_text("🚀 开始修复")
    for wished, language in (
        (["en-GB"], "en"), (["de-DE"], "en"), (["fr", "zh-TW", "en"], "zh-CN"), (["de", "en", "zh"], "en"),
    ):  # fmt: skip
        assert person.page.evaluate(LANGUAGE_FOR, wished) == language, wished
    person.press("language")
    expect(repair).to_have_text("🚀 Repair")
    person.visit()
    expect(repair).to_have_text("🚀 Repair")
    person.have_gradio()  # it has written the browser's language by then
    expect(person.page.locator("html")).to_have_attribute("lang", "en")
    person.page.goto(f"{server.url}/status")
    expect(person.page.locator("html")).to_have_attribute("lang", "en")
    person.page.context.add_cookies([{"name": "fftlama_language", "value": "../x", "url": server.url}])
    person.page.reload()
    expect(person.page.locator("html")).to_have_attribute("lang", "zh-CN")


def test_every_control_has_a_name_ticks_are_seen_the_view_moves_and_the_drawn_mask_is_the_servers(
    person: Person,
) -> None:
    # Every control has a name, and no word is missing.
    unnamed = person.page.evaluate(
        """() => [...document.querySelectorAll('.fft button, .fft input, .fft a, .fft [role]')].filter((node) =>
             !node.hidden && !(node.getAttribute('aria-label') || node.textContent.trim() ||
               node.closest('label')?.textContent.trim()))
             .map((node) => node.outerHTML)"""
    )
    assert [html for html in unnamed if 'role="status"' not in html] == []
    # A tooltip of the stage would lie on the photo while the mouse rests.
    assert person.page.locator(".fft [title]:not(button, a, input, select)").count() == 0
    # A screen reader finds no control beside the buttons that open the files.
    person.open(photo_file())
    tree = person.page.locator(".fft").aria_snapshot()
    assert "Choose a" not in tree and tree.count("Mask from a file") == 1
    assert not re.search(
        r"\b(?:app|tool|edit|view|status|help|action|rounds)\.\w+", person.page.locator(".fft").inner_text()
    )
    # A tick and the focus on its box can be seen.
    # Once Gradio's style had come, a box that was ticked was white on white, without a border.
    person.have_gradio()
    box = person.page.locator('[data-part="instant"]')
    box.check()
    expect(box).to_have_css("appearance", "auto")
    box.evaluate("(node) => node.blur()")
    shot = np.asarray(Image.open(BytesIO(box.screenshot())).convert("RGB"))
    red, green = shot[..., 0], shot[..., 1]
    assert ((red < 60) & (green > 90)).sum() > 5
    person.page.locator('[data-act="help"]').focus()
    for _ in range(80):
        if box.evaluate("(node) => node === document.activeElement"):
            break
        person.key("Shift+Tab")
    expect(box).to_have_css("outline-style", "solid")  # Gradio's style has none
    box.uncheck()
    box.evaluate("(node) => node.blur()")  # the space bar is the box's while it has the focus
    # Wheel, space bar and keys move the view.
    width, height = 900, 700
    person.open(photo_file(width, height))
    fitted = person.page.locator(".fft-zoom").inner_text()
    person.page.mouse.move(*person.stage_point(0.25, 0.25))
    person.page.mouse.wheel(0, -400)
    assert person.page.locator(".fft-zoom").inner_text() != fitted
    before = person.stage_point(0, 0)
    person.page.keyboard.down(" ")
    person.paint((0.3, 0.3), (0.35, 0.35))
    person.page.keyboard.up(" ")
    assert person.stage_point(0, 0) != pytest.approx(before, abs=2)
    assert person.strokes == []
    person.key("0")
    assert person.page.locator(".fft-zoom").inner_text() == fitted
    # The drawn mask is the server's within one pixel at any zoom.
    person.paint((0.42, 0.4), (0.5, 0.5), (0.58, 0.42), (0.52, 0.62))
    person.key("e")
    person.paint((0.5, 0.5), (0.56, 0.5))
    person.key("b")
    for _ in range(12):
        person.key("[")
    person.paint((0.47, 0.6))
    most, least = (mask_with_rims_moved(person.strokes, by, (height, width)) for by in (1, -1))
    assert least.sum() > 5000
    for keys in ("0", "1", "++++++", "++++"):
        for key in keys:
            person.key(key)
        person.wait_until_drawn()
        drawn, known = drawn_mask(person, width, height)
        assert (known & least).sum() > 300
        assert not (drawn & ~most & known).any(), keys
        assert not (least & ~drawn & known).any(), keys


@pytest.mark.parametrize("options", [PHONE, {"viewport": {"width": 1280, "height": 720}}], ids=["phone", "laptop"])
def test_nothing_overlaps_or_is_cut_off_in_either_language_and_a_finger_paints(
    visit: Visit, server: RunningServer, options: dict
) -> None:
    person = visit(server.url, **options)
    person.have_gradio()  # with its style
    check_layouts(person, "empty")
    person.open(photo_file())
    if options is PHONE:
        check_fingers(person)
    person.paint((0.4, 0.4), (0.6, 0.5))
    check_layouts(person, "painted")
    person.repair()
    check_layouts(person, "repaired")
    stage, window = person.page.locator(".fft-stage").bounding_box(), person.page.viewport_size
    assert stage is not None and window is not None
    assert stage["width"] * stage["height"] > 0.5 * window["width"] * window["height"]


def check_layouts(person: Person, state: str) -> None:
    """Check the layout in both languages."""
    repair = person.page.locator('[data-act="repair"]')
    for other in ("🚀 开始修复", "🚀 Repair"):
        check_layout(person, f"{state}, before {other}")
        person.press("language")
        expect(repair).to_have_text(other)


def check_layout(person: Person, where: str = "") -> None:
    """No control sticks out of the page's width, lies on another, or has text wider than itself."""
    problems = person.page.evaluate(
        """() => {
          const controls = 'button, a, input:not([type=file]), .fft-status, .fft-times, .fft-stage';
          const shown = [...document.querySelectorAll(controls)]
            .filter((node) => node.closest('.fft') && !node.closest('dialog'))
            .filter((node) => node.checkVisibility({ visibilityProperty: true }));
          const boxes = shown.map((node) => ({ node, box: node.getBoundingClientRect() }));
          const name = (node) => node.dataset.act || node.dataset.part || node.className;
          const out = [];
          const common = (a, b, low, high) => Math.min(a[high], b[high]) - Math.max(a[low], b[low]);
          for (const [i, a] of boxes.entries()) {
            if (a.box.left < 0 || a.box.right > innerWidth + 0.5) out.push('outside: ' + name(a.node));
            const cut = a.node.matches('button, a') && a.node.scrollWidth > a.node.clientWidth + 1;
            if (cut) out.push('cut: ' + name(a.node));
            for (const b of boxes.slice(i + 1)) {
              if (a.node.contains(b.node) || b.node.contains(a.node)) continue;
              const over = common(a.box, b.box, 'left', 'right') > 1 && common(a.box, b.box, 'top', 'bottom') > 1;
              if (over) out.push(`overlap: ${name(a.node)} ${name(b.node)}`);
            }
          }
          if (document.documentElement.scrollWidth > innerWidth) out.push('the page scrolls sideways');
          return out;
        }"""
    )
    assert problems == [], where


def check_fingers(person: Person) -> None:
    """One paints and does not scroll, and two zoom."""
    touch = person.context.new_cdp_session(person.page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        spots = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": spots})

    x, y = person.stage_point(0.4, 0.4)
    send("touchStart", (x, y))
    for step in range(1, 8):
        send("touchMove", (x + 4 * step, y + 12 * step))
    send("touchEnd")
    assert len(person.strokes) == 1
    assert person.page.evaluate("document.querySelector('.fft').scrollTop + scrollY") == 0
    before = person.page.locator(".fft-zoom").inner_text()
    send("touchStart", (x, y))
    send("touchStart", (x, y), (x + 40, y))
    for step in range(1, 6):
        send("touchMove", (x - 8 * step, y), (x + 40 + 8 * step, y))
    send("touchEnd")
    assert person.page.locator(".fft-zoom").inner_text() != before
    assert len(person.strokes) == 1, "the first finger of two paints nothing"
    person.press("clear")
    person.key("0")


def drawn_mask(person: Person, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """What the overlay shows at every image pixel's centre, and which pixels are on the screen at all."""
    rows = person.page.evaluate(
        """([width, height]) => {
          const canvas = document.querySelector('.fft-overlay');
          const stage = document.querySelector('.fft-stage').getBoundingClientRect();
          const world = document.querySelector('.fft-world').getBoundingClientRect();
          const ratio = canvas.width / stage.width, scale = world.width / width;
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          let out = '';
          for (let y = 0; y < height; y += 1) for (let x = 0; x < width; x += 1) {
            const cx = Math.floor(((x + 0.5) * scale + world.left - stage.left) * ratio);
            const cy = Math.floor(((y + 0.5) * scale + world.top - stage.top) * ratio);
            const inside = cx >= 0 && cy >= 0 && cx < canvas.width && cy < canvas.height;
            out += inside ? (data[(cy * canvas.width + cx) * 4 + 3] > 127 ? '1' : '0') : '-';
          }
          return out;
        }""",
        [width, height],
    )
    cells = np.frombuffer(rows.encode(), np.uint8).reshape(height, width)
    return cells == ord("1"), cells != ord("-")


def mask_with_rims_moved(strokes: list[dict], by_px: float, size: tuple[int, int]) -> np.ndarray:
    """Return the server's mask with every stroke's rim moved outwards (erasing ones': inwards) by so much."""
    moved = [{**stroke, "radius": stroke["radius"] + (-by_px if stroke["erase"] else by_px)} for stroke in strokes]
    return rasterize(parse_strokes(moved), size)


READ_PIXELS = """async (address) => {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: picture.width, height: picture.height });
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  return Array.from(context.getImageData(0, 0, picture.width, picture.height).data);
}"""


COLOURS_BY_NUMBERS = [
        ([(b"gAMA", b"\0\0\xb1\x8f"), (b"cHRM", struct.pack(">8I", *ADOBE_RGB))], 3), ([(b"gAMA", b"\0\0\xd9\x03")], 3),
        ([(b"gAMA", b"\0\0\xd9\x03")], 1), ([(b"cICP", b"\x0c\x0d\0\1")], 3), ([(b"cICP", b"\1\1\0\1")], 3),
        ([(b"sRGB", b"\0"), (b"gAMA", b"\0\0\xd9\x03")], 3), ([(b"cHRM", struct.pack(">8I", *ADOBE_RGB))], 3),
]  # fmt: skip


def test_a_patch_looks_as_the_browser_shows_the_photo(browser: Browser) -> None:
    """Of a PNG whose colours are told by numbers alone a repaired place stood out."""
    with browser.new_page() as page:
        for chunks, channels in COLOURS_BY_NUMBERS:
            pixels = np.random.default_rng(2).integers(0, 256, (16, 16, channels), np.uint8)
            data = png.with_chunks(png.encode(pixels), chunks)
            photo = open_photo(data)
            shown = []
            for file in (data, png.encode_png(photo.image, fast=True, icc=shown_profile(photo))):
                address = f"data:image/png;base64,{base64.b64encode(file).decode()}"
                shown.append(np.array(page.evaluate(READ_PIXELS, address), int))
            assert np.abs(shown[0] - shown[1]).max() <= 1, (chunks, channels)
