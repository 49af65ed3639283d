"""Own the scoring: runs methods over cases, and remembers what the classical peers scored.

A classical peer's figures never change while photo, hole and peer stay the same, and they cost minutes; they are kept
in one small JSON file each, named by a hash of everything they depend on, so a new checkpoint costs only its own runs
and several processes can fill one cache together. Figures of networks are never kept.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch

from bench.quality_figures import Figures, PerceptualDistance, hole_psnr, hole_ssim, seam_error
from bench.quality_peers import CLASSICAL, Fill, grow_as_repair
from bench.quality_protocols import Case, make_cases

# Raise it when a figure or a peer is computed in another way: older entries are then not found any more.
CACHE_VERSION = 1
UNGROWN_SUFFIX = ", no dilation"


@dataclass(frozen=True)
class Setup:
    """What is measured: photos, protocol and kinds, with the folders they come from.

    features is the file of SqueezeNet weights (None leaves the perceptual figure out); cache the folder of the peers'
    figures; dilate_px what the overlay's peers are grown by (None: as the repair does by default).
    """

    protocol: str
    photos: tuple[Path, ...]
    kinds: tuple[str, ...]
    masks: Path | None
    features: Path | None
    cache: Path
    dilate_px: int | None = None


@dataclass(frozen=True)
class Record:
    """The figures of one method on one case."""

    method: str
    photo: str
    kind: str
    figures: Figures


class Scorer:
    """Scores results; keeps the features of the last clean photo, as its kinds and methods come one after another.

    Args:
        features: file of SqueezeNet weights; None leaves the perceptual figure out (NaN).
        device: where they run.
    """

    def __init__(self, features: Path | None, *, device: str = "cpu") -> None:
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
        return Figures(
            psnr=hole_psnr(result, case.clean, case.scored),
            ssim=hole_ssim(result, case.clean, case.scored),
            perceptual=distance,
            seam=seam_error(result, case.clean, case.hole, case.scored),
        )


def score_fills(setup: Setup, fills: Mapping[str, Fill], *, device: str = "cpu") -> Iterator[Record]:
    """Score networks on every case, photo by photo."""
    scorer = Scorer(setup.features, device=device)
    for photo in setup.photos:
        for case in make_cases(photo, setup.protocol, setup.kinds, setup.masks):
            for method, fill in fills.items():
                figures = scorer.score(fill(case.given, case.hole), case)
                yield Record(method, case.photo, case.kind, figures)


def score_peers(setup: Setup, peers: Sequence[str], *, processes: int = 1) -> list[Record]:
    """Score the classical peers on every case, from the cache where it has them.

    On the overlay protocol every peer appears twice: with the hole grown as ours is, and, named "..., no dilation",
    with the hole as it is.
    """
    each = [replace(setup, photos=(photo,)) for photo in setup.photos]
    if processes <= 1:
        return [record for one in each for record in _score_peers_of_photo(one, tuple(peers))]
    # Spawned: a fork of a process whose torch threads run may hang.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        parts: Iterable[list[Record]] = pool.map(_score_peers_of_photo, each, [tuple(peers)] * len(each))
        return [record for part in parts for record in part]


def _score_peers_of_photo(setup: Setup, peers: tuple[str, ...]) -> list[Record]:
    records = []
    for case in make_cases(setup.photos[0], setup.protocol, setup.kinds, setup.masks):
        holes = {"": case.hole}
        if setup.protocol == "overlay":
            holes = {"": grow_as_repair(case.hole, dilate_px=setup.dilate_px), UNGROWN_SUFFIX: case.hole}
        digest = case.digest()
        for peer in peers:
            for suffix, hole in holes.items():
                figures = _remembered(setup, case, digest, peer, hole)
                records.append(Record(peer + suffix, case.photo, case.kind, figures))
    return records


def _remembered(setup: Setup, case: Case, digest: str, peer: str, hole: np.ndarray) -> Figures:
    key = hashlib.blake2b(digest_size=16)
    key.update(f"{CACHE_VERSION}|{digest}|{peer}|{cv2.__version__}|{_features_digest(setup.features)}".encode())
    key.update(np.packbits(hole).tobytes())
    file = setup.cache / case.protocol / f"{case.photo}-{case.kind}-{peer}-{key.hexdigest()}.json"
    if file.exists():
        return Figures(**json.loads(file.read_text(encoding="utf-8")))
    figures = _peer_scorer(setup.features).score(CLASSICAL[peer](case.given, hole), case)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(asdict(figures)), encoding="utf-8")
    partial.replace(file)
    return figures


@lru_cache(maxsize=1)
def _peer_scorer(features: Path | None) -> Scorer:
    return Scorer(features)


@lru_cache(maxsize=2)
def _features_digest(features: Path | None) -> str:
    return "" if features is None else hashlib.blake2b(features.read_bytes(), digest_size=8).hexdigest()


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
