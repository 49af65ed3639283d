"""The engine for a command that runs in this process, and a sentence where it can't be had."""

from typing import TYPE_CHECKING, cast

from cli.errors import EXIT_USAGE, CommandError
from config import Settings

if TYPE_CHECKING:
    from inference import Inpainter


def load_inpainter(settings: Settings) -> "Inpainter":
    """Load the engine that the settings ask for.

    Args:
        settings: `device`, `precision`, `weights`, `weights_dir` and `profile` are read.

    Returns:
        The engine, warmed up.

    Raises:
        CommandError: It can't be had; the exit code is 2 where this machine lacks what was asked for, or the weights
            can't be used.
    """
    from app import collecting_later, load_engine, share_cores

    share_cores()
    with collecting_later():
        from engine.requests import RepairError, UnavailableError
        from lama.catalogue import DownloadError
        from lama.checkpoint import CheckpointError

    try:
        return cast("Inpainter", load_engine(settings))
    except (UnavailableError, DownloadError, CheckpointError) as error:
        raise CommandError(str(error), EXIT_USAGE) from error
    except RepairError as error:
        raise CommandError(str(error)) from error
