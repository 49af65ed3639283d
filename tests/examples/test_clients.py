"""The examples for Python, curl and gradio_client, run as people run them, against a server."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.errors import JobError
from tests.support.serving import ROOT, RunningServer, ask_repair, upload, wait_until

CLIENTS = ROOT / "examples" / "clients"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """photo.png, "odd, name;.jpg" and mask.png of 60 x 80."""
    pixels = np.random.default_rng(5).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    Image.fromarray(pixels).save(tmp_path / "odd, name;.jpg")
    hole = np.zeros((60, 80), np.uint8)
    hole[20:30, 30:50] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    return tmp_path


def run(folder: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "no_proxy": "", "http_proxy": "http://127.0.0.1:9", **variables}
    return subprocess.run([*words], cwd=folder, env=environment, capture_output=True, text=True)


def changed(folder: Path, result: str) -> np.ndarray:
    before, after = (np.asarray(Image.open(folder / name).convert("RGB")) for name in ("photo.png", result))
    return (before != after).any(axis=2)


def test_python_repairs_by_mask_and_by_stroke(folder: Path, api_server: RunningServer) -> None:
    words = [sys.executable, str(CLIENTS / "repair.py"), "photo.png"]
    server = ["--server", api_server.url]
    done = run(folder, *words, "by-mask.png", "--mask", "mask.png", *server)
    assert done.returncode == 0 and done.stdout == "by-mask.png\n" and "done" in done.stderr, done.stderr
    assert changed(folder, "by-mask.png")[20:30, 30:50].mean() > 0.9
    done = run(folder, *words, "by-stroke.png", "--stroke", "10,10,30,10", "--radius", "4", *server)
    assert done.returncode == 0, done.stderr
    assert changed(folder, "by-stroke.png")[10, 10:30].all() and not changed(folder, "by-stroke.png")[30:].any()


def test_python_says_what_the_server_says(folder: Path, api_server: RunningServer) -> None:
    (folder / "text.png").write_text("no picture")
    words = [sys.executable, str(CLIENTS / "repair.py")]
    done = run(folder, *words, "text.png", "x.png", "--mask", "mask.png", "--server", api_server.url)
    assert done.returncode == 1 and "the server refused (4" in done.stderr and "Traceback" not in done.stderr
    done = run(folder, *words, "photo.png", "x.png", "--mask", "mask.png", "--server", "http://127.0.0.1:9")
    assert done.returncode == 1 and "can't be reached" in done.stderr and "Traceback" not in done.stderr
    assert not (folder / "x.png").exists()


def test_python_says_why_a_repair_failed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = JobError("out_of_memory", "There is not enough memory.").as_dict()
    answers: dict[str, dict[str, Any]] = {
        "images": {"image_id": "a"}, "repairs": {"job_id": "b"}, "jobs": {"state": "failed", "error": reason},
    }  # fmt: skip
    client = runpy.run_path(str(CLIENTS / "repair.py"))
    main = client["main"]
    monkeypatch.setitem(main.__globals__, "ask", lambda url, **_: json.dumps(answers[url.split("/")[5]]).encode())
    monkeypatch.setattr(sys, "argv", ["repair.py", str(folder / "photo.png"), "x.png", "--stroke", "1,2,3,4"])
    with pytest.raises(SystemExit, match="the repair failed: There is not enough memory"):
        main()


def test_python_takes_the_server_from_the_variable_that_the_other_examples_read(
    folder: Path, api_server: RunningServer
) -> None:
    words = [sys.executable, str(CLIENTS / "repair.py"), "photo.png", "result.png", "--mask", "mask.png"]
    done = run(folder, *words, LAMA_SERVER_URL=api_server.url + "/")
    assert done.returncode == 0 and done.stdout == "result.png\n", done.stderr


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["repair.py", "gone.png", "x.png", "--mask", "mask.png"], 1, "gone.png can't be read: No such file"),
        (["repair.py", "photo.png", "x.png", "--mask", "gone.png"], 1, "gone.png can't be read: No such file"),
        (["repair.py", "photo.png", "x.png", "--stroke", "1,2,3"], 2, "--stroke"),
        (["repair_gradio.py"], 2, "usage: repair_gradio.py"),
        (["repair_gradio.py", "gone.png", "mask.png", "x.png"], 1, "there is no file gone.png"),
        (["repair_gradio.py", "photo.png", "mask.png", "x.png"], 1, "it could not be repaired: "),
    ],
    ids=str,
)
def test_what_is_missing_is_said_in_a_sentence(folder: Path, words: list[str], status: int, told: str) -> None:
    """These ended in tracebacks."""
    done = run(folder, sys.executable, str(CLIENTS / words[0]), *words[1:], LAMA_SERVER_URL="http://127.0.0.1:9")
    assert done.returncode == status and told in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (folder / "x.png").exists()


def test_curl_repairs_several_photos_and_goes_on_after_a_bad_one(folder: Path, api_server: RunningServer) -> None:
    (folder / "bad.png").write_text("no picture")
    words = [str(CLIENTS / "repair.sh"), "mask.png", "photo.png", "bad.png", "odd, name;.jpg"]
    done = run(folder, *words, LAMA_SERVER_URL=api_server.url)
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["photo_repaired.png", "odd, name;_repaired.jpg"]
    assert "bad.png: 4" in done.stderr and not list(folder.glob("*.part"))
    # Who wants no proxy at all got one: to curl the asterisk counts by itself only, and addresses stood before it.
    by_another_name = api_server.url.replace("127.0.0.1", "0.0.0.0")
    done = run(folder, *words[:3], LAMA_SERVER_URL=by_another_name, no_proxy="*")
    assert "the setting allowed_hosts adds it" in done.stderr, "the server answered"
    assert changed(folder, "photo_repaired.png")[20:30, 30:50].mean() > 0.9
    assert Image.open(folder / "odd, name;_repaired.jpg").format == "JPEG"
    assert run(folder, str(CLIENTS / "repair.sh")).returncode == 2


def test_curl_takes_any_name_calls_the_result_by_its_format_and_shows_nobody_the_key(
    folder: Path, api_server: RunningServer, tmp_path: Path
) -> None:
    """Quotes in a name ended it, a repaired GIF was a PNG called .gif, and the key stood in the list of processes."""
    (folder / "photo.png").rename(folder / 'a"b\\c.png')
    Image.open(folder / "odd, name;.jpg").convert("P").save(folder / "photo.gif")
    seen = tmp_path / "seen"
    curl = tmp_path / "bin" / "curl"
    curl.parent.mkdir()
    curl.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>"{seen}"\nPATH=${{PATH#*:}} exec curl "$@"\n')
    curl.chmod(0o755)
    words = [str(CLIENTS / "repair.sh"), "mask.png", 'a"b\\c.png', "photo.gif"]
    variables = {"PATH": f"{curl.parent}:{os.environ['PATH']}", "LAMA_API_KEY": "fft_secret"}
    done = run(folder, *words, LAMA_SERVER_URL=api_server.url, **variables)
    assert done.stdout.splitlines() == ['a"b\\c_repaired.png', "photo_repaired.png"], done.stderr
    assert "/api/v1/repair" in seen.read_text() and "fft_secret" not in seen.read_text()


def test_gradio_client_repairs(folder: Path, server: RunningServer) -> None:
    words = [sys.executable, str(CLIENTS / "repair_gradio.py"), "photo.png", "mask.png", "result.png"]
    # gradio_client keeps results in /tmp/gradio, which another person may have made: nobody else could repair then.
    not_ours = {"GRADIO_TEMP_DIR": str(folder / "photo.png" / "below")}
    done = run(folder, *words, LAMA_SERVER_URL=server.url, **not_ours)
    assert done.returncode == 0, done.stderr
    assert run(folder, *words, server.url, LAMA_SERVER_URL="http://127.0.0.1:9").returncode == 0
    assert changed(folder, "result.png")[20:30, 30:50].mean() > 0.9


def test_gradio_client_goes_on_when_a_killed_server_was_started_again(
    folder: Path, start_server: Callable[..., RunningServer]
) -> None:
    """It was a traceback: gradio_client tells it as a Future that was cancelled."""
    running = start_server(kind="page")
    with running.client as client:  # a repair of five seconds, behind which the client's waits
        ask_repair(client, upload(client, (folder / "photo.png").read_bytes())["image_id"], feather_px=500)
        words = [sys.executable, str(CLIENTS / "repair_gradio.py"), "photo.png", "mask.png", "x.png", running.url]
        waiting = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)
        assert wait_until(lambda: sum(client.get("/status").json()["waiting"].values()), {1}) == 1
    running.kill()
    running.start()
    told = waiting.communicate(timeout=60)[1]
    assert waiting.returncode == 0 and told.startswith("the server broke off") and told.count("\n") == 1, told
    assert changed(folder, "x.png")[20:30, 30:50].mean() > 0.9
