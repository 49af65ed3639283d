"""Where the time of the tests goes: seconds and processor time of each room, file and fixture.

    python bench/time_of_tests.py [ROOM ...] [--before FILE] [--name NAME] [--out FOLDER]
    python bench/time_of_tests.py --starts
    python bench/time_of_tests.py --of COMMAND ...

Every room (a folder of tests/, its kernels apart) runs in one process on one thread, one test after the other. Counted
are the seconds that pass, which other programs on the machine lengthen, and the processor time of that process and
all that its tests start, which they lengthen by little. What pytest takes to begin is in neither. On two cores the
whole takes about half of the larger sum. Rooms that are not named keep the figures that NAME.md has already.

Prints a Markdown table of the rooms, those of FILE (an earlier result) beside them, then the slowest files, tests and
fixtures, then one JSON line, and writes it all to FOLDER/NAME.md. A test's processor time is all that passed in all of
these processes, servers and Chromium too, from the end of the test before to its own. Exit status 1 when a test failed.
`--starts` prints instead what a server of the tests costs until it answers, forked and as a script of its own in turns,
and a visit of the page in the tab that was left last, as the tests have it, and in a new one, in Chromium and in its
headless shell. `--of` runs a command, e.g. ./run_tests.sh, and prints the seconds and the processor time of all that it
started, of processes too whose parent ended before them; the shell's `time` leaves those out.
"""

import argparse
import contextlib
import ctypes
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results"
SETTLED_S, IDLE_S = 6.0, 5.0
KERNELS = ("lama/kernels", "tensor_ops/kernels", "training/kernels")
MOST_ROWS = 25
TURNS = 5
SET_CHILD_SUBREAPER = 36  # of prctl(2)

Figures = dict[str, float]


class Stopwatch:
    """A plugin of pytest that adds up where time goes, and writes it to a file at the end."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.tests = 0
        self.files: dict[str, float] = defaultdict(float)
        self.fixtures: dict[str, float] = defaultdict(float)
        self.slowest: dict[str, float] = defaultdict(float)
        self.dearest: dict[str, float] = defaultdict(float)
        self.seen_cpu_s = 0.0
        self.began_s = self.began_cpu_s = 0.0

    def pytest_collection_finish(self) -> None:
        self.began_s, self.began_cpu_s = time.monotonic(), cpu_of_tree(os.getppid())
        self.seen_cpu_s = self.began_cpu_s

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        began_s = time.monotonic()
        try:
            return (yield)
        finally:
            self.fixtures[fixturedef.argname] += time.monotonic() - began_s

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tests += report.when == "call"
        self.files[report.nodeid.split("::")[0]] += report.duration
        self.slowest[report.nodeid] += report.duration
        if report.when == "teardown":
            now_s = cpu_of_tree(os.getppid())
            self.dearest[report.nodeid] += now_s - self.seen_cpu_s
            self.seen_cpu_s = now_s

    def pytest_sessionfinish(self) -> None:
        self.seconds = time.monotonic() - self.began_s

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Write the figures, when all that tests started has ended and been waited for."""
        spent_s = cpu_of_tree(os.getppid()) - self.began_cpu_s
        figures = {
            "tests": self.tests, "s": self.seconds, "cpu_s": spent_s, "files": self.files,
            "fixtures": self.fixtures, "slowest": self.slowest, "dearest": self.dearest,
        }  # fmt: skip
        self.file.write_text(json.dumps(figures), encoding="utf-8")


def run_counted(command: Sequence[str], **options: Any) -> int:
    """Run a command and return its exit status.

    Descendants whose parent has ended become this process's children, so that their processor time is not lost.
    """
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1)
    started = subprocess.Popen(command, **options)
    while True:
        pid, status = os.wait()
        if pid == started.pid:
            started.returncode = os.waitstatus_to_exitcode(status)
            return started.returncode


def pytest_configure(config: pytest.Config) -> None:
    """Be a plugin of pytest's (`-p bench.time_of_tests`), told by TIME_OF_TESTS where to write."""
    config.pluginmanager.register(Stopwatch(Path(os.environ["TIME_OF_TESTS"])))


def all_rooms() -> list[str]:
    """Return the folders of tests/ that have tests, the kernels' each for itself."""
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    return sorted(folders - {"."})


def measure(room: str) -> tuple[dict[str, Any], bool]:
    """Run the tests of a room and return its figures and whether all passed."""
    file = Path(os.environ.get("TMPDIR", "/tmp")) / f"time-of-tests-{os.getpid()}.json"
    is_interpreted = room in KERNELS
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TIME_OF_TESTS": str(file)}
    if is_interpreted:
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    others = [f"--ignore=tests/{kernels}" for kernels in KERNELS if not is_interpreted]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "bench.time_of_tests", *others, f"tests/{room}"]
    ended = run_counted(command, cwd=ROOT, env=environment)
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return figures, ended == 0


def read_rooms(file: Path) -> dict[str, dict[str, Any]]:
    """Return the figures of the rooms in an earlier result, none if there is no such file."""
    if not file.is_file():
        return {}
    line = next(line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith('{"'))
    rooms: dict[str, dict[str, Any]] = json.loads(line)["rooms"]
    return rooms


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table with its first column to the left."""
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    return "\n".join(lines + ["| " + " | ".join(str(value) for value in row) + " |" for row in rows])


def rooms_table(rooms: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]]) -> str:
    """Return one row a room and their sum, with the earlier figures if there are some."""
    keys = ("tests", "s", "cpu_s")
    heads = ["room", *(f"{key} {when}".rstrip() for when in (("before", "now") if before else ("",)) for key in keys)]
    rows: list[list[object]] = []
    sums = [0.0] * (len(heads) - 1)
    for room in sorted(rooms | before):
        found = [figures.get(room) for figures in ([before, rooms] if before else [rooms])]
        values = [figures[key] if figures else None for figures in found for key in keys]
        rows.append([room, *("" if value is None else round(value) for value in values)])
        if all(found):
            sums = [total + (value or 0) for total, value in zip(sums, values, strict=True)]
    name = "**those measured twice**" if before else "**all**"
    return table(heads, [*rows, [name, *(round(value) for value in sums)]])


def slowest_table(rooms: dict[str, dict[str, Any]], kind: str, head: str, unit: str = "s") -> str:
    """Return what took most of one kind ("files", "fixtures", "slowest" or "dearest")."""
    sums: dict[str, float] = defaultdict(float)
    for figures in rooms.values():
        for name, spent_s in figures.get(kind, {}).items():
            sums[name] += spent_s
    most = sorted(sums.items(), key=lambda pair: -pair[1])[:MOST_ROWS]
    return table([head, unit], [[f"`{name}`", round(spent_s, 1)] for name, spent_s in most])


def kept(figures: dict[str, Any]) -> dict[str, Any]:
    """Return a room's figures with the names that took a second or more."""
    short = {
        kind: {name: round(spent_s, 1) for name, spent_s in figures[kind].items() if spent_s >= 1}
        for kind in ("files", "fixtures", "slowest", "dearest")
    }
    return {"tests": figures["tests"], "s": round(figures["s"], 1), "cpu_s": round(figures["cpu_s"], 1), **short}


def cpu_of_tree(pid: int) -> float:
    """Return the processor time of a process and of its descendants that there are, and of those waited for."""
    children: dict[int, list[int]] = defaultdict(list)
    spent: dict[int, float] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = file.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            children[int(fields[1])].append(int(file.parent.name))
            spent[int(file.parent.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def of(one: int) -> float:
        return spent.get(one, 0.0) + sum(of(child) for child in children[one])

    return of(pid)


def idle_cpu_s(pid: int) -> float:
    """Return the processor time that a process and its descendants take in a second when they have come to rest."""
    time.sleep(SETTLED_S)
    began_s = cpu_of_tree(pid)
    time.sleep(IDLE_S)
    return (cpu_of_tree(pid) - began_s) / IDLE_S


Spent = dict[tuple[str, str], list[float]]


def measure_servers(spent: Spent) -> None:
    """Add what servers cost until they answer, forked and as scripts of their own, in turns."""
    from tests.support.serving import RunningServer

    with tempfile.TemporaryDirectory() as folder:
        for turn in range(TURNS + 1):  # the first one lets the zygote import
            for kind in ("api", "page", "celery"):
                for is_forked in (True, False):
                    settings = {"redis_url": "redis://127.0.0.1:9"} if kind == "celery" else {}
                    place = Path(folder) / f"{kind}-{turn}-{is_forked}"
                    server = RunningServer(place, kind=kind, settings=settings, is_forked=is_forked).start()
                    assert server.process is not None
                    if turn:
                        which = "forked" if is_forked else "a script of its own"
                        spent[f"a server ({kind}) until it answers", which].append(cpu_of_tree(server.process.pid))
                    server.stop()


def measure_visits(spent: Spent) -> None:
    """Add what a visit of the page costs, in the tab that was left last and in a new one, in turns.

    And a visit with a photo that is opened and repaired, in Chromium and in its headless shell. And a second in which
    nobody touches anything, of the server alone and of server and browser with the page open.
    """
    from tests.support.page_driver import (
        CHROMIUM_NAMES,
        SHELL_NAMES,
        Person,
        launch_chromium,
        open_browser,
        photo_file,
    )
    from tests.support.page_profiles import Profile
    from tests.support.serving import RunningServer

    browsers = {"Chromium": CHROMIUM_NAMES, "headless shell": SHELL_NAMES}
    with tempfile.TemporaryDirectory() as folder:
        server = RunningServer(Path(folder), kind="page").start()
        assert server.process is not None
        spent["a second of an idle server (page)", "never asked"].append(idle_cpu_s(server.process.pid))
        for name, names in browsers.items():
            if not any(map(shutil.which, names)):
                continue
            with launch_chromium(names) as browser:
                kept, other = Profile(open_browser(browser)), open_browser(browser)
                for turn in range(TURNS + 2):  # after two, scripts are compiled
                    for is_kept in (True, False):
                        began_s = cpu_of_tree(os.getpid())
                        person = kept.visit(server.url) if is_kept else Person(other, server.url)
                        visited_s = cpu_of_tree(os.getpid())
                        if is_kept:
                            person.open(photo_file())
                            person.paint((0.3, 0.3), (0.4, 0.4))
                            person.repair()
                            kept.leave(person)
                        else:
                            person.close()
                        if turn > 1:
                            which = "in the tab that was left last" if is_kept else "in a new tab"
                            spent[f"a visit of the page ({name})", which].append(visited_s - began_s)
                        if turn > 1 and is_kept:
                            spent[f"a photo opened and repaired ({name})", "after the visit"].append(
                                cpu_of_tree(os.getpid()) - visited_s
                            )
                person = kept.visit(server.url)
                spent[f"a second of an open page ({name})", "nobody touches it"].append(idle_cpu_s(os.getpid()))
                person.close()
        server.stop()


def starts_table(spent: Spent) -> str:
    """Return the medians as Markdown."""
    rows = [
        [f"{what}, {how}", f"{statistics.median(values):.3f}", f"{min(values):.3f} to {max(values):.3f}"]
        for (what, how), values in spent.items()
    ]
    return table(["what", "cpu_s", "least to most"], rows)


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", metavar="ROOM")
    parser.add_argument("--before", type=Path, metavar="FILE")
    parser.add_argument("--name", default="test-time")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--starts", action="store_true", help="servers and visits, not rooms")
    parser.add_argument("--of", nargs=argparse.REMAINDER, metavar="COMMAND")
    chosen = parser.parse_args()
    if chosen.of:
        began_s = time.monotonic()
        status = run_counted(chosen.of)
        print(f"s {time.monotonic() - began_s:.1f}, cpu_s {cpu_of_tree(os.getpid()):.1f}, exit status {status}")
        return status
    if chosen.starts:
        spent: Spent = defaultdict(list)
        measure_servers(spent)
        measure_visits(spent)
        print(starts_table(spent))
        return 0
    file = chosen.out / f"{chosen.name}.md"
    rooms = read_rooms(file)
    failed = []
    for room in chosen.rooms or all_rooms():
        figures, passed = measure(room)
        rooms[room] = kept(figures)
        failed += [] if passed else [room]
        environment = {"python": platform.python_version(), "cpus": os.cpu_count(), "system": platform.platform()}
        parts = [
            "# Where the time of the tests goes (bench/time_of_tests.py)",
            rooms_table(rooms, read_rooms(chosen.before) if chosen.before else {}),
            slowest_table(rooms, "files", "file"), slowest_table(rooms, "slowest", "test"),
            slowest_table(rooms, "dearest", "test", "cpu_s"),
            slowest_table(rooms, "fixtures", "fixture"), str(environment),
            "```\n" + json.dumps({"environment": environment, "rooms": rooms}) + "\n```",
        ]  # fmt: skip
        chosen.out.mkdir(parents=True, exist_ok=True)
        file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(file.read_text(encoding="utf-8"))
    if failed:
        print(f"tests failed in: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
