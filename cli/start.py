"""`fftlama start`: the server with IOPaint's options, on its port, and with the line that its clients wait for.

Programs that start IOPaint or lama-cleaner themselves read their output until it says "Uvicorn running on http://…".
Here that line comes when everything answers, the model included. Exit codes: those of `app.py`, and 255 where --input
or --mask-dir names nothing, or a folder without --output-dir (as IOPaint ends).
"""

import argparse
import json
import webbrowser
from collections.abc import Callable, Sequence
from typing import Any

from cli.errors import EXIT_USAGE, CommandError
from cli.iopaint_options import EXIT_AS_IOPAINT, LAMA, choose_engine, make_parser, parse
from cli.paths import is_file, is_folder, named_path
from config import Settings, load_settings

IOPAINT_PORT = 8080
TOLD = ("host", "port", "device", "weights", "input_path", "outputs_dir")  # at the start, as IOPaint does
OWN_OPTIONS = ("host", "port", "inbrowser", "input", "mask_dir", "output_dir", "model", "device", "model_dir")


def start_server(arguments: Sequence[str]) -> int:
    """Serve with a command line of `iopaint start` or `lama-cleaner`.

    Args:
        arguments: What follows `start`.

    Returns:
        The exit code.

    Raises:
        CommandError: What an option names is not here.
        SettingsError: A value is not allowed.
    """
    parser = make_parser("start", "Serve with the options of `iopaint start` or `lama-cleaner`.")
    parser.add_argument("--host", metavar="X", help="address to listen on; default: the setting, 127.0.0.1")
    parser.add_argument("--port", metavar="X", help=f"port to listen on; default: the setting, else {IOPAINT_PORT}")
    parser.add_argument("--inbrowser", action=argparse.BooleanOptionalAction, help="open the page when it is ready")
    parser.add_argument("--input", type=named_path, help="photo or folder that clients may open")
    parser.add_argument("--output-dir", type=named_path, help="folder that results are written to; made if missing")
    parser.add_argument("--mask-dir", type=named_path, help="folder of masks that clients may open")
    parser.add_argument("--config", type=named_path, help="JSON file with options, snake_case; the command line wins")
    chosen = parse(parser, arguments)
    _read_config(chosen, parser)
    _check_folders(chosen)
    passed_over: list[str] = []
    settings = choose_engine(_settings(chosen, passed_over.append), chosen)
    told = {name: getattr(settings, name) for name in TOLD}
    print(json.dumps({"model": chosen.model or LAMA, **told}, default=str), flush=True)

    def say_ready(url: str) -> None:
        # As uvicorn writes it, and IOPaint: other programs look for it.
        print(f"Uvicorn running on {url} (Press CTRL+C to quit)", flush=True)
        if chosen.inbrowser:
            webbrowser.open(f"http://localhost:{settings.port}")

    from app import serve

    return serve(settings, told=passed_over, on_ready=say_ready)


def _read_config(chosen: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Fill in what the config file says and the command line does not."""
    if chosen.config is None:
        return
    try:
        given = json.loads(chosen.config.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"--config {chosen.config} can't be read: {error.strerror}", EXIT_USAGE) from error
    except ValueError as error:
        raise CommandError(f"--config {chosen.config} is no JSON: {error}", EXIT_USAGE) from error
    if not isinstance(given, dict):
        raise CommandError(f"--config {chosen.config} must hold options by name, {{...}}", EXIT_USAGE)
    words = []
    for name, value in given.items():
        option = f"--{str(name).replace('_', '-')}"
        is_set = name in vars(chosen) and getattr(chosen, name) not in (None, False)
        if name == "config" or is_set or value is None or value is False:
            continue
        words += [option] if value is True else [f"{option}={value}"]
    for name, value in vars(parse(parser, words)).items():
        if name in OWN_OPTIONS and getattr(chosen, name) is None:
            setattr(chosen, name, value)


def _check_folders(chosen: argparse.Namespace) -> None:
    """Raise CommandError, with IOPaint's exit code, where a folder is missing or has no use."""
    if chosen.input is not None and not (is_file(chosen.input) or is_folder(chosen.input)):
        raise CommandError(f"--input {chosen.input}: there is no such file or folder", EXIT_AS_IOPAINT)
    if chosen.input is not None and is_folder(chosen.input) and chosen.output_dir is None:
        raise CommandError("--input names a folder, so --output-dir must name one too", EXIT_AS_IOPAINT)
    if chosen.mask_dir is not None and not is_folder(chosen.mask_dir):
        raise CommandError(f"--mask-dir {chosen.mask_dir}: there is no such folder", EXIT_AS_IOPAINT)
    if chosen.output_dir is not None:
        try:
            chosen.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(f"--output-dir {chosen.output_dir} can't be made: {error.strerror}") from error


def _settings(chosen: argparse.Namespace, tell: Callable[[str], None]) -> Settings:
    """Return the settings in force, with IOPaint's port where nobody has set another."""
    given: dict[str, Any] = {
        "host": chosen.host,
        "port": chosen.port,
        "input_path": chosen.input,
        "outputs_dir": chosen.output_dir,
        "masks_dir": chosen.mask_dir,
    }
    words = {name: None if value is None else str(value) for name, value in given.items()}
    settings = load_settings(words, tell=tell)
    if "port" not in settings.model_fields_set:
        return settings.model_copy(update={"port": IOPAINT_PORT})
    return settings
