"""Four ways to keep one card and all of them busy, for `two_cards.py`: queue, engine, processes, threads."""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.requests import RepairRequest
from imaging import encode_png
from jobs.card_pool import CardPool
from jobs.card_run import CardPlan, only_card
from jobs.queue import JobQueue
from jobs.worker import side_by_side

WARM_UP = 3  # repairs of each kind before the first turn
CLIENTS = 16  # of the queue: enough that repairs always wait

Repair = Callable[[], None]


class Cards(Protocol):
    """One way to use one card and all."""

    described: dict[str, Any]

    def turn(self, hole_px: int, cards: int) -> float:
        """Return how many repairs a second the first cards do together."""

    def close(self) -> None:
        """End what was started."""


@dataclass(frozen=True)
class Plan:
    """What is repaired, and for how long.

    Attributes:
        width_px: of the photo.
        height_px: of the photo.
        holes_px: how wide the holes are; one in a photo.
        seconds: the length of a turn.
        turns: how many, with one card and with all.
    """

    width_px: int
    height_px: int
    holes_px: tuple[int, ...]
    seconds: float
    turns: int


def photo_and_hole(plan: Plan, hole_px: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return a photo with waves and grain, and a disc in its middle."""
    height_px, width_px = plan.height_px, plan.width_px
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.float32)
    waves = 128 + 80 * np.sin(x / 97)[..., None] * np.cos(y / 61)[..., None] * np.array([1.0, 0.7, 0.4], np.float32)
    image = np.clip(waves + random.integers(-8, 9, (height_px, width_px, 1)), 0, 255).astype(np.uint8)
    return image, (x - width_px / 2) ** 2 + (y - height_px / 2) ** 2 <= (hole_px / 2) ** 2


def load_repairs(device: str, plan: Plan) -> tuple[dict[int, Repair], dict[str, Any]]:
    """Load a model onto a device; return what repairs one photo of each kind there, and what runs."""
    from inference import Inpainter

    inpainter = Inpainter.load(device=device)

    def make(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Repair:
        def repair() -> None:
            patches = inpainter.repair(image, mask).patches
            assert patches

        return repair

    repairs = {hole_px: make(*photo_and_hole(plan, hole_px)) for hole_px in plan.holes_px}
    for repair in repairs.values():
        for _ in range(WARM_UP):
            repair()
    return repairs, inpainter.describe()


def repair_for(repair: Repair, seconds: float) -> float:
    """Repair at least so long; return repairs a second."""
    began_s, count = time.monotonic(), 0
    while (elapsed_s := time.monotonic() - began_s) < seconds or not count:
        repair()
        count += 1
    return count / elapsed_s


def repair_together(repairs: Sequence[Repair], seconds: float) -> float:
    """Repair in a thread for each; return repairs a second of all together."""
    with ThreadPoolExecutor(len(repairs)) as threads:
        return sum(threads.map(lambda repair: repair_for(repair, seconds), repairs))


class Threads:
    """All cards in this process, one thread each."""

    def __init__(self, devices: Sequence[str], plan: Plan) -> None:
        self._seconds = plan.seconds
        loaded = [load_repairs(device, plan) for device in devices]
        self._repairs = [repairs for repairs, _ in loaded]
        self.described = loaded[0][1]

    def turn(self, hole_px: int, cards: int) -> float:
        """Return how many repairs a second the first cards do together."""
        return repair_together([repairs[hole_px] for repairs in self._repairs[:cards]], self._seconds)

    def close(self) -> None:
        """Do nothing: the models go with the process."""


def _serve(device: str, plan: Plan, pipe: Any) -> None:
    repairs, _ = load_repairs(device, plan)
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        pipe.send(repair_for(repairs[asked], plan.seconds))


class Processes:
    """Each card in a process of its own with a photo of its own."""

    def __init__(self, devices: Sequence[str], plan: Plan) -> None:
        self.described: dict[str, Any] = {}
        self._seconds = plan.seconds
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in devices]
        self._pipes = [ours for ours, _ in pairs]
        self._processes = [
            context.Process(target=_serve, args=(device, plan, theirs), daemon=True)
            for device, (_, theirs) in zip(devices, pairs, strict=True)
        ]
        for process in self._processes:
            process.start()
        for pipe in self._pipes:
            pipe.recv()

    def turn(self, hole_px: int, cards: int) -> float:
        """Return how many repairs a second the first cards do together."""
        for pipe in self._pipes[:cards]:
            pipe.send(hole_px)
        return sum(pipe.recv() for pipe in self._pipes[:cards])

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(30)


def load_inpainter(device: str) -> Any:
    """Load a model onto a device, here or in a card's process."""
    from inference import Inpainter

    return Inpainter.load(device=device)


def load_pool(devices: Sequence[str]) -> CardPool:
    """Load a model onto each device, in a process that sees no other card; as `app.load_card_pool` does."""
    plans = []
    for device in devices:
        kind, _, number = device.partition(":")
        where = {"device": "cuda:0" if kind == "cuda" else device}
        environment = only_card(int(number)) if kind == "cuda" else {}
        plans.append(CardPlan(device, "bench.card_ways:load_inpainter", where, environment))
    pool = CardPool(plans, deadline_s=300.0)
    pool.load()
    return pool


class Engine:
    """The program's engine without its queue: a model in this process for one card, the pool for all."""

    def __init__(self, devices: Sequence[str], plan: Plan) -> None:
        self._seconds = plan.seconds
        self._one, self._all = load_inpainter(devices[0]), load_pool(devices)
        self._photos = {hole_px: photo_and_hole(plan, hole_px) for hole_px in plan.holes_px}
        self.described = self._one.describe()
        for hole_px in plan.holes_px:
            for cards in (1, len(devices)):
                self._turn(hole_px, cards, 0.5)

    def turn(self, hole_px: int, cards: int) -> float:
        """Return how many repairs a second the first card does, or all together."""
        return self._turn(hole_px, cards, self._seconds)

    def _turn(self, hole_px: int, cards: int, seconds: float) -> float:
        engine: Any = self._one if cards == 1 else self._all
        lanes = 1 if cards == 1 else len(self._all.lanes())
        request = RepairRequest(*self._photos[hole_px])

        def repair() -> None:
            assert engine.repair_many([request])[0].patches

        return repair_together([repair] * lanes, seconds)

    def close(self) -> None:
        """End the processes."""
        self._all.close()


class Queue:
    """The program below its web server: `JobQueue` over one engine, and over the pool of all cards."""

    def __init__(self, devices: Sequence[str], plan: Plan) -> None:
        self._plan = plan
        self._folder = tempfile.TemporaryDirectory()
        one, pool = load_inpainter(devices[0]), load_pool(devices)
        self.described = one.describe()
        limit = 1 if devices[0] == "cpu" else one.profile.max_batch  # as `app.create_api` has it
        self._queues = {}
        for cards, given in ((1, [one]), (len(devices), pool.lanes())):
            engines, storing = side_by_side(given)
            settings = _settings(Path(self._folder.name) / str(cards))
            self._queues[cards] = JobQueue(settings, engines, batch_limit=limit, storing=storing)
        photo = encode_png(photo_and_hole(plan, 1)[0], fast=True)
        self._images = {}
        for cards, made in self._queues.items():
            made.start()
            self._images[cards] = made.add_image(photo, "photo.png").image_id
            for hole_px in plan.holes_px:
                self._turn(hole_px, cards, 0.5)

    def turn(self, hole_px: int, cards: int) -> float:
        """Return how many repairs a second come out of the queue while 16 clients always have one in it."""
        return self._turn(hole_px, cards, self._plan.seconds)

    def _turn(self, hole_px: int, cards: int, seconds: float) -> float:
        made, image_id = self._queues[cards], self._images[cards]
        centre = [self._plan.width_px / 2, self._plan.height_px / 2]
        strokes = [{"points": [centre], "radius": hole_px / 2, "erase": False}]
        ended_s: list[float] = []
        is_over = threading.Event()

        def be_client(number: int) -> None:
            count = 0
            while not is_over.is_set():
                job_id = made.submit(image_id, f"{number}-{count}-{time.monotonic_ns()}", strokes, save=False)
                view = made.view(job_id)
                while view["state"] not in ("done", "failed"):
                    view = made.view(job_id, wait_s=30.0, seen=view["version"])
                assert view["state"] == "done", view
                ended_s.append(time.monotonic())
                made.images.drop_edit(view["image_id"])  # or large patches fill the disk
                count += 1

        threads = [threading.Thread(target=be_client, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while len(ended_s) < CLIENTS:  # until everybody waits in the queue as they will from now on
            time.sleep(0.01)
        began_s = time.monotonic()
        time.sleep(seconds)
        is_over.set()
        for thread in threads:
            thread.join()
        # Up to the last end within the time, and not beyond, where fewer and fewer repairs wait.
        within = sorted(one for one in ended_s if began_s <= one <= began_s + seconds)
        return (len(within) - 1) / (within[-1] - within[0]) if len(within) > 2 else len(within) / seconds

    def close(self) -> None:
        """End queues and processes."""
        for made in self._queues.values():
            made.close(wait_s=10.0)
        self._folder.cleanup()


def _settings(folder: Path) -> Any:
    """Return the default settings that a queue reads, without the library that reads settings from files."""
    return SimpleNamespace(
        data_dir=folder / "data", outputs_dir=folder / "outputs", weights_dir=Path("weights"), weights="", mirrors="",
        fetch_weights="page", queue="local", queue_limit=32, client_waiting_jobs=0, job_timeout_s=300, keep_days=7,
        keep_mib=4096, max_file_mib=100, max_image_mpx=100, work_memory_mib=2048, root_path="",
    )  # fmt: skip
