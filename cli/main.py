"""The console script `fftlama`: its commands, their arguments and its exit codes.

What people asked for goes to stdout; progress, remarks and errors (one sentence each) go to stderr. Heavy modules are
imported by the command that needs them, so that `--help` answers at once.

Exit codes: 0 done, 1 failed (of a folder: at least one photo), 2 wrong arguments or settings, 130 stopped with Ctrl+C.
`serve` has those of `app.py`.
"""

import argparse
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from cli.errors import EXIT_FAILED, EXIT_STOPPED, EXIT_USAGE, CommandError, printable
from cli.loading import load_inpainter
from cli.paths import named_path
from config import (
    CHECKOUT,
    ExactParser,
    Settings,
    SettingsError,
    add_arguments,
    load_settings,
    program_version,
)
from engine.profiles import LOCAL_PROFILES_FILE, ProfileError
from notices import ready_streams, run_and_exit

ENGINE_SETTINGS = ("device", "precision", "weights", "profile")
BENCH_FOLDER = CHECKOUT / "bench"
MOST_JOBS = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    ready_streams()
    try:
        if arguments[:1] == ["serve"]:
            from app import main as serve  # has its own arguments and help: every setting

            return serve(arguments[1:], program="fftlama serve")
        if arguments[:1] == ["run"]:
            from cli.run import run_folder  # IOPaint's options, of which unknown ones are passed over

            return run_folder(arguments[1:])
        if arguments[:1] == ["start"]:
            from cli.start import start_server

            return start_server(arguments[1:])
        if arguments[:1] == ["bench"] and not {"-h", "--help"} & set(arguments[1:2]):
            return run_bench(arguments[1:])
        is_finding = any(word == "--find" or word.startswith("--find=") for word in arguments)
        chosen = make_parser(with_mask=not is_finding).parse_args(arguments)
        return int(chosen.run(chosen))
    except CommandError as error:
        print(f"fftlama: {printable(str(error))}", file=sys.stderr)
        return error.code
    except (SettingsError, ProfileError) as error:
        print(f"fftlama: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("fftlama: stopped", file=sys.stderr)
        return EXIT_STOPPED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"fftlama: stopped: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED


def make_parser(*, with_mask: bool = True) -> argparse.ArgumentParser:
    """Return the parser of every command; each sets `run` to the function that does it.

    Args:
        with_mask: whether `repair` takes a MASK between IN and OUT; not where --find takes its place.

    Returns:
        The parser.
    """
    parser = ExactParser(
        prog="fftlama",
        description="Erase things from photos with a LaMa network on your own machine.",
        epilog="Every setting can also stand in the environment (FFTLAMA_DEVICE=cpu) or in fftlama.yaml.",
    )
    parser.add_argument("--version", action="version", version=f"fftlama {program_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    commands.add_parser("serve", help="start the page and the REST routes here; --help lists every setting")

    commands.add_parser("start", help="serve with the options of `iopaint start`, on port 8080")
    commands.add_parser("run", help="repair a photo or a folder with the options of `iopaint run`")

    repair = commands.add_parser(
        "repair",
        help="repair a photo, or a folder of photos",
        description="Repair a photo, or every photo of a folder. Formats, metadata and names are kept. A result that "
        "is there is finished: run the same line again to go on after a stop. GIF becomes PNG and HEIC becomes JPEG, "
        "with the new ending added to the name, and a number if another photo has that name.",
    )
    _add_repair_arguments(repair, with_mask=with_mask)
    repair.set_defaults(run=run_repair_command)

    profile = commands.add_parser("profile", help="show the card, the profile chosen for it and why")
    profile.add_argument(
        "--measure", action="store_true", help=f"time what this card likes best and write {LOCAL_PROFILES_FILE}"
    )
    add_arguments(profile, ENGINE_SETTINGS)
    profile.set_defaults(run=run_profile)

    weights = commands.add_parser("weights", help="list the weights there are, or fetch published ones")
    actions = weights.add_subparsers(title="actions", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the weights and where they are")
    add_arguments(listing, ("weights_dir",))
    listing.set_defaults(run=run_weights_list_command)
    get = actions.add_parser("get", help="fetch published weights; goes on where an earlier download stopped")
    get.add_argument("name", metavar="NAME", help="a name of `fftlama weights list`")
    get.add_argument(
        "--from",
        dest="file",
        type=named_path,
        metavar="FILE",
        help="take them from a file on this machine instead: the weights, or a zip archive that holds them",
    )
    add_arguments(get, ("mirrors", "weights_dir"))
    get.set_defaults(run=run_weights_get_command)

    user = commands.add_parser("user", help="accounts and API keys of a server with a login")
    user.add_argument("action", choices=("add", "key", "list", "remove"), help="add also changes a password")
    user.add_argument("name", nargs="?", default="", metavar="NAME")
    add_arguments(user, ("auth_file",))
    user.set_defaults(run=run_user_command)

    worker = commands.add_parser("worker", help="repair for a server with QUEUE=celery, through its Redis")
    worker.add_argument(
        "--redis", dest="redis_url", metavar="URL", help="redis:// or rediss:// address; default: the setting redis_url"
    )
    worker.add_argument("--name", default="", help="what the server calls this worker; default: the machine's name")
    add_arguments(worker, (*ENGINE_SETTINGS, "weights_dir", "log_level"))
    worker.set_defaults(run=run_worker_command)

    export = commands.add_parser("export", help="write the network for programs that run without PyTorch")
    export.add_argument("format", choices=("onnx",), help="onnx: one file for every size of photo")
    export.add_argument("file", type=named_path, metavar="FILE", help="file to write; one that is there is replaced")
    add_arguments(export, ("weights", "weights_dir"))
    export.set_defaults(run=run_export_command)

    bench = commands.add_parser("bench", help="run one of the measurements in bench/; without a name: list them")
    bench.add_argument(
        "name", metavar="NAME", nargs="?", help="a file of bench/, without .py; its own --help follows it"
    )
    return parser


def _add_repair_arguments(repair: ExactParser, *, with_mask: bool) -> None:
    repair.add_argument("photos", type=named_path, metavar="IN", help="photo, or folder of photos")
    repair.set_defaults(masks=None)
    if not with_mask:
        repair.too_many = "--find takes the place of MASK"
    else:  # an optional one between two others would be left out whenever an option follows
        repair.add_argument(
            "masks",
            type=named_path,
            metavar="MASK",
            help="mask (white = hole) of the photo's size; for a folder: one mask for all, or a folder with a mask "
            "named like each photo, or like it with _mask or _mask001 added; none with --find",
        )
    repair.add_argument(
        "out", type=named_path, metavar="OUT", help="file or folder to write to; a file's ending is its format"
    )
    repair.add_argument(
        "--page",
        type=_page,
        metavar="N",
        help="of a TIFF of several pages: the page to repair, from 1, or all; the result holds every page",
    )
    repair.add_argument("--find", choices=("text",), help="look for text in each photo in the place of a mask")
    repair.add_argument(
        "--sensitivity",
        type=_sensitivity,
        metavar="S",
        help="with --find: 0 takes only what is certainly text, 1 everything that might be; default: 0.5",
    )
    repair.add_argument("--invert", action="store_true", help="a mask's black is the hole, not its white")
    repair.add_argument(
        "--fit-masks",
        action="store_true",
        help="bring a mask of another size, but the photo's proportions, to the photo's size by nearest pixels",
    )
    again = repair.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="repair again what is there already")
    again.add_argument(
        "--skip-done", action="store_true", help="leave what is there already; for a folder that is the default"
    )
    repair.add_argument(
        "--jobs",
        type=_count,
        metavar="N",
        help="photos read and written at once, beside the model; default: on a GPU the cores, else at most 4",
    )
    repair.add_argument("--report", type=named_path, metavar="FILE", help="write what became of each photo as JSON")
    repair.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    repair.add_argument(
        "--dilate-px", type=_pixels, metavar="N", help="grow the hole by N px; default: by its thickness and shadow"
    )
    repair.add_argument("--feather-px", type=_pixels, metavar="N", help="width of the soft edge; default: one pixel")
    repair.add_argument("--quality", choices=("fast", "high"), default="fast", help="high refines very large holes")
    add_arguments(repair, ENGINE_SETTINGS)


def _pixels(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of pixels from 0 up")
    from engine.requests import MAX_ASKED_PX  # imports NumPy, which a command line without the option does not need

    if int(text) > MAX_ASKED_PX:
        raise argparse.ArgumentTypeError(f"{text} is more than {MAX_ASKED_PX} pixels")
    return int(text)


def _page(text: str) -> int | str:
    if text == "all":
        return text
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a page's number from 1 up nor all")
    return int(text)


def _sensitivity(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return share


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MOST_JOBS):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {MOST_JOBS}")
    return int(text)


def _settings(chosen: argparse.Namespace, names: Sequence[str]) -> Settings:
    return load_settings({name: getattr(chosen, name) for name in names}, serving=False)


def run_repair_command(chosen: argparse.Namespace) -> int:
    """Repair files."""
    from cli.repair import run_repair

    return run_repair(_settings(chosen, ENGINE_SETTINGS), chosen, lambda settings: load_inpainter(settings))


def run_profile(chosen: argparse.Namespace) -> int:
    """Print the card, its profile and the reason; with --measure, measure first and write the local profile."""
    settings = _settings(chosen, ENGINE_SETTINGS)
    if chosen.measure:
        _measure(settings)
    from engine.devices import choose_placement, describe_card
    from engine.requests import UnavailableError

    try:
        placement = choose_placement(
            settings.device, settings.precision, None if settings.profile == "auto" else settings.profile
        )
    except UnavailableError as error:
        raise CommandError(str(error), EXIT_USAGE) from error
    device, profile, card = placement.device, placement.profile, describe_card(placement.device)
    rows: Mapping[str, Any] = {
        "card": card.name,
        "device": device,
        "capability": "none" if card.capability is None else "{}.{}".format(*card.capability),
        "memory": "unknown" if card.memory_mib is None else f"{card.memory_mib} MiB",
        "profile": profile.name,
        "why": placement.reason,
        "input": f"{profile.input_px} px",
        "buckets": " ".join(str(side_px) for side_px in profile.buckets_px) + " px",
        "precision": placement.precision,
        "CUDA graph": profile.cuda_graph if device.type == "cuda" else "off",
        "memory cap": f"{profile.memory_fraction:.0%}",
        "batch": f"up to {profile.max_batch}",
    }
    for name, value in rows.items():
        print(f"{name:<11} {value}")
    return 0


def _measure(settings: Settings) -> None:
    from inference import RepairError, autotune_profile

    if settings.profile != "auto":
        print(f"the profile is set to {settings.profile}, so what is measured will not count", file=sys.stderr)
    inpainter = load_inpainter(settings)
    print("measuring; this takes a minute or more", file=sys.stderr)
    try:
        measured = autotune_profile(inpainter)
    except RepairError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"the measured profile can't be written: {error}") from error
    print("precision  graph   bucket  batch   ms a batch  peak MiB")
    for row in measured.rows:
        time_ms = row.failure if row.forward_ms is None else f"{row.forward_ms:.2f}"
        peak_mib = "" if row.peak_mib is None else row.peak_mib
        print(f"{row.precision:<10} {row.cuda_graph:<7} {row.bucket_px:>6} {row.batch:>6} {time_ms:>12} {peak_mib:>9}")
    print(f"written to {measured.path}\n")


def run_weights_list_command(chosen: argparse.Namespace) -> int:
    """List weights."""
    from cli.weights import run_weights_list

    return run_weights_list(_settings(chosen, ("weights_dir",)))


def run_weights_get_command(chosen: argparse.Namespace) -> int:
    """Fetch weights."""
    from cli.weights import run_weights_get

    return run_weights_get(_settings(chosen, ("mirrors", "weights_dir")), chosen.name, chosen.file)


def _take_plain(chosen: argparse.Namespace, name: str) -> None:
    """Take a setting from its variable without prefix where the server would, or the two would not meet."""
    variable = name.upper()
    if getattr(chosen, name) is None and not os.environ.get(f"FFTLAMA_{variable}"):
        setattr(chosen, name, os.environ.get(variable) or None)


def run_user_command(chosen: argparse.Namespace) -> int:
    """Manage accounts."""
    from cli.user import run_user

    _take_plain(chosen, "auth_file")
    return run_user(_settings(chosen, ("auth_file",)), chosen)


def run_worker_command(chosen: argparse.Namespace) -> int:
    """Work for a server until told to stop."""
    from cli.worker import run_worker

    _take_plain(chosen, "redis_url")
    return run_worker(_settings(chosen, (*ENGINE_SETTINGS, "weights_dir", "log_level", "redis_url")), chosen)


def run_export_command(chosen: argparse.Namespace) -> int:
    """Write the network as a file of another format."""
    from cli.export import run_export

    return run_export(_settings(chosen, ("weights", "weights_dir")), chosen.file)


def run_bench(arguments: Sequence[str]) -> int:
    """Run bench/NAME.py in a process of its own with the arguments that follow its name, and pass on its exit code."""
    names = sorted(path.stem for path in BENCH_FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
    if not arguments:
        print("\n".join(names))
        return 0
    name, *rest = arguments
    if name not in names:
        raise CommandError(f"there is no bench {name!r}; there are: {', '.join(names)}", EXIT_USAGE)
    with subprocess.Popen([sys.executable, str(BENCH_FOLDER / f"{name}.py"), *rest]) as process:
        while True:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                continue  # Ctrl+C reaches the bench too, which ends on its own and says how
            return EXIT_STOPPED if code == -signal.SIGINT else abs(code)


def run() -> NoReturn:
    """Run the command line of this process, which ends with it."""
    run_and_exit(main)


if __name__ == "__main__":
    run()
