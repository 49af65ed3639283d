"""start_app.sh and stop_app.sh, run for real in a small checkout of its own.

The checkout has the real scripts, a real virtual environment that borrows this one's packages, and an app.py and a
config.py of twenty lines in place of the program's, so that each test takes a second or less and can make the app
misbehave. Where it is about settings, `take_own_settings` puts the program's config.py there.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from imaging import encode_png, open_photo
from tests.app.test_deploy import files_of_the_image, instructions
from tests.support.serving import ask_repair, follow, upload
from tests.support.small_settings import SMALL_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
SMALL_APP = """
import http.server, json, os, signal, socket, sys
from pathlib import Path
from urllib.parse import urlsplit
from config import load_settings

mode = Path("mode").read_text() if Path("mode").exists() else ""
if mode == "dies":
    sys.exit("the model file is broken")
if mode == "refuses":
    print("there is no such device")
    sys.exit(2)
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        is_known = urlsplit("//" + self.headers["Host"]).hostname in ("localhost", "127.0.0.1")
        self.send_response(503 if mode == "never ready" else 200 if is_known else 403)
        self.end_headers()
        health = {"pid": os.getpid(), "device": "cpu", "precision": "fp32", "profile": "cpu",
                  "profile_reason": "There is no card.", "weights": "none"}
        self.wfile.write(json.dumps(health).encode())

settings = load_settings()
if ":" in settings.host:
    http.server.HTTPServer.address_family = socket.AF_INET6
http.server.HTTPServer((settings.host, settings.port), Health).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FFTLAMA_")}
    for name in ("HOST", "PORT", "QUEUE", "TORCH_BACKEND"):
        kept.pop(name, None)
    return {**kept, **variables}


class SmallCheckout:
    """A folder with the scripts and a stand-in app, and a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()

    def take_own_settings(self) -> None:
        """Have the program's own settings."""
        shutil.copy2(ROOT / "config.py", self.folder / "config.py")

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of the scripts to its end; stdout holds both outputs."""
        return subprocess.run(
            [str(self.folder / script), *arguments],
            env=environment(**{"PORT": str(self.port), **variables}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )

    def state(self) -> dict[str, str]:
        path = self.folder / "run" / "app.state"
        lines = path.read_text().splitlines() if path.exists() else []
        return dict(line.split("=", 1) for line in lines)

    def pids(self) -> list[int]:
        """The processes that run this checkout's app.py."""
        if not Path("/proc/self").exists():
            return self._pids_by_ps()
        words = [str(self.folder / ".venv/bin/python"), str(self.folder / "app.py")]
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                if path.read_bytes().decode(errors="replace").split("\0")[:2] == words:
                    found.append(int(path.parent.name))
        return found

    def _pids_by_ps(self) -> list[int]:
        # macOS has no /proc, and a slim Linux no ps; -ww so that no command line is cut.
        listed = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
        lines = (line.split(maxsplit=1) for line in listed.stdout.splitlines())
        command = f"{self.folder / '.venv/bin/python'} {self.folder / 'app.py'}"
        return [int(words[0]) for words in lines if words[1:] == [command]]


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[SmallCheckout]:
    folder = tmp_path.resolve() / "a checkout"  # a blank in the path is what people have
    folder.mkdir()
    for name in ("start_app.sh", "stop_app.sh", "scripts", "requirements.lock"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy2(source, folder / name)
    (folder / "app.py").write_text(SMALL_APP)
    (folder / "config.py").write_text(SMALL_SETTINGS)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (packages,) = (folder / ".venv" / "lib").glob("python3*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    shutil.copy2(folder / "requirements.lock", folder / ".venv" / "installed-requirements.lock")
    small = SmallCheckout(folder)
    yield small
    for pid in small.pids():
        os.kill(pid, signal.SIGKILL)


def test_start_prints_what_people_need_and_a_second_start_finds_it_running(checkout: SmallCheckout) -> None:
    checkout.take_own_settings()
    first = checkout.run("start_app.sh")
    assert first.returncode == 0, first.stdout
    for words in (f"http://127.0.0.1:{checkout.port}", "cpu, fp32", "There is no card.", "logs/app-", "./stop_app.sh"):
        assert words in first.stdout
    pid = checkout.state()["pid"]
    second = checkout.run("start_app.sh", PORT=str(free_port()))
    assert second.returncode == 0, second.stdout
    assert f"already running (pid {pid})" in second.stdout
    assert f"http://127.0.0.1:{checkout.port}" in second.stdout
    assert checkout.pids() == [int(pid)]


def test_stop_ends_the_app_without_variables_and_a_second_stop_is_fine(checkout: SmallCheckout) -> None:
    checkout.run("start_app.sh")
    stopped = subprocess.run([checkout.folder / "stop_app.sh"], env=environment(), capture_output=True, text=True)
    assert stopped.returncode == 0, stopped.stderr
    assert "Stopped." in stopped.stdout
    assert checkout.pids() == [] and checkout.state() == {}
    again = checkout.run("stop_app.sh")
    assert again.returncode == 0 and "not running" in again.stdout


def test_app_outlives_the_terminal_that_started_it(checkout: SmallCheckout) -> None:
    checkout.run("start_app.sh")
    pid = int(checkout.state()["pid"])
    assert os.getsid(pid) == pid


def test_dead_child_shows_the_log_and_leaves_nothing_behind(checkout: SmallCheckout) -> None:
    (checkout.folder / "mode").write_text("dies")
    result = checkout.run("start_app.sh")
    assert result.returncode == 1
    assert "the model file is broken" in result.stdout
    assert "did not answer within" not in result.stdout, "the time-out is not waited for"
    assert checkout.pids() == [] and checkout.state() == {}
    assert not (checkout.folder / "run" / "start.lock").exists()


def test_a_setting_that_the_app_refuses_is_no_failure_of_the_app(checkout: SmallCheckout) -> None:
    (checkout.folder / "mode").write_text("refuses")
    result = checkout.run("start_app.sh")
    assert result.returncode == 2 and "there is no such device" in result.stdout
    assert checkout.pids() == [] and checkout.state() == {}


def test_an_app_that_is_slow_to_begin_is_waited_for(checkout: SmallCheckout) -> None:
    """A process that begins has another command line, or none for a moment: it was called ended, and waited for."""
    (packages,) = (checkout.folder / ".venv" / "lib").glob("python3*/site-packages")
    begins = "os.execv('/bin/sh', ['sh', '-c', 'sleep 3; exec \"$@\"', 'sh', *sys.orig_argv])"
    (packages / "slow.pth").write_text(
        "import os, sys; 'os.setsid' in str(sys.orig_argv) and 'SLOW' not in os.environ and "
        f"(os.environ.update(SLOW=''), {begins})\n"
    )
    result = checkout.run("start_app.sh")
    assert result.returncode == 0 and "fftlama runs at" in result.stdout, result.stdout
    assert len(checkout.pids()) == 1


def test_app_that_never_answers_is_ended_after_the_timeout(checkout: SmallCheckout) -> None:
    (checkout.folder / "mode").write_text("never ready")
    result = checkout.run("start_app.sh", START_TIMEOUT_S="2")
    assert result.returncode == 1
    assert "did not answer within 2 s" in result.stdout
    assert checkout.pids() == [] and checkout.state() == {}


def test_interrupted_start_leaves_nothing_behind(checkout: SmallCheckout) -> None:
    (checkout.folder / "mode").write_text("never ready")
    command = [str(checkout.folder / "start_app.sh")]
    script = subprocess.Popen(command, env=environment(PORT=str(checkout.port)), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not checkout.pids() and time.monotonic() < deadline:
        time.sleep(0.1)
    script.terminate()
    assert script.wait(timeout=20) == 143
    assert checkout.pids() == [] and checkout.state() == {}


def test_the_app_stays_where_nobody_reads_what_the_script_says(checkout: SmallCheckout) -> None:
    """As in `./start_app.sh | head -1`, where the script ends by a signal when it says that the app runs."""
    command = [str(checkout.folder / "start_app.sh")]
    script = subprocess.Popen(command, env=environment(PORT=str(checkout.port)), stdout=subprocess.PIPE, text=True)
    assert script.stdout is not None
    while "Starting fftlama" not in (line := script.stdout.readline()):
        assert line
    script.stdout.close()
    script.wait(timeout=30)
    assert len(checkout.pids()) == 1 and checkout.state()
    assert checkout.run("stop_app.sh").returncode == 0


@pytest.mark.parametrize("closed", [">&-", "2>&- >&- <&-"])
def test_closed_outputs_end_neither_a_start_nor_a_stop(checkout: SmallCheckout, closed: str) -> None:
    """The first word that could not be said ended the script: nothing was started, and nothing stopped."""
    for script, running in (("start_app.sh", 1), ("stop_app.sh", 0)):
        command = ["bash", "-c", f'exec "$0" {closed}', str(checkout.folder / script)]
        result = subprocess.run(command, env=environment(PORT=str(checkout.port)), capture_output=True, timeout=60)
        assert result.returncode == 0 and len(checkout.pids()) == running, result.stderr


def test_port_taken_by_another_program_is_said_with_its_pid(checkout: SmallCheckout) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", checkout.port))
        other.listen()
        result = checkout.run("start_app.sh")
    assert result.returncode == 5
    assert f"Port {checkout.port} is taken by" in result.stdout
    assert f"pid {os.getpid()} (" in result.stdout
    assert checkout.state() == {}


def test_address_of_another_machine_is_refused_in_words(checkout: SmallCheckout) -> None:
    checkout.take_own_settings()
    result = checkout.run("start_app.sh", FFTLAMA_HOST="192.0.2.7")
    assert result.returncode == 2
    assert "192.0.2.7" in result.stdout and "cannot be listened on here" in result.stdout


@pytest.mark.parametrize("host", ["x86_64-conda-linux-gnu", socket.gethostname()])
def test_host_that_a_shell_exports_does_not_break_the_start(checkout: SmallCheckout, host: str) -> None:
    checkout.take_own_settings()
    result = checkout.run("start_app.sh", HOST=host)
    assert result.returncode == 0, result.stdout
    assert f"HOST={host} is passed over" in result.stdout
    assert f"http://127.0.0.1:{checkout.port}" in result.stdout


def test_crashed_app_is_noticed_and_started_again(checkout: SmallCheckout) -> None:
    checkout.run("start_app.sh")
    crashed = int(checkout.state()["pid"])
    os.kill(crashed, signal.SIGKILL)
    while checkout.pids():
        time.sleep(0.05)
    result = checkout.run("start_app.sh")
    assert result.returncode == 0, result.stdout
    assert f"process {crashed} is gone" in result.stdout
    assert checkout.state()["pid"] != str(crashed)


def test_reused_pid_is_never_stopped(checkout: SmallCheckout) -> None:
    # A process whose command line even names app.py, as an editor's would.
    editor = subprocess.Popen(["tail", "-f", str(checkout.folder / "app.py")], stdout=subprocess.DEVNULL)
    try:
        (checkout.folder / "run").mkdir()
        (checkout.folder / "run" / "app.state").write_text(f"pid={editor.pid}\nurl=http://127.0.0.1:1\n")
        result = checkout.run("stop_app.sh")
        assert result.returncode == 0
        assert f"Process {editor.pid} is another program" in result.stdout
        assert editor.poll() is None
        assert checkout.state() == {}
    finally:
        editor.kill()
        editor.wait()


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="only /proc says where a process runs")
def test_an_app_whose_folder_was_renamed_is_found_and_stopped(checkout: SmallCheckout) -> None:
    """It was called another program, its record removed, and went on with the port."""
    assert checkout.run("start_app.sh").returncode == 0
    (pid,) = checkout.pids()
    moved = SmallCheckout(checkout.folder.rename(checkout.folder.with_name("renamed")))
    try:
        assert "already running" in moved.run("start_app.sh").stdout
        assert "Stopped." in moved.run("stop_app.sh").stdout
        assert not Path(f"/proc/{pid}/cwd").exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_app_that_ignores_term_is_killed_and_said_so(checkout: SmallCheckout) -> None:
    (checkout.folder / "mode").write_text("deaf")
    checkout.run("start_app.sh")
    result = checkout.run("stop_app.sh", STOP_TIMEOUT_S="1")
    assert result.returncode == 0
    assert "did not end within 1 s of SIGTERM; killing it" in result.stdout
    assert checkout.pids() == []


def test_an_app_of_another_user_is_not_waited_for(checkout: SmallCheckout) -> None:
    """It said after a while that it kills what it may not even ask to end."""
    checkout.run("start_app.sh")
    result = checkout.run("stop_app.sh", **{"BASH_FUNC_kill%%": "() { return 1; }"})
    assert result.returncode == 1 and "was it started by another user?" in result.stdout
    assert "SIGTERM" not in result.stdout and len(checkout.pids()) == 1


def test_two_starts_at_once_start_one_app(checkout: SmallCheckout) -> None:
    command = [str(checkout.folder / "start_app.sh")]
    variables = environment(PORT=str(checkout.port))
    scripts = [subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [script.communicate(timeout=60)[0] for script in scripts]
    assert [script.returncode for script in scripts] == [0, 0, 0], outputs
    assert len(checkout.pids()) == 1
    assert sum("already running" in output for output in outputs) == 2


def test_lock_of_a_killed_start_does_not_block(checkout: SmallCheckout) -> None:
    lock = checkout.folder / "run" / "start.lock"
    lock.mkdir(parents=True)
    gone = subprocess.Popen(["true"])
    gone.wait()
    (lock / "pid").write_text(f"{gone.pid}\n")
    assert checkout.run("start_app.sh").returncode == 0


def test_lock_of_a_killed_start_with_our_own_pid_does_not_block(checkout: SmallCheckout) -> None:
    """In a container that is started again everything may have the pid it had: it waited for itself."""
    lock = checkout.folder / "run" / "start.lock"
    lock.mkdir(parents=True)
    script = 'echo $$ >"$1/run/start.lock/pid"; exec bash "$1/start_app.sh" --install-only'
    command = ["bash", "-c", script, "bash", str(checkout.folder)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "is at work" not in result.stdout


@pytest.mark.parametrize("host", ["::1", "127.0.0.2"])
def test_health_is_asked_by_a_name_that_the_app_always_answers_to(checkout: SmallCheckout, host: str) -> None:
    """`Host: ::1:7860` names no host, and with `allowed_hosts` the address itself may be refused."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError:
        pytest.skip(f"this machine has no {host}")
    result = checkout.run("start_app.sh", HOST=host, START_TIMEOUT_S="20")
    assert result.returncode == 0, result.stdout


def test_variables_that_people_export_break_no_script(checkout: SmallCheckout) -> None:
    """With CDPATH `cd` prints where it went; with PYTHONSAFEPATH Python does not look beside the script."""
    variables = environment(PORT=str(checkout.port), CDPATH=".:/", PYTHONSAFEPATH="1")
    for script in ("start_app.sh", "stop_app.sh"):
        command = ["bash", f"{checkout.folder.name}/{script}"]
        result = subprocess.run(
            command, cwd=checkout.folder.parent, env=variables, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""


def test_wrong_setting_is_refused_with_the_nearest_name(checkout: SmallCheckout) -> None:
    checkout.take_own_settings()
    result = checkout.run("start_app.sh", FFTLAMA_WEIGTHS="big-lama")
    assert result.returncode == 2
    assert "'weigths'" in result.stdout and "'weights'" in result.stdout
    assert checkout.run("start_app.sh", "--frobnicate").returncode == 2


@pytest.mark.parametrize("value", ["abc", "1.5", "-3", "08", "12345678901234567890"])
def test_wrong_seconds_are_refused_in_words(checkout: SmallCheckout, value: str) -> None:
    """bash said "unbound variable", and the app that had been started went on or was ended."""
    for script, name in (("start_app.sh", "START_TIMEOUT_S"), ("stop_app.sh", "STOP_TIMEOUT_S")):
        refused = checkout.run(script, **{name: value})
        told = f"Error: {name} must be a whole number of seconds from 0 to 999999, not {value}\n"
        assert (refused.returncode, refused.stdout) == (2, told)
    assert checkout.state() == {}


def test_install_only_starts_nothing(checkout: SmallCheckout) -> None:
    result = checkout.run("start_app.sh", "--install-only")
    assert result.returncode == 0, result.stdout
    assert checkout.pids() == []
    assert os.access(checkout.folder / ".venv" / "bin" / "fftlama", os.X_OK)


def test_console_script_works_from_a_path_with_a_blank(checkout: SmallCheckout, tmp_path: Path) -> None:
    (checkout.folder / "cli").mkdir()
    (checkout.folder / "cli/main.py").write_text("import sys\ndef main():\n    print(sys.argv[1:])\n    return 7\n")
    checkout.run("start_app.sh", "--install-only")
    command = [str(checkout.folder / ".venv" / "bin" / "fftlama"), "repair", "a b"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (7, "['repair', 'a b']\n"), result.stderr


def test_console_script_of_a_shared_venv_runs_the_checkout_it_was_called_by(
    checkout: SmallCheckout, tmp_path: Path
) -> None:
    """Two checkouts may share .venv by a link; the script always ran the one that had written it last.

    An older one has `main` alone.
    """
    other = tmp_path / "other"
    for folder, name in ((checkout.folder, "main"), (other, "run")):
        (folder / "cli").mkdir(parents=True)
        (folder / "cli/main.py").write_text(f"main = None\ndef {name}():\n    print({folder.name!r})\n")
    checkout.run("start_app.sh", "--install-only")
    (other / ".venv").symlink_to(checkout.folder / ".venv")
    (tmp_path / "fftlama").symlink_to(checkout.folder / ".venv/bin/fftlama")
    called = {
        checkout.folder / ".venv/bin/fftlama": "a checkout",
        other / ".venv/bin/fftlama": "other",
        tmp_path / "fftlama": "a checkout",
    }
    for command, ran in called.items():
        assert subprocess.run([command], cwd=tmp_path, capture_output=True, text=True).stdout == f"{ran}\n", command


def test_the_real_program_of_the_image_starts_repairs_and_stops(checkout: SmallCheckout, tmp_path: Path) -> None:
    """With what the image holds and no more; its health check sees it, behind a proxy too."""
    for name in files_of_the_image():
        (checkout.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout.folder / name)
    assert json.loads(dict(instructions())["CMD"]) == ["python", "app.py"], "as start_app.sh does"
    before = files_below(checkout.folder)
    check = json.loads(dict(instructions())["HEALTHCHECK"].split("CMD ")[1])
    check = [sys.executable if word == "python" else word.replace("7860", str(checkout.port)) for word in check]
    assert subprocess.run(check, capture_output=True, timeout=30).returncode != 0, "nobody listens yet"
    variables = {
        "FFTLAMA_DEVICE": "cpu", "FFTLAMA_DATA_DIR": str(tmp_path / "photos"), "PYTHONDONTWRITEBYTECODE": "1",
        "FFTLAMA_OUTPUTS_DIR": str(tmp_path / "outputs"),
    }  # fmt: skip
    started = checkout.run("start_app.sh", **variables)
    assert started.returncode == 0, started.stdout
    assert "lama-compact" in started.stdout
    url = f"http://127.0.0.1:{checkout.port}"
    file = (ROOT / "tests" / "data" / "flower.png").read_bytes()
    photo = open_photo(file).image
    behind_a_proxy = environment(http_proxy="http://127.0.0.1:9", no_proxy="")
    assert subprocess.run(check, env=behind_a_proxy, capture_output=True, timeout=30).returncode == 0
    with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client:
        assert client.get("/").status_code == 200
        health = client.get("/health").json()
        assert health["status"] == "ok" and health["weights"] and health["profile_reason"] and health["precision"]
        square = np.zeros((120, 160, 3), np.uint8)
        square[40:80, 40:90] = 255
        answer = client.post("/api/v1/repair", files={"image": file, "mask": encode_png(square, fast=True)})
        assert answer.status_code == 200, answer.text
        assert open_photo(answer.content).image.shape == (120, 160, 3)
        view = follow(client, ask_repair(client, upload(client, file)["image_id"], dilate_px=0))
        assert view["state"] == "done", view
        left, top, right, bottom = view["patch"]["box"]
        repaired = open_photo(client.get(f"/api/v1/images/{view['image_id']}").content).image
    rows, columns = np.ogrid[: photo.shape[0], : photo.shape[1]]
    hole = np.hypot(columns + 0.5 - 20, rows + 0.5 - 20) <= 5
    assert np.array_equal(repaired[~hole], photo[~hole]), "the known region is exact"
    assert (repaired[hole] != photo[hole]).any()
    assert left <= 15 and top <= 15 and right >= 25 and bottom >= 25
    pid = int(checkout.state()["pid"])
    if (maps := Path(f"/proc/{pid}/maps")).exists():  # only Linux tells which libraries a process has loaded
        loaded = maps.read_text()
        assert "libtorch" in loaded and "torchvision" not in loaded, "its import takes seconds, and nothing needs it"
    stopped = checkout.run("stop_app.sh")
    assert stopped.returncode == 0 and "killing" not in stopped.stdout
    assert pid not in checkout.pids()
    log = next((checkout.folder / "logs").glob("app-*.log")).read_text()
    assert "Traceback" not in log
    written = {name.split("/")[0] for name in files_below(checkout.folder) - before}
    assert written == {"logs", "run"}, "the program writes nothing beside itself, and the scripts what they say"
    worker = [sys.executable, "-m", "cli.main", "worker", "--help"]
    told = subprocess.run(worker, cwd=checkout.folder, env=environment(**variables), capture_output=True, timeout=60)
    assert told.returncode == 0, told.stderr


def files_below(folder: Path) -> set[str]:
    """The files of a checkout, without what its environment and the scripts' own helpers compile."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if ".venv" not in path.parts}


def stub_pythons(folder: Path, body: str) -> str:
    """Write python3, python3.11, ... that run `body`, and return a PATH that finds them first."""
    folder.mkdir()
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        stub = folder / name
        stub.write_text(f"#!/bin/sh\n{body}\n")
        stub.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_no_usable_python_is_said_in_a_sentence(checkout: SmallCheckout, tmp_path: Path) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    result = checkout.run("start_app.sh", PATH=stub_pythons(tmp_path / "old", 'echo "Python 3.9.2"; exit 1'))
    assert result.returncode == 3
    assert "Python 3.11, 3.12 or 3.13 is needed" in result.stdout and "Python 3.9.2" in result.stdout


def test_missing_ensurepip_names_the_package_to_install(checkout: SmallCheckout, tmp_path: Path) -> None:
    """Debian packages ensurepip apart: `python3 -m venv` fails there until python3-venv is installed."""
    shutil.rmtree(checkout.folder / ".venv")
    refuse = f'case "$*" in *ensurepip*|"-m venv"*) exit 1 ;; esac\nexec "{sys.executable}" "$@"'
    result = checkout.run("start_app.sh", PATH=stub_pythons(tmp_path / "split", refuse))
    assert result.returncode == 3
    assert "ensurepip is missing" in result.stdout and "-venv" in result.stdout
    assert not (checkout.folder / ".venv").exists()
