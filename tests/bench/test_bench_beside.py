"""Two checkouts beside each other: what the table makes of their turns."""

import pytest

from bench.beside import WHAT, measure, summarise


def turns_of(ratio: float, slowness: list[float]) -> dict[str, list[tuple[float, float]]]:
    return {kind: [(100 * slow, 100 * slow * ratio) for slow in slowness] for kind in WHAT}


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    """The ratio of the medians of separate runs was 0.85 to 1.08 for programs that were alike."""
    rows = summarise([turns_of(1.1, [1.0, 1.4, 2.0]), turns_of(1.1, [3.0, 1.1, 1.0])])
    for row in rows:
        assert row["ratio"] == pytest.approx([1.1, 1.1, 1.1], abs=1e-3)
        assert row["is_settled"] and not row["is_unchanged"]


def test_pairs_of_processes_that_disagree_settle_nothing() -> None:
    (row, _) = summarise([turns_of(0.95, [1.0, 1.0]), turns_of(1.1, [1.0, 1.0])])
    assert row["pairs"] == [0.95, 1.1] and not row["is_settled"]


def test_either_checkout_begins_half_of_the_turns() -> None:
    asked: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def turn(self, kind: str) -> float:
            asked.append(self.name)
            return {"before": 1.0, "after": 2.0}[self.name]

    spent = measure(Named("before"), Named("after"), 4)  # type: ignore[arg-type]
    assert all(turns == [(1.0, 2.0)] * 4 for turns in spent.values())
    begins = asked[::2]
    assert begins.count("before") == begins.count("after")
