"""Whether a change made the program slower: two checkouts in short turns beside each other, in processor time.

    python bench/beside.py BEFORE [--pairs 3] [--turns 12] [--out FOLDER] [--name NAME]

BEFORE is another checkout, such as a git worktree of the commit before a change. A process of each has the embedded
network loaded on the CPU with one thread, and both wait until they are asked. Then they do the same in turns, A B B A:
one repair of a photo of 512x512, and one click (a repair of a 1024x1024 photo through REST, from the request to the
patch, in the same process). A turn takes a second and the other checkout's follows at once, so whatever else the
machine does at that time lengthens both; the ratio is taken turn by turn. Processes differ too, by where their memory
happens to lie: each pair of processes is a new one, and its median is told apart.

Counted is the processor time of all threads of a process. A person's wait is `bench/clicks.py`.

Columns: the medians over all turns, their quartiles, the median of the ratios with its quartiles, and the least and
the largest median of a pair of processes. From 0.95 to 1.05 counts as no change; where the pairs' medians lie further
apart than that, nothing was settled. Prints Markdown, then one JSON line, and writes both to FOLDER/NAME.md.
"""

import argparse
import asyncio
import contextlib
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
from collections.abc import Awaitable, Callable, Iterator
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
WHAT = {"repair": f"repair {SIDE_PX}x{SIDE_PX}", "click": "click {}x{}".format(*CLICK_SIZE)}
WARM_UP = 2  # of each, before the first turn that counts

Act = Callable[[], Awaitable[None]]
Prepare = Callable[[], Awaitable[Act]]
"""What a turn needs is made before its time begins."""
Turns = dict[str, list[tuple[float, float]]]
"""For each kind the processor time of every turn, milliseconds: before, after."""


def repairs(inpainter: Any) -> Prepare:
    """Return what prepares a repair."""
    image = smooth_photo(SIDE_PX, SIDE_PX)
    mask = np.zeros((SIDE_PX, SIDE_PX), np.bool_)
    first = (SIDE_PX - HOLE_PX) // 2
    mask[first : first + HOLE_PX, first : first + HOLE_PX] = True

    async def repair() -> None:
        assert inpainter.repair(image, mask).patches

    async def prepare() -> Act:
        return repair

    return prepare


def clicks(client: Any) -> Prepare:
    """Return what uploads a photo to click on."""
    photo = io.BytesIO()
    Image.fromarray(smooth_photo(*CLICK_SIZE)).save(photo, "JPEG", quality=92)

    async def prepare() -> Act:
        uploaded = await client.post("/api/v1/images", files={"file": ("a.jpg", photo.getvalue())})
        uploaded.raise_for_status()
        request = {"image_id": uploaded.json()["image_id"], "request_id": f"r{time.monotonic_ns()}", "strokes": STROKES}

        async def click() -> None:
            asked = await client.post("/api/v1/repairs", json=request)
            asked.raise_for_status()
            job: dict[str, Any] = {"state": "queued", "version": 0}
            while job["state"] in ("queued", "running"):
                address = f"/api/v1/jobs/{asked.json()['job_id']}?wait_s=20&seen={job['version']}"
                job = (await client.get(address)).json()
            (await client.get(job["patch"]["url"])).raise_for_status()

        return click

    return prepare


def smooth_photo(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8, waves with grain."""
    y, x = np.mgrid[0:height, 0:width]
    waves = 127 + 60 * np.sin(x / 31) * np.cos(y / 23)
    grain = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    return np.asarray((waves[..., None] + grain).clip(0, 255).astype(np.uint8))


def serve_turns(checkout: Path) -> None:
    """Be one checkout's process: do what each line on standard input names, and answer with its milliseconds."""
    sys.path[0] = str(checkout)
    config, app = importlib.import_module("config"), importlib.import_module("app")
    with tempfile.TemporaryDirectory() as folder:
        given = {"data_dir": f"{folder}/data", "outputs_dir": f"{folder}/outputs", "precision": "fp32", "device": "cpu"}
        settings = config.load_settings(given, {})
        engine = app.load_engine(settings)
        importlib.import_module("torch").set_num_threads(1)
        asyncio.run(_answer(app.create_api(settings, engine), engine))


async def _answer(application: Any, engine: Any) -> None:
    import httpx

    transport = httpx.ASGITransport(app=application)
    async with (
        application.router.lifespan_context(application),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860", timeout=300) as client,
    ):
        kinds = {"repair": repairs(engine), "click": clicks(client)}
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            act = await kinds[line.strip()]()
            began_s = time.process_time()
            await act()
            print(1000 * (time.process_time() - began_s), flush=True)


class Checkout:
    """A checkout's process, which waits until it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder), "--serve-turns"], cwd=folder, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._read("ready")

    def turn(self, kind: str) -> float:
        """Do one repair or click; return its processor time in milliseconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind}\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self, wanted: str = "") -> str:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline().strip():
            if line == wanted or (not wanted and line[0].isdigit()):
                return line
        raise RuntimeError(f"{self.folder}: its process ended")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def two_processes(before: Path, after: Path) -> Iterator[tuple[Checkout, Checkout]]:
    """Run a process of each checkout for the length of a with block, warmed up."""
    with contextlib.ExitStack() as ends:
        pair = []
        for folder in (before, after):
            pair.append(Checkout(folder))
            ends.callback(pair[-1].close)
        for kind in WHAT:
            for _ in range(WARM_UP):
                for checkout in pair:
                    checkout.turn(kind)
        yield pair[0], pair[1]


def measure(first: Checkout, second: Checkout, turns: int) -> Turns:
    """Have both do the same in turns; every second turn begins with the other one."""
    spent: Turns = {kind: [] for kind in WHAT}
    for turn in range(turns):
        for kind in WHAT:
            if turn % 2 == 0:
                before_ms = first.turn(kind)
                spent[kind].append((before_ms, second.turn(kind)))
            else:
                after_ms = second.turn(kind)
                spent[kind].append((first.turn(kind), after_ms))
    return spent


def summarise(pairs: list[Turns]) -> list[dict[str, Any]]:
    """Return a row for every kind; `pairs` has the turns of each pair of processes."""
    rows = []
    for kind, what in WHAT.items():
        turns = [turn for pair in pairs for turn in pair[kind]]
        ratios = [after / before for before, after in turns]
        of_pairs = [statistics.median(after / before for before, after in pair[kind]) for pair in pairs]
        ratio = statistics.median(ratios)
        rows.append(
            {
                "what": what,
                "before_ms": quartiles([before for before, _ in turns]),
                "after_ms": quartiles([after for _, after in turns]),
                "ratio": quartiles(ratios),
                "pairs": [round(min(of_pairs), 3), round(max(of_pairs), 3)],
                "is_unchanged": UNCHANGED[0] <= ratio <= UNCHANGED[1],
                "is_settled": max(of_pairs) - min(of_pairs) <= UNCHANGED[1] - UNCHANGED[0],
            }
        )
    return rows


def quartiles(values: list[float]) -> list[float]:
    """Return the lower quartile, the median and the upper quartile."""
    return [round(value, 3) for value in statistics.quantiles(values, n=4, method="inclusive")]


def markdown(rows: list[dict[str, Any]], about: str) -> str:
    """Return the rows as a table under a line that says what was compared."""
    heads = ["what", "before, ms", "quartiles", "after, ms", "quartiles", "ratio", "quartiles", "medians of the pairs"]
    lines = [about, "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["what"]]
        for name, digits in (("before_ms", 0), ("after_ms", 0), ("ratio", 3)):
            low, middle, high = row[name]
            cells += [f"{middle:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"]
        cells.append("{:.3f} to {:.3f}".format(*row["pairs"]) + ("" if row["is_settled"] else ", not settled"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def commit_of(checkout: Path) -> str:
    """Return the short name of the commit a checkout stands on."""
    asked = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--after", type=Path, default=ROOT, help="the checkout to compare with it; default: this one")
    parser.add_argument("--pairs", type=int, default=3, help="of processes")
    parser.add_argument("--turns", type=int, default=12, help="repairs and clicks of each process that count")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", default="beside")
    parser.add_argument("--serve-turns", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_turns:
        serve_turns(options.before.resolve())
        return
    before, after = options.before.resolve(), options.after.resolve()
    for checkout in (before, after):
        if not (checkout / "app.py").is_file():
            parser.error(f"{checkout} is no checkout of fftlama: it has no app.py")
    pairs = []
    for number in range(options.pairs):
        with two_processes(before, after) as (first, second):
            pairs.append(measure(first, second, options.turns))
        print(f"pair {number + 1}: {pairs[-1]}", file=sys.stderr, flush=True)
    rows = summarise(pairs)
    about = (
        f"{commit_of(before)} (before) beside {commit_of(after)} (after): processor time, one thread, "
        f"{options.pairs} pairs of processes, {options.turns} turns each, {cpu_name()}, Python "
        f"{platform.python_version()}, load {os.getloadavg()[0]:.0f}, {time.strftime('%Y-%m-%d')}."
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
