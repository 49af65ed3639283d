"""The server with two cards, each a process of its own: it stops, dies and starts again without losing a repair."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.card_engines import KILL_PROCESS
from tests.support.fake_engine import UNTIL_STOPPED
from tests.support.serving import RunningServer, ask_repair, follow, upload

PHOTO = Path(__file__).resolve().parents[1] / "data" / "flower.png"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    made = RunningServer(tmp_path, kind="cards")
    yield made
    made.kill()


def state_and_parent(pid: str | int) -> tuple[str, int]:
    """Return a process's state and its parent's number; ("Z", 0) of one that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "Z", 0
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


def cards_of(server: RunningServer) -> list[int]:
    """Return the numbers of the cards' processes."""
    assert server.process is not None
    pids = [path.name for path in Path("/proc").glob("[0-9]*")]
    ours = server.process.pid
    return [int(pid) for pid in pids if (seen := state_and_parent(pid))[1] == ours and seen[0] != "Z"]


def wait_until(is_so: Callable[[], bool], limit_s: float = 30.0) -> None:
    until_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < until_s, "it did not come to that"
        time.sleep(0.05)


def test_stop_or_kill_in_mid_job_leaves_no_process_and_loses_no_repair(server: RunningServer) -> None:
    server.start()
    for is_killed in (False, True):
        cards = cards_of(server)
        assert len(cards) == 2
        with server.client as client:
            image_id = upload(client, PHOTO.read_bytes())["image_id"]
            job_ids = [ask_repair(client, image_id, feather_px=40) for _ in range(12)]
            never = ask_repair(client, image_id, dilate_px=UNTIL_STOPPED)
            follow(client, job_ids[0])
        if is_killed:
            server.kill()
        else:
            assert server.stop() == 0
        wait_until(lambda cards=cards: all(state_and_parent(pid)[0] == "Z" for pid in cards))  # type: ignore[misc]
        server.start()
        with server.client as client:
            views = [follow(client, job_id, limit_s=60.0) for job_id in job_ids]
            assert [view["state"] for view in views] == ["done"] * 12
            client.delete(f"/api/v1/jobs/{never}")
            assert follow(client, never)["state"] == "cancelled"
    assert server.stop() == 0


def test_photo_that_takes_two_processes_down_is_told_so_and_the_status_shows_both_cards(server: RunningServer) -> None:
    server.start()
    with server.client as client:
        image_id = upload(client, PHOTO.read_bytes())["image_id"]
        poison = ask_repair(client, image_id, dilate_px=KILL_PROCESS)
        others = [ask_repair(client, image_id, feather_px=10) for _ in range(10)]
        assert follow(client, poison, limit_s=60.0)["error"]["error"] == "workers_lost"
        assert [follow(client, job_id, limit_s=60.0)["state"] for job_id in others] == ["done"] * 10
        wait_until(lambda: [row["state"] for row in client.get("/status").json()["workers"]] == ["idle", "idle"])
        rows = client.get("/status").json()["workers"]
        assert [(row["name"], row["device"]) for row in rows] == [("device-0", "fake:0"), ("device-1", "fake:1")]
        assert 'fftlama_workers{state="idle"} 2.0' in client.get("/metrics").text


def test_without_any_process_clients_are_told_what_repairs_wait_for(server: RunningServer) -> None:
    server.start()
    with server.client as client:
        image_id = upload(client, PHOTO.read_bytes())["image_id"]
        for pid in cards_of(server):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: client.get("/ready").status_code == 503)
        assert client.get("/ready").json()["waiting_for"] == ["workers"]
        job_id = ask_repair(client, image_id)
        assert follow(client, job_id, limit_s=60.0)["state"] == "done"
        assert client.get("/ready").status_code == 200
