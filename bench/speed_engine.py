"""What the engine does around single repairs: memory, batches, our kernels, other weights, measuring, launches."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch

import preprocess
from bench.speed_model import random_generator
from bench.speed_repair import disc, photo_and_hole
from engine.requests import RepairRequest
from lama.checkpoint import save_generator
from masks.boxes import slices_of

MIXED = ((700, 900), (1080, 1920), (3000, 4000), (500, 400))
MOST_KERNELS = 24  # those that are printed
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


def agree_rows(weights: str | None) -> list[dict[str, Any]]:
    """Repairs of 4000x3000 with crops by our kernels beside the same by plain PyTorch: difference in grey levels.

    And whether what no hole reaches is the photo's, byte for byte. The grains of `photo_and_hole` are noise, so that a
    pixel taken from the wrong place shows.
    """
    from inference import Inpainter

    inpainter = Inpainter.load(weights)
    height, width = 3000, 4000
    holes = {f"disc of {side} px": disc(height, width, side) for side in (300, 1200, 2000, 2600)}
    random = np.random.default_rng(0)
    blobs = np.zeros((height, width), np.uint8)
    for _ in range(12):
        x, y, radius = random.integers([300, 300, 40], [width - 300, height - 300, 420])
        cv2.circle(blobs, (int(x), int(y)), int(radius), 1, -1)
    holes |= {"12 blobs": blobs > 0, "the left half": np.arange(width) < width // 2 + np.zeros((height, 1))}
    image, _ = photo_and_hole(height, width, 1)
    rows = []
    for name, mask in holes.items():
        ours = inpainter.repair(image, mask)
        plan = inpainter._plan(RepairRequest(image, mask))
        with mock.patch.multiple(
            preprocess, crop_kernels=lambda _device: None, scaled_crop_kernels=lambda _device: None
        ):
            plain = inpainter.repair(image, mask)
        off = np.abs(ours.image.astype(np.int16) - plain.image)
        reached = np.zeros(mask.shape, np.bool_)
        for crop in plan:
            reached[slices_of(crop.patch_box)] |= crop.alpha > 0
        is_exact = bool((ours.image[~reached] == image[~reached]).all())
        row = {"hole": name, "crops": [crop.scaled_size for crop in plan], "max_grey": int(off.max())}
        rows.append(row | {"beyond_1": float((off > 1).mean()), "equal": float((off == 0).mean()), "exact": is_exact})
        print(rows[-1], flush=True)
    return rows


def launch_rows(weights: str | None) -> list[dict[str, Any]]:
    """One repair of 4000x3000 with each of three holes: launches, copies, waits, and where the device's time goes."""
    from inference import Inpainter

    inpainter = Inpainter.load(weights)
    rows = []
    for hole_px in (300, 1200, 2600):
        image, mask = photo_and_hole(3000, 4000, hole_px)
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
        print(f"hole {hole_px} px: {host}", flush=True)
        print(
            f"{sum(map(len, device.values()))} kernels and copies, {sum(map(sum, device.values())):.0f} us", flush=True
        )
        for name, times in sorted(device.items(), key=lambda item: -sum(item[1]))[:MOST_KERNELS]:
            print(f"{name[:90]:90s} {len(times):4d} {sum(times):8.1f}", flush=True)
        each = {name[:120]: [len(times), sum(times)] for name, times in device.items()}
        rows.append({"hole_px": hole_px, "calls": host, "device": each})
    return rows


def _levels_mib() -> tuple[float, float]:
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated() / 2**20, torch.cuda.memory_reserved() / 2**20
