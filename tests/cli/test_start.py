"""`fftlama start`: programs that start IOPaint themselves find the line, port and folders that they wait for."""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import app
from cli import main as cli
from cli import start as command
from cli.iopaint_options import PLUGINS_NOT_HERE, SWITCHES_PASSED_OVER, VALUES_PASSED_OVER
from config import Settings
from tests.support.serving import clean_environment, free_port, run_support_script, wait_until
from tests.support.zygote import Forked


class Served:
    """What would have been served."""

    settings: Settings | None = None
    told: tuple[str, ...] = ()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Served:
    served = Served()

    def serve(settings: Settings, *, told: Sequence[str], on_ready: Callable[[str], None]) -> int:
        served.settings, served.told = settings, tuple(told)
        on_ready(f"http://{settings.host}:{settings.port}")
        return 0

    monkeypatch.setattr(app, "serve", serve)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing-cached"))
    for name in ("HOST", "PORT", "FFTLAMA_PORT"):
        monkeypatch.delenv(name, raising=False)
    return served


def start(*arguments: object) -> int:
    return cli.main(["start", *map(str, arguments)])


def test_without_options_it_listens_where_iopaints_clients_ask(served: Served, capsys: Any) -> None:
    assert start() == 0
    assert served.settings is not None and (served.settings.host, served.settings.port) == ("127.0.0.1", 8080)
    first, ready = capsys.readouterr().out.splitlines()
    assert json.loads(first)["port"] == 8080
    assert ready == "Uvicorn running on http://127.0.0.1:8080 (Press CTRL+C to quit)"


def test_what_is_passed_over_is_for_the_log(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOST", "x86_64-conda-linux-gnu")
    assert start() == 0
    assert len(served.told) == 1 and "HOST=x86_64-conda-linux-gnu is passed over" in served.told[0]
    assert not caplog.records, "the log is not set up yet, and may be one in JSON"


def test_a_port_that_somebody_set_wins_over_iopaints(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFTLAMA_PORT", "7001")
    assert start() == 0
    assert served.settings is not None and served.settings.port == 7001
    assert start("--port", "7002") == 0
    assert served.settings.port == 7002


def test_folders_and_device_are_those_of_the_command_line(served: Served, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "masks").mkdir()
    out = tmp_path / "new" / "out"
    words = (
        "--host=0.0.0.0", "--port=9", "--input", tmp_path / "in", "--output-dir", out, "--device", "cpu",
        "--model=lama-compact", "--quality", 95, "--mask-dir", tmp_path / "masks",
    )  # fmt: skip
    assert start(*words) == 0
    settings = served.settings
    assert settings is not None and out.is_dir()
    assert (settings.host, settings.port, settings.device, settings.weights) == ("0.0.0.0", 9, "cpu", "lama-compact")
    assert (settings.input_path, settings.outputs_dir) == (tmp_path / "in", out)
    assert settings.masks_dir == tmp_path / "masks"


def test_the_config_file_counts_and_the_command_line_wins(served: Served, tmp_path: Path, capsys: Any) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {"host": "127.0.0.2", "port": 8099, "device": "cpu", "low_mem": True, "no_half": False, "input": None,
             "enable_gfpgan": True, "turbo": 3, "output_dir": str(tmp_path / "out")}
        )
    )  # fmt: skip
    assert start("--config", config, "--port", 8100) == 0
    settings = served.settings
    assert settings is not None
    assert (settings.host, settings.port, settings.device) == ("127.0.0.2", 8100, "cpu")
    assert settings.outputs_dir == tmp_path / "out"
    error = capsys.readouterr().err
    assert "--turbo" in error and "--enable-gfpgan" in error and error.count("\n") == 2


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--input", "nowhere"), 255, "there is no such file or folder"),
        (("--input", "."), 255, "--output-dir must name one too"),
        (("--mask-dir", "nowhere"), 255, "there is no such folder"),
        (("--output-dir", "file/below"), 1, "can't be made"),
        (("--model", "sd1.5"), 2, "there is no model 'sd1.5' here"),
        (("--port", "70000"), 2, "70000"),
        (("--config", "nowhere.json"), 2, "can't be read"),
        (("--config", "file"), 2, "is no JSON"),
    ],
)
def test_what_can_not_be_is_refused_in_one_sentence(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: Any, code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no json")
    assert start(*words) == code
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and served.settings is None


def test_every_option_of_both_programs_is_taken(served: Served, capsys: Any) -> None:
    values = [word for name in VALUES_PASSED_OVER for word in (name, "x")]
    assert start(*SWITCHES_PASSED_OVER, *values, "--no-half", "--no-inbrowser", "--gui-size", 1600, 1000) == 0
    assert capsys.readouterr().err == ""
    assert start(*PLUGINS_NOT_HERE, "--preset-file", "presets.json") == 0
    assert len(capsys.readouterr().err.splitlines()) == len(PLUGINS_NOT_HERE) + 1


def test_the_browser_opens_when_it_is_ready_and_asked_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(command.webbrowser, "open", opened.append)
    start()
    assert opened == []
    start("--inbrowser", "--port", 8111)
    assert opened == ["http://localhost:8111"]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes] | Forked", int]]:
    """The server as darktable's plug-in starts it, with the fake engine."""
    port = free_port()
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 30), (9, 90, 200)).save(tmp_path / "in" / "photo.png")
    words = [
        "start-page", "--host", "127.0.0.1", "--port", str(port), "--input", str(tmp_path / "in"), "--output-dir",
        str(tmp_path / "out"), "--model", "lama", "--device", "cpu", "--preset-file", "presets.json",
    ]  # fmt: skip
    environment = {
        **clean_environment(), "FFTLAMA_DATA_DIR": str(tmp_path / "data"), "FFTLAMA_WEIGHTS": "lama-compact",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }  # fmt: skip
    (tmp_path / "log").touch()
    started = run_support_script("serve_fake", words, environment, log=tmp_path / "log", is_forked=True)
    try:
        yield started, port
    finally:
        started.kill()
        started.wait()


def test_the_line_comes_when_everything_answers(
    process: tuple["subprocess.Popen[bytes] | Forked", int], tmp_path: Path
) -> None:
    """The video GUIs read stdout line by line; darktable's plug-in then asks for the page and the configuration."""
    started, port = process
    line = f"Uvicorn running on http://127.0.0.1:{port} (Press CTRL+C to quit)\n"
    wait_until(lambda: started.poll() is not None or line in (tmp_path / "log").read_text(), {True}, limit_s=90)
    assert (tmp_path / "log").read_text().endswith(f"\n{line}")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
        assert client.get("/").text.lstrip().startswith("<")
        told = client.get("/api/v1/server-config").json()
        assert told["enableFileManager"] is True and told["enableAutoSaving"] is True
        assert [one["name"] for one in client.get("/api/v1/medias", params={"tab": "input"}).json()] == ["photo.png"]
        answer = client.post(
            "/api/v1/save_image", files={"file": ("x.png", (tmp_path / "in" / "photo.png").read_bytes())}
        )
        assert answer.status_code == 200 and [path.name for path in (tmp_path / "out").iterdir()] == ["x.png"]
    started.terminate()
    assert started.wait(20) == 0
