"""apply_optimization.sh over folders as people have them: what it puts in, what it keeps, and that it all goes back."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.original_folders import ADDRESSES, PLACES, SHAPES, state_of
from tests.support.serving import clean_environment, free_port

ROOT = Path(__file__).resolve().parents[2]
REPLACED = {"app.py", "start_app.sh", "stop_app.sh"}
ADDED = ("fftlama", ".fftlama-upgrade")
# Answers /health as the program does, and says which settings it read, but loads no model.
SMALL_APP = """
import http.server, json, os
from config import load_settings

settings = load_settings()

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        health = {"pid": os.getpid(), "device": "cpu", "precision": "fp32", "profile": settings.profile,
                  "profile_reason": "", "weights": settings.weights}
        self.wfile.write(json.dumps(health).encode())

http.server.HTTPServer((settings.host, settings.port), Health).serve_forever()
"""
SMALL_CLI = """
def main():
    print("card        CPU")
    print("profile     cpu")
    print("why         No CUDA card is in use; it's a CPU.")
    return 0
"""
FOLDERS = pytest.mark.parametrize("shape", SHAPES)


class Checkout:
    """A small fftlama to upgrade from; runs its script on a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def environment(self) -> dict[str, str]:
        """Of a person in this checkout's environment, so that no other Python is asked first, which takes seconds."""
        return {**clean_environment(), "VIRTUAL_ENV": str(self.root / ".venv")}

    def command(self, folder: Path, *arguments: str) -> list[str]:
        return ["bash", str(self.root / "apply_optimization.sh"), str(folder), *arguments]

    def run(self, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the script to its end; stdout holds both outputs."""
        return subprocess.run(
            self.command(folder, *arguments),
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    root = tmp_path_factory.mktemp("from") / "fft lama 源"
    root.mkdir()
    for name in ("apply_optimization.sh", "start_app.sh", "stop_app.sh", "config.py", "requirements.lock"):
        shutil.copy2(ROOT / name, root / name)
    shutil.copy2(ROOT / "hardware_profiles.yaml", root / "hardware_profiles.yaml")
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "app.py").write_text(SMALL_APP)
    (root / "cli").mkdir()
    (root / "cli" / "__init__.py").write_text("")
    (root / "cli" / "main.py").write_text(SMALL_CLI)
    (root / "fftlama.yaml").write_text("port: 1\n")  # the settings of this copy are not the folder's
    (root / "tests").mkdir()
    (root / "tests" / "__init__.py").write_text("")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    (packages,) = (root / ".venv" / "lib").glob("python3*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Checkout(root)


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of the shape that the test is run with, else the flat one."""
    shape = request.node.callspec.params.get("shape", "flat") if hasattr(request.node, "callspec") else "flat"
    path = tmp_path.resolve() / PLACES[shape]
    SHAPES[shape](path)
    yield path
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{path}/" in cmdline.read_bytes().decode(errors="replace"):
                os.kill(int(cmdline.parent.name), signal.SIGKILL)


def without_added(state: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in state.items() if not name.split("/")[0].startswith(ADDED)}


@FOLDERS
def test_upgrade_changes_three_files_and_revert_gives_back_every_byte(
    checkout: Checkout, folder: Path, shape: str
) -> None:
    before, around_before = state_of(folder), state_of(folder.parent)
    upgraded = checkout.run(folder, "--no-start")
    assert upgraded.returncode == 0, upgraded.stdout
    between = without_added(state_of(folder))
    assert set(between) == set(before)
    assert {name for name in before if before[name] != between[name]} == REPLACED
    settings = yaml.safe_load((folder / "fftlama" / "fftlama.yaml").read_text(encoding="utf-8"))
    assert (settings["host"], settings["port"]) == ADDRESSES[shape]
    assert settings["profile"] == "cpu"
    link = folder / "fftlama" / settings["weights"]
    assert link.is_symlink() and b"convl2l" in link.read_bytes()
    assert not (folder / "fftlama" / "tests").exists()
    reverted = checkout.run(folder, "--revert")
    assert reverted.returncode == 0, reverted.stdout
    assert state_of(folder) == before
    assert state_of(folder.parent) == around_before


@FOLDERS
def test_second_run_changes_nothing(checkout: Checkout, folder: Path, shape: str) -> None:
    checkout.run(folder, "--no-start")
    first = {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in folder.rglob("*")}
    again = checkout.run(folder)
    assert again.returncode == 0 and "nothing to change" in again.stdout, again.stdout
    assert {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in folder.rglob("*")} == first


@FOLDERS
def test_dry_run_says_everything_and_touches_nothing(checkout: Checkout, folder: Path, shape: str) -> None:
    before = state_of(folder)
    said = checkout.run(folder, "--dry-run", "--celery")
    assert said.returncode == 0, said.stdout
    host, port = ADDRESSES[shape]
    for words in (f"{host}, port {port}", "link the weights", "app.py start_app.sh stop_app.sh", "Celery", "--revert"):
        assert words in said.stdout
    assert state_of(folder) == before


def test_folder_starts_and_stops_by_its_own_scripts(checkout: Checkout, folder: Path) -> None:
    """The upgrade ends in the folder's own `stop_app.sh && start_app.sh`; what runs has the folder's settings."""
    port = free_port()
    (folder / "app.py").write_text(f'demo.launch(server_name="127.0.0.1", server_port={port})\n')
    upgraded = checkout.run(folder)
    assert upgraded.returncode == 0, upgraded.stdout
    assert f"fftlama runs at http://127.0.0.1:{port}" in upgraded.stdout
    assert f"{folder}/outputs" in upgraded.stdout.replace("fftlama/../", "")
    stopped = subprocess.run(["bash", "stop_app.sh"], cwd=folder, capture_output=True, text=True)
    assert stopped.returncode == 0 and "Stopped." in stopped.stdout
    direct = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=clean_environment(), stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while f"{folder}/fftlama/app.py" not in Path(f"/proc/{direct.pid}/cmdline").read_text():
            assert time.monotonic() < deadline and direct.poll() is None
            time.sleep(0.05)
    finally:
        direct.kill()
        direct.communicate()


def test_revert_stops_what_runs_and_keeps_results(checkout: Checkout, folder: Path) -> None:
    (folder / "app.py").write_text(f'demo.launch(server_name="127.0.0.1", server_port={free_port()})\n')
    before = state_of(folder)
    assert checkout.run(folder).returncode == 0
    state = dict(line.split("=", 1) for line in (folder / "fftlama/run/app.state").read_text().splitlines())
    (folder / "outputs" / "outputs_20260101010101.jpg").write_bytes(b"new")
    reverted = checkout.run(folder, "--revert")
    assert reverted.returncode == 0, reverted.stdout
    command_line = Path(f"/proc/{state['pid']}/cmdline")  # empty where nobody has asked for the exit code yet
    assert not command_line.exists() or command_line.read_bytes() == b""
    after = state_of(folder)
    assert after.pop("outputs/outputs_20260101010101.jpg")
    assert after == before


def test_old_app_is_stopped_by_its_pid_and_others_are_left(checkout: Checkout, folder: Path, tmp_path: Path) -> None:
    (folder / "app.py").write_text("import time\ntime.sleep(600)\n")
    (tmp_path / "other").mkdir()
    shutil.copy2(folder / "app.py", tmp_path / "other" / "app.py")
    old = subprocess.Popen([sys.executable, "app.py"], cwd=folder)
    other = subprocess.Popen([sys.executable, "app.py"], cwd=tmp_path / "other")
    try:
        upgraded = checkout.run(folder, "--no-start")
        assert f"Stopping the old app (pid {old.pid})" in upgraded.stdout
        assert old.wait(10) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (old, other):
            process.kill()
            process.wait()


KILLING_TOOL = """#!/bin/sh
count=$(($(cat "$COUNT_FILE") + 1))
echo "$count" >"$COUNT_FILE"
if [ "$count" = "$KILL_AT" ]; then
    kill -KILL 0 # the whole group
fi
PATH=${PATH#*:}
exec "${0##*/}" "$@"
"""


def run_killed_at(checkout: Checkout, folder: Path, step: int, tools: Path, *arguments: str) -> int:
    """Run the script with every tool that changes files counted, and the whole group killed at call number `step`."""
    tools.mkdir(exist_ok=True)
    for name in ("mv", "cp", "rm", "mkdir", "ln", "chmod", "tar", "rmdir"):
        (tools / name).write_text(KILLING_TOOL)
        (tools / name).chmod(0o755)
    counter = tools.parent / "count"
    counter.write_text("0")
    variables = {"PATH": f"{tools}:{os.environ['PATH']}", "COUNT_FILE": str(counter), "KILL_AT": str(step)}
    process = subprocess.Popen(
        checkout.command(folder, "--no-start", *arguments),
        env={**checkout.environment, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return process.wait(120)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["cluttered"])
def test_killed_anywhere_it_can_be_run_again_or_reverted(
    checkout: Checkout, folder: Path, shape: str, tmp_path: Path
) -> None:
    before = state_of(folder)
    tools = tmp_path / "tools"
    step = at_scripts = 0

    def is_killed(at: int, *, run_again: bool) -> bool:
        """Kill the upgrade at its `at`-th call of a tool, then undo it; False when it had come to its end."""
        nonlocal at_scripts
        if run_killed_at(checkout, folder, at, tools) != -signal.SIGKILL:
            return False
        at_scripts += without_added(state_of(folder)) != before
        if run_again:
            assert checkout.run(folder, "--no-start").returncode == 0
            assert (folder / ".fftlama-upgrade" / "done").exists()
        reverted = checkout.run(folder, "--revert")
        assert reverted.returncode == 0, f"killed at {at}: {reverted.stdout}"
        assert state_of(folder) == before, f"killed at {at}"
        return True

    while is_killed(3 * step + 1, run_again=step % 4 == 0):
        step += 1
    assert step >= 8
    # The three scripts are replaced near the end, between two calls: every call there.
    end = 3 * step + 1
    checkout.run(folder, "--revert")
    for late in range(end - 1, end - 12, -1):
        if late % 3 != 1 and not at_scripts:
            is_killed(late, run_again=True)
            checkout.run(folder, "--revert")
    assert at_scripts >= 1  # also between two of the three scripts


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["nested"])
def test_revert_killed_anywhere_can_be_run_again(checkout: Checkout, folder: Path, shape: str, tmp_path: Path) -> None:
    before = state_of(folder)
    for step in range(1, 30, 2):
        assert checkout.run(folder, "--no-start").returncode == 0
        code = run_killed_at(checkout, folder, step, tmp_path / "tools", "--revert")
        again = checkout.run(folder, "--revert")
        assert again.returncode == 0, again.stdout
        assert state_of(folder) == before, f"killed at {step}"
        if code == 0:
            assert step > 5
            return
        assert code == -signal.SIGKILL
    raise AssertionError("the revert never came to its end")


def test_newer_program_replaces_the_old_one_and_keeps_settings(
    checkout: Checkout, folder: Path, tmp_path: Path
) -> None:
    before = state_of(folder)
    newer = Checkout(tmp_path / "newer")
    shutil.copytree(checkout.root, newer.root, symlinks=True)
    (newer.root / "cli" / "added.py").write_text("x = 1\n")
    (newer.root / "config.py").write_text((newer.root / "config.py").read_text() + "\n# newer\n")
    checkout.run(folder, "--no-start")
    settings = folder / "fftlama" / "fftlama.yaml"
    settings.write_text(settings.read_text() + "queue_limit: 7\n")
    (folder / "fftlama" / "data").mkdir()
    (folder / "fftlama" / "data" / "photo").write_bytes(b"kept")
    upgraded = newer.run(folder, "--no-start")
    assert upgraded.returncode == 0, upgraded.stdout
    assert (folder / "fftlama" / "cli" / "added.py").exists()
    assert "queue_limit: 7" in settings.read_text()
    assert (folder / "fftlama" / "data" / "photo").exists()
    assert newer.run(folder, "--revert").returncode == 0
    assert state_of(folder) == before


def test_unknown_folder_is_refused_with_all_that_is_missing(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "app.py").write_text("")
    (tmp_path / "photos" / "vgg.pth").write_bytes(b"features.0.weight")
    refused = checkout.run(tmp_path / "photos")
    assert refused.returncode == 2
    assert "Missing" in refused.stdout and "Nothing was changed" in refused.stdout
    listed = [line.strip() for line in refused.stdout.splitlines() if line.startswith("  ")]
    assert listed[:2] == ["start_app.sh", "stop_app.sh"] and listed[2].startswith("weights") and len(listed) == 3
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["app.py", "vgg.pth"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frobnicate"], "unknown argument --frobnicate"),
        (["--dry-run", "--revert"], "do not go together"),
        (["second folder"], "one folder at a time"),
    ],
)
def test_wrong_arguments_get_a_sentence(checkout: Checkout, folder: Path, arguments: list[str], words: str) -> None:
    refused = checkout.run(folder, *arguments)
    assert refused.returncode == 2 and words in refused.stdout


def test_own_checkout_missing_folder_and_nothing_to_revert_are_said(checkout: Checkout, folder: Path) -> None:
    assert "is fftlama itself" in checkout.run(checkout.root).stdout
    assert "is no folder" in checkout.run(folder / "nowhere").stdout
    nothing = checkout.run(folder, "--revert")
    assert nothing.returncode == 0 and "no upgrade to revert" in nothing.stdout


def test_folder_that_holds_another_fftlama_is_refused(checkout: Checkout, folder: Path) -> None:
    (folder / "fftlama").mkdir()
    (folder / "fftlama" / "mine").write_text("mine")
    before = state_of(folder)
    refused = checkout.run(folder, "--no-start")
    assert refused.returncode == 2 and "not from this script" in refused.stdout
    assert state_of(folder) == before


def test_script_changed_after_the_upgrade_is_not_lost(checkout: Checkout, folder: Path) -> None:
    checkout.run(folder, "--no-start")
    (folder / "app.py").write_text("my own work\n")
    refused = checkout.run(folder, "--no-start")
    assert refused.returncode == 1 and "was changed after the upgrade" in refused.stdout
    reverted = checkout.run(folder, "--revert")
    assert reverted.returncode == 0 and "app.py.changed-after-upgrade" in reverted.stdout
    assert (folder / "app.py.changed-after-upgrade").read_text() == "my own work\n"


def test_damaged_backup_is_noticed_before_anything_is_changed(checkout: Checkout, folder: Path) -> None:
    checkout.run(folder, "--no-start")
    (folder / ".fftlama-upgrade" / "backup" / "app.py").write_text("damaged")
    between = state_of(folder)
    refused = checkout.run(folder, "--revert")
    assert refused.returncode == 1 and "is damaged" in refused.stdout
    assert {name: value for name, value in state_of(folder).items() if not name.endswith("at-work")} == {
        name: value for name, value in between.items() if not name.endswith("at-work")
    }


def test_libraries_that_cannot_be_had_leave_the_old_app_in_place(
    checkout: Checkout, folder: Path, tmp_path: Path
) -> None:
    """Without a Python that has the libraries and without network, nothing of the folder's own is touched."""
    lacking = Checkout(tmp_path / "lacking")
    shutil.copytree(checkout.root, lacking.root, symlinks=True, ignore=shutil.ignore_patterns(".venv"))
    before = state_of(folder)
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"}
    failed = lacking.run(folder, PIP_RETRIES="0", **offline)
    assert failed.returncode == 4, failed.stdout
    assert without_added(state_of(folder)) == before
    assert lacking.run(folder, "--revert").returncode == 0
    assert state_of(folder) == before


def test_current_folder_is_the_default(checkout: Checkout, folder: Path) -> None:
    script = str(checkout.root / "apply_optimization.sh")
    done = subprocess.run(["bash", script, "--dry-run"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and f"In {folder} this will" in done.stdout, done.stderr
