"""By touch alone: comparing by holding and by the line, and taking away from what was selected."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.support.page_driver import Person, photo_file
from tests.support.serving import RunningServer
from tests.web.test_page_mask import BLUE, HEIGHT, RED, WIDTH, changing, overlap, painted, png, scene

Visit = Callable[..., Person]
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


@pytest.fixture
def person(visit: Visit, server: RunningServer) -> Iterator[Person]:
    yield visit(server.url, **PHONE)


class Finger:
    """One finger on the screen."""

    def __init__(self, person: Person) -> None:
        self._session = person.context.new_cdp_session(person.page)

    def _send(self, kind: str, *points: tuple[float, float]) -> None:
        spots: list[dict[str, Any]] = [{"x": x, "y": y, "id": 0} for x, y in points]
        self._session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": spots})

    def down(self, x: float, y: float) -> None:
        self._send("touchStart", (x, y))

    def move(self, x: float, y: float) -> None:
        self._send("touchMove", (x, y))

    def up(self) -> None:
        self._send("touchEnd")

    def tap(self, x: float, y: float) -> None:
        self.down(x, y)
        self.up()


def middle(locator: Locator) -> tuple[float, float]:
    box = locator.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_pen_and_hand_three_fingers_and_a_finger_that_compares(person: Person) -> None:
    # The hand beside a pen ends no stroke.
    person.open(photo_file(640, 480))
    session, finger = person.context.new_cdp_session(person.page), Finger(person)
    points = [person.stage_point(x, 0.4) for x in (0.3, 0.4, 0.5)]

    def pen(kind: str, x: float, y: float) -> None:
        held = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1, "pointerType": "pen"}
        session.send("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **held})

    before = person.stage_point(0, 0)
    pen("mousePressed", *points[0])
    pen("mouseMoved", *points[1])
    finger.down(*person.stage_point(0.8, 0.8))
    finger.up()
    pen("mouseMoved", *points[2])
    pen("mouseReleased", *points[2])
    person.page.wait_for_function("document.querySelector('[data-act=\"clear\"]').disabled === false")
    (stroke,) = person.strokes
    ends = [stroke["points"][0][0], stroke["points"][-1][0]]
    assert ends == pytest.approx([0.3 * 640, 0.5 * 640], abs=6)
    assert person.stage_point(0, 0) == pytest.approx(before, abs=1), "it was no pinch"
    # The view stays when one of three fingers is lifted.
    # It leapt to the size by which the other two were farther apart.
    person.press("clear")
    spots = dict(enumerate(person.stage_points([(0.5, 0.5), (0.53, 0.5), (0.8, 0.8)])))

    def touch(kind: str, *numbers: int) -> None:  # "touchEnd" lifts those named, or all
        points = [{"x": spots[number][0], "y": spots[number][1], "id": number} for number in numbers]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    box = person.photo_box()
    for lifted, left in ((1, [0, 2]), (0, [1, 2])):
        for count in (1, 2, 3):
            touch("touchStart", *range(count))
        touch("touchEnd", lifted)
        x, y = spots[2]
        spots[2] = (x + 1, y)
        touch("touchMove", *left)
        touch("touchEnd")
        assert person.photo_box() == pytest.approx(box, abs=12), lifted
    assert person.strokes == []
    # Holding the button shows the original, and the line is dragged.
    finger.down(*person.stage_point(0.4, 0.4))
    finger.move(*person.stage_point(0.6, 0.4))
    finger.up()
    person.page.locator(".fft-repair").tap()
    person.page.wait_for_function("document.querySelectorAll('.fft-patch').length === 1")
    person.page.locator('[data-part="status"][data-tone="good"]').wait_for()
    finger.down(*middle(person.page.locator('[data-part="compare"]')))
    expect(person.page.locator('[data-part="compare"]')).to_have_attribute("aria-pressed", "true")
    assert person.shown_patches == 0
    finger.up()
    expect(person.page.locator('[data-part="compare"]')).to_have_attribute("aria-pressed", "false")
    assert person.shown_patches == 1
    person.page.locator('[data-act="split"]').tap()
    handle = person.page.locator(".fft-split-handle")
    expect(handle).to_have_attribute("aria-valuenow", "50")
    x, y = middle(handle)
    finger.down(x, y)
    finger.move(x + 40, y)
    finger.move(x + 80, y)
    finger.up()
    assert int(handle.get_attribute("aria-valuenow") or 0) > 60
    assert person.strokes == [], "the finger on the line paints nothing"


def test_taps_open_the_menu_select_and_take_away(person: Person) -> None:
    """Taking away from a selection needed the key Alt."""
    person.open(png(scene()))
    # The menu is closed on a phone until it is wanted.
    menu = person.page.locator('[data-part="mask-menu"]')
    expect(menu).to_be_hidden()
    person.page.locator('[data-act="mask-menu"]').tap()
    expect(menu).to_be_visible()
    person.page.locator('[data-act="invert"]').tap()
    expect(person.page.locator('[data-act="mask-download"]')).to_be_enabled()
    person.page.locator('[data-act="mask-close"]').tap()
    expect(menu).to_be_hidden()
    changing(person, lambda: person.page.locator('[data-act="clear"]').tap(), 0)
    finger = Finger(person)
    red, blue = person.stage_point(150 / WIDTH, 130 / HEIGHT), person.stage_point(450 / WIDTH, 130 / HEIGHT)
    take_away = person.page.locator('[data-act="take-away"]')
    assert take_away.is_hidden(), "the brush has the eraser for that"
    person.page.locator('[data-act="select"]').tap()
    changing(person, lambda: finger.tap(*red))
    changing(person, lambda: finger.tap(*blue))
    take_away.tap()
    expect(take_away).to_have_attribute("aria-pressed", "true")
    changing(person, lambda: finger.tap(*red))
    person.page.locator('[data-act="mask-menu"]').tap()
    assert overlap(painted(person), BLUE) > 0.9 > overlap(painted(person), RED | BLUE)
    person.page.locator('[data-act="mask-close"]').tap()
    person.page.locator('[data-act="rectangle"]').tap()
    expect(take_away).to_have_attribute("aria-pressed", "false")
    take_away.tap()

    def box_round_blue() -> None:
        finger.down(*person.stage_point(390 / WIDTH, 70 / HEIGHT))
        finger.move(*person.stage_point(510 / WIDTH, 190 / HEIGHT))
        finger.up()

    changing(person, box_round_blue, 2)
    person.page.locator('[data-act="mask-menu"]').tap()
    person.page.locator('[data-act="mask-download"]').tap()
    expect(person.page.locator('[data-part="status"]')).to_contain_text("Nothing is painted yet")
