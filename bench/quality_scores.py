"""Own the scoring: runs methods over cases, in several processes, and remembers what the classical peers scored.

A classical peer's figures never change while photo, hole and peer stay the same, and they cost minutes; they are kept
in one small JSON file each, named by a hash of everything they depend on, so a new checkpoint costs only its own runs
and several processes can fill one cache together. Figures of networks are never kept.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch

from bench.quality_figures import Figures, PerceptualDistance, hole_psnr, hole_ssim, seam_error
from bench.quality_kid import SecondFeatures, hole_windows
from bench.quality_peers import CLASSICAL, Fill, dilate_as_repair
from bench.quality_protocols import Case, make_cases
from bench.quality_texture import NO_TEXTURE, measure_texture

# Raise it when a figure or a peer is computed in another way: older entries are then not found any more.
CACHE_VERSION = 2
LARGE_KINDS = ("thick", "object", "medium")  # of the holes whose texture is looked at
UNGROWN_SUFFIX = ", no dilation"
MEMORY_PART = 0.6  # of the card's memory that all processes may take together


@dataclass(frozen=True)
class Setup:
    """What is measured: photos, protocol and kinds, with the folders they come from.

    features is the file of SqueezeNet weights (None leaves the perceptual figure out); cache the folder of the peers'
    figures; dilate_px what the overlay's peers are dilated by (None: as the repair does by default); device where the
    features run.
    """

    protocol: str
    photos: tuple[Path, ...]
    kinds: tuple[str, ...]
    masks: Path | None
    features: Path | None
    cache: Path
    dilate_px: int | None = None
    device: str = "cpu"
    second_features: Path | None = None


@dataclass(frozen=True)
class Record:
    """The figures of one method on one case.

    took_ms is the time of the fill, NaN for peers, whose figures may be remembered, and where several processes ran.
    windows are the second features of the large hole's windows, as filled and as photographed, (n, 1280) each; None
    where nobody asked, or the hole has no window.
    """

    method: str
    photo: str
    kind: str
    figures: Figures
    took_ms: float = float("nan")
    windows: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False, compare=False)


LoadFills = Callable[[], Mapping[str, Fill]]


class Scorer:
    """Scores results; keeps the features of the last clean photo, as its kinds and methods come one after another.

    Args:
        features: file of SqueezeNet weights; None leaves the perceptual figure out (NaN).
        device: where they run.
        second_features: file of EfficientNet-Lite0 weights; None leaves the windows' features out.
    """

    def __init__(self, features: Path | None, *, device: str = "cpu", second_features: Path | None = None) -> None:
        self._second = None if second_features is None else SecondFeatures(second_features, device=device)
        self._perceptual = None if features is None else PerceptualDistance(features, device=device)
        self._clean: np.ndarray | None = None
        self._clean_features: list[torch.Tensor] = []

    def score(self, result: np.ndarray, case: Case) -> Figures:
        """Return the figures of one result against the case's clean photo."""
        distance = float("nan")
        if self._perceptual is not None:
            if self._clean is not case.clean:
                self._clean, self._clean_features = case.clean, self._perceptual.features(case.clean)
            distance = self._perceptual.distance(result, self._clean_features, case.scored)
        look = measure_texture(result, case.clean, case.hole) if case.kind in LARGE_KINDS else NO_TEXTURE
        return Figures(
            psnr=hole_psnr(result, case.clean, case.scored),
            ssim=hole_ssim(result, case.clean, case.scored),
            perceptual=distance,
            seam=seam_error(result, case.clean, case.hole, case.scored),
            texture=look.texture,
            periodic=look.periodic,
            photo_periodic=look.photo_periodic,
        )

    def windows(self, result: np.ndarray, case: Case) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the second features of the windows around a large hole, as filled and as photographed."""
        places = hole_windows(case.hole) if self._second is not None and case.kind in LARGE_KINDS else []
        if not places or self._second is None:
            return None
        return self._second.features(result, places), self._second.features(case.clean, places)


def score(
    setup: Setup,
    peers: Sequence[str] = (),
    load_fills: LoadFills | None = None,
    *,
    processes: int = 1,
    seconds: float | None = None,
) -> list[Record]:
    """Score classical peers, from the cache where it has them, and networks, on every case.

    On the overlay protocol the peers' hole is dilated as ours is.

    Args:
        setup: the cases.
        peers: names of classical peers.
        load_fills: gives the networks by name; called once in every process, so it has to be picklable when there are
            several.
        processes: that work at once, a photo and kind each.
        seconds: after which several processes are stopped and what is scored by then is returned; photos are taken
            in mixed order, so that it is a fair part of them.

    Returns:
        one record per method, photo and kind.
    """
    if processes <= 1:
        fills = load_fills() if load_fills else {}
        parts = [_score_some(replace(setup, photos=(photo,)), peers, fills, timed=True) for photo in setup.photos]
        return [record for part in parts for record in part]
    each = [replace(setup, photos=(photo,), kinds=(kind,)) for photo in setup.photos for kind in setup.kinds]
    begun_s = time.perf_counter()
    np.random.default_rng(0).shuffle(each)
    # Spawned: a fork of a process whose torch threads run may hang.
    context = get_context("spawn")
    start = (load_fills, MEMORY_PART / processes if setup.device.startswith("cuda") else None)
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin_worker, initargs=start)
    running = [pool.submit(_score_in_worker, one, tuple(peers)) for one in each]
    done, late = wait(running, timeout=seconds and max(0, seconds - (time.perf_counter() - begun_s)))
    if late:
        print(f"stopped after {seconds:.0f} s with {len(done)} of {len(each)} cases", file=sys.stderr)
        for process in list((pool._processes or {}).values()):
            process.terminate()
    pool.shutdown(wait=not late, cancel_futures=True)
    records = [record for future in running if future in done for record in future.result()]
    order = {photo.stem: number for number, photo in enumerate(setup.photos)}
    return sorted(records, key=lambda record: (order[record.photo], setup.kinds.index(record.kind)))


class _Worker:
    """What a worker process keeps between its tasks."""

    load_fills: LoadFills | None = None
    fills: Mapping[str, Fill] | None = None
    memory_part: float | None = None


def _begin_worker(load_fills: LoadFills | None, memory_part: float | None) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _Worker.load_fills, _Worker.memory_part = load_fills, memory_part


def _score_in_worker(setup: Setup, peers: tuple[str, ...]) -> list[Record]:
    if _Worker.fills is None:
        _Worker.fills = _Worker.load_fills() if _Worker.load_fills else {}
        if _Worker.memory_part is not None:
            # cuDNN takes gigabytes of workspace for a photo where it can, and does without where it can't.
            torch.cuda.set_per_process_memory_fraction(_Worker.memory_part)
    return _score_some(setup, peers, _Worker.fills, timed=False)


def _score_some(setup: Setup, peers: Sequence[str], fills: Mapping[str, Fill], *, timed: bool) -> list[Record]:
    """Score the cases of a setup's only photo, one after another."""
    records = []
    for case in make_cases(setup.photos[0], setup.protocol, setup.kinds, setup.masks):
        if peers:
            overlay = setup.protocol == "overlay"
            hole = dilate_as_repair(case.hole, case.given, dilate_px=setup.dilate_px) if overlay else case.hole
            digest = case.digest()
        for peer in peers:
            figures = _remembered(setup, case, digest, peer, hole)
            records.append(Record(peer, case.photo, case.kind, figures))
        for method, fill in fills.items():
            started_s = time.perf_counter()
            result = fill(case.given, case.hole)
            took_ms = 1000 * (time.perf_counter() - started_s) if timed else float("nan")
            scorer = _scorer(setup.features, setup.device, setup.second_features)
            figures, windows = scorer.score(result, case), scorer.windows(result, case)
            records.append(Record(method, case.photo, case.kind, figures, took_ms, windows))
    return records


def _remembered(setup: Setup, case: Case, digest: str, peer: str, hole: np.ndarray) -> Figures:
    key = hashlib.blake2b(digest_size=16)
    key.update(f"{CACHE_VERSION}|{digest}|{peer}|{cv2.__version__}|{_features_digest(setup.features)}".encode())
    key.update(np.packbits(hole).tobytes())
    file = setup.cache / case.protocol / f"{case.photo}-{case.kind}-{peer}-{key.hexdigest()}.json"
    if file.exists():
        return Figures(**json.loads(file.read_text(encoding="utf-8")))
    figures = _scorer(setup.features, setup.device, setup.second_features).score(
        CLASSICAL[peer](case.given, hole), case
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(asdict(figures)), encoding="utf-8")
    partial.replace(file)
    return figures


@lru_cache(maxsize=1)
def _scorer(features: Path | None, device: str, second_features: Path | None) -> Scorer:
    return Scorer(features, device=device, second_features=second_features)


@lru_cache(maxsize=2)
def _features_digest(features: Path | None) -> str:
    return "" if features is None else hashlib.blake2b(features.read_bytes(), digest_size=8).hexdigest()
