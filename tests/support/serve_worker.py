"""Run a Celery worker with the fake engine: `python tests/support/serve_worker.py REDIS_URL [VERSION]`.

Options of a repair make it misbehave, as in `fake_engine`; besides, `dilate_px` = 1000 kills the worker's own process.
SLOW_TIMES in the environment makes every repair so many times as long; CLOCK_AHEAD_S moves the worker's clock.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if "CLOCK_AHEAD_S" in os.environ:  # before Celery is imported, which keeps the function
    _true_time = time.time
    time.time = lambda: _true_time() + float(os.environ["CLOCK_AHEAD_S"])

from jobs.celery_worker import WorkerRefusedError, work
from jobs.remote_engine import fingerprint_of
from notices import run_and_exit
from tests.support.fake_engine import WAIT_STEP_S, FakeEngine

KILL_WORKER = 1000
WEIGHTS = Path(__file__).resolve().parents[2] / "pyproject.toml"  # any small file: the fake engine has no weights


class WorkerFakeEngine(FakeEngine):
    """The fake engine, which can take its process down and can be slow."""

    def repair_many(self, requests: Any, *, on_stage: Any = None) -> Any:
        """Fill holes with the mean colour."""
        if requests[0].dilate_px == KILL_WORKER:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep((float(os.environ.get("SLOW_TIMES", "1")) - 1) * (requests[0].feather_px or 0) * WAIT_STEP_S)
        return super().repair_many(requests, on_stage=on_stage)


def main(arguments: Sequence[str]) -> int:
    """Work until told to stop; the arguments are those of the command line."""
    logging.basicConfig(level="INFO", stream=sys.stdout)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who runs the tests may have it ignored, as nohup does
    version = arguments[1] if len(arguments) > 1 else "test"
    about = {
        "version": version, "weights": "fake", "fingerprint": fingerprint_of(version, WEIGHTS), "device": "fake",
        "profile": "fake",
        "buckets_px": [512, 1024, 1536],
    }  # fmt: skip
    try:
        work(WorkerFakeEngine(), redis_url=arguments[0], about=about)
    except WorkerRefusedError as error:
        print(f"fftlama: {error}")
        return 2
    return 0


if __name__ == "__main__":
    run_and_exit(lambda: main(sys.argv[1:]))
