"""Run app.py's server with the fake engine: `tests/support/serve_fake.py KIND --port ...`.

"page" is all of it. "api" leaves the page out, which saves the import of Gradio: for tests that start servers often;
with `--devices` it has a fake engine for each. "cards" is the same with two fake engines in processes of their own.
"celery" has no engine either: it hands repairs to the workers of `serve_worker.py` through the Redis of the setting
`redis_url`; "celery-page" has the page besides. "start-page" is `fftlama start`, with the options of that. All of them
hash passwords quickly.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import app
from cli import main as cli
from config import Settings
from jobs.card_pool import CardPool
from jobs.card_run import CardPlan
from jobs.remote_engine import Fleet, RemoteEngine
from notices import run_and_exit
from tests.support.fake_engine import FakeEngine
from tests.support.quick_passwords import hash_quickly
from tests.support.serve_worker import WEIGHTS


def remote_engines(settings: Settings) -> list[RemoteEngine]:
    """Return engines that hand repairs to workers of the same version and weights as `serve_worker.py`'s."""
    fleet = Fleet(settings.redis_url, version="test", weights=WEIGHTS)
    return RemoteEngine.lanes(fleet, deadline_s=settings.job_timeout_s)


def card_engines(settings: Settings) -> list[CardPool]:
    """Return two fake engines in processes of their own, as `app.load_card_pool` makes real ones for two cards."""
    plans = [CardPlan(f"fake:{number}", "tests.support.card_engines:load_fake", {}) for number in range(2)]
    pool = CardPool(plans, deadline_s=settings.job_timeout_s)
    pool.load()
    return pool.lanes()


def main(arguments: Sequence[str]) -> int:
    """Serve one of the kinds, which is the first argument, until told to stop."""
    kind = arguments[0]
    hash_quickly()
    if kind == "api":
        app.create_app = lambda settings: app.create_api(  # type: ignore[assignment,misc]
            settings, [FakeEngine() for _ in settings.devices.split(",")]
        )
    elif kind == "cards":
        app.create_app = lambda settings: app.create_api(settings, card_engines(settings))  # type: ignore
    elif kind == "celery-page":
        app.load_engines = remote_engines
    elif kind == "celery":
        app.load_remote_engines = remote_engines
        app.create_app = lambda settings: app.create_api(settings, remote_engines(settings))  # type: ignore
    else:
        app.load_engine = lambda settings: FakeEngine()
    if kind == "start-page":
        return cli.main(["start", *arguments[1:]])
    return app.main(arguments[1:])


if __name__ == "__main__":
    run_and_exit(lambda: main(sys.argv[1:]))
