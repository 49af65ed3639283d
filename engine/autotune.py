"""Autotune: time the model's settings on a device and write the best as its profile.

Times the model alone for every precision, graph mode, bucket and batch. Writes the fastest of those that compute the
same as plain float32 to `hardware_profiles.local.yaml`: some cards are fast in half precision and wrong. On Hopper
cards products in FP8 are tried too; they have to cost next to nothing in PSNR. Prints nothing. The caller holds the
lock on the GPU and has freed what else was on it.
"""

from __future__ import annotations

import logging
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import yaml
from torch import Tensor

from engine.devices import cpu_supports_bf16
from engine.model_runner import BATCH_SIZES, ModelRunner
from engine.profiles import LOCAL_PROFILES_FILE, PROFILES_FOLDER, Card, Profile
from engine.requests import RepairError
from imaging.atomic_write import write_atomically
from lama.device_errors import is_out_of_memory
from lama.fast_generator import FastGenerator
from lama.generator import Generator
from tensor_ops.seam_correction import correct_seam

LADDER_PX = (256, 384, 512, 640, 768, 1024, 1280, 1536)
REFERENCE_PX = 512  # precision and graph mode are chosen at this bucket
WARM_UP_RUNS = 2
TIMED_RUNS = 7
USEFUL_GAIN = 0.95  # a choice is kept when it takes less than this part of the time without it
LARGEST_MEAN_DIFFERENCE = 2 / 255  # from float32; rounding alone stays under a quarter of it
LARGEST_COST_DB = 0.1  # what products in FP8 may take off the PSNR of images like photos
LONGEST_FORWARD_MS = 4000  # a bucket slower than this is no use to a person who waits


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probe:
    """What a setting is to predict.

    Attributes:
        x: (4, H, W), the model input.
        image: (3, H, W) in [0, 1], without a hole.
        expected: (1, 3, H, W), the prediction of plain float32, its seams corrected.
    """

    x: Tensor
    image: Tensor
    expected: Tensor

    def difference(self, prediction: Tensor) -> float:
        """Return the mean difference in the hole from what plain float32 makes of it."""
        return (prediction - self.expected)[self._missing].abs().mean().item()

    def psnr_db(self, prediction: Tensor) -> float:
        """Return the PSNR of a prediction (1, 3, H, W) in the hole."""
        return -10 * (prediction - self.image)[self._missing].square().mean().log10().item()

    @property
    def _missing(self) -> Tensor:
        return self.x[3:].expand(1, 3, -1, -1) > 0


@dataclass(frozen=True)
class AutotuneRow:
    """One timed setting; `forward_ms` is the median of a whole batch, None when `failure` says why there is none.

    `precision` is "fp8" where float16 multiplies in FP8.
    """

    precision: str
    cuda_graph: str
    bucket_px: int
    batch: int
    forward_ms: float | None
    peak_mib: int | None
    failure: str = ""


@dataclass(frozen=True)
class AutotunedProfile:
    """The timed settings, the best one as a profile, and the file it was written to."""

    rows: list[AutotuneRow]
    profile: Profile
    path: Path


def autotune_card(
    generator: Generator,
    card: Card,
    device: torch.device,
    start: Profile,
    *,
    folder: Path | None = None,
    kernels: str = "auto",
) -> AutotunedProfile:
    """Time the settings on a device and write the best as the card's local profile.

    Args:
        generator: the network to time, on the CPU; not modified.
        card: what the new profile will be matched on.
        device: where to time.
        start: the profile in use; its memory fraction is kept, and that its graphs are verified.
        folder: where `hardware_profiles.local.yaml` is written (default: the checkout). Other rows in it are kept.
        kernels: as `ModelRunner` takes it.

    Returns:
        the profile, the reason for it, and every row that was timed.

    Raises:
        RepairError: nothing ran, or nothing right.
        OSError: the file can't be written.
    """
    rows: list[AutotuneRow] = []
    start = replace(start, fp8="off")  # which a profile measured before may have on; it is tried at the end
    is_gpu = device.type == "cuda"
    precisions = ("fp16", "fp32") if is_gpu else ("bf16", "fp32") if cpu_supports_bf16() else ("fp32",)
    trials = [(precision, graph) for precision in precisions for graph in (("on", "off") if is_gpu else ("off",))]

    def time_one(precision: str, graph: str, side: int, batch: int, probes: Sequence[Probe] = ()) -> float:
        profile = replace(start, precision=precision, cuda_graph=graph)
        row = _time_one(generator, device, profile, side, batch, kernels, probes)
        rows.append(row)
        return row.forward_ms if row.forward_ms is not None else float("inf")

    probes = _probes(generator, device, _smooth_images(REFERENCE_PX))
    reference_ms = {trial: time_one(*trial, REFERENCE_PX, 1, probes) for trial in trials}
    precision, graph = min(reference_ms, key=lambda trial: reference_ms[trial])
    if reference_ms[precision, graph] == float("inf"):
        raise RepairError(f"no setting runs on this device: {'; '.join(sorted({row.failure for row in rows}))}")

    times_ms: dict[int, float] = {}
    for side in LADDER_PX:
        times_ms[side] = time_one(precision, graph, side, 1)
        if times_ms[side] > LONGEST_FORWARD_MS:
            break
    buckets = [side for side in times_ms if times_ms[side] <= LONGEST_FORWARD_MS] or [LADDER_PX[0]]
    kept = [buckets[-1]]
    for side in reversed(buckets[:-1]):
        if times_ms[side] < USEFUL_GAIN * times_ms[kept[0]]:
            kept.insert(0, side)

    best_batch, best_ms = 1, times_ms[kept[0]]
    for batch in sorted(BATCH_SIZES)[1:]:
        each_ms = time_one(precision, graph, kept[0], batch) / batch
        if each_ms < USEFUL_GAIN * best_ms:
            best_batch, best_ms = batch, each_ms
    chosen = Profile(
        name="measured-" + (re.sub(r"[^a-z0-9]+", "-", card.name.lower()).strip("-") or "card"),
        input_px=kept[-1],
        precision=precision,
        cuda_graph="verify" if graph == "on" and start.cuda_graph != "on" else graph,
        buckets_px=tuple(kept),
        memory_fraction=start.memory_fraction,
        max_batch=best_batch,
    )
    if precision == "fp16" and kernels == "auto" and (fp8 := _time_fp8(generator, device, chosen)) is not None:
        rows.append(fp8)
        # Timed once more, as a card that has grown warm is slower than it was.
        if fp8.forward_ms is not None and fp8.forward_ms < USEFUL_GAIN * time_one(precision, graph, kept[-1], 1):
            chosen = replace(chosen, fp8="on")
    return AutotunedProfile(rows, chosen, write_profile(chosen, card, folder or PROFILES_FOLDER))


def write_profile(profile: Profile, card: Card, folder: Path) -> Path:
    """Write a profile for a card into the folder's local profiles, first; rows of other names stay. Return the file."""
    path = folder / LOCAL_PROFILES_FILE
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    others = [row for row in (content or {}).get("profiles", []) if row.get("name") != profile.name]
    row = {**asdict(profile), "match": [card.name], "buckets_px": list(profile.buckets_px)}
    if profile.fp8 == "off":
        del row["fp8"]  # as it is without the key, which older versions do not know
    write_atomically(path, yaml.safe_dump({"profiles": [row, *others]}, sort_keys=False).encode())
    return path


def _time_one(
    generator: Generator,
    device: torch.device,
    profile: Profile,
    side: int,
    batch: int,
    kernels: str,
    probes: Sequence[Probe],
) -> AutotuneRow:
    forward_ms, peak_mib, failure = None, None, ""
    try:
        if probes and not _is_right(generator, device, profile, kernels, probes):
            failure = "wrong"
        else:
            forward_ms, peak_mib = _time_forward(generator, device, profile, side, batch, kernels)
    except Exception as error:  # a compiler or driver of any kind: that setting is not for this card
        failure = "no memory" if is_out_of_memory(error) else "failed"
        logger.warning("%s, %d px, batch %d: %s: %s", profile.precision, side, batch, failure, error)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return AutotuneRow(profile.precision, profile.cuda_graph, side, batch, forward_ms, peak_mib, failure)


def _time_fp8(generator: Generator, device: torch.device, profile: Profile) -> AutotuneRow | None:
    """Time the largest bucket with products in FP8; None where this card has none.

    Small maps are multiplied in float16 either way, so what FP8 costs is measured at the largest bucket too. Not on
    smooth images: these are predicted to a grey level or two, of which any rounding is tenths of a decibel.
    """
    side = profile.input_px
    in_fp8 = replace(profile, fp8="on")
    try:
        runner = ModelRunner(generator, device=device, precision="fp16", profile=in_fp8)
        has_fp8 = runner.has_fp8
        runner.release()
        if not has_fp8:
            return None
        probes = _probes(generator, device, _photo_like_images(side))
        psnr_db = [
            statistics.mean(
                probe.psnr_db(prediction) for probe, prediction in _predictions(generator, device, each, "auto", probes)
            )
            for each in (profile, in_fp8)
        ]
        probes += _probes(generator, device, _smooth_images(side))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    cost_db = psnr_db[0] - psnr_db[1]
    if not cost_db <= LARGEST_COST_DB:  # so that NaN costs too much, too
        return AutotuneRow("fp8", profile.cuda_graph, side, 1, None, None, f"costs {cost_db:.2f} dB")
    return replace(_time_one(generator, device, in_fp8, side, 1, "auto", probes), precision="fp8")


def _probes(generator: Generator, device: torch.device, images: Sequence[Tensor]) -> list[Probe]:
    """Return images (3, H, W), each with a hole, and their predictions in plain float32."""
    plain = FastGenerator(generator, device=device, dtype=torch.float32, kernels="torch")
    probes = []
    for image in images:
        _, height, width = image.shape
        missing = torch.zeros(1, height, width)
        missing[:, height // 4 : height // 2, width // 4 : width // 2] = 1
        x = torch.cat([image * (1 - missing), missing]).to(device)
        with torch.inference_mode():
            probes.append(Probe(x, image.to(device), correct_seam(plain(x[None]), x[None])))
    return probes


def _smooth_images(side: int) -> list[Tensor]:
    across = torch.linspace(0, 1, side).expand(side, side)
    return [torch.stack([across, across.T, 1 - across]), torch.stack([across.square()] * 3)]


def _photo_like_images(side: int) -> list[Tensor]:
    """Return noise whose spectrum falls with the frequency as that of photos does.

    Field, "Relations between the statistics of natural images and the response properties of cortical cells" (1987).
    """
    frequency = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1  # the mean, which is set below
    images = []
    for seed in range(3):
        white = torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed))
        noise = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(side, side))
        images.append((0.5 + 0.2 * (noise - noise.mean()) / noise.std()).clamp(0, 1))
    return images


def _is_right(
    generator: Generator, device: torch.device, profile: Profile, kernels: str, probes: Sequence[Probe]
) -> bool:
    """Tell whether a setting predicts what plain float32 does, graphs replayed."""
    # So that NaN is wrong, too.
    return all(
        probe.difference(prediction) <= LARGEST_MEAN_DIFFERENCE
        for probe, prediction in _predictions(generator, device, profile, kernels, probes)
    )


def _predictions(
    generator: Generator, device: torch.device, profile: Profile, kernels: str, probes: Sequence[Probe]
) -> list[tuple[Probe, Tensor]]:
    """Predict each probe twice: the first captures the graph, the second replays it."""
    runner = ModelRunner(generator, device=device, precision=profile.precision, profile=profile, kernels=kernels)
    try:
        return [(probe, runner.predict([probe.x]).clone()) for probe in probes for _ in range(2)]
    finally:
        runner.release()


def _time_forward(
    generator: Generator, device: torch.device, profile: Profile, side: int, batch: int, kernels: str
) -> tuple[float, int | None]:
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    runner = ModelRunner(generator, device=device, precision=profile.precision, profile=profile, kernels=kernels)
    inputs = [torch.rand(4, side, side, device=device) for _ in range(batch)]
    times_ms = []
    for run in range(WARM_UP_RUNS + TIMED_RUNS):
        started_s = time.perf_counter()
        runner.predict(inputs)
        if is_gpu:
            torch.cuda.synchronize(device)
        if run >= WARM_UP_RUNS:
            times_ms.append((time.perf_counter() - started_s) * 1000)
        if times_ms and times_ms[-1] > LONGEST_FORWARD_MS:
            break
    peak_mib = torch.cuda.max_memory_allocated(device) >> 20 if is_gpu else None
    runner.release()
    return statistics.median(times_ms), peak_mib
