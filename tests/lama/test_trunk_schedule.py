"""The order of a layer's launches at the sizes that were measured."""

import pytest

pytest.importorskip("triton")

from lama.trunk_schedule import Schedule, schedule_for

WIDE, NARROW = 128, 64  # channels that the local convolution of big-lama and of the included network gives


@pytest.mark.parametrize(
    ("batch", "side", "outputs", "one_launch", "enters_whole", "expected"),
    [
        pytest.param(1, 128, WIDE, True, True, Schedule(False, "entry", False, False), id="1024x1024"),
        pytest.param(1, 64, WIDE, True, False, Schedule(True, "", True, False), id="512x512"),
        pytest.param(4, 64, WIDE, True, False, Schedule(False, "", False, False), id="four of 512x512"),
        pytest.param(8, 64, WIDE, False, False, Schedule(False, "entry", False, True), id="eight of 512x512"),
        pytest.param(1, 32, WIDE, False, False, Schedule(True, "", False, True), id="256x256"),
        pytest.param(1, 48, WIDE, False, False, Schedule(False, "", False, True), id="384x384"),
        pytest.param(1, 128, NARROW, True, True, Schedule(False, "columns", False, False), id="included 1024x1024"),
        pytest.param(1, 64, NARROW, True, False, Schedule(True, "columns", True, True), id="included 512x512"),
        pytest.param(4, 64, NARROW, True, False, Schedule(True, "columns", True, False), id="included four"),
        pytest.param(8, 64, NARROW, True, False, Schedule(False, "columns", False, False), id="included eight"),
        pytest.param(1, 32, NARROW, False, False, Schedule(True, "", False, True), id="included 256x256"),
    ],
)
def test_each_size_has_the_order_that_was_fastest(
    batch: int, side: int, outputs: int, one_launch: bool, enters_whole: bool, expected: Schedule
) -> None:
    chosen = schedule_for(
        batch * side * side,
        side,
        local_outputs=outputs,
        columns_are_one_launch=one_launch,
        enters_whole=enters_whole,
    )
    assert chosen == expected
