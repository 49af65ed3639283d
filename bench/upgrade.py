"""Upgrade and revert folders of three shapes with apply_optimization.sh, and compare every file's checksum.

For each shape of tests/support/original_folders.py: the state before, after the upgrade, after a second run and after
the revert. The folders hold small weights; the libraries are those of this checkout's .venv. Prints a table, writes
bench/results/upgrade.md, and ends with 1 if a file differs that should not.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.original_folders import PLACES, SHAPES, state_of  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "upgrade.md"
REPLACED = {"app.py", "start_app.sh", "stop_app.sh"}
HEADER = """| folder | files before | upgraded s | replaced | others changed | weights changed | second run changed | reverted s | differ after revert |
|---|---|---|---|---|---|---|---|---|"""  # noqa: E501


def run_script(folder: Path, *arguments: str) -> float:
    """Run apply_optimization.sh on a folder and return the seconds it took; SystemExit with its output if it fails."""
    began_s = time.monotonic()
    command = ["bash", str(ROOT / "apply_optimization.sh"), str(folder), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    return time.monotonic() - began_s


def own_files(folder: Path) -> dict[str, str]:
    """Return the state of what is the folder's own, without what the upgrade added."""
    added = ("fftlama/", ".fftlama-upgrade/")
    return {k: v for k, v in state_of(folder).items() if not f"{k}/".startswith(added)}


def differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    """Return the paths that are not in both states in the same way."""
    return {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}


def measure(shape: str, folder: Path) -> tuple[str, bool]:
    """Upgrade, run again and revert one folder; return a row of the table and whether all is as promised."""
    SHAPES[shape](folder)
    before, around = state_of(folder), state_of(folder.parent)
    upgrade_s = run_script(folder, "--no-start")
    between = own_files(folder)
    everything = state_of(folder)
    changed = differing(before, between)
    run_script(folder)
    again = differing(everything, state_of(folder))
    weights = {path for path in changed if path.endswith((".ckpt", ".pth", ".safetensors"))}
    revert_s = run_script(folder, "--revert")
    after = differing(before, state_of(folder)) | differing(around, state_of(folder.parent))
    row = (
        f"| {shape}: `{PLACES[shape]}` | {len(before)} | {upgrade_s:.1f} | {len(changed & REPLACED)} | "
        f"{len(changed - REPLACED)} | {len(weights)} | {len(again)} | {revert_s:.1f} | {len(after)} |"
    )
    return row, changed == REPLACED and not (weights or again or after)


def main() -> int:
    """Measure every shape, print and write the table, and return the exit code."""
    rows, right = [], True
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as place:
            row, as_promised = measure(shape, Path(place).resolve() / PLACES[shape])
        rows.append(row)
        right = right and as_promised
    table = "\n".join([HEADER, *rows])
    print(table)
    text = "# Upgrade and revert, every file's checksum compared\n\n`python bench/upgrade.py`\n\n"
    RESULTS.write_text(text + table + "\n", encoding="utf-8")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
