"""`fftlama worker`: a Celery worker with one engine, for `QUEUE=celery`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from cli.errors import EXIT_FAILED, EXIT_USAGE, CommandError
from config import Settings, program_version


def run_worker(settings: Settings, chosen: argparse.Namespace) -> int:
    """Load the engine and work until told to stop; return the exit code.

    Args:
        settings: `redis_url`, `log_format`, `log_level` and those of the engine are read.
        chosen: `name`.

    Returns:
        0 stopped, 1 Redis can't be reached, 2 refused by the server.

    Raises:
        CommandError: The weights can't be used; the exit code is 2.
    """
    from app import find_weights_file, set_up_logging

    set_up_logging(settings)
    import redis

    from cli.loading import load_inpainter
    from jobs.celery_worker import WorkerRefusedError, check_server, work
    from jobs.remote_engine import fingerprint_of

    try:
        weights = find_weights_file(settings)
    except (ValueError, RuntimeError) as error:  # CheckpointError, DownloadError; their modules bring PyTorch along
        raise CommandError(str(error), EXIT_USAGE) from error
    version = program_version()
    fingerprint = fingerprint_of(version, weights)
    about: dict[str, Any] = {"version": version, "weights": weights.stem, "fingerprint": fingerprint}
    try:
        check_server(settings.redis_url, about)  # who will get no repairs need not load the model, which takes seconds
        inpainter: Any = load_inpainter(settings)
        profile = inpainter.profile
        about |= {"device": inpainter.device, "profile": profile.name, "buckets_px": list(profile.buckets_px)}
        work(inpainter, redis_url=settings.redis_url, about=about, name=chosen.name)
    except WorkerRefusedError as error:
        print(f"fftlama: {error}", file=sys.stderr)
        return EXIT_USAGE
    except redis.RedisError as error:
        print(f"fftlama: Redis can't be reached: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0
