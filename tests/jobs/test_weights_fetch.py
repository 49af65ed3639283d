"""Fetching weights while the server runs: how far it is, stopping, going on, and what fails in words."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import JobError
from jobs.weights_fetch import WeightsFetch
from lama.catalogue import CATALOGUE
from lama.transfer import Patience
from tests.support.misbehaving_mirror import CONTENT, SHA256, Mirror, running_mirror

QUICK = Patience(stall_s=30, tries_without_progress=1, least_progress_bytes=1000, pause_s=0.01)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror; the catalogue's big-lama is its content, and is published nowhere else."""
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    with running_mirror() as server:
        entry = dataclasses.replace(
            CATALOGUE["big-lama"], sha256=SHA256, size_bytes=len(CONTENT), sources=(f"{server.url}/missing/x.pt",)
        )
        monkeypatch.setitem(CATALOGUE, "big-lama", entry)
        yield server


@pytest.fixture
def fetches(mirror: Mirror, tmp_path: Path) -> Callable[..., WeightsFetch]:
    def make(behaviour: str, *, is_offered: bool = True) -> WeightsFetch:
        mirrors = f"{mirror.url}/{behaviour}"
        return WeightsFetch(folder=tmp_path, mirrors=mirrors, is_offered=is_offered, patience=QUICK)

    return make


def download_when(fetches: WeightsFetch, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the download of big-lama once it is as wanted."""
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        download: dict[str, Any] = fetches.view()["weights"][0]["download"]
        if is_so(download):
            return download
        time.sleep(0.01)
    raise AssertionError(download)


def has_ended(download: dict[str, Any]) -> bool:
    return download["state"] in ("done", "failed", "cancelled")


def test_weights_are_fetched_and_then_installed(fetches: Callable[..., WeightsFetch], tmp_path: Path) -> None:
    running = fetches("good")
    before = running.view()["weights"][0]
    assert (before["name"], before["installed"], before["download"]) == ("big-lama", False, None)
    assert (before["size"], before["licence"], before["photos"]) == (len(CONTENT), "Apache-2.0", "Places")
    running.begin("big-lama")
    download = download_when(running, has_ended)
    assert download["state"] == "done" and download["done"] == len(CONTENT) and download["host"] == "127.0.0.1"
    assert running.view()["weights"][0]["installed"] and (tmp_path / "big-lama.pt").read_bytes() == CONTENT


def test_stopped_download_goes_on_where_it_was(
    fetches: Callable[..., WeightsFetch], mirror: Mirror, tmp_path: Path
) -> None:
    running = fetches("held")
    running.begin("big-lama")
    download_when(running, lambda download: download["done"] > 0)
    running.begin("big-lama")  # asking twice is asking once
    with pytest.raises(JobError) as refused:
        running.begin("lama-fourier")
    assert refused.value.code == "fetch_running" and refused.value.params == {"name": "big-lama"}
    running.cancel("big-lama")
    assert running.view()["weights"][0]["download"]["state"] == "stopping"
    mirror.released.set()
    download_when(running, lambda download: download["state"] == "cancelled")
    assert not (tmp_path / "big-lama.pt").exists() and (tmp_path / "big-lama.pt.part").stat().st_size >= 100_000
    running.cancel("big-lama")  # nothing runs: nothing happens
    running.begin("big-lama")
    assert download_when(running, has_ended)["state"] == "done"
    assert mirror.ranges()[-1].startswith("bytes=") and len(mirror.requests) == 2
    assert (tmp_path / "big-lama.pt").read_bytes() == CONTENT


def test_failure_is_told_in_words_and_can_be_tried_again(fetches: Callable[..., WeightsFetch]) -> None:
    """That it failed was said twice, the second time in English, as the reason began with it."""
    running = fetches("wrong_bytes")
    for _ in range(2):
        running.begin("big-lama")
        download = download_when(running, has_ended)
        assert download["state"] == "failed" and download["error"]["error"] == "fetch_failed"
        reason = download["error"]["params"]["reason"]
        assert reason.startswith("127.0.0.1: ") and "sha256" in reason and "Traceback" not in str(download)
        assert download["error"]["message"].startswith("big-lama was not fetched: 127.0.0.1: ")
        assert "could not be fetched" not in str(download)


def test_what_is_not_offered_is_refused(fetches: Callable[..., WeightsFetch], mirror: Mirror) -> None:
    closed = fetches("good", is_offered=False)
    assert closed.view() == {"offered": False, "weights": []}
    for call in (closed.begin, closed.cancel):
        with pytest.raises(JobError) as refused:
            call("big-lama")
        assert refused.value.code == "forbidden"
    with pytest.raises(JobError) as refused:
        fetches("good").begin("../../etc/passwd")
    assert refused.value.code == "unknown_model" and not mirror.requests


def test_end_of_the_server_stops_a_download(fetches: Callable[..., WeightsFetch], mirror: Mirror) -> None:
    running = fetches("held")
    running.begin("big-lama")
    download_when(running, lambda download: download["done"] > 0)
    running.close()
    mirror.released.set()
    assert download_when(running, has_ended)["state"] == "cancelled"
