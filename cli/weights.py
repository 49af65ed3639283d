"""`fftlama weights`: what weights there are, and fetching published ones or taking them from a file."""

import sys
from pathlib import Path

from tqdm import tqdm

from cli.errors import EXIT_USAGE, CommandError
from config import Settings
from lama.catalogue import CATALOGUE, EMBEDDED_NAME, DownloadError, embedded_path, fetch, list_weights
from lama.given_file import take_file

PLAIN_STEP = 0.1  # where nobody watches a line for every tenth is enough


def run_weights_list(settings: Settings) -> int:
    """Print every weight file that can be chosen, its size, and where it is.

    Args:
        settings: `weights_dir` is read.

    Returns:
        The exit code, 0.
    """
    abouts = {EMBEDDED_NAME: "embedded; trained for this project"}
    abouts |= {name: f"{entry.about} ({entry.licence}; trained on {entry.photos})" for name, entry in CATALOGUE.items()}
    for known in list_weights(settings.weights_dir):
        missing = "missing" if known.name == EMBEDDED_NAME else f"not here: fftlama weights get {known.name}"
        where = str(known.path or embedded_path()) if known.installed else missing
        about = abouts.get(known.name, "a file of your own")
        print(f"{known.name:<14}{_spell_mib(known.size_bytes):>8}  {about}\n{'':<24}{where}")
    return 0


def run_weights_get(settings: Settings, name: str, file: Path | None = None) -> int:
    """Fetch weights, or take them from a file, and print where they are; progress goes to stderr.

    Args:
        settings: `mirrors` and `weights_dir` are read.
        name: One of the catalogue.
        file: The weights or an archive that holds them, on this machine; None fetches them.

    Returns:
        The exit code, 0.

    Raises:
        CommandError: There are no such weights, no mirror delivers them, or the file does not hold them.
    """
    if name == EMBEDDED_NAME:
        raise CommandError(f"{EMBEDDED_NAME} comes with the program; there is nothing to fetch", EXIT_USAGE)
    if name not in CATALOGUE:
        names = ", ".join(CATALOGUE)
        raise CommandError(f"there are no weights called {name!r} to fetch; there are: {names}", EXIT_USAGE)
    try:
        with _Progress() as progress:
            if file is None:
                path = fetch(name, folder=settings.weights_dir, mirrors=settings.mirrors, on_progress=progress.show)
            else:
                path = take_file(name, file, folder=settings.weights_dir, on_progress=progress.show)
    except DownloadError as error:
        raise CommandError(str(error)) from error
    print(path)
    return 0


class _Progress:
    """A bar on a terminal, a line for every tenth elsewhere; both on stderr."""

    def __init__(self) -> None:
        self._bar = tqdm(file=sys.stderr, disable=None, unit="B", unit_scale=True, unit_divisor=1024, leave=False)
        self._next_plain = 0.0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.close()

    def show(self, done_bytes: int, all_bytes: int, host: str) -> None:
        """Show how much has come from a host or a file."""
        if not self._bar.disable:
            self._bar.total = all_bytes
            self._bar.set_description(host, refresh=False)
            self._bar.update(done_bytes - self._bar.n)
            return
        share = done_bytes / all_bytes
        if share >= self._next_plain:
            self._next_plain = min(share + PLAIN_STEP, 1.0) if share < 1 else float("inf")
            words = f"{share:4.0%} {_spell_mib(done_bytes)} of {_spell_mib(all_bytes)} from {host}"
            print(words, file=sys.stderr, flush=True)


def _spell_mib(size_bytes: int) -> str:
    mib = size_bytes / 2**20
    return f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"
