"""IOPaint 1.6's and lama-cleaner 1.2's options: which count here, which have nothing to work on, and what they name.

An option that is about diffusion is taken and passed over. One that asks for a plug-in that is not here, and one that
nobody knows, is passed over with a warning on stderr: scripts that were written for IOPaint go on.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.errors import EXIT_USAGE, CommandError, printable
from cli.paths import is_file, is_folder, named_path
from config import Settings

LAMA = "lama"  # what IOPaint calls the network; here whichever is loaded
EXIT_AS_IOPAINT = 255  # its exit(-1): there is nothing to do, or what --input names is not there

# Diffusion's, upscalers' and the desktop window's: a LaMa network has no use for them.
SWITCHES_PASSED_OVER = (
    "--low-mem", "--cpu-offload", "--disable-nsfw-checker", "--cpu-textencoder", "--local-files-only",
    "--disable-model-switch", "--disable-nsfw", "--sd-cpu-textencoder", "--sd-controlnet", "--enable-xformers",
    "--gui", "--no-gui-auto-close", "--realesrgan-no-half", "--install-plugins-package", "--config-installer",
    "--enable-interactive-seg",  # always there
)  # fmt: skip
VALUES_PASSED_OVER = (
    "--quality", "--interactive-seg-model", "--interactive-seg-device", "--remove-bg-device", "--remove-bg-model",
    "--realesrgan-device", "--realesrgan-model", "--gfpgan-device", "--restoreformer-device", "--sd-controlnet-method",
    "--sd-local-model-path", "--load-installer-config", "--installer-config",
)  # fmt: skip
PLUGINS_NOT_HERE = (
    "--enable-remove-bg", "--enable-anime-seg", "--enable-realesrgan", "--enable-gfpgan",
    "--enable-restoreformer", "--enable-gif",
)  # fmt: skip
# Where IOPaint keeps the networks that it has fetched, below its model folder.
CACHED_NETWORKS = {
    LAMA: "torch/hub/checkpoints/big-lama.pt",
    "anime-lama": "torch/hub/checkpoints/anime-manga-big-lama.pt",
}


def warn(sentence: str) -> None:
    """Say something on stderr that does not stop the command."""
    print(f"fftlama: {printable(sentence)}", file=sys.stderr)


def make_parser(command: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that `run` and `start` share, those that are passed over included."""
    parser = argparse.ArgumentParser(prog=f"fftlama {command}", description=description, allow_abbrev=False)
    parser.add_argument("--model", help="lama (whichever network there is), or a name of `fftlama weights list`")
    parser.add_argument("--device", help="cpu, cuda, mps or auto; a card that is not here becomes the CPU")
    parser.add_argument("--model-dir", type=named_path, help="IOPaint's model folder; its big-lama.pt is used")
    parser.add_argument("--no-half", action=argparse.BooleanOptionalAction, help=argparse.SUPPRESS)
    for name in SWITCHES_PASSED_OVER:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, help=argparse.SUPPRESS)
    for name in VALUES_PASSED_OVER:
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--gui-size", nargs=2, help=argparse.SUPPRESS)
    for name in PLUGINS_NOT_HERE:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, help=argparse.SUPPRESS)
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; warn of what nobody knows and of plug-ins that are not here.

    Args:
        parser: One of `make_parser`.
        arguments: What follows the command's name.

    Returns:
        The options, None where they were not given.
    """
    chosen, unknown = parser.parse_known_args(arguments)
    for word in (word for word in unknown if word.startswith("-")):
        warn(f"the option {word} is not known here and is passed over")
    if unknown and not unknown[0].startswith("-"):
        parser.error(f"{unknown[0]!r} stands alone; every value needs its option before it")
    for name in PLUGINS_NOT_HERE:
        if getattr(chosen, name.removeprefix("--").replace("-", "_")):
            warn(f"{name}: there is no such plug-in here, and nothing takes its place")
    return chosen


def choose_engine(settings: Settings, chosen: argparse.Namespace) -> Settings:
    """Return the settings with the network and the device that IOPaint's options ask for.

    Args:
        settings: Those in force otherwise; what they say of weights wins over IOPaint's own files.
        chosen: `model`, `model_dir` and `device` are read.

    Returns:
        Other settings.

    Raises:
        CommandError: There is no such model, or no such kind of device.
    """
    updates = {"weights": _weights(settings, chosen.model or LAMA, chosen.model_dir)}
    if chosen.device:
        updates["device"] = _device(chosen.device)
    return settings.model_copy(update=updates)


def _weights(settings: Settings, model: str, model_dir: Path | None) -> str:
    """Return a file or a name; "" for the best that is here."""
    from lama.catalogue import list_weights

    folder = model_dir or _cache_folder()
    if model_dir is not None and not is_folder(model_dir):
        warn(f"--model-dir {model_dir} is no folder and is passed over")
    known = {one.name: one for one in list_weights(settings.weights_dir) if one.installed}
    if model in known:
        return model
    cached = folder / CACHED_NETWORKS.get(model, "")
    if model == LAMA:
        use_cached = not settings.weights and "big-lama" not in known and is_file(cached)
        return str(cached) if use_cached else settings.weights
    if model in CACHED_NETWORKS and is_file(cached):
        return str(cached)
    raise CommandError(f"there is no model {model!r} here; there are: {', '.join([LAMA, *known])}", EXIT_USAGE)


def _cache_folder() -> Path:
    """Return where IOPaint keeps what it fetched; with its ~ where there is no home, as in a container."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return folder.expanduser()
    except RuntimeError:
        return folder


def _device(asked: str) -> str:
    """Return the device asked for, or "cpu" with a warning where this machine has no such card."""
    if asked.split(":")[0] not in ("cpu", "cuda", "mps", "auto"):
        raise CommandError(f"--device {asked}: there are cpu, cuda, mps and auto", EXIT_USAGE)
    if asked in ("cpu", "auto"):
        return asked
    from app import share_cores

    share_cores()
    import torch

    here = torch.backends.mps.is_available() if asked == "mps" else torch.cuda.is_available()
    if not here:
        warn(f"--device {asked}: there is no such device here; the CPU is used")
    return asked if here else "cpu"
