"""A search that nobody waits for any more ends between two steps."""

from collections.abc import Callable

import numpy as np
import pytest

from detection import text
from detection.found import GoOn
from detection.repeat import find_repeats
from detection.spots import TILE_PX, find_spots


class GivenUpError(Exception):
    """What a search's owner raises."""


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def repeats(go_on: GoOn) -> object:
    mask = np.zeros((160, 200), np.bool_)
    mask[20:60, 30:80] = True
    return find_repeats(photo(160, 200), mask, go_on=go_on)


SEARCHES: dict[str, Callable[[GoOn], object]] = {
    "text": lambda go_on: text.find_text(photo(700, 700), go_on=go_on),
    "spots": lambda go_on: find_spots(photo(64, 2 * TILE_PX + 5), go_on=go_on),
    "repeats": repeats,
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_ends_at_the_step_where_it_is_given_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def look(image: np.ndarray) -> np.ndarray:
        looks.append(image.shape)
        return np.zeros(image.shape[:2], np.float32)

    monkeypatch.setattr(text, "text_probability", look)
    calls = 0

    def go_on() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise GivenUpError

    with pytest.raises(GivenUpError):
        SEARCHES[name](go_on)
    assert calls == 3 and len(looks) == (2 if name == "text" else 0)


def test_a_search_for_text_can_be_given_up_at_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The letters of a printed page's hundred lines were told apart in one step, which took a minute."""
    page = np.zeros((400, 700), np.float32)
    for row in range(20, 380, 40):
        page[row : row + 14, 50:650] = 0.9
    monkeypatch.setattr(text, "text_probability", lambda _: page)
    steps = []
    monkeypatch.setattr(text, "find_letters", lambda _, polygon: steps.append("letters"))
    monkeypatch.setattr(text, "find_tiled_mark", lambda *_, **__: [])
    text.find_text(photo(400, 700), go_on=lambda: steps.append("go on"))
    assert steps[-18:] == ["go on", "letters"] * 9
