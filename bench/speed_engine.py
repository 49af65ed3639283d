"""What the engine does around single repairs: steady memory, batches, other weights, measuring the card, launches."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.speed_model import random_generator
from bench.speed_repair import disc, photo_and_hole
from lama.checkpoint import save_generator

MIXED = ((700, 900), (1080, 1920), (3000, 4000), (500, 400))
MIXED_HOLES_PX = (30, 120, 300, 900, 1400, 2600)


def memory_row(weights: str | None, *, repairs: int = 200) -> dict[str, Any]:
    """Allocated and reserved memory over repairs of mixed sizes, each kind of photo with each kind of hole in turn."""
    from inference import Inpainter

    inpainter = Inpainter.load(weights)
    images = [photo_and_hole(height, width, 1)[0] for height, width in MIXED]
    levels: list[tuple[float, float]] = [_levels_mib()]
    seconds = time.monotonic()
    for turn in range(repairs):
        image = images[turn % len(images)]
        height, width = image.shape[:2]
        hole_px = min(MIXED_HOLES_PX[turn // len(images) % len(MIXED_HOLES_PX)] + turn % 7 * 10, height - 40)
        inpainter.repair(image, disc(height, width, hole_px))
        levels.append(_levels_mib())
    row = {
        "repairs": repairs,
        "allocated_mib": {turn: levels[turn][0] for turn in (0, 10, 24, 48, repairs)},
        "reserved_mib": {turn: levels[turn][1] for turn in (0, 10, 24, 48, repairs)},
        "highest_reserved_mib": max(level[1] for level in levels),
        "peak_allocated_mib": torch.cuda.max_memory_allocated() / 2**20,
        "s": time.monotonic() - seconds,
    }
    print(row, flush=True)
    return row


def switch_row(*, width: int = 64, blocks: int = 18) -> dict[str, Any]:
    """Go over to weights of big-lama's size and back: how long, how much memory at most, same result again."""
    from inference import Inpainter

    image, mask = photo_and_hole(700, 900, 200)
    inpainter = Inpainter.load()
    before = inpainter.repair(image, mask).image
    row: dict[str, Any] = {"allocated_mib": {"embedded": _levels_mib()[0]}}
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.safetensors"
        save_generator(random_generator(width=width, blocks=blocks), large)
        for name, weights in (("large", large), ("embedded again", None)):
            torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            inpainter.switch_weights(weights)
            row[f"{name}_s"] = time.perf_counter() - started
            after = inpainter.repair(image, mask).image
            row["allocated_mib"][name] = _levels_mib()[0]
            row["allocated_mib"][f"{name}, peak"] = torch.cuda.max_memory_allocated() / 2**20
    row["same_as_before"] = bool((after == before).all())
    print(row, flush=True)
    return row


def batch_rows(weights: str | None, *, most: int = 8, rounds: int = 10) -> list[dict[str, Any]]:
    """Repairs that are handed in together beside the same one by one: time an image and largest difference."""
    from inference import Inpainter, RepairRequest

    inpainter = Inpainter.load(weights)
    image, mask = photo_and_hole(512, 512, 150)
    requests = [RepairRequest(np.roll(image, 37 * index, axis=1), mask) for index in range(most)]
    alone = [inpainter.repair(request.image, request.mask).image.astype(int) for request in requests]
    rows = []
    for batch in (1, 2, 4, 8):
        walls, largest = [], 0
        for turn in range(rounds + 1):
            started = time.perf_counter()
            results = inpainter.repair_many(requests[:batch])
            walls.append((time.perf_counter() - started) * 1e3)
            if turn == 0:
                largest = max(int(np.abs(r.image - a).max()) for r, a in zip(results, alone, strict=False))
        rows.append(
            {
                "batch": batch,
                "first_ms": walls[0],
                "ms_an_image": statistics.median(walls[1:]) / batch,
                "max_grey": largest,
            }
        )
        print(rows[-1], flush=True)
    return rows


def measure_row(weights: str | None) -> dict[str, Any]:
    """`fftlama profile --measure` on this card, written to a folder of its own."""
    from inference import Inpainter, autotune_profile

    inpainter = Inpainter.load(weights)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        measured = autotune_profile(inpainter, folder=Path(folder))
        text = measured.path.read_text(encoding="utf-8")
    row = {"s": time.perf_counter() - started, "rows": [vars(row) for row in measured.rows], "written": text}
    print(f"{row['s']:.1f} s\n{text}", flush=True)
    for line in measured.rows:
        print(line, flush=True)
    image, mask = photo_and_hole(600, 600, 100)
    row["works_after"] = bool(inpainter.repair(image, mask).patches)
    return row


def launch_row(weights: str | None) -> dict[str, Any]:
    """One repair of 4000x3000 with a hole of 300 px: launches, copies, waits, and where the device's time goes."""
    from inference import Inpainter

    inpainter = Inpainter.load(weights)
    image, mask = photo_and_hole(3000, 4000, 300)
    for _ in range(5):
        inpainter.repair(image, mask)
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        inpainter.repair(image, mask)
        torch.cuda.synchronize()
    host: dict[str, int] = {}
    device: dict[str, list[float]] = {}
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            device.setdefault(event.name, []).append(event.self_device_time_total)
        elif event.name.startswith(("cuda", "cu")):
            host[event.name] = host.get(event.name, 0) + 1
    print(host, flush=True)
    print(f"{sum(map(len, device.values()))} kernels and copies, {sum(map(sum, device.values())):.0f} us", flush=True)
    for name, times in sorted(device.items(), key=lambda item: -sum(item[1]))[:45]:
        print(f"{name[:90]:90s} {len(times):4d} {sum(times):8.1f}", flush=True)
    return {"calls": host, "device": {name[:120]: [len(times), sum(times)] for name, times in device.items()}}


def _levels_mib() -> tuple[float, float]:
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated() / 2**20, torch.cuda.memory_reserved() / 2**20
