"""apply_optimization.sh killed at any moment: it can be run again or reverted, and the folder is whole."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.original_folders import state_of
from tests.support.small_fftlama import Checkout, without_added

KILLING_TOOL = """#!/bin/sh
read -r count <"$COUNT_FILE"
count=$((count + 1))
echo "$count" >"$COUNT_FILE"
if [ "$count" = "$KILL_AT" ]; then
    kill -KILL 0 # the whole group
fi
PATH=${PATH#*:}
exec "${0##*/}" "$@"
"""


def run_killed_at(quick_fftlama: Checkout, folder: Path, step: int, tools: Path, *arguments: str) -> int:
    """Run the script with every tool that changes files counted, and the whole group killed at call number `step`."""
    tools.mkdir(exist_ok=True)
    for name in ("mv", "cp", "rm", "mkdir", "ln", "chmod", "tar", "rmdir"):
        (tools / name).write_text(KILLING_TOOL)
        (tools / name).chmod(0o755)
    counter = tools.parent / "count"
    counter.write_text("0\n")
    variables = {"PATH": f"{tools}:{os.environ['PATH']}", "COUNT_FILE": str(counter), "KILL_AT": str(step)}
    process = subprocess.Popen(
        quick_fftlama.command(folder, "--no-start", *arguments),
        env={**quick_fftlama.environment, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return process.wait(120)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["cluttered"])
def test_killed_anywhere_it_can_be_run_again_or_reverted(
    quick_fftlama: Checkout, folder: Path, shape: str, tmp_path: Path
) -> None:
    before = state_of(folder)
    tools = tmp_path / "tools"
    step = at_scripts = 0

    def is_killed(at: int, *, run_again: bool) -> bool:
        """Kill the upgrade at its `at`-th call of a tool, then undo it; False when it had come to its end."""
        nonlocal at_scripts
        if run_killed_at(quick_fftlama, folder, at, tools) != -signal.SIGKILL:
            return False
        at_scripts += without_added(state_of(folder)) != before
        if run_again:
            assert quick_fftlama.run(folder, "--no-start").returncode == 0
            assert (folder / ".fftlama-upgrade" / "done").exists()
        reverted = quick_fftlama.run(folder, "--revert")
        assert reverted.returncode == 0, f"killed at {at}: {reverted.stdout}"
        assert state_of(folder) == before, f"killed at {at}"
        return True

    while is_killed(3 * step + 1, run_again=step % 4 == 0):
        step += 1
    assert step >= 8
    # The three scripts are replaced near the end, between two calls: every call there.
    end = 3 * step + 1
    quick_fftlama.run(folder, "--revert")
    for late in range(end - 1, end - 12, -1):
        if late % 3 != 1 and not at_scripts:
            is_killed(late, run_again=True)
            quick_fftlama.run(folder, "--revert")
    assert at_scripts >= 1  # also between two of the three scripts


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["nested"])
def test_revert_killed_anywhere_can_be_run_again(
    quick_fftlama: Checkout, folder: Path, shape: str, tmp_path: Path
) -> None:
    before, kept = state_of(folder), tmp_path / "kept"
    assert quick_fftlama.run(folder, "--no-start").returncode == 0
    shutil.copytree(folder, kept, symlinks=True)
    for step in range(1, 30, 2):
        shutil.rmtree(folder)
        shutil.copytree(kept, folder, symlinks=True)  # another upgrade takes 0.4 s of a core
        code = run_killed_at(quick_fftlama, folder, step, tmp_path / "tools", "--revert")
        again = quick_fftlama.run(folder, "--revert")
        assert again.returncode == 0, again.stdout
        assert state_of(folder) == before, f"killed at {step}"
        if code == 0:
            assert step > 5
            return
        assert code == -signal.SIGKILL
    raise AssertionError("the revert never came to its end")
