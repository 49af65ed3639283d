"""Strokes become exactly the pixels whose centres lie within the radius of the line, or inside the outline."""

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging import ImagingError, Polygon, Stroke, parse_strokes, rasterize
from imaging.strokes import bounds_of, count_spans

GOOD_STROKE = Stroke(((5.0, 5.0),), 3.0)
RIM = 1e-9  # centres nearer to the rim than this may fall on either side


def distances(stroke: Stroke, height: int, width: int) -> np.ndarray:
    """Measure every centre's distance to the polyline, pixel by pixel and segment by segment: slow and plain."""
    result = np.full((height, width), np.inf)
    ends = stroke.points[1:] or stroke.points
    for y in range(height):
        for x in range(width):
            for (ax, ay), (bx, by) in zip(stroke.points, ends, strict=False):
                dx, dy = bx - ax, by - ay
                share = ((x + 0.5 - ax) * dx + (y + 0.5 - ay) * dy) / ((dx * dx + dy * dy) or 1.0)
                share = min(1.0, max(0.0, share))
                result[y, x] = min(result[y, x], math.hypot(x + 0.5 - ax - share * dx, y + 0.5 - ay - share * dy))
    return result


coordinate = st.one_of(
    st.integers(-10, 40).map(float), st.floats(-15, 45, allow_nan=False), st.sampled_from([0.5, 7.5])
)
stroke = st.builds(
    Stroke,
    st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=5).map(tuple),
    st.one_of(st.floats(0.71, 12), st.sampled_from([1.0, 2.5, 5.0])),
    st.booleans(),
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(stroke=stroke, height=st.integers(1, 22), width=st.integers(1, 26))
def test_painted_are_the_centres_within_the_radius(stroke: Stroke, height: int, width: int) -> None:
    painted = rasterize([Stroke(stroke.points, stroke.radius)], (height, width))
    distance = distances(stroke, height, width)
    assert painted.shape == (height, width) and painted.dtype == bool
    if painted.any() and distance.min() > stroke.radius:  # nothing within the radius: the pixels that hold the points
        assert {(int(y), int(x)) for y, x in np.argwhere(painted)} <= {
            (math.floor(y), math.floor(x)) for x, y in stroke.points
        }
        return
    assert painted[distance < stroke.radius - RIM].all() and not painted[distance > stroke.radius + RIM].any()


def test_rim_belongs_to_the_stroke() -> None:
    painted = rasterize([Stroke(((10.5, 10.5),), 5.0)], (21, 21))
    assert painted[10, 5] and painted[10, 15] and painted[5, 10] and painted[7, 6] and not painted[10, 4]
    assert painted.sum() == sum(x * x + y * y <= 25 for x in range(-5, 6) for y in range(-5, 6))


@pytest.mark.parametrize("point", [(3.0, 4.0), (3.5, 4.5), (3.2, 4.9)])
def test_smallest_brush_paints_at_least_one_pixel(point: tuple[float, float]) -> None:
    painted = rasterize([Stroke((point,), 0.5)], (10, 10))
    assert painted.sum() == 1 and painted[4, 3]


def inside(polygon: Polygon, height: int, width: int) -> np.ndarray:
    """Count the edges to the left of every centre, pixel by pixel: an odd number is inside. Slow and plain."""
    result = np.zeros((height, width), bool)
    for (ax, ay), (bx, by) in zip(polygon.points, (*polygon.points[1:], polygon.points[0]), strict=True):
        for y in range(height):
            if (ay > y + 0.5) != (by > y + 0.5):
                crossing = ax + (bx - ax) * ((y + 0.5 - ay) / (by - ay))
                result[y] ^= np.arange(width) + 0.5 >= crossing
    return result


# Eighths: no crossing then lies so near to a centre that rounding decides.
corner = st.tuples(*[st.integers(-80, 240).map(lambda eighths: eighths / 8)] * 2)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True)
@given(points=st.lists(corner, min_size=3, max_size=12), height=st.integers(1, 22), width=st.integers(1, 26))
def test_inside_an_outline_is_by_the_even_odd_rule(points: list, height: int, width: int) -> None:
    polygon = Polygon(tuple(points))
    painted, expected = rasterize([polygon], (height, width)), inside(polygon, height, width)
    if not expected.any():  # too thin for any centre: the pixels that hold its corners
        assert painted.sum() <= len(points)
        return
    assert (painted == expected).all()


outline = st.builds(Polygon, st.lists(corner, min_size=3, max_size=6).map(tuple), st.booleans())


@settings(deadline=None)
@given(strokes=st.lists(st.one_of(stroke, outline), max_size=4), height=st.integers(1, 22), width=st.integers(1, 26))
def test_the_part_that_strokes_reach_is_all_of_them(strokes: list, height: int, width: int) -> None:
    whole = rasterize(strokes, (height, width))
    left, top, right, bottom = bounds_of(strokes, (height, width))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    part = rasterize(strokes, (height, width), box=(left, top, right, bottom))
    assert (part == whole[top:bottom, left:right]).all() and part.sum() == whole.sum()


def star(corners: int, radius: float, middle: float) -> Polygon:
    """Return a star drawn in one go, its lines crossing each other."""
    turns = [2 * math.pi * i * 2 / corners for i in range(corners)]
    return Polygon(tuple((middle + radius * math.sin(turn), middle - radius * math.cos(turn)) for turn in turns))


def test_what_an_outline_goes_round_twice_is_outside() -> None:
    painted = rasterize([star(5, 90.0, 100.0)], (200, 200))
    assert not painted[95:105, 95:105].any()
    assert painted[20:40, 98:102].all()


def test_a_rectangle_covers_its_pixels_and_none_beside() -> None:
    painted = rasterize([Polygon(((10, 10), (20, 10), (20, 30), (10, 30)))], (40, 40))
    assert painted[10:30, 10:20].all() and painted.sum() == 200


def test_an_outline_erases_and_lies_outside() -> None:
    whole = Polygon(((-1e6, -1e6), (1e6, -1e6), (1e6, 1e6), (-1e6, 1e6)))
    middle = Polygon(((5, 5), (15, 5), (15, 15), (5, 15)), erase=True)
    painted = rasterize([whole, middle], (20, 20))
    assert painted.sum() == 300 and not painted[5:15, 5:15].any()
    assert not rasterize([Polygon(((30, 30), (40, 30), (40, 40)))], (20, 20)).any()


def test_an_outline_of_many_bands_of_rows_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(3).uniform(-20, 220, (60, 2))
    polygon = Polygon(tuple((float(x), float(y)) for x, y in points))
    whole = rasterize([polygon], (200, 200))
    monkeypatch.setattr("imaging.strokes.SPANS_AT_ONCE", 300)
    assert (rasterize([polygon], (200, 200)) == whole).all() and whole.any()


def test_an_outline_with_work_without_end_is_refused() -> None:
    points = [(float(x), float(y)) for x, y in np.random.default_rng(0).uniform(0, 4000, (20_000, 2))]
    with pytest.raises(ImagingError, match="several steps"):
        rasterize([Polygon(tuple(points))], (3000, 4000))


def test_erasing_and_painting_go_in_order() -> None:
    line = ((2.0, 10.0), (18.0, 10.0))
    paint, erase = Stroke(line, 4.0), Stroke(((10.0, 10.0),), 3.0, erase=True)
    whole = rasterize([paint], (20, 20))
    hole = rasterize([Stroke(erase.points, erase.radius)], (20, 20))
    assert (rasterize([paint, erase], (20, 20)) == (whole & ~hole)).all()
    assert (rasterize([erase, paint], (20, 20)) == whole).all()
    assert (rasterize([paint, erase, paint], (20, 20)) == whole).all()
    assert not rasterize([erase], (20, 20)).any()


def test_strokes_outside_paint_nothing_and_half_outside_are_clipped() -> None:
    outside = Stroke(((-50.0, -50.0), (-40.0, 900.0), (1e6, -1e6)), 3.0)
    assert not rasterize([Stroke(((-9.0, 5.0),), 3.0), Stroke(((5.0, 1e6),), 99.0)], (10, 10)).any()
    assert rasterize([outside], (10, 10)).sum() <= 100
    half = rasterize([Stroke(((0.0, 5.0),), 3.0)], (10, 10))
    assert half[:, :3].sum() == half.sum() > 0


def test_spans_are_counted_before_they_are_painted() -> None:
    outline = Polygon(((2.0, 2.0), (9.0, 2.0), (9.0, 8.0)))
    assert count_spans([Stroke(((10.0, 10.0),), 3.0)], 20) == 6
    assert count_spans([Stroke(((10.0, 10.0), (10.0, 15.0), (12.0, 15.0)), 3.0)], 20) == 11 + 6
    assert count_spans([Stroke(((10.0, 900.0),), 3.0)], 20) == 0
    assert count_spans([outline, GOOD_STROKE], 20) == 12 + count_spans([GOOD_STROKE], 20)


def test_all_rows_of_a_huge_brush_are_full() -> None:
    assert rasterize([Stroke(((30.0, 20.0),), 5000.0)], (40, 60)).all()


def test_three_hundred_points_on_12_megapixels_are_not_three_hundred_passes() -> None:
    """They cost less than ten passes over all pixels; a method that goes over them for each point costs hundreds."""
    walk = np.array([2000, 1500]) + np.cumsum(np.random.default_rng(0).normal(0, 15, (300, 2)), axis=0)
    stroke = Stroke(tuple((float(x), float(y)) for x, y in walk), 40.0)
    columns = np.arange(4000.0)

    def seconds_of(work: Callable[[], object]) -> float:
        started_s = time.thread_time()  # the processor's, so other programs do not count
        work()
        return time.thread_time() - started_s

    strokes_s = min(seconds_of(lambda: rasterize([stroke], (3000, 4000))) for _ in range(5))
    pass_s = min(seconds_of(lambda: np.hypot(columns, np.arange(3000.0)[:, None]) < 40) for _ in range(3))
    assert strokes_s < 10 * pass_s


def test_work_without_end_is_refused() -> None:
    """Twenty thousand lines across a big photo kept a core busy for half a minute."""
    ends = np.random.default_rng(0).uniform(0, 4000, (20_000, 2)).tolist()
    stroke = Stroke(tuple((x, y) for x, y in ends), 500.0)
    with pytest.raises(ImagingError, match="several steps") as refused:
        rasterize([GOOD_STROKE, stroke], (3000, 4000))
    assert refused.value.code == "bad_strokes" and refused.value.params["index"] == 1


def test_what_the_page_sends_is_understood() -> None:
    parsed = parse_strokes(
        [
            {"points": [[1, 2], [3.5, -4]], "radius": 12, "erase": True},
            {"points": [[0, 0]], "radius": 0.5},
            {"polygon": [[0, 0], [9, 0], [9.5, 9]], "erase": True},
        ]
    )
    assert parsed == [
        Stroke(((1.0, 2.0), (3.5, -4.0)), 12.0, True),
        Stroke(((0.0, 0.0),), 0.5, False),
        Polygon(((0.0, 0.0), (9.0, 0.0), (9.5, 9.0)), True),
    ]
    assert parse_strokes([]) == []


GOOD = {"points": [[1, 2]], "radius": 3}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        7,
        [],
        "stroke",
        {},
        {"points": [[1, 2]]},
        {"radius": 3},
        {"points": [], "radius": 3},
        {"points": "12", "radius": 3},
        {"points": {"0": [1, 2]}, "radius": 3},
        {"points": [[1]], "radius": 3},
        {"points": [[1, 2, 3]], "radius": 3},
        {"points": [[1, "2"]], "radius": 3},
        {"points": [[1, None]], "radius": 3},
        {"points": [[True, 2]], "radius": 3},
        {"points": [[float("nan"), 2]], "radius": 3},
        {"points": [[1, float("inf")]], "radius": 3},
        {"points": [[10**400, 2]], "radius": 3},
        {"points": [[1e7, 2]], "radius": 3},
        {"points": [[1, 2]], "radius": 0},
        {"points": [[1, 2]], "radius": -1},
        {"points": [[1, 2]], "radius": 5001},
        {"points": [[1, 2]], "radius": float("nan")},
        {"points": [[1, 2]], "radius": "3"},
        {"points": [[1, 2]], "radius": True},
        {"points": [[1, 2]], "radius": 3, "erase": 1},
        {"points": [[1, 2]] * 20_001, "radius": 3},
        {"polygon": [[1, 2], [3, 4]]},
        {"polygon": []},
        {"polygon": None},
        {"polygon": "123"},
        {"polygon": [[1, 2], [3, 4], [5, float("nan")]]},
        {"polygon": [[1, 2], [3, 4], [5, 6]], "erase": 1},
        {"polygon": [[1, 2], [3, 4], [5, 6]], "radius": 3},
        {"polygon": [[1, 2], [3, 4], [5, 6]], "points": [[1, 2]]},
        {"polygon": [[1, 2]] * 20_001},
    ],
)
def test_bad_strokes_are_refused_with_their_index(bad: object) -> None:
    with pytest.raises(ImagingError) as refused:
        parse_strokes([GOOD, bad])
    assert refused.value.code == "bad_strokes" and refused.value.params["index"] == 1
    assert refused.value.message.startswith("Stroke 2 ")


def test_a_point_too_far_away_is_told_how_far_it_may_be() -> None:
    """1000001 was refused with "two finite numbers", which it is one of."""
    parse_strokes([{"points": [[1_000_000, -1_000_000]], "radius": 3}])
    with pytest.raises(ImagingError, match="two numbers from -1000000 to 1000000"):
        parse_strokes([{"points": [[1_000_001, 0]], "radius": 3}])


@pytest.mark.parametrize("bad", [None, {}, "[]", 3])
def test_strokes_that_are_no_list_are_refused(bad: object) -> None:
    with pytest.raises(ImagingError, match="must be a list"):
        parse_strokes(bad)


def test_points_are_counted_over_all_strokes() -> None:
    stroke = {"points": [[1, 2]] * 10_000, "radius": 3}
    assert len(parse_strokes([stroke, stroke])) == 2
    with pytest.raises(ImagingError, match="20000 points"):
        parse_strokes([stroke, stroke, GOOD])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["points", "polygon", "radius", "erase"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(items=json_values)
def test_any_json_gives_strokes_or_a_refusal(items: object) -> None:
    try:
        strokes = parse_strokes(items)
    except ImagingError as error:
        assert error.code == "bad_strokes"
        return
    assert rasterize(strokes, (8, 8)).shape == (8, 8)
