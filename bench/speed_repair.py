"""Time, steadiness, memory and start of the whole `Inpainter.repair`, arrays in, patches out."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.speed_model import captured, differences, float64_reference, time_device, timing
from lama.fused import FusedGenerator

ROOT = Path(__file__).resolve().parents[1]
CAP_BYTES = 6 * 2**30
EVAL_SIDE_PX = 512


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
    """Time repairs of several sizes: wall clock, what of it is not the forward, jitter, and the stages."""
    from inference import Inpainter  # needs more packages than the network alone

    inpainter = Inpainter.load(weights)
    print(json.dumps(inpainter.describe(), default=str), flush=True)
    rows: list[dict[str, Any]] = []
    for height, width, hole_px in [
        (512, 512, 150),
        (768, 768, 200),
        (1024, 1024, 300),
        (1536, 1536, 300),
        (1080, 1920, 300),
        (3000, 4000, 300),
        (3000, 4000, 1200),
    ]:
        image, mask = photo_and_hole(height, width, hole_px)
        started = time.perf_counter()
        inpainter.repair(image, mask)
        first_ms = (time.perf_counter() - started) * 1e3
        walls, stages = [], []
        for _ in range(rounds):
            started = time.perf_counter()
            result = inpainter.repair(image, mask)
            _ = result.patches
            walls.append((time.perf_counter() - started) * 1e3)
            stages.append(result.timings_ms)
        measured = timing(walls)
        medians = {stage: round(statistics.median(s[stage] for s in stages), 2) for stage in stages[0]}
        rows.append(
            {
                "size": f"{width}x{height}",
                "hole_px": hole_px,
                "median_ms": measured.median_ms,
                "p95_ms": measured.high_ms,
                "jitter": measured.high_ms / measured.median_ms,
                "first_ms": first_ms,
                "beyond_forward_ms": measured.median_ms - medians["predict"],
                "stages_ms": medians,
                "reserved_mib": torch.cuda.memory_reserved() / 2**20 if torch.cuda.is_available() else 0,
            }
        )
        row = rows[-1]
        print(
            f"| repair {row['size']} hole {hole_px} | {row['median_ms']:.2f} ms "
            f"| forward + {row['beyond_forward_ms']:.2f} ms | p95/median {row['jitter']:.2f} "
            f"| first {first_ms:.1f} ms | {medians} |",
            flush=True,
        )
    return rows


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
    print(row, flush=True)
    return row


def start_row(weights: str | None) -> dict[str, Any]:
    """Time from process start to ready (weights loaded, graphs captured, warm), twice: cold and warm kernel cache."""
    code = f"from inference import Inpainter; import torch; i = Inpainter.load({weights!r}); print(i.describe())"
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        seconds.append(time.perf_counter() - started)
        if child.returncode:
            return {"message": child.stderr[-500:]}
    row = {"first_s": seconds[0], "second_s": seconds[1], "says": child.stdout[-400:]}
    print(row, flush=True)
    return row


def accuracy_row(weights: str | None, photos: Path, masks: Path, *, limit: int = 100) -> dict[str, Any]:
    """Compare float16 with float64 on the centre squares of photos, over the pixels of their holes."""
    from PIL import Image

    from lama.checkpoint import load_generator

    generator = load_generator(weights)
    fused = FusedGenerator(generator, device="cuda", dtype=torch.float16)
    deltas, not_finite = [], 0
    kinds = sorted(folder.name for folder in masks.iterdir() if folder.is_dir())
    for index, path in enumerate(sorted(photos.glob("*.jpg"))[:limit]):
        mask_path = masks / kinds[index % len(kinds)] / f"{path.stem}.png"
        if not mask_path.exists():
            continue
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
        x = torch.cat([image * ~missing, missing.float()[None]])[None]
        out = fused(x)
        not_finite += not bool(out.isfinite().all())
        delta = ((out.double() - float64_reference(generator, x)).abs() * 255)[0].amax(0)
        deltas.append(delta[missing].cpu())
    everything = torch.cat(deltas)
    row = {
        "photos": len(deltas),
        "hole_pixels": everything.numel(),
        "mean_grey": everything.mean().item(),
        "max_grey": everything.max().item(),
        "within_2": (everything <= 2).double().mean().item(),
        "not_finite": not_finite,
    }
    print(row, flush=True)
    return row


def bucket_rows(weights: str | None, sides: list[int]) -> list[dict[str, Any]]:
    """Time the forward of these weights at every side."""
    from lama.checkpoint import load_generator

    generator = load_generator(weights)
    fused = FusedGenerator(generator, device="cuda", dtype=torch.float16)
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
