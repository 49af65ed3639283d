"""Time, steadiness, memory and start of the whole `Inpainter.repair`, arrays in, patches out."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bench.speed_model import captured, differences, float64_form, float64_reference, time_device, timing
from lama.fast_generator import FastGenerator
from masks.boxes import find_bounds
from tensor_ops.host_copies import is_any_set

ROOT = Path(__file__).resolve().parents[1]
CAP_BYTES = 6 * 2**30
EVAL_SIDE_PX = 512
SIZES = (  # height, width, hole
    (512, 512, 150),
    (768, 768, 200),
    (1024, 1024, 300),
    (1536, 1536, 300),
    (1080, 1920, 300),
    (3000, 4000, 300),
    (3000, 4000, 1200),
    (3000, 4000, 2600),
)


def photo_and_hole(height: int, width: int, hole_px: int) -> tuple[NDArray, NDArray]:
    """A smooth photo-like image with grain, and a disc in its middle."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    base = 128 + 80 * np.sin(x / 97)[..., None] * np.cos(y / 61)[..., None] * np.array([1.0, 0.7, 0.4], np.float32)
    image = np.clip(base + random.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
    return image, disc(height, width, hole_px)


def disc(height: int, width: int, hole_px: int) -> NDArray:
    """A mask of (height, width) with a disc in its middle."""
    y, x = np.ogrid[0:height, 0:width]
    return (x - width / 2) ** 2 + (y - height / 2) ** 2 <= (hole_px / 2) ** 2


def repair_rows(weights: str | None, *, rounds: int = 30) -> list[dict[str, Any]]:
    """Time repairs of several sizes: wall clock, what of it is not the network, jitter, and the stages."""
    from inference import Inpainter, RepairRequest  # needs more packages than the network alone

    inpainter = Inpainter.load(weights)
    print(json.dumps(inpainter.describe(), default=str), flush=True)
    network_ms: dict[tuple[int, int], float] = {}
    rows: list[dict[str, Any]] = []
    for height, width, hole_px in SIZES:
        image, mask = photo_and_hole(height, width, hole_px)
        (crop,) = inpainter._plan(RepairRequest(image, mask))
        walls, stages = [], []
        for _ in range(rounds + 1):
            started = time.perf_counter()
            result = inpainter.repair(image, mask)
            _ = result.patches
            walls.append((time.perf_counter() - started) * 1e3)
            stages.append(result.timings_ms)
        first_ms = walls.pop(0)
        if crop.model_size not in network_ms:
            network_ms[crop.model_size] = _network_ms(inpainter, crop.model_size)
        forward_ms = network_ms[crop.model_size]
        measured = timing(walls)
        medians = {stage: round(statistics.median(s[stage] for s in stages), 2) for stage in stages[0]}
        rows.append(
            {
                "size": f"{width}x{height}",
                "hole_px": hole_px,
                "bucket_px": crop.model_size[0],
                "median_ms": measured.median_ms,
                "p95_ms": measured.high_ms,
                "jitter": measured.high_ms / measured.median_ms,
                "first_ms": first_ms,
                "forward_ms": forward_ms,
                "beyond_forward_ms": measured.median_ms - forward_ms,
                "stages_ms": medians,
                "reserved_mib": torch.cuda.memory_reserved() / 2**20 if torch.cuda.is_available() else 0,
            }
        )
        print(
            f"| repair {width}x{height} hole {hole_px} | {measured.median_ms:.2f} ms "
            f"| forward {forward_ms:.2f} + {measured.median_ms - forward_ms:.2f} ms "
            f"| p95/median {measured.high_ms / measured.median_ms:.2f} | first {first_ms:.1f} ms | {medians} |",
            flush=True,
        )
    rows += [_bursts(weights, rest_s=rest_s, bursts=bursts) for rest_s, bursts in ((0, 6), (0.3, 6), (10, 3))]
    return rows


def mask_rows(*, rounds: int = 30) -> list[dict[str, Any]]:
    """Time what finds the hole in a mask of 12 megapixels: one just painted, as for a click, in no cache, just read."""
    from imaging.strokes import parse_strokes, rasterize

    strokes = parse_strokes([{"points": [[1900, 1500], [2100, 1500]], "radius": 100}])
    larger_than_caches = np.ones(768 << 20, np.uint8)
    rows: list[dict[str, Any]] = []
    for by in (find_bounds, _any_as_in_a_repair, _any_by_opencv, _any_by_numpy):
        times: dict[str, list[float]] = {"just_painted_ms": [], "in_no_cache_ms": [], "just_read_ms": []}
        for _ in range(rounds):
            larger_than_caches.sum()
            mask = rasterize(strokes, (3000, 4000))
            for state, each in times.items():
                if state == "in_no_cache_ms":
                    larger_than_caches.sum()
                started = time.perf_counter()
                by(mask)
                each.append((time.perf_counter() - started) * 1e3)
        rows.append({"by": by.__name__.strip("_"), **{state: statistics.median(each) for state, each in times.items()}})
        print(rows[-1], flush=True)
    return rows


def _any_as_in_a_repair(mask: NDArray[np.bool_]) -> bool:
    return is_any_set(mask.view(np.uint8))


def _any_by_opencv(mask: NDArray[np.bool_]) -> bool:
    return bool(cv2.countNonZero(mask.view(np.uint8)))


def _any_by_numpy(mask: NDArray[np.bool_]) -> bool:
    return bool(np.logical_or.reduce(mask, axis=None))


def _network_ms(inpainter: Any, size: tuple[int, int]) -> float:
    """The network alone as a graph's replay at one size, by device events."""
    x = torch.rand(1, 4, *size, device=inpainter.device)
    with torch.inference_mode():
        graph, _ = captured(inpainter._runner._fast, x)
        return time_device(graph.replay).median_ms


def _bursts(weights: str | None, *, rest_s: float, bursts: int = 6, repairs: int = 10) -> dict[str, Any]:
    """Repairs in a row in a fresh process: the first after warm-up, then tens of them, a rest after each ten.

    `each_ten` has the slowest repair of each ten over their median, `first_stages_ms` and `last_stages_ms` the stages
    of the first and of the last repair of a ten, medians over the tens.
    """
    code = (
        "import json, sys, time; from bench.speed_repair import photo_and_hole; from inference import Inpainter\n"
        "image, mask = photo_and_hole(3000, 4000, 300)\n"
        f"inpainter, walls, stages = Inpainter.load({weights!r}), [], []\n"
        f"for burst in range({bursts}):\n"
        f"    for _ in range({repairs}):\n"
        "        started = time.perf_counter(); result = inpainter.repair(image, mask); result.patches\n"
        "        walls.append((time.perf_counter() - started) * 1e3); stages.append(result.timings_ms)\n"
        f"    time.sleep({rest_s})\n"
        "print(json.dumps([walls, stages]))"
    )
    name = f"4000x3000, {repairs} in a row, {bursts} times, {rest_s:g} s between"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if child.returncode:
        return {"size": name, "message": child.stderr[-500:]}
    walls, stages = json.loads(child.stdout.splitlines()[-1])
    tens = [walls[start : start + repairs] for start in range(0, len(walls), repairs)]

    def medians(turn: int) -> dict[str, float]:
        return {stage: round(statistics.median(s[stage] for s in stages[turn::repairs]), 2) for stage in stages[0]}

    row = {
        "size": name,
        "hole_px": 300,
        "first_ms": walls[0],
        "median_ms": statistics.median(walls),
        "p95_ms": timing(walls).high_ms,
        "jitter": timing(walls).high_ms / statistics.median(walls),
        "each_ten": [round(max(ten) / statistics.median(ten), 3) for ten in tens],
        "first_stages_ms": medians(0),
        "last_stages_ms": medians(repairs - 1),
        "walls_ms": [round(wall, 2) for wall in walls],
    }
    print(row, flush=True)
    return row


def capped_rows(weights: str | None, *, repairs: int = 100) -> dict[str, Any]:
    """Repair large holes with the process capped at 6 GiB: how many were delivered."""
    from inference import Inpainter  # needs more packages than the network alone

    inpainter = Inpainter.load(weights)
    torch.cuda.set_per_process_memory_fraction(CAP_BYTES / torch.cuda.get_device_properties(0).total_memory)
    delivered, notes, reserved = 0, set(), []
    images = [photo_and_hole(height, width, 1)[0] for height, width in ((1080, 1920), (3000, 4000))]
    for turn in range(repairs):
        image = images[turn % 2]
        height, width = image.shape[:2]
        mask = disc(height, width, 300 + turn * (height - 400) // repairs)
        try:
            result = inpainter.repair(image, mask)
            delivered += bool(result.patches)
            notes |= {note.code for note in result.notes}
        except Exception as error:  # what counts is how many fail
            notes.add(f"{type(error).__name__}: {error}"[:100])
        reserved.append(torch.cuda.memory_reserved() / 2**20)
    row = {"delivered": delivered, "of": repairs, "notes": sorted(notes), "reserved_mib": [reserved[9], reserved[-1]]}
    row["highest_reserved_mib"] = max(reserved)
    print(row, flush=True)
    return row


def accuracy_row(
    weights: str | None, photos: Path, masks: Path, *, skip: int = 0, limit: int = 100, seconds: float = 120
) -> dict[str, Any]:
    """Compare float16 with float64 on the centre squares of photos, over the pixels of their holes.

    Every photo with every mask of its name. `skip` and `limit` count photos; what does not fit into `seconds` is left
    out, and `photos` and `next` in the result say where it stopped.
    """
    from lama.checkpoint import load_generator

    generator = load_generator(weights)
    fused = FastGenerator(generator, device="cuda", dtype=torch.float16)
    reference = float64_form(generator)
    deltas, not_finite, done, index = [], 0, 0, skip
    paths = sorted(photos.glob("*.jpg"))
    started = time.monotonic()
    with torch.no_grad():
        for index, path in enumerate(paths[skip : skip + limit], skip):
            if time.monotonic() - started > seconds:
                break
            for mask_path in sorted(masks.glob(f"*/{path.stem}.png")):
                x, missing = _square_input(path, mask_path)
                out = fused(x)
                not_finite += not bool(out.isfinite().all())
                delta = ((out.double() - reference(x.double())).abs() * 255)[0].amax(0)
                deltas.append(delta[missing].cpu())
            done = index + 1
    if not deltas:
        raise ValueError(f"no .jpg of {photos} has a mask at {masks}/<kind>/<its name>.png")
    everything = torch.cat(deltas)
    row = {
        "photos": done - skip,
        "next": done if done < len(paths) else None,
        "pairs": len(deltas),
        "hole_pixels": everything.numel(),
        "mean_grey": everything.mean().item(),
        "max_grey": everything.max().item(),
        "within_2": (everything <= 2).double().mean().item(),
        "not_finite": not_finite,
        "s": time.monotonic() - started,
    }
    print(row, flush=True)
    return row


def _square_input(path: Path, mask_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's input (1, 4, 512, 512) from a photo's centre square, and the hole (512, 512) bool."""
    from PIL import Image

    photo, mask = Image.open(path).convert("RGB"), Image.open(mask_path).convert("L")
    if mask.size != photo.size:
        mask = mask.resize(photo.size, Image.Resampling.NEAREST)
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    box, size = (left, top, left + side, top + side), (EVAL_SIDE_PX, EVAL_SIDE_PX)
    square = np.asarray(photo.resize(size, Image.Resampling.BOX, box=box))
    hole = np.asarray(mask.resize(size, Image.Resampling.NEAREST, box=box)) > 127
    image = torch.from_numpy(square.copy()).cuda().permute(2, 0, 1).float() / 255
    missing = torch.from_numpy(hole).cuda()
    return torch.cat([image * ~missing, missing.float()[None]])[None], missing


def bucket_rows(weights: str | None, sides: list[int]) -> list[dict[str, Any]]:
    """Time the forward of these weights at every side."""
    from lama.checkpoint import load_generator

    generator = load_generator(weights)
    fused = FastGenerator(generator, device="cuda", dtype=torch.float16)
    rows = []
    for side in sides:
        x = torch.rand(1, 4, side, side, device="cuda")
        graph, out = captured(fused, x)
        measured = time_device(graph.replay)
        rows.append(
            {"side": side, "median_ms": measured.median_ms, **differences(out, float64_reference(generator, x))}
        )
        print(rows[-1], flush=True)
    return rows
