"""Whether a change made the program slower: two checkouts measured in turn, in processor time.

    python bench/beside.py BEFORE [--turns 5] [--rounds 4] [--out FOLDER] [--name NAME]

BEFORE is another checkout, such as a git worktree of the commit before a change. In every turn a process of its own
runs in each: it loads the embedded network on the CPU with one thread, repairs a photo of 512x512, and clicks (one
repair of a 1024x1024 photo through REST, from the request to the patch, in the same process). Every second turn begins
with the other checkout. Counted is the processor time of all threads of that process, the least of the rounds: what
else the machine does lengthens the wall clock many times, and this by little. A person's wait is `bench/clicks.py`.

Columns: the median over the turns of both, their spread (least to most), and the ratio of the medians; from 0.95 to
1.05 counts as no change. Prints Markdown, then one JSON line, and writes both to FOLDER/NAME.md.
"""

import argparse
import asyncio
import importlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
UNCHANGED = (0.95, 1.05)
SIDE_PX, HOLE_PX = 512, 170
CLICK_SIZE = (1024, 1024)
STROKES = [{"points": [[480, 480], [560, 540]], "radius": 60, "erase": False}]

Figures = dict[str, float]


def measure_repair(inpainter: Any, rounds: int) -> float:
    """Return the least processor time of a repair, in milliseconds."""
    image = smooth_photo(SIDE_PX, SIDE_PX)
    mask = np.zeros((SIDE_PX, SIDE_PX), np.bool_)
    first = (SIDE_PX - HOLE_PX) // 2
    mask[first : first + HOLE_PX, first : first + HOLE_PX] = True
    spent_ms = []
    for _ in range(rounds + 1):  # the first one warms up
        began_s = time.process_time()
        inpainter.repair(image, mask)
        spent_ms.append(1000 * (time.process_time() - began_s))
    return min(spent_ms[1:])


async def measure_clicks(application: Any, rounds: int) -> float:
    """Return the least processor time of a click, in milliseconds."""
    import httpx

    photo = io.BytesIO()
    Image.fromarray(smooth_photo(*CLICK_SIZE)).save(photo, "JPEG", quality=92)
    spent_ms = []
    transport = httpx.ASGITransport(app=application)
    async with (
        application.router.lifespan_context(application),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860", timeout=300) as client,
    ):
        for number in range(rounds + 1):
            uploaded = await client.post("/api/v1/images", files={"file": ("a.jpg", photo.getvalue())})
            uploaded.raise_for_status()
            request = {"image_id": uploaded.json()["image_id"], "request_id": f"click {number}", "strokes": STROKES}
            began_s = time.process_time()
            asked = await client.post("/api/v1/repairs", json=request)
            asked.raise_for_status()
            job: dict[str, Any] = {"state": "queued", "version": 0}
            while job["state"] in ("queued", "running"):
                address = f"/api/v1/jobs/{asked.json()['job_id']}?wait_s=20&seen={job['version']}"
                job = (await client.get(address)).json()
            (await client.get(job["patch"]["url"])).raise_for_status()
            spent_ms.append(1000 * (time.process_time() - began_s))
    return min(spent_ms[1:])


def smooth_photo(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8, waves with grain."""
    y, x = np.mgrid[0:height, 0:width]
    waves = 127 + 60 * np.sin(x / 31) * np.cos(y / 23)
    grain = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    return np.asarray((waves[..., None] + grain).clip(0, 255).astype(np.uint8))


def measure_here(checkout: Path, rounds: int) -> Figures:
    """Measure the checkout, which is the program that this process imports."""
    sys.path[0] = str(checkout)
    config, app = importlib.import_module("config"), importlib.import_module("app")
    with tempfile.TemporaryDirectory() as folder:
        given = {"data_dir": f"{folder}/data", "outputs_dir": f"{folder}/outputs", "precision": "fp32", "device": "cpu"}
        settings = config.load_settings(given, {})
        engine = app.load_engine(settings)
        importlib.import_module("torch").set_num_threads(1)
        repair_ms = measure_repair(engine, rounds)
        click_ms = asyncio.run(measure_clicks(app.create_api(settings, engine), rounds))
    return {f"repair {SIDE_PX}x{SIDE_PX}": repair_ms, "click {}x{}".format(*CLICK_SIZE): click_ms}


def measure(checkout: Path, rounds: int) -> Figures:
    """Measure a checkout in a process of its own."""
    command = [sys.executable, __file__, str(checkout), "--measure-here", "--rounds", str(rounds)]
    done = subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise RuntimeError(f"{checkout}: {done.stderr[-1000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare(before: list[Figures], after: list[Figures]) -> list[dict[str, Any]]:
    """Return a row for every figure; a turn each in both lists."""
    rows = []
    for name in after[0]:
        first, second = [turn[name] for turn in before], [turn[name] for turn in after]
        ratio = statistics.median(second) / statistics.median(first)
        rows.append(
            {
                "what": name,
                "before_ms": statistics.median(first),
                "before_spread_ms": [min(first), max(first)],
                "after_ms": statistics.median(second),
                "after_spread_ms": [min(second), max(second)],
                "ratio": round(ratio, 3),
                "is_unchanged": UNCHANGED[0] <= ratio <= UNCHANGED[1],
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]], about: str) -> str:
    """Return the rows as a table under a line that says what was compared."""
    lines = [about, "", "| what | before, ms | spread | after, ms | spread | ratio |", "|---|---|---|---|---|---|"]
    for row in rows:
        spreads = ["{:.0f} to {:.0f}".format(*row[f"{side}_spread_ms"]) for side in ("before", "after")]
        lines.append(
            f"| {row['what']} | {row['before_ms']:.0f} | {spreads[0]} | {row['after_ms']:.0f} | {spreads[1]} "
            f"| {row['ratio']:.3f} |"
        )
    return "\n".join(lines)


def commit_of(checkout: Path) -> str:
    """Return the short name of the commit a checkout stands on."""
    asked = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4, help="repairs and clicks in a turn, after one that warms up")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", default="beside")
    parser.add_argument("--measure-here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_here:
        print(json.dumps(measure_here(options.before.resolve(), options.rounds)))
        return
    checkouts = {"before": options.before.resolve(), "after": ROOT}
    turns: dict[str, list[Figures]] = {name: [] for name in checkouts}
    for turn in range(options.turns):
        for name in sorted(checkouts, reverse=turn % 2 == 0):
            turns[name].append(measure(checkouts[name], options.rounds))
            print(f"turn {turn + 1}, {name}: {turns[name][-1]}", file=sys.stderr, flush=True)
    rows = compare(turns["before"], turns["after"])
    about = (
        f"{commit_of(checkouts['before'])} (before) beside {commit_of(ROOT)} (after): processor time, one thread, "
        f"{options.turns} turns, {cpu_name()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.0f}, "
        f"{time.strftime('%Y-%m-%d')}."
    )
    text = f"# Before and after\n\n{markdown(rows, about)}\n\n{json.dumps({'about': about, 'rows': rows})}\n"
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.md").write_text(text, encoding="utf-8")


def cpu_name() -> str:
    """Return the processor's name, or the machine's kind where it is not told."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
