"""Tries what a card does that others use too: full, filled while it works, several processes at once, kills.

Each way runs processes of their own that load the included network, repair the same seeded photos and say what came:

- together: three processes start at the same moment with no kernel compiled yet, as after an update of the driver;
- killed: a process that compiles is killed at seeded moments, and the next one starts on what it left;
- full: another process holds all of the card's memory but so many MiB before the start;
- filled: another process takes all but so many MiB while repairs run, and gives them back;
- engines: two engines in one process repair in two threads each.

What must hold: every repair is delivered or refused in a sentence, pixels outside the hole are the photo's, 99.9 % of
all patches' values are within 2 grey levels of those of a lone process, and after the other one has left the card
repairs as before.

    python -m bench.shared_card [--device cuda:0] [--only together,killed,...] [--out FOLDER]

Prints a Markdown table and one JSON line, and keeps both in FOLDER/shared-card.md. Exit status 1 when something does
not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results"
WAYS = ("together", "killed", "full", "filled", "engines")
HOLES_PX = (60, 300, 700, 1500, 2600)
PHOTO = (3000, 4000)
FREE_MIB = (64, 800, 1600)
KILLS = 6
MOST_LEVELS = 2
SHARE_WITHIN = 0.999


def photo_and_mask(hole_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a smooth coloured photo with texture, the same each time, and a round hole in its middle."""
    height, width = PHOTO if hole_px > 700 else (1200, 1600)
    rng = np.random.default_rng(hole_px)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(rows / a) * np.cos(columns / b) for a, b in rng.uniform(30, 300, (3, 2))]
    photo = 128 + 70 * np.stack(waves, axis=2) + rng.integers(-8, 9, (height, width, 1))
    mask = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (hole_px / 2) ** 2
    return np.clip(photo, 0, 255).astype(np.uint8), mask


def work(engine: Any, holes_px: tuple[int, ...] = HOLES_PX) -> list[dict[str, Any]]:
    """Repair each photo once; say how long it took, what was noted, and whether known pixels stayed."""
    from masks.boxes import paste
    from masks.shadows import dilate_in_photo

    rows = []
    for hole_px in holes_px:
        photo, mask = photo_and_mask(hole_px)
        begun_s = time.perf_counter()
        try:
            result = engine.repair(photo, mask)
        except Exception as error:  # which kind is what is told
            rows.append({"hole_px": hole_px, "refused": f"{type(error).__name__}: {error}"[:200]})
            continue
        spent_ms = (time.perf_counter() - begun_s) * 1000
        image = result.image
        dilated = dilate_in_photo(mask, photo)
        hole = mask if dilated is None else paste(dilated.missing, dilated.box, (0, 0, mask.shape[1], mask.shape[0]))
        row = {"hole_px": hole_px, "ms": round(spent_ms, 1), "notes": [note.code for note in result.notes]}
        row |= {"known_stays": bool(np.array_equal(image[~hole], photo[~hole])), "image": image}
        rows.append(row)
    return rows


def child(kept: str, ways: list[str]) -> None:
    """Load and repair as a process of its own; `kept` is the folder for images, `ways` what to do in turn.

    A way is "repair", "engines", or "wait" for a line on standard input.
    """
    from inference import Inpainter

    begun_s = time.perf_counter()
    engine = Inpainter.load(device=os.environ.get("SHARED_CARD_DEVICE", "auto"))
    say({"loaded_s": round(time.perf_counter() - begun_s, 2), "device": engine.device})
    for number, way in enumerate(ways):
        if way == "wait":
            sys.stdin.readline()
        elif way == "engines":
            engines = [engine, Inpainter.load(device=os.environ.get("SHARED_CARD_DEVICE", "auto"))]
            with ThreadPoolExecutor(4) as threads:
                for rows in threads.map(work, engines * 2):
                    tell(kept, f"{number}", rows)
        else:
            tell(kept, f"{number}", work(engine))


def say(what: dict[str, Any]) -> None:
    """Say one line of JSON."""
    print(json.dumps(what), flush=True)


def tell(kept: str, name: str, rows: list[dict[str, Any]]) -> None:
    """Say the rows, their images kept as files of the folder, each once."""
    for row in rows:
        image = row.pop("image", None)
        if image is not None:
            path = Path(kept) / f"{hashlib.sha256(image.tobytes()).hexdigest()}.npy"
            if not path.exists():
                np.save(path, image)
            row["file"] = path.name
    say({"turn": name, "rows": rows})


class Child:
    """A process of its own, and what it says."""

    def __init__(self, kept: Path, ways: list[str], **environment: str) -> None:
        code = f"from bench.shared_card import child; child({str(kept)!r}, {ways!r})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
        )  # fmt: skip

    def line(self) -> dict[str, Any]:
        """Wait for the next line; what it wrote to standard error where there is none."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        text = self.process.stdout.readline()
        return json.loads(text) if text else {"ended": self.process.wait(), "stderr": self.process.stderr.read()[-600:]}

    def go_on(self) -> None:
        """End a wait."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Kill it and forget it."""
        self.process.kill()
        self.process.communicate()


class Hog:
    """A process that holds all of the card's memory but `free_mib` until it is let go."""

    CODE = """
import sys, torch
free_mib = int(sys.argv[1])
torch.zeros(1, device="cuda")
held = []
for mib in (4096, 512, 64, 8):
    while torch.cuda.mem_get_info()[0] > (free_mib + mib) << 20:
        held.append(torch.empty(mib << 20, dtype=torch.uint8, device="cuda"))
print(torch.cuda.mem_get_info()[0] >> 20, flush=True)
sys.stdin.readline()
"""

    def __init__(self, free_mib: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, str(free_mib)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.free_mib = int(self.process.stdout.readline())

    def end(self) -> None:
        """Give the memory back."""
        self.process.communicate("\n")


class Trial:
    """The ways, and what did not hold in them."""

    def __init__(self, kept: Path) -> None:
        self.kept = kept
        self.faults: list[str] = []
        self.table = ["| way | what came |", "|---|---|"]
        lone = Child(kept, ["repair", "repair"])
        lone.line()
        self.reference = {row["hole_px"]: row for row in lone.line()["rows"]}
        self.usual_ms = {row["hole_px"]: row["ms"] for row in lone.line()["rows"]}
        lone.end()

    def judge(self, way: str, line: dict[str, Any], *, is_card: bool = True) -> str:
        """Compare one turn with the lone process, a CPU's in its known pixels alone; return what to say about it."""
        if "rows" not in line:
            self.faults.append(f"{way}: {line}")
            return "**ended**"
        told = []
        for row in line["rows"]:
            if "refused" in row:
                told.append(f"{row['hole_px']} px refused")
                self.faults.append(f"{way}: {row}")
                continue
            if not row["known_stays"]:
                self.faults.append(f"{way}: {row['hole_px']} px: known pixels changed")
            reference = self.reference[row["hole_px"]]
            if is_card and row["file"] != reference["file"]:
                got, wanted = (np.load(self.kept / one["file"]).astype(np.int16) for one in (row, reference))
                photo, _ = photo_and_mask(row["hole_px"])
                patch = np.any(wanted != photo, axis=2)
                apart = np.abs(got - wanted)[patch]
                within = float((apart <= MOST_LEVELS).mean())
                told.append(f"{row['hole_px']} px apart by up to {apart.max()}, {within:.4%} within {MOST_LEVELS}")
                if within < SHARE_WITHIN and row["notes"] == reference["notes"]:
                    self.faults.append(f"{way}: {told[-1]}, and no note says why")
            if row["notes"] != reference["notes"]:
                told.append(f"{row['hole_px']} px: {', '.join(row['notes'])}")
        times = ", ".join(f"{row['ms']:g}" for row in line["rows"] if "ms" in row)
        return f"{times} ms" + (f" ({'; '.join(told)})" if told else "")

    def say(self, way: str, what: str) -> None:
        """Add a row."""
        self.table.append(f"| {way} | {what} |")
        print(self.table[-1], flush=True)

    def together(self) -> None:
        """Start three at once with no kernel compiled."""
        with tempfile.TemporaryDirectory() as cache:
            children = [Child(self.kept, ["repair"], TRITON_CACHE_DIR=cache) for _ in range(3)]
            for number, one in enumerate(children):
                loaded = one.line()
                what = self.judge("together", one.line())
                self.say(f"together, {number}", f"loaded after {loaded.get('loaded_s')} s; {what}")
            for one in children:
                one.end()

    def killed(self) -> None:
        """Kill a process that compiles, again and again; then start on what is left."""
        moments = random.Random(17)
        with tempfile.TemporaryDirectory() as cache:
            for _ in range(KILLS):
                one = Child(self.kept, ["repair"], TRITON_CACHE_DIR=cache)
                time.sleep(moments.uniform(4, 12))
                one.process.send_signal(signal.SIGKILL)
                one.process.communicate()
            after = Child(self.kept, ["repair"], TRITON_CACHE_DIR=cache)
            loaded = after.line()
            self.say(
                f"killed {KILLS} times",
                f"loaded after {loaded.get('loaded_s')} s; {self.judge('killed', after.line())}",
            )
            after.end()

    def full(self) -> None:
        """Start on a card that is full but for some memory."""
        for free_mib in FREE_MIB:
            hog = Hog(free_mib)
            one = Child(self.kept, ["repair"])
            loaded = one.line()
            where = str(loaded.get("device", loaded))
            what = self.judge("full", one.line(), is_card=where != "cpu")
            self.say(f"full but {hog.free_mib} MiB", f"on {where} after {loaded.get('loaded_s')} s; {what}")
            one.end()
            hog.end()

    def filled(self) -> None:
        """Fill the card while a process repairs, and empty it again."""
        for free_mib in (8, 256, 1024):
            one = Child(self.kept, ["repair", "wait", "repair", "wait", "repair", "repair"])
            one.line()
            one.line()
            hog = Hog(free_mib)
            one.go_on()
            self.say(f"filled to {hog.free_mib} MiB", self.judge("filled", one.line()))
            hog.end()
            one.go_on()
            one.line()
            after = one.line()
            self.say("emptied again", self.judge("emptied", after))
            for row in after.get("rows", []):
                if row.get("notes") != self.reference[row["hole_px"]]["notes"]:
                    self.faults.append(f"emptied: {row}")
            one.end()

    def engines(self) -> None:
        """Repair with two engines by four threads of one process."""
        one = Child(self.kept, ["engines"])
        one.line()
        for number in range(4):
            self.say(f"engines, thread {number}", self.judge("engines", one.line()))
        one.end()


def main() -> int:
    """Try the ways; the exit status is 1 when something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--device", default="auto", help="what the lone process and the others load onto")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["SHARED_CARD_DEVICE"] = options.device
    import torch

    with tempfile.TemporaryDirectory() as kept:
        trial = Trial(Path(kept))
        usual = ", ".join(f"{ms:g}" for ms in trial.usual_ms.values())
        trial.say("alone", f"{usual} ms for holes of {', '.join(map(str, HOLES_PX))} px")
        for way in options.only.split(","):
            getattr(trial, way)()
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    environment = {"card": card, "torch": torch.__version__, "python": platform.python_version()}
    for fault in trial.faults:
        print("FAULT", fault)
    said = {"faults": trial.faults, "environment": environment, "median_ms": statistics.median(trial.usual_ms.values())}
    text = "\n".join(
        ["# A card that others use too (bench/shared_card.py)", "", *trial.table, "", json.dumps(said), ""]
    )
    (options.out / "shared-card.md").write_text(text)
    print(json.dumps(said))
    return 1 if trial.faults else 0


if __name__ == "__main__":
    sys.exit(main())
