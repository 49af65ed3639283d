"""Workers that are forked, and what is imported before."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forked_workers import import_tests
from tests.support.zygote import CAN_FORK

ROOT = Path(__file__).resolve().parents[1]
# As pytest's process does it, and as xdist talks to a worker: one line of Python, then what that reads and writes.
ASK = """
import os, shlex, subprocess
from tests.support.forked_workers import ForkedWorkers

def import_all():
    import colorsys

def ask(line):
    asked = subprocess.run(command, input=repr(line) + "\\nof who asked", capture_output=True, text=True, timeout=30,
                           env={**os.environ, "WHO": "asked"})
    print(asked.stdout.strip(), asked.stderr.strip())

workers = ForkedWorkers(import_all, patience_s=0.2)
command = [*shlex.split(workers.command), "-u", "-c", "passed over"]
ask("import os, sys; print('colorsys' in sys.modules, os.environ['WHO'], sys.stdin.read(), os.getppid())")
ask("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
ask("import sys; print('another', file=sys.stderr)")
stuck = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
stuck.stdin.write(repr("import os, time; print(os.getpid()); time.sleep(600)") + "\\n")
stuck.stdin.flush()
print(stuck.stdout.readline().strip())
stuck.kill()
print(workers._pid)
workers.close()
"""


@pytest.mark.skipif(not CAN_FORK, reason="only Linux's libraries stand a fork")
def test_a_worker_has_what_was_imported_and_talks_to_who_asked_and_a_killed_one_ends_alone() -> None:
    """One that hangs ends with the others: xdist could kill only the script that it started."""
    done = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert not done.returncode and not done.stderr, done.stderr
    first, killed, third, stuck, pid = done.stdout.splitlines()
    assert first.strip() == f"True asked of who asked {pid}"
    assert (killed.strip(), third.strip()) == ("", "another")
    assert not Path(f"/proc/{pid}").exists() and not Path(f"/proc/{stuck}").exists()


def test_a_module_that_fails_half_way_is_not_there_for_who_collects_it(tmp_path: Path) -> None:
    """Its tests above the failure passed, those below were never seen, and a run with workers said that all is well."""
    files = {
        "test_broken": "def test_above(): pass\nraise ImportError('broken')\n",
        "test_skipped": "import pytest\npytest.skip('here not', allow_module_level=True)\n",
        "test_whole": "",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    before = set(sys.modules)
    try:
        import_tests(sorted(tmp_path.iterdir()), tmp_path)
        assert set(sys.modules) - before == {"test_whole"}
    finally:
        for name in files:
            sys.modules.pop(name, None)
