"""The console script's other commands: help, exit codes, weights, profile, bench, serve."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli import main as cli
from config import load_settings
from lama import catalogue as downloads
from lama.transfer import Progress
from tests.support.misbehaving_mirror import CONTENT, SHA256
from tests.support.terminal import on_terminal
from web.accounts import Accounts
from web.json_log import JsonFormatter

ROOT = Path(cli.__file__).parents[1]
WITHOUT_HEAVY = """
import sys, lama.catalogue; from cli import main as cli
from config import load_settings
def run(words):
    try:
        return cli.main(words)
    except SystemExit as exit:
        return exit.code
def end(code):
    heavy = {"torch", "numpy", "cv2", "gradio", "fastapi"} & set(sys.modules)
    sys.exit(f"imported {heavy}" if heavy else code)
"""
ONE_LINE = WITHOUT_HEAVY + "end(run(sys.argv[1:]))"
SEVERAL_LINES = f"""{WITHOUT_HEAVY}
import contextlib, io, json
answers = []
for words in json.loads(sys.argv[1]):
    said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
        code = run(words)
    answers.append((code, said[0].getvalue(), said[1].getvalue()))
print(json.dumps(answers))
end(0)
"""


def run(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", ONE_LINE, *arguments], cwd=ROOT, capture_output=True, text=True, **options
    )


def run_several(lines: list[str]) -> list[tuple[int, str, str]]:
    """Run command lines one after the other in one process; return the exit code and both outputs of each."""
    command = [sys.executable, "-c", SEVERAL_LINES, json.dumps([line.split() for line in lines])]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    answers: list[tuple[int, str, str]] = json.loads(result.stdout)
    return answers


def test_help_answers_without_loading_anything_heavy() -> None:
    for code, shown, said in run_several(
        ["--help", "repair --help", "weights --help", "bench --help", "serve --help"]
    ):  # fmt: skip
        assert code == 0, said
        assert "usage:" in shown


def test_wrong_command_lines_exit_2() -> None:
    for code, shown, said in run_several(["", "dance", "repair a.png", "repair a b c --dilate-px -1"]):
        assert code == 2
        assert "usage:" in said and shown == ""


@pytest.mark.parametrize("option", ["--dilate-px", "--feather-px"])
@pytest.mark.parametrize("number", ["5000", "1025", "-1", "2.5", "many", "\u0663"])
def test_pixels_out_of_range_are_refused_before_the_model_loads(
    option: str, number: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(cli, "load_inpainter", lambda _settings: pytest.fail("the model was loaded"))
    with pytest.raises(SystemExit, match="2"):
        cli.main(["repair", "a.png", "b.png", "c.png", f"{option}={number}"])
    error = capsys.readouterr().err
    assert option in error and ("more than 1024 pixels" in error or "whole number of pixels from 0 up" in error)


def test_version_is_the_projects() -> None:
    assert 'version = "' + run("--version").stdout.split()[1] + '"' in (ROOT / "pyproject.toml").read_text()


def test_unknown_setting_in_the_environment_exits_2() -> None:
    result = run("weights", "get", "big-lama", env={**os.environ, "FFTLAMA_PROT": "1"})
    assert result.returncode == 2
    assert "prot" in result.stderr and "port" in result.stderr and result.stderr.count("\n") == 1


def test_weights_list_says_what_is_here_and_what_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(downloads, "WEIGHTS_FOLDER", tmp_path / "checkout")
    (tmp_path / "mine.ckpt").write_bytes(b"x" * 2**21)
    assert cli.main(["weights", "list", "--weights-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lama-compact") and lines[1].strip() == "missing"
    assert lines[2].startswith("big-lama") and "196 MiB" in lines[2] and "weights get big-lama" in lines[3]
    assert "Apache-2.0; trained on Places" in lines[2]
    assert lines[4].startswith("lama-fourier") and "299 MiB" in lines[4] and "weights get lama-fourier" in lines[5]
    assert lines[6].startswith("mine") and "2.0 MiB" in lines[6] and lines[7].strip() == str(tmp_path / "mine.ckpt")


@pytest.mark.slow
def test_weights_get_draws_a_bar_on_a_terminal(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from lama import catalogue\n"
        "def fetch(name, *, folder, mirrors, on_progress):\n"
        "    for done in range(0, 101, 20):\n"
        "        on_progress(done * 2**20, 100 * 2**20, 'mirror.example'); time.sleep(0.15)\n"
        "    return Path(name)\n"
        "catalogue.fetch = fetch\n"
        "from cli import main; sys.exit(main.main(['weights', 'get', 'big-lama']))\n"
    )
    shown, code = on_terminal([sys.executable, "-c", program], cwd=ROOT)
    assert code == 0 and "mirror.example: 100%" in shown and "100M/100M" in shown
    assert shown.rstrip().endswith("big-lama") and "\n" not in shown.rstrip().removesuffix("big-lama").strip("\r\n")


def test_weights_get_shows_progress_and_prints_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fetch(name: str, *, folder: Path, mirrors: str, on_progress: Progress) -> Path:
        assert mirrors == "https://mirror.example" and folder == downloads.WEIGHTS_FOLDER
        for done in range(0, 101, 2):
            on_progress(done * 2**20, 100 * 2**20, "mirror.example")
        return tmp_path / name

    monkeypatch.setattr("cli.weights.fetch", fetch)
    monkeypatch.setenv("FFTLAMA_MIRRORS", "https://mirror.example")
    assert cli.main(["weights", "get", "big-lama"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'big-lama'}\n"
    lines = captured.err.splitlines()
    assert 10 <= len(lines) <= 12 and "\r" not in captured.err, "few plain lines where nobody watches"
    assert lines[-1] == "100% 100 MiB of 100 MiB from mirror.example"


@pytest.mark.parametrize(("name", "code"), [("huge-lama", 2), ("lama-compact", 2), ("big-lama", 1)])
def test_weights_get_fails_in_one_sentence(name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fetch(*_args: Any, **_options: Any) -> Path:
        raise downloads.DownloadError("big-lama could not be fetched")

    monkeypatch.setattr("cli.weights.fetch", fetch)
    assert cli.main(["weights", "get", name]) == code
    error = capsys.readouterr().err
    assert error.startswith("fftlama: ") and error.count("\n") == 1


@pytest.fixture
def small_big_lama(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The catalogue's big-lama, with some bytes in the place of its 206 MB."""
    entry = replace(downloads.CATALOGUE["big-lama"], sha256=SHA256, size_bytes=len(CONTENT))
    monkeypatch.setattr(downloads, "CATALOGUE", {"big-lama": entry})
    return CONTENT


def test_weights_come_from_a_file_or_an_archive_that_holds_them(
    small_big_lama: bytes, tmp_path: Path, capsys: Any
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "network.bin").write_bytes(small_big_lama)
    with zipfile.ZipFile(given / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("models/other.ckpt", small_big_lama[::-1])
        archive.writestr("models/best.ckpt", small_big_lama)
    for file in ("network.bin", "all.zip"):
        folder = tmp_path / file
        get = ("weights", "get", "big-lama", "--from", str(given / file), "--weights-dir", str(folder))
        assert cli.main(get) == 0
        assert capsys.readouterr().out == f"{folder / 'big-lama.pt'}\n"
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"big-lama.pt": small_big_lama}
        assert cli.main(get) == 0, "it is there already"
        capsys.readouterr()
    assert (given / "network.bin").read_bytes() == small_big_lama


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (CONTENT[:-1] + b"x", "its sha256 differs"),
        (CONTENT[:-1], "neither is nor holds the published big-lama"),
        (b"", "neither is nor holds"),
        (None, "does not exist"),
    ],
)
def test_other_file_is_not_taken_for_the_published_weights(
    small_big_lama: bytes, tmp_path: Path, capsys: Any, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    folder = tmp_path / "weights"
    get = ("weights", "get", "big-lama", "--from", str(tmp_path / "file"), "--weights-dir", str(folder))
    assert cli.main(get) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fftlama: ") and words in error
    assert not folder.exists() or not list(folder.iterdir())


def test_damaged_archive_and_a_name_that_is_taken_are_sentences(
    small_big_lama: bytes, tmp_path: Path, capsys: Any
) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("best.ckpt", small_big_lama)
    data = bytearray((tmp_path / "all.zip").read_bytes())
    data[1000] ^= 255
    (tmp_path / "all.zip").write_bytes(data)
    folder = tmp_path / "weights"
    get = ("weights", "get", "big-lama", "--weights-dir", str(folder), "--from")
    assert cli.main([*get, str(tmp_path / "all.zip")]) == 1
    assert "is a damaged archive" in capsys.readouterr().err and not list(folder.iterdir())
    (folder / "big-lama.pt").write_bytes(b"my own")
    (tmp_path / "file").write_bytes(small_big_lama)
    assert cli.main([*get, str(tmp_path / "file")]) == 1
    assert "move it away" in capsys.readouterr().err and (folder / "big-lama.pt").read_bytes() == b"my own"
    assert cli.main([*get, str(tmp_path)]) == 1
    assert "fftlama: " in capsys.readouterr().err


def test_profile_names_card_profile_and_reason(capsys: Any) -> None:
    assert cli.main(["profile", "--device", "cpu"]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert "CPU" in shown["card"] and shown["profile"].startswith("cpu") and "CPU" in shown["why"]


def test_profile_shows_what_would_run(capsys: Any) -> None:
    assert cli.main(["profile", "--device", "cpu", "--profile", "rtx-3060", "--precision", "fp32"]) == 0
    shown = {line[:11].strip(): line[12:] for line in capsys.readouterr().out.splitlines()}
    assert (shown["precision"], shown["CUDA graph"]) == ("fp32", "off")


def test_measured_profile_that_cannot_be_written_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import inference

    def fail(engine: object) -> None:
        raise PermissionError(13, "Permission denied", "hardware_profiles.local.part")

    monkeypatch.setattr(cli, "load_inpainter", lambda _settings: "the engine")
    monkeypatch.setattr(inference, "autotune_profile", fail)
    assert cli.main(["profile", "--measure", "--device", "cpu", "--profile", "rtx-3060"]) == 1
    said = capsys.readouterr().err
    assert "can't be written" in said and "will not count" in said


def test_measuring_prints_what_was_measured_and_where_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import inference

    rows = [
        SimpleNamespace(
            precision="bf16", cuda_graph="off", bucket_px=512, batch=1, forward_ms=123.456, peak_mib=None, failure=""
        ),
        SimpleNamespace(
            precision="fp32",
            cuda_graph="off",
            bucket_px=512,
            batch=4,
            forward_ms=None,
            peak_mib=None,
            failure="no memory",
        ),
    ]
    measured = SimpleNamespace(rows=rows, path=tmp_path / "hardware_profiles.local.yaml")
    monkeypatch.setattr(cli, "load_inpainter", lambda _settings: "the engine")
    monkeypatch.setattr(inference, "autotune_profile", lambda engine: measured if engine == "the engine" else None)
    assert cli.main(["profile", "--measure", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["bf16", "off", "512", "1", "123.46"]
    assert lines[2].split() == ["fp32", "off", "512", "4", "no", "memory"]
    assert lines[3] == f"written to {measured.path}"


def test_unknown_profile_exits_2(capsys: Any) -> None:
    assert cli.main(["profile", "--device", "cpu", "--profile", "rtx-9999"]) == 2
    assert "rtx-9999" in capsys.readouterr().err


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cli, "BENCH_FOLDER", tmp_path)
    (tmp_path / "echo.py").write_text(
        "import sys\nif __name__ == '__main__':\n    print(*sys.argv[1:], flush=True)\n    sys.exit(7)\n"
    )
    (tmp_path / "no_script.py").write_text("X = 1\n")
    return tmp_path


def test_bench_passes_arguments_and_exit_code(bench: Path, capfd: Any) -> None:
    assert cli.main(["bench", "echo", "--help", "3"]) == 7
    assert capfd.readouterr().out == "--help 3\n"


def test_bench_without_a_name_lists_them(bench: Path, capsys: Any) -> None:
    assert cli.main(["bench"]) == 0
    assert capsys.readouterr().out == "echo\n"
    assert cli.main(["bench", "no_script"]) == 2


def test_serve_hands_its_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import app

    asked = (["--port", "1"], "fftlama serve")
    monkeypatch.setattr(app, "main", lambda argv, program: 3 if (argv, program) == asked else 0)
    assert cli.main(["serve", "--port", "1"]) == 3


@pytest.mark.slow
def test_ctrl_c_in_a_real_process_exits_130(tmp_path: Path) -> None:
    """A download that hangs is stopped the way a person does it."""
    hang = "lama.catalogue.fetch = lambda *a, **o: (print('on', flush=True), time.sleep(30))"
    # Where the tests run in the background of a shell, children begin with SIGINT ignored.
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"import signal, sys, time, lama.catalogue; from cli import main as cli\n{heard}\n{hang}\n"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}sys.exit(cli.main(['weights', 'get', 'big-lama']))"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 130 and "Traceback" not in error


@pytest.mark.parametrize(
    ("variables", "words", "address"),
    [
        ({"REDIS_URL": "redis://a"}, [], "redis://a"),
        ({"REDIS_URL": "redis://a"}, ["--redis", "redis://c"], "redis://c"),
        ({"REDIS_URL": "redis://a", "FFTLAMA_REDIS_URL": "redis://b"}, [], "redis://b"),
        ({"REDIS_URL": ""}, [], "redis://127.0.0.1:6379/0"),
    ],
)
def test_worker_meets_the_server_that_has_the_same_environment(
    variables: dict[str, str], words: list[str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REDIS_URL came before FFTLAMA_REDIS_URL for a worker and after it for a server."""
    for name in ("REDIS_URL", "FFTLAMA_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    met: list[str] = []

    def work(settings: Any, chosen: Any) -> int:
        met.append(settings.redis_url)
        return 0

    monkeypatch.setattr("cli.worker.run_worker", work)
    assert cli.main(["worker", *words]) == 0
    assert met == [address]
    if not words:
        assert load_settings().redis_url == address


def test_accounts_are_made_where_the_server_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FFTLAMA_AUTH_FILE", raising=False)
    monkeypatch.setenv("AUTH_FILE", str(tmp_path / "people.json"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"correct horse\n")))
    assert cli.main(["user", "add", "ann"]) == 0
    assert load_settings().auth_file == tmp_path / "people.json"
    assert "ann" in (tmp_path / "people.json").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "pässwörter\n".encode(), "pässwörter\r\n".encode(), "pässwörter\n".encode("utf-8-sig"),
        "pässwörter\n".encode("cp1252"),
    ],
)  # fmt: skip
def test_a_password_is_read_as_a_browser_sends_it(
    line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file from Windows the end of the line was part of it, and the mark that Notepad begins with.

    Letters of another encoding ended in a traceback.
    """
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line), encoding="ascii", errors="surrogateescape"))
    path = tmp_path / "people.json"
    if line == "pässwörter\n".encode("cp1252"):
        assert cli.main(["user", "add", "ann", "--auth-file", str(path)]) == 2
        assert "fftlama: a password is text in UTF-8" in capsys.readouterr().err and not path.exists()
    else:
        assert cli.main(["user", "add", "ann", "--auth-file", str(path)]) == 0
        assert Accounts(path).has_password("ann", "pässwörter")


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "utf-8"])
def test_what_the_terminal_cannot_show_ends_no_command(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file or person with such a letter in the name the list ended in a traceback, and so did lines of the log."""
    (tmp_path / "\U0001f44d é.pt").write_bytes(b"")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert cli.main(["weights", "list", "--weights-dir", str(tmp_path)]) == 0
    sys.stdout.flush()
    assert "\U0001f44d é" in written.getvalue().decode(encoding).replace(r"\U0001f44d", "\U0001f44d").replace(
        r"\xe9", "é"
    )
    JsonFormatter().format(logging.makeLogRecord({"msg": "\U0001f44d"})).encode("ascii")


@pytest.mark.parametrize("action", ["add", "key", "remove"])
def test_an_account_without_a_name_is_asked_for(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`user key` said that there is no account '', and to add it with `fftlama user add `."""
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    assert cli.main(["user", action, "--auth-file", str(tmp_path / "people.json")]) == 2
    assert capsys.readouterr().err == f"fftlama: name the person: fftlama user {action} NAME\n"


@pytest.mark.parametrize(
    ("weights", "told"), [("gone.pt", "gone.pt does not exist"), (".", "is a folder"), ("big-lama", "is not on this")]
)
def test_a_worker_without_its_weights_is_one_clear_sentence(
    weights: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended in a traceback, with the status of a server that can't be reached."""
    monkeypatch.setenv("FFTLAMA_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["worker", "--redis", "redis://127.0.0.1:1", "--weights", weights]) == 2
    error = capsys.readouterr().err
    assert told in error and error.startswith("fftlama: ") and error.count("\n") == 1


def test_a_worker_logs_in_the_form_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With log_format: json a server wrote objects, its workers text."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    monkeypatch.setenv("FFTLAMA_LOG_FORMAT", "json")
    missing = str(tmp_path / "gone.pt")
    assert cli.main(["worker", "--redis", "redis://127.0.0.1:1", "--weights", missing, "--log-level", "error"]) == 2
    (handler,) = logging.root.handlers
    assert isinstance(handler.formatter, JsonFormatter)
    assert logging.root.level == logging.ERROR


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "--prot", "1"], "fftlama serve: error: unknown option '--prot'; the nearest is '--port'"),
        (["serve", "--por", "7000"], "fftlama serve: error: unknown option '--por'; the nearest is '--port'"),
        (["repair", "a", "b", "c", "--dilate=3"], "unknown option '--dilate'; the nearest is '--dilate-px'"),
        (
            ["repair", "a", "m", "--find", "text", "o"],
            "fftlama repair: error: 'o' is one argument too many; --find takes",
        ),
        (["user", "add", "a", "b"], "fftlama user: error: 'b' is one argument too many; --help says"),
        (["weights", "get", "x", "--form", "y"], "fftlama weights get: error: unknown option '--form'; the nearest is"),
        (["serve", "--qqqq"], "unknown option '--qqqq'; --help lists those there are"),
    ],
    ids=str,
)
def test_an_unknown_option_is_refused_with_the_nearest(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beginnings of names were taken for the names, and a wrong one was only called unrecognized."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert told in error and "app.py" not in error
