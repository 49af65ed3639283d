"""apply_optimization.sh over folders as people have them: what it puts in, what it keeps, and that it all goes back."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests.support.original_folders import ADDRESSES, SHAPES, state_of
from tests.support.serving import ROOT, clean_environment, free_port
from tests.support.small_fftlama import Checkout, without_added

REPLACED = {"app.py", "start_app.sh", "stop_app.sh"}
FOLDERS = pytest.mark.parametrize("shape", SHAPES)


@FOLDERS
def test_upgrade_changes_three_files_and_revert_gives_back_every_byte(
    fftlama: Checkout, folder: Path, shape: str
) -> None:
    before, around_before = state_of(folder), state_of(folder.parent)
    upgraded = fftlama.run(folder, "--no-start")
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
    reverted = fftlama.run(folder, "--revert")
    assert reverted.returncode == 0, reverted.stdout
    assert state_of(folder) == before
    assert state_of(folder.parent) == around_before


@FOLDERS
def test_second_run_changes_nothing(quick_fftlama: Checkout, folder: Path, shape: str) -> None:
    quick_fftlama.run(folder, "--no-start")
    first = {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in folder.rglob("*")}
    again = quick_fftlama.run(folder)
    assert again.returncode == 0 and "nothing to change" in again.stdout, again.stdout
    assert {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in folder.rglob("*")} == first


@FOLDERS
def test_dry_run_says_everything_and_touches_nothing(fftlama: Checkout, folder: Path, shape: str) -> None:
    before = state_of(folder)
    said = fftlama.run(folder, "--dry-run", "--celery")
    assert said.returncode == 0, said.stdout
    host, port = ADDRESSES[shape]
    for words in (f"{host}, port {port}", "link the weights", "app.py start_app.sh stop_app.sh", "Celery", "--revert"):
        assert words in said.stdout
    assert state_of(folder) == before


def test_folder_starts_and_stops_by_its_own_scripts(fftlama: Checkout, folder: Path) -> None:
    """The upgrade ends in the folder's own `stop_app.sh && start_app.sh`; what runs has the folder's settings."""
    port = free_port()
    (folder / "app.py").write_text(f'demo.launch(server_name="127.0.0.1", server_port={port})\n')
    upgraded = fftlama.run(folder)
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


def test_libraries_are_found_by_who_has_no_home(quick_fftlama: Checkout, folder: Path) -> None:
    """Where the old script names a conda environment, homes are looked through; an unset HOME ended the search."""
    (folder / "start_app.sh").write_text("#!/bin/bash\nsource activate lama\npython app.py\n")
    homeless = {name: value for name, value in quick_fftlama.environment.items() if name != "HOME"}
    said = subprocess.run(
        quick_fftlama.command(folder, "--dry-run"), env=homeless, capture_output=True, text=True, timeout=120
    )
    assert said.returncode == 0 and said.stderr == "" and "use the libraries" in said.stdout


def test_revert_stops_what_runs_and_keeps_results(quick_fftlama: Checkout, folder: Path) -> None:
    (folder / "app.py").write_text(f'demo.launch(server_name="127.0.0.1", server_port={free_port()})\n')
    before = state_of(folder)
    assert quick_fftlama.run(folder).returncode == 0
    state = dict(line.split("=", 1) for line in (folder / "fftlama/run/app.state").read_text().splitlines())
    (folder / "outputs" / "outputs_20260101010101.jpg").write_bytes(b"new")
    reverted = quick_fftlama.run(folder, "--revert")
    assert reverted.returncode == 0, reverted.stdout
    command_line = Path(f"/proc/{state['pid']}/cmdline")  # empty where nobody has asked for the exit code yet
    assert not command_line.exists() or command_line.read_bytes() == b""
    after = state_of(folder)
    assert after.pop("outputs/outputs_20260101010101.jpg")
    assert after == before


def test_old_app_is_stopped_by_its_pid_and_others_are_left(
    quick_fftlama: Checkout, folder: Path, tmp_path: Path
) -> None:
    (folder / "app.py").write_text("import time\ntime.sleep(600)\n")
    (tmp_path / "other").mkdir()
    shutil.copy2(folder / "app.py", tmp_path / "other" / "app.py")
    old = subprocess.Popen([sys.executable, "app.py"], cwd=folder)
    other = subprocess.Popen([sys.executable, "app.py"], cwd=tmp_path / "other")
    try:
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(old.wait, 60)  # until somebody asks for its exit code, it would seem to be there
            upgraded = quick_fftlama.run(folder, "--no-start")
            assert f"Stopping the old app (pid {old.pid})" in upgraded.stdout
            assert ended.result() == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (old, other):
            process.kill()
            process.wait()


def test_newer_program_replaces_the_old_one_and_keeps_settings(
    quick_fftlama: Checkout, folder: Path, tmp_path: Path
) -> None:
    before = state_of(folder)
    newer = Checkout(tmp_path / "newer")
    shutil.copytree(quick_fftlama.root, newer.root, symlinks=True)
    (newer.root / "cli" / "added.py").write_text("x = 1\n")
    for name in ("config.py", "requirements.lock"):  # of another lock what was borrowed stayed, and ended it with 4
        (newer.root / name).write_text((newer.root / name).read_text() + "\n# newer\n")
    quick_fftlama.run(folder, "--no-start")
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


def test_unknown_folder_is_refused_with_all_that_is_missing(fftlama: Checkout, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "app.py").write_text("")
    (tmp_path / "photos" / "vgg.pth").write_bytes(b"features.0.weight")
    refused = fftlama.run(tmp_path / "photos")
    assert refused.returncode == 2
    assert "Missing" in refused.stdout and "Nothing was changed" in refused.stdout
    listed = [line.strip() for line in refused.stdout.splitlines() if line.startswith("  ")]
    assert listed[:2] == ["start_app.sh", "stop_app.sh"] and listed[2].startswith("weights") and len(listed) == 3
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["app.py", "vgg.pth"]


@pytest.mark.skipif(shutil.which("setpriv") is None and os.geteuid() == 0, reason="root can read everything")
def test_weights_that_cannot_be_read_are_not_called_missing(fftlama: Checkout, folder: Path) -> None:
    (folder / "best.ckpt").chmod(0)
    (folder / "closed").mkdir(0)
    (folder / "line\nbreak.pth").write_bytes(b"convl2l")
    powers = "--bounding-set=-dac_override,-dac_read_search,-fowner"
    without = ["setpriv", powers] if os.geteuid() == 0 else []
    words = [*without, *fftlama.command(folder)]
    done = subprocess.run(words, env=fftlama.environment, capture_output=True, text=True)
    (folder / "closed").chmod(0o755)
    assert done.returncode == 2 and "Missing" not in done.stderr and "Nothing was changed" in done.stderr
    assert "has no weights that" in done.stderr
    listed = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    assert sorted(listed) == [r"$'line\nbreak.pth'", "best.ckpt", "closed"]
    assert not (folder / "fftlama").exists()


@pytest.mark.parametrize("tool", ["cp", "cat"])
def test_an_upgrade_that_broke_off_says_so_and_goes_back_on_a_full_disk(
    quick_fftlama: Checkout, folder: Path, tmp_path: Path, tool: str
) -> None:
    """The last line was what a tool says of a full disk, and to give the folder back took room that was not there."""
    before = state_of(folder)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / tool).write_text('#!/bin/sh\necho "write error: No space left on device" >&2\nexit 1\n')
    (tools / tool).chmod(0o755)
    full = {"PATH": f"{tools}:{os.environ['PATH']}"}
    broken = quick_fftlama.run(folder, "--no-start", **full)
    assert broken.returncode == 1 and "the upgrade broke off" in broken.stdout.splitlines()[-1], broken.stdout
    assert without_added(state_of(folder)) == before
    assert quick_fftlama.run(folder, "--no-start").returncode == 0
    reverted = quick_fftlama.run(folder, "--revert", **full)
    assert reverted.returncode == 0, reverted.stdout
    assert state_of(folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frobnicate"], "unknown argument --frobnicate"),
        (["--dry-run", "--revert"], "do not go together"),
        (["second folder"], "one folder at a time"),
    ],
)
def test_wrong_arguments_get_a_sentence(fftlama: Checkout, folder: Path, arguments: list[str], words: str) -> None:
    refused = fftlama.run(folder, *arguments)
    assert refused.returncode == 2 and words in refused.stdout


def test_own_checkout_missing_folder_and_nothing_to_revert_are_said(fftlama: Checkout, folder: Path) -> None:
    assert "is fftlama itself" in fftlama.run(fftlama.root).stdout
    assert "is no folder" in fftlama.run(folder / "nowhere").stdout
    nothing = fftlama.run(folder, "--revert")
    assert nothing.returncode == 0 and "no upgrade to revert" in nothing.stdout


def test_folder_that_holds_another_fftlama_is_refused(fftlama: Checkout, folder: Path) -> None:
    (folder / "fftlama").mkdir()
    (folder / "fftlama" / "mine").write_text("mine")
    before = state_of(folder)
    refused = fftlama.run(folder, "--no-start")
    assert refused.returncode == 2 and "not from this script" in refused.stdout
    assert state_of(folder) == before


def test_script_changed_after_the_upgrade_is_not_lost(quick_fftlama: Checkout, folder: Path) -> None:
    quick_fftlama.run(folder, "--no-start")
    (folder / "app.py").write_text("my own work\n")
    refused = quick_fftlama.run(folder, "--no-start")
    assert refused.returncode == 1 and "was changed after the upgrade" in refused.stdout
    reverted = quick_fftlama.run(folder, "--revert")
    assert reverted.returncode == 0 and "app.py.changed-after-upgrade" in reverted.stdout
    assert (folder / "app.py.changed-after-upgrade").read_text() == "my own work\n"


def test_the_readme_in_the_folder_leads_to_its_documents() -> None:
    """What README.md and the pages it leads to show of docs/ comes along; what is in other folders does not."""
    command = f'ROOT="{ROOT}"; . "$ROOT/scripts/upgrade.sh"; program_files'
    listed = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    files = {os.path.normpath(name) for name in listed.split("\0")}
    for readme in ("README.md", "README.zh-CN.md"):
        for link in re.findall(r"\]\((docs/[^)#]+)", (ROOT / readme).read_text(encoding="utf-8")):
            assert link in files
    assert {"docs/jobs/a-wire.webp", "docs/grafana-dashboard.json"} < files
    assert not any(name.startswith(("tests", "bench", "training")) or name.endswith(".pyc") for name in files)


def test_damaged_backup_is_noticed_before_anything_is_changed(quick_fftlama: Checkout, folder: Path) -> None:
    quick_fftlama.run(folder, "--no-start")
    (folder / ".fftlama-upgrade" / "backup" / "app.py").write_text("damaged")
    between = state_of(folder)
    refused = quick_fftlama.run(folder, "--revert")
    assert refused.returncode == 1 and "is damaged" in refused.stdout
    assert {name: value for name, value in state_of(folder).items() if not name.endswith("at-work")} == {
        name: value for name, value in between.items() if not name.endswith("at-work")
    }


def python_that_lends_its_pip(folder: Path) -> Path:
    """Return a Python without libraries whose environments borrow a pip; to unpack one takes five seconds."""
    folder.mkdir()
    stub, base, pip = folder / "python3", Path(sys.executable).resolve(), Path(sysconfig.get_path("purelib"), "pip")
    lend = f'"{base}" -m venv --without-pip "$3" && ln -s "{pip}" "$3"/lib/python3.*/site-packages/'
    stub.write_text(f'#!/bin/sh\ncase "$1 $2" in "-m venv") {lend} ;; *) exec "{base}" "$@" ;; esac\n')
    stub.chmod(0o755)
    return stub


def test_libraries_that_cannot_be_had_leave_the_old_app_in_place(
    fftlama: Checkout, folder: Path, tmp_path: Path
) -> None:
    """Without a Python that has the libraries and without network, nothing of the folder's own is touched."""
    lacking = Checkout(tmp_path / "lacking")
    shutil.copytree(fftlama.root, lacking.root, symlinks=True, ignore=shutil.ignore_patterns(".venv"))
    before = state_of(folder)
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"}
    # Who runs the tests may have an environment in use, whose Python would be found there, and folders of another's.
    path = [part for part in os.environ["PATH"].split(":") if not os.access(f"{part}/../pyvenv.cfg", os.F_OK)]
    path.insert(0, str(python_that_lends_its_pip(tmp_path / "lends").parent))
    failed = lacking.run(folder, PIP_RETRIES="0", PATH=":".join(path), **offline)
    assert failed.returncode == 4 and "pip could not install uv" in failed.stdout, failed.stdout
    assert "No matching distribution found for uv" in failed.stdout, failed.stdout
    assert without_added(state_of(folder)) == before
    assert lacking.run(folder, "--revert").returncode == 0
    assert state_of(folder) == before


def test_current_folder_is_the_default(fftlama: Checkout, folder: Path) -> None:
    script = str(fftlama.root / "apply_optimization.sh")
    done = subprocess.run(["bash", script, "--dry-run"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and f"In {folder} this will" in done.stdout, done.stderr


def test_folder_is_the_one_that_is_named_whatever_cdpath_says(fftlama: Checkout, folder: Path, tmp_path: Path) -> None:
    """`cd` looks through CDPATH first: another folder of that name would have been upgraded."""
    other = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, other, symlinks=True)
    variables = {**fftlama.environment, "CDPATH": str(other.parent)}
    command = ["bash", str(fftlama.root / "apply_optimization.sh"), "--dry-run", folder.name]
    done = subprocess.run(command, cwd=folder.parent, env=variables, capture_output=True, text=True)
    assert done.returncode == 0 and f"In {folder} this will" in done.stdout, done.stderr
