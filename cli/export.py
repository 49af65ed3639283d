"""`fftlama export onnx FILE`: the network in a format that other programs run."""

import importlib.util
from pathlib import Path

from cli.errors import EXIT_USAGE, CommandError
from cli.paths import is_folder, real_path
from config import Settings


def run_export(settings: Settings, file: Path) -> int:
    """Write the network that the settings name as ONNX, and print the file's path.

    Args:
        settings: `weights` and `weights_dir` are read.
        file: The file to write; one that is there is replaced.

    Returns:
        The exit code, 0.

    Raises:
        CommandError: The weights can't be had, the file can't be written, or the package onnx is missing.
    """
    if importlib.util.find_spec("onnx") is None:
        raise CommandError(
            "the package onnx is not installed; install it with `.venv/bin/uv pip install onnx`", EXIT_USAGE
        )
    if is_folder(file):
        raise CommandError(f"{file} is a folder; name a file to write, {file / 'lama.onnx'} for example", EXIT_USAGE)
    if not is_folder(file.parent):
        raise CommandError(f"{file.parent}: there is no such folder to write into", EXIT_USAGE)
    from app import find_weights_file
    from lama.catalogue import DownloadError
    from lama.checkpoint import CheckpointError, load_generator
    from lama.onnx_export import export_onnx

    try:
        weights = find_weights_file(settings)
        if real_path(weights) == real_path(file):
            raise CommandError(f"{file} would overwrite the weights it is made from; choose another name", EXIT_USAGE)
        export_onnx(load_generator(weights), file, name=weights.stem)
    except (DownloadError, CheckpointError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{file} can't be written: {error.strerror or error}") from error
    print(file)
    return 0
