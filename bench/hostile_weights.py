"""What it costs to refuse weight files that claim much: time and memory until the sentence is there.

Each file of tests/support/hostile_weights.py is given to `load_generator` in a process of its own, which has imported
everything before; counted are its CPU time, and the peak of its memory above what it held. With `--before`, a checkout
of an older commit is measured beside this one.

    python -m bench.hostile_weights [--before FOLDER]

Prints Markdown, and keeps it in bench/results/hostile-weights.md; the exit code is 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import given
from tests.support.hostile_weights import ATTACKS
from tests.support.serving import ROOT

RESULTS = Path(__file__).parent / "results"
CPU_BAR_S, MEMORY_BAR_MIB = 2.0, 200.0
LIMIT_S = 240.0
CHILD = """
import json, sys, time
from pathlib import Path
from lama.checkpoint import load_generator

def held_mib(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) / 1024

load_generator(None)
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before_mib, began_s = held_mib("VmRSS"), time.process_time()
try:
    load_generator(sys.argv[1])
    said = "taken"
except Exception as error:
    said = f"{type(error).__name__}: {error}"
spent_s = time.process_time() - began_s
print(json.dumps({"cpu_s": spent_s, "mib": held_mib("VmHWM") - before_mib, "said": said}))
"""


def measure(checkout: Path, file: Path) -> dict[str, float | str]:
    """Have a checkout refuse a file; return CPU seconds, MiB and what it said."""
    try:
        out = subprocess.run(
            [sys.executable, "-c", CHILD, str(file)], cwd=checkout, capture_output=True, text=True, timeout=LIMIT_S
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"cpu_s": LIMIT_S, "mib": 0.0, "said": "no answer"}
    if out.returncode:
        return {"cpu_s": 0.0, "mib": 0.0, "said": f"the process ended: {out.returncode} {out.stderr[-200:]}"}
    answer: dict[str, float | str] = json.loads(out.stdout.splitlines()[-1])
    return answer


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--before", type=given.checkout, help="checkout of an older commit")
    asked = parser.parse_args()
    checkouts = {"before": asked.before, "now": ROOT} if asked.before else {"now": ROOT}
    columns = " | ".join(f"{name}: CPU s | MiB" for name in checkouts)
    lines = [
        "# Refusing hostile weight files", "",
        f"`python -m bench.hostile_weights`, Python {platform.python_version()}, {os.cpu_count()} cores, load"
        f" {os.getloadavg()[0]:.0f}; bars {CPU_BAR_S:g} s of CPU and {MEMORY_BAR_MIB:g} MiB.", "",
        f"| file | {columns} | refused |", "|---|" + "---|---|" * len(checkouts) + "---|",
    ]  # fmt: skip
    sound = True
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, words) in ATTACKS.items():
            file = Path(folder) / "weights.pt"
            make(file)
            found = {which: measure(checkout, file) for which, checkout in checkouts.items()}
            now = found["now"]
            is_refused = words in str(now["said"])
            sound &= is_refused and float(now["cpu_s"]) <= CPU_BAR_S and float(now["mib"]) <= MEMORY_BAR_MIB
            costs = " | ".join(f"{row['cpu_s']:.2f} | {row['mib']:.0f}" for row in found.values())
            lines.append(f"| {name} | {costs} | {'yes' if is_refused else now['said']} |")
            print(lines[-1], *(row["said"] for row in found.values()), sep="\n    ", flush=True)
            file.unlink()
    (RESULTS / "hostile-weights.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
