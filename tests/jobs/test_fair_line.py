"""The order of waiting jobs: rounds by client, interactive before batch."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import JobError
from jobs.fair_line import NEWCOMERS_A_ROUND, FairLine, take_batch


def test_one_job_does_not_wait_behind_thirty_of_somebody_else() -> None:
    line = FairLine()
    for number in range(30):
        line.append(f"greedy-{number}", client="greedy")
    line.append("modest", client="modest")
    assert line.position("modest") == 2
    assert [line.popleft() for _ in range(3)] == ["greedy-0", "modest", "greedy-1"]


def test_batch_waits_until_no_interactive_job_does() -> None:
    line = FairLine()
    line.append("folder", client="a", is_batch=True)
    line.append("click", client="b")
    assert list(line) == ["click", "folder"]
    assert line.waiting_by_kind() == {"interactive": 1, "batch": 1}


def test_job_that_is_put_back_is_next() -> None:
    line = FairLine()
    for number in range(3):
        line.append(f"a{number}", client="a")
        line.append(f"b{number}", client="b")
    taken = line.popleft()
    line.put_back(taken, client="a")
    assert line.first() == taken


def test_client_whose_turn_is_over_goes_to_the_end_of_the_round() -> None:
    line = FairLine()
    line.append("a0", client="a")
    line.append("a1", client="a")
    line.append("b0", client="b")
    assert line.popleft() == "a0"
    assert list(line) == ["b0", "a1"]


def test_who_comes_in_mid_round_goes_before_those_who_had_their_turn() -> None:
    """The one with thirty waiting has had a turn in this round: a newcomer's is next, every time."""
    line = FairLine()
    for number in range(30):
        line.append(f"greedy-{number}", client="greedy")
    for number in range(3):
        assert line.popleft() == f"greedy-{number}"
        line.append(f"modest-{number}", client="modest")
        assert line.position(f"modest-{number}") == 1
        assert line.popleft() == f"modest-{number}"
    assert line.first() == "greedy-3"


def test_nobody_waits_for_good_behind_ever_new_clients() -> None:
    line = FairLine()
    for number in range(2):
        line.append(f"patient-{number}", client="patient")
    assert line.popleft() == "patient-0"
    left: list[str] = []
    for number in range(200):
        line.append(f"a{number}", client=f"new-a-{number}")
        line.append(f"b{number}", client=f"new-b-{number}")
        left.append(line.popleft())
    assert left.index("patient-1") <= NEWCOMERS_A_ROUND


def test_cancelled_jobs_cost_no_turn() -> None:
    line = FairLine()
    for number in range(30):
        line.append(f"a{number}", client="a")
    for number in range(29):
        line.remove(f"a{number}")
    line.append("b0", client="b")
    line.append("b1", client="b")
    assert list(line) == ["a29", "b0", "b1"]


def test_of_jobs_put_back_the_last_is_next() -> None:
    line = FairLine()
    for client in "abc":
        line.append(f"{client}0", client=client)
        line.append(f"{client}1", client=client)
    taken = [line.popleft() for _ in range(2)]
    for job_id in reversed(taken):
        line.put_back(job_id, client=job_id[0])
    assert list(line) == ["a0", "b0", "c0", "a1", "b1", "c1"]


def test_who_left_long_ago_is_forgotten() -> None:
    line = FairLine()
    for number in range(50):
        line.append(str(number), client=f"client-{number}")
        line.append(f"{number}-again", client="usual")
        line.popleft()
        line.popleft()
    assert len(line._rounds[0].clients) <= 3


def test_empty_line_has_no_first() -> None:
    with pytest.raises(IndexError):
        FairLine().first()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=40))
def test_every_job_leaves_once_and_places_are_those_of_leaving(steps: list[tuple[str, bool, bool]]) -> None:
    line, expected = FairLine(), set()
    for number, (client, is_batch, is_removed) in enumerate(steps):
        line.append(str(number), client=client, is_batch=is_batch)
        if is_removed:
            line.remove(str(number))
        else:
            expected.add(str(number))
    order = list(line)
    assert [line.position(job_id) for job_id in order] == list(range(1, len(order) + 1))
    left = [line.popleft() for _ in range(len(line))]
    assert left == order and set(left) == expected and len(left) == len(expected)


def test_jobs_that_were_taken_go_though_the_next_cannot_be_read() -> None:
    """They were in no line any more and waited for the next start of the server."""
    line = FairLine()
    for job_id in ("a", "b", "c"):
        line.append(job_id, client=job_id)

    def job(job_id: str) -> Any:
        if job_id == "b":
            raise JobError("storage_unavailable", "The disk does not answer.")
        return SimpleNamespace(image_id="photo", attempt=0, request={"options": {}})

    store: Any = SimpleNamespace(job=job, image=lambda _: SimpleNamespace(width=10, height=10))
    assert take_batch(store, line, limit=3) == ["a"]
    assert list(line) == ["b", "c"]
    with pytest.raises(JobError):
        take_batch(store, line, limit=3)
    assert list(line) == ["b", "c"]
