"""The engine of `DEVICES=0,1`: each card's model in a process of its own, all of them behind one queue.

Threads of one process would share its interpreter, which lets one of them compute at a time: two cards did 1.4 times as
much as one. Shaped like `inference.Inpainter`, so the queue in front of it is the same as with a model in this process.
Pixels travel through shared memory (`card_run.py`). A process that ends is started again; what it computed is tried
once more, alone on its card, and given up when that takes the process down as well. Knows no model and no HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jobs.card_run import LANES, POLL_S, CardLostError, CardPlan, CardRun, Lane
from jobs.errors import MOST_LOST_WORKERS, EngineUnavailableError, workers_lost
from jobs.windows import RemoteResult

PAUSES_S = (1.0, 60.0)  # before a process that failed to start is started again: at first, and at most

log = logging.getLogger("fftlama.jobs")


class Card:
    """One card: its process, started again whenever it ends, and the weights that it runs.

    Args:
        plan: what runs there.
        number: its place among the cards.
        news: held over every change of the process and of `failure`.
        deadline_s: how long a change of weights may take.
    """

    def __init__(self, plan: CardPlan, number: int, news: threading.Condition, deadline_s: float) -> None:
        self.plan = plan
        self.name = f"device-{number}"
        self._run: CardRun | None = None
        self.failure: Exception | None = None  # why none was, last time
        self.max_batch = 1
        self._news = news
        self._deadline_s = deadline_s
        self._weights: tuple[Path | None] | None = None  # those it was switched to
        self._described: dict[str, Any] = {}

    @property
    def run(self) -> CardRun | None:
        """The process, or None while none is ready."""
        run = self._run
        return None if run is None or run.is_gone else run

    def describe(self) -> dict[str, Any]:
        """Say what runs, by the card's own name; of a process that is gone, what ran."""
        run = self.run
        if run is not None:
            self._described = run.described
        return {**self._described, "device": self.plan.name}

    @property
    def state(self) -> str:
        """What operators are told: idle, busy or starting."""
        run = self.run
        return "starting" if run is None else "idle" if run.is_idle else "busy"

    def load(self, run: CardRun) -> None:
        """Wait until a new process has its engine with the weights that the card runs, and begin to use it.

        Args:
            run: the process.

        Raises:
            RuntimeError, ValueError: it can't be loaded.
        """
        self.max_batch = run.load()
        switched: tuple[Path | None] | None = None
        while True:
            with self._news:
                if self._weights == switched:  # else they were changed meanwhile
                    self._run, self.failure = run, None
                    self._news.notify_all()
                    return
                switched = self._weights
            assert switched is not None, "weights are never unchosen"
            run.switch_weights(switched[0], self._deadline_s)

    def switch_weights(self, weights: Path | None) -> None:
        """Go over to other weights; a card that has no process now does so when it has one.

        Args:
            weights: the file, or None for the included ones.

        Raises:
            ValueError: they can't be used; those before are in use again.
        """
        with self._news:
            run, before = self.run, self._weights
            self._weights = (weights,)
        try:
            if run is not None:
                run.switch_weights(weights, self._deadline_s)
        except ValueError:
            with self._news:
                self._weights = before
            raise


class CardPool:
    """Repairs on whichever card has room. Safe to call from several threads at once.

    Args:
        plans: one for each card.
        deadline_s: how long a repair may take.
    """

    def __init__(self, plans: Sequence[CardPlan], *, deadline_s: float) -> None:
        self._news = threading.Condition()  # nothing outside is called and no process is asked while it is held
        self._deadline_s = deadline_s
        self._closing = False
        self.cards = [Card(plan, number, self._news, deadline_s) for number, plan in enumerate(plans)]
        self.on_change: Callable[[], None] = lambda: None

    @property
    def profile(self) -> SimpleNamespace:
        """What the queue reads of a profile: how many repairs go to a card together."""
        return SimpleNamespace(max_batch=self.cards[0].max_batch)

    def load(self) -> None:
        """Start every card's process, side by side, and wait until all are ready.

        Raises:
            UnavailableError: this machine lacks a card, or what else was asked for.
            RuntimeError: one can't be loaded.
        """
        for card in self.cards:
            threading.Thread(target=self._keep, args=(card,), name=card.plan.name, daemon=True).start()
        with self._news:
            self._news.wait_for(lambda: all(card.run or card.failure for card in self.cards))
        failures = [card.failure for card in self.cards if card.failure]
        if failures:
            self.close()
            raise failures[0]

    def lanes(self) -> list[CardPool]:
        """Return one engine for each repair that may be under way; all of them are this one."""
        return [self] * (LANES * len(self.cards))

    def start(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` from now on when a process comes or goes."""
        self.on_change = on_change

    def close(self) -> None:
        """Begin no repair any more; each process ends when it has none under way."""
        with self._news:
            self._closing = True
            self._news.notify_all()
            for card in self.cards:
                self._end_if_idle(card.run)

    def _end_if_idle(self, run: CardRun | None) -> None:
        if self._closing and run is not None and run.is_idle:
            run.kill()

    # Processes

    def _keep(self, card: Card) -> None:
        """Keep a card's process alive until the pool closes."""
        first_s, most_s = PAUSES_S
        pause_s = 0.0
        while not self._is_closing_within(pause_s):
            began_s = time.monotonic()
            try:
                self._live(card)
            except (OSError, RuntimeError, ValueError) as error:
                log.error("%s", error)
                with self._news:
                    card.failure = error
                    self._news.notify_all()
            self.on_change()
            lived_long = time.monotonic() - began_s > most_s
            pause_s = first_s if lived_long else min(most_s, max(first_s, pause_s * 2))

    def _live(self, card: Card) -> None:
        """Start a process for a card and stay until its end."""
        run = CardRun(card.plan)
        try:
            card.load(run)
            log.info("%s is ready in process %d", card.plan.name, run.pid)
            self.on_change()
            with self._news:
                self._end_if_idle(run)  # the pool was closed meanwhile
            code = run.wait()
            if not self._closing:
                log.error("the process of %s ended (%d); it is started again", card.plan.name, code)
        finally:
            run.kill()
            with self._news:
                run.is_gone = True
                self._news.notify_all()
                # Whoever was under way finds the pipe at its end and leaves the lane.
                self._news.wait_for(lambda: run.is_idle)
            run.close()

    def _is_closing_within(self, wait_s: float) -> bool:
        with self._news:
            return self._news.wait_for(lambda: self._closing, wait_s)

    # Repairs

    @contextmanager
    def admission(self) -> Iterator[bool]:
        """Wait until a card is ready; yields False when the pool is being closed."""
        with self._news:
            self._news.wait_for(lambda: self._closing or any(card.run for card in self.cards))
            is_open = not self._closing
        yield is_open

    def repair_many(
        self, requests: Sequence[Any], *, on_stage: Callable[[str], None] | None = None
    ) -> list[RemoteResult]:
        """Repair requests together on one card, the one with the fewest repairs under way.

        Args:
            requests: shaped like `engine.requests.RepairRequest`; not modified.
            on_stage: called with a stage's name when it begins, and again every quarter of a second; its exceptions
                end the repair.

        Returns:
            One result per request, in order.

        Raises:
            JobError: two processes were lost over the repair.
            EngineUnavailableError: no card is ready; the repair can be tried again as if it had not begun.
            MemoryError: memory did not suffice.
            RuntimeError: the engine failed, or several requests lost their process: each can be tried alone.
        """
        report = on_stage or (lambda stage: None)
        until_s = time.monotonic() + self._deadline_s
        lost = 0
        while True:
            try:
                # A repair that took a process down may do so again: nobody else's is beside it then.
                with self._place(report, alone=lost > 0) as lane:
                    return lane.repair(requests, report, until_s)
            except CardLostError as error:
                lost += 1
                if len(requests) > 1:
                    raise RuntimeError("the process of a card ended over several repairs") from error
                if lost >= MOST_LOST_WORKERS:
                    raise workers_lost(lost) from error

    @contextmanager
    def _place(self, report: Callable[[str], None], *, alone: bool) -> Iterator[Lane]:
        """Hold a lane of the card with the fewest repairs; with `alone` the whole card, which is waited for."""
        while True:
            with self._news:
                run = self._choose(alone=alone)
                if run is not None and not alone:
                    lane = run.free.pop()
                    break
            if run is not None and self._reserve(run, report):
                with self._news:
                    lane = run.free.pop()
                break
            report("plan")
        try:
            yield lane
        finally:
            with self._news:
                run.free.append(lane)
                if alone:
                    run.is_reserved = False
                self._end_if_idle(run)
                self._news.notify_all()

    def _choose(self, *, alone: bool) -> CardRun | None:
        """Return a process with room, with `alone` one that takes nothing new from now on, or None after a while."""
        if self._closing:
            raise EngineUnavailableError("The server is stopping, so the repair waits.")
        runs = [card.run for card in self.cards if card.run and not card.run.is_reserved]
        fitting = [run for run in runs if alone or run.free]
        if fitting:
            run = max(fitting, key=lambda run: len(run.free))
            run.is_reserved = alone
            return run
        # A repair that took a process down is not given back to the queue, which would forget that.
        if not alone and not any(card.run for card in self.cards):
            raise EngineUnavailableError("No card is ready, so the repair waits.")
        self._news.wait(POLL_S)
        return None

    def _reserve(self, run: CardRun, report: Callable[[str], None]) -> bool:
        """Wait until a process has no repair under way; False when it ended before that."""
        is_kept = False
        try:
            while True:
                with self._news:
                    self._news.wait_for(lambda: run.is_idle or run.is_gone, POLL_S)
                    if run.is_gone or run.is_idle:
                        is_kept = not run.is_gone
                        return is_kept
                report("plan")
        finally:
            if not is_kept:
                with self._news:
                    run.is_reserved = False
                    self._news.notify_all()

    def switch_weights(self, weights: Path | None) -> None:
        """Refuse: `cards` are switched one by one, so that one that can't does not leave the others apart."""
        raise NotImplementedError("switch the weights of `cards`")

    # What is told

    @property
    def waiting_for(self) -> str | None:
        """What keeps every repair from running: "workers" while no card has a process, or None."""
        return None if any(card.run for card in self.cards) else "workers"

    def describe(self) -> dict[str, Any]:
        """Return what the first card runs, for `/health`."""
        return self.cards[0].describe()

    def worker_views(self) -> list[dict[str, Any]]:
        """Return the cards; see `jobs.views.worker_views`."""
        told = ("device", "weights", "profile", "memory_mib")
        rows = [(card, card.describe()) for card in self.cards]
        return [
            {"name": card.name, **{name: described.get(name) for name in told}, "state": card.state}
            for card, described in rows
        ]
