"""Figures of the code itself: lines, the share of comments, and what one click runs through.

    python bench/code_figures.py [--root CHECKOUT] [--out FOLDER] [--name NAME]

One repair goes through REST with the real engine, in this process, and every thread is traced with `sys.setprofile`:
which files and functions of the program run between the request and the finished job, and how many different calls from
one file to another there are (edges): how many of them stay inside a room, and how many go up the list of rooms, which
only a function that was handed down does. Whatever runs before (start, warm-up, upload) does not count. `--root`
measures another checkout, in its own process. Prints Markdown with the edges room by room, then one JSON line, and
writes both to FOLDER/NAME.md.
"""

import argparse
import asyncio
import importlib
import io
import json
import sys
import tempfile
import threading
import tokenize
from pathlib import Path
from types import FrameType
from typing import Any

# From the top down; a checkout without rooms has all of its files in the root.
ROOMS = (
    "app.py", "cli", "web", "jobs", "detection", "inference.py", "engine", "preprocess.py", "tensor_ops", "masks",
    "lama", "imaging", "notices.py", "config.py",
)  # fmt: skip
OUTSIDE = {"tests", "bench", "docs", "examples", "training", "scripts", "weights", "node_modules"}


def count_lines(root: Path) -> dict[str, Any]:
    """Count the lines of Python in the root and in the whole product, and the share that are comments."""
    files = [p for p in root.rglob("*.py") if not p.relative_to(root).parts[0].startswith(".")]
    product = [p for p in files if p.relative_to(root).parts[0] not in OUTSIDE | {"data", "outputs", "build"}]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in product}
    comments = 0
    for path in product:
        with path.open("rb") as file:
            rows = {t.start[0] for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT}
            comments += len(rows)
    in_root = [path for path in product if path.parent == root]
    total = sum(lines.values())
    return {
        "root_files": len(in_root),
        "root_lines": sum(lines[path] for path in in_root),
        "product_files": len(product),
        "product_lines": total,
        "comment_lines": comments,
        "comment_percent": round(100 * comments / total, 1),
    }


class Trace:
    """Files, functions and calls from file to file of one checkout while it is active, in every thread."""

    def __init__(self, root: Path) -> None:
        self.root = f"{root}/"
        self.outside = tuple(f"{root}/{name}/" for name in (*sorted(OUTSIDE), ".venv"))
        self.active = False
        self.files: set[str] = set()
        self.functions: set[tuple[str, str]] = set()
        self.edges: set[tuple[str, str]] = set()

    def room_of(self, name: str) -> str:
        """Return the folder, or the file of the root, that a file belongs to."""
        return name.removeprefix(self.root).split("/")[0]

    def _is_ours(self, name: str) -> bool:
        return name.startswith(self.root) and not name.startswith(self.outside)

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if not self.active or event != "call" or not self._is_ours(frame.f_code.co_filename):
            return
        name = frame.f_code.co_filename
        self.files.add(name)
        self.functions.add((name, frame.f_code.co_qualname))
        caller = frame.f_back
        while caller is not None and not self._is_ours(caller.f_code.co_filename):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != name:
            self.edges.add((caller.f_code.co_filename, name))


async def click(application: Any, trace: Trace) -> str:
    """Upload a photo, then trace one repair from the request to the finished job and its patch; return its state."""
    import httpx
    import numpy as np
    from PIL import Image

    photo = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(photo, "PNG")
    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860", timeout=120) as client:
        state = ""
        for number in range(2):  # the first click fills caches
            uploaded = await client.post("/api/v1/images", files={"file": ("a.png", photo.getvalue())})
            uploaded.raise_for_status()
            body = {
                "image_id": uploaded.json()["image_id"],
                "request_id": f"click {number}",
                "strokes": [{"points": [[300, 200], [340, 230]], "radius": 20, "erase": False}],
            }
            trace.active = number == 1
            asked = await client.post("/api/v1/repairs", json=body)
            asked.raise_for_status()
            job: dict[str, Any] = {"state": "queued", "version": 0}
            while job["state"] in ("queued", "running"):
                address = f"/api/v1/jobs/{asked.json()['job_id']}?wait_s=5&seen={job['version']}"
                job = (await client.get(address)).json()
            await client.get(job["patch"]["url"])
            trace.active = False
            state = job["state"]
    return state


def trace_click(root: Path) -> dict[str, Any]:
    """Run one click on the checkout at `root`, which must be first in `sys.path`."""
    trace = Trace(root)
    threading.setprofile(trace)
    sys.setprofile(trace)
    app = importlib.import_module("app")
    config = importlib.import_module("config")
    with tempfile.TemporaryDirectory() as folder:
        given = {"data_dir": f"{folder}/data", "outputs_dir": f"{folder}/outputs"}
        settings = config.load_settings(given, {})
        engine = app.load_engine(settings)
        application = app.create_api(settings, engine)
        state = asyncio.run(_within_lifespan(application, trace))
    sys.setprofile(None)
    rooms = [(trace.room_of(caller), trace.room_of(called)) for caller, called in sorted(trace.edges)]
    places = {room: place for place, room in enumerate(ROOMS)}
    return {
        "click_state": state,
        "click_files": len(trace.files),
        "click_functions": len(trace.functions),
        "click_edges": len(rooms),
        "click_edges_inside_a_room": sum(caller == called for caller, called in rooms),
        "click_edges_upwards": sum(places.get(caller, 0) > places.get(called, 0) for caller, called in rooms),
        "click_rooms": len({room for pair in rooms for room in pair}),
        "edges_by_room": {
            f"{caller} to {called}": rooms.count((caller, called)) for caller, called in sorted(set(rooms))
        },
    }


async def _within_lifespan(application: Any, trace: Trace) -> str:
    async with application.router.lifespan_context(application):
        return await click(application, trace)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--root", type=Path, default=here)
    parser.add_argument("--out", type=Path, default=here / "bench" / "results")
    parser.add_argument("--name", default="code-figures")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    sys.path[0] = str(root)  # instead of bench/: the program that is measured is the one that is imported
    figures = count_lines(root) | trace_click(root)
    by_room = figures.pop("edges_by_room")
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in figures.items())
    edges = "\n".join(f"| {rooms} | {count} |" for rooms, count in sorted(by_room.items(), key=lambda pair: -pair[1]))
    text = f"# The code in figures\n\n| what | is |\n|---|---|\n{rows}\n\n| edges from | are |\n|---|---|\n{edges}\n"
    text += f"\n{json.dumps(figures | {'edges_by_room': by_room})}\n"
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{arguments.name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
