"""Which weights the engines run: what there is to choose from, and the change from one to another between two jobs.

A change that is asked for waits until a worker is between jobs; that worker carries it out while the others hand
nothing new to their engines. The last choice counts: one that has not begun makes way for a newer one.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jobs.errors import JobError
from lama.catalogue import DownloadError, KnownWeights, find_weights, list_weights

EXPLAINED = (ValueError, RuntimeError, OSError)  # their texts say what is wrong with the weights

log = logging.getLogger("fftlama.jobs")


class SwitchingEngine(Protocol):
    """What changes its weights: `inference.Inpainter`, or anything shaped like it."""

    def describe(self) -> dict[str, Any]:
        """Say what runs; `weights` is the name of the weights."""

    def switch_weights(self, weights: Path | None) -> None:
        """Go over to other weights (None = the embedded ones); when that fails, those before are in use again."""


@dataclass
class Switch:
    """One change that was asked for; `ended` once it was carried out, failed or made way."""

    model: KnownWeights
    ended: bool = False
    error: JobError | None = None


class ModelSwitch:
    """The models there are and the one in use, the same on all engines.

    `news` is the condition that workers of the queue wait on.
    """

    def __init__(
        self,
        engines: Sequence[Any],
        *,
        folder: Path,
        weights: str,
        news: threading.Condition,
        timeout_s: float = 300.0,
    ) -> None:
        # A pool of cards is switched card by card; one that stands for many places in the queue once.
        self._engines = [part for one in dict.fromkeys(engines) for part in getattr(one, "cards", (one,))]
        self._folder = folder
        self._given = _file_or_none(weights, folder)
        self._news = news
        self._timeout_s = timeout_s
        self._pending: Switch | None = None
        self._running: Switch | None = None
        self._last_error: JobError | None = None
        self._active = self._name_of_first()

    @property
    def active(self) -> str:
        """The name of the model in use."""
        return self._active

    @property
    def is_due(self) -> bool:
        """Whether a change waits for a worker to carry it out."""
        return self._pending is not None and self._running is None

    @property
    def is_running(self) -> bool:
        """Whether a change is being carried out, so that no job may begin."""
        return self._running is not None

    def view(self) -> dict[str, Any]:
        """Return what clients see: the models, the active one, the one it is changing to, and why that failed."""
        with self._news:
            coming = self._pending or self._running
            switching = coming.model.name if coming else None
            active, error = self._active, self._last_error
        models = [
            {
                "name": model.name, "title": model.title, "size": model.size_bytes, "active": model.name == active,
                "installed": model.installed,
            }
            for model in self._known()
        ]  # fmt: skip
        return {"models": models, "active": active, "switching": switching, "error": error and error.as_dict()}

    def choose(self, name: str, *, wait_s: float = 0.0) -> bool:
        """Have the engines go over to a model.

        Args:
            name: as `view` lists it.
            wait_s: how long to wait for them.

        Returns:
            whether they have gone over within that time.

        Raises:
            JobError: `unknown_model`; `model_missing`; `model_conflict` when another was chosen meanwhile;
                `bad_weights` when its weights can't be used, and the model before stays.
        """
        model = self._find(name)
        with self._news:
            switch = self._pending or self._running
            if switch is None and name == self._active:
                return True
            if switch is None or switch.model.name != name:
                if self._pending:
                    self._pending.error = JobError("model_conflict", "Another model was chosen meanwhile.")
                    self._pending.ended = True
                switch = self._pending = Switch(model)
                self._last_error = None
                self._news.notify_all()
            self._news.wait_for(lambda: switch.ended, wait_s)
            if switch.error:
                raise switch.error
            return switch.ended

    def begin(self) -> None:
        """Take up the change that is due; nobody else may begin until `carry_out` ends. The caller holds `news`."""
        self._running, self._pending = self._pending, None

    def carry_out(self, *, on_stuck: Callable[[], object]) -> None:
        """Change the engines' weights, each between two of its repairs; failures are kept for who asked.

        Args:
            on_stuck: called from another thread when the change does not come about in time, because a repair that
                hangs still has the engine; it has to see that another thread goes on.
        """
        switch = self._running
        assert switch is not None, "begin comes first"
        timer = threading.Timer(self._timeout_s, self._give_up, [switch, on_stuck])
        timer.daemon = True
        timer.start()
        try:
            self._carry_out(switch)
        finally:
            timer.cancel()

    def _give_up(self, switch: Switch, on_stuck: Callable[[], object]) -> None:
        with self._news:
            if switch.ended:
                return
            log.error("the model could not be changed to %s within %g s", switch.model.name, self._timeout_s)
            reason = f"A repair hangs, and the model could not be changed within {self._timeout_s:g} seconds"
            switch.error = self._last_error = self._refusal(switch.model, reason)
            switch.ended = True
            self._running = None
            self._news.notify_all()
        on_stuck()

    def _carry_out(self, switch: Switch) -> None:
        error: JobError | None = None
        try:
            if switch.model.name != self._active:
                self._switch_engines(switch.model)
        except EXPLAINED as problem:
            log.warning("%s could not be loaded: %s", switch.model.name, problem)
            error = self._refusal(switch.model, str(problem).rstrip("."))
        except Exception:
            log.exception("%s could not be loaded", switch.model.name)
            error = self._refusal(switch.model, "it could not be loaded, and the server's log says why")
        with self._news:
            if error is None:
                self._active = switch.model.name
            if switch.ended:
                return  # given up before; what the engines run now is said above all the same
            switch.error = self._last_error = error
            switch.ended = True
            self._running = None
            self._news.notify_all()

    def _refusal(self, model: KnownWeights, reason: str) -> JobError:
        params = {"name": model.title, "active": self._active, "reason": reason}
        return JobError("bad_weights", f"{reason}; {self._active} stays in use.", params)

    def _switch_engines(self, model: KnownWeights) -> None:
        before = next((known.path for known in self._known() if known.name == self._active), None)
        done: list[SwitchingEngine] = []
        try:
            for engine in self._engines:
                engine.switch_weights(model.path)
                done.append(engine)
        except BaseException:
            for engine in done:
                engine.switch_weights(before)
            raise
        log.info("the model is %s now", model.name)

    def _known(self) -> list[KnownWeights]:
        return list_weights(self._folder, given=self._given)

    def _find(self, name: str) -> KnownWeights:
        for model in self._known():
            if model.name == name:
                if model.installed:
                    return model
                raise JobError(
                    "model_missing", f"{name} is not on the server yet: fftlama weights get {name}", {"name": name}
                )
        raise JobError("unknown_model", "There is no model of this name here.", {"name": name[:40]})

    def _name_of_first(self) -> str:
        """The name of what the engines came with; an engine whose weights are no file here says its own."""
        said = str(self._engines[0].describe().get("weights"))
        for model in self._known():
            if model.path == self._given and (model.name if model.path is None else model.path.stem) == said:
                return model.name
        return said


def _file_or_none(weights: str, folder: Path) -> Path | None:
    try:
        return find_weights(weights, folder)
    except DownloadError:
        return None  # the engine was made without these settings
