"""Fetch published weights from their mirrors: checksum, disk space, and clear words when it can't be done.

A file is written to `NAME.part`, checked against its sha256 and only then given its name, so a file that has its name
is complete. An interrupted download goes on where it stopped, also on another mirror: the checksum decides in the end.
`transfer` does the single connection. Knows nothing of torch and prints nothing.
"""

import contextlib
import hashlib
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lama.transfer import BrokenError, Patience, Progress, RefusedError, host_of, size_of, transfer

WEIGHTS_FOLDER = Path(__file__).resolve().parent.parent / "weights"
EMBEDDED_NAME = "lama-compact"
WEIGHT_ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt")

SPARE_BYTES = 64 * 2**20  # left free on the disk


class DownloadError(RuntimeError):
    """The weights could not be fetched; the text says why, for each mirror, and what can be done.

    `reason` is the text without a sentence of its own that they could not be fetched, for callers who say that.
    """

    def __init__(self, text: str, *, reason: str | None = None) -> None:
        super().__init__(text)
        self.reason = reason or text


@dataclass(frozen=True)
class Weights:
    """A published weight file.

    Attributes:
        name: what people call it.
        filename: what it is called in the folder of the weights.
        sha256: of the file, in hexadecimal.
        size_bytes: of the file.
        sources: where it is to be had, in the order to try.
        about: its size as a network, in a few words.
        licence: of the network, as its authors publish it.
        photos: the data set it was trained on, whose terms are not those of the network.
    """

    name: str
    filename: str
    sha256: str
    size_bytes: int
    sources: tuple[str, ...]
    about: str
    licence: str = ""
    photos: str = ""


# big-lama: the TorchScript export that IOPaint and most others use. The sha256 and size are those that independent
# projects pin for the first source, whose md5 IOPaint pins as e3aa4aaa15225a33ec84f9f4bc47e500. lama-fourier: the
# training checkpoint lama-places/lama-fourier/models/best.ckpt of the authors' LaMa_models.zip; its sha256 and size are
# those that an independent project gives for the archive and for the first source alike.
CATALOGUE: Mapping[str, Weights] = {
    "big-lama": Weights(
        name="big-lama",
        filename="big-lama.pt",
        sha256="344c77bbcb158f17dd143070d1e789f38a66c04202311ae3a258ef66667a9ea9",
        size_bytes=205_669_692,
        sources=(
            "https://github.com/Sanster/models/releases/download/add_big_lama/big-lama.pt",
            "https://huggingface.co/fashn-ai/LaMa/resolve/main/big-lama.pt",
            "https://hf-mirror.com/fashn-ai/LaMa/resolve/main/big-lama.pt",
        ),
        about="the published LaMa, width 64, 18 blocks, 51.0 M parameters",
        licence="Apache-2.0",
        photos="Places",
    ),
    "lama-fourier": Weights(
        name="lama-fourier",
        filename="lama-fourier.ckpt",
        sha256="b2456284b604786a88a38549432ddf2e73a5911f9868ea692b5122e89a5f1f54",
        size_bytes=313_967_681,
        sources=(
            "https://huggingface.co/camenduru/big-lama/resolve/main/lama-places/lama-fourier/models/best.ckpt",
            "https://hf-mirror.com/camenduru/big-lama/resolve/main/lama-places/lama-fourier/models/best.ckpt",
        ),
        about="the published smaller LaMa, width 64, 9 blocks, 27.0 M parameters; faster than big-lama",
        licence="Apache-2.0",
        photos="Places",
    ),
}


@dataclass(frozen=True)
class KnownWeights:
    """One choice of weights: its name, what people read, its file (None for the embedded ones), size and presence."""

    name: str
    title: str
    path: Path | None
    size_bytes: int
    installed: bool


def list_weights(folder: Path = WEIGHTS_FOLDER, *, given: Path | None = None) -> list[KnownWeights]:
    """Return every weight file that can be chosen, the published ones also when they are not there.

    A file is called by its name without the ending, or with it where two share that. Whether a file holds a LaMa is not
    looked at.

    Args:
        folder: where people put weights; every file in it with an ending of `WEIGHT_ENDINGS` counts.
        given: a file anywhere that counts too.

    Returns:
        the embedded weights, then the published ones, then the other files by name.
    """
    embedded = embedded_path()
    known = [KnownWeights(EMBEDDED_NAME, EMBEDDED_NAME, None, size_of(embedded), embedded.is_file())]
    for name, entry in CATALOGUE.items():
        path = folder / entry.filename
        known.append(KnownWeights(name, name, path, size_of(path) or entry.size_bytes, path.is_file()))
    seen = {embedded.resolve(), *(choice.path.resolve() for choice in known if choice.path)}
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in [*files, *([given] if given else [])]:
        usable = path == given or (path.suffix in WEIGHT_ENDINGS and not path.name.startswith("."))
        if not usable or path.resolve() in seen or not path.is_file():
            continue
        seen.add(path.resolve())
        name = path.name if any(path.stem == choice.name for choice in known) else path.stem
        known.append(KnownWeights(name, path.name, path, size_of(path), True))
    return known


def embedded_path() -> Path:
    """Return where the embedded weights lie."""
    return WEIGHTS_FOLDER / f"{EMBEDDED_NAME}.safetensors"


def installed_path(name: str, folder: Path = WEIGHTS_FOLDER) -> Path | None:
    """Return where the weights `name` lie if they are there, else None. Raises DownloadError for an unknown name."""
    path = embedded_path() if name == EMBEDDED_NAME else folder / published(name).filename
    return path if path.is_file() else None


def find_weights(choice: str, folder: Path = WEIGHTS_FOLDER) -> Path | None:
    """Turn what a person chose into a file.

    Args:
        choice: a name of the catalogue, "lama-compact" (the embedded weights), the name of a file in `folder` as
            `list_weights` gives it, a path, or "" for the best that is there.
        folder: where people put weights.

    Returns:
        the file; None for the embedded weights.

    Raises:
        DownloadError: the catalogue has the name, but its file has not been fetched yet.
    """
    if choice == EMBEDDED_NAME:
        return None
    if choice == "":
        return next((path for name in CATALOGUE if (path := installed_path(name, folder))), None)
    if choice not in CATALOGUE:
        named = next((known.path for known in list_weights(folder) if known.name == choice), None)
        return named or Path(choice)
    path = installed_path(choice, folder)
    if path is None:
        raise DownloadError(f"{choice} is not on this machine yet; fetch it with `fftlama weights get {choice}`")
    return path


def fetch(
    weights: Weights | str,
    *,
    folder: Path = WEIGHTS_FOLDER,
    mirrors: str | Sequence[str] = (),
    on_progress: Progress | None = None,
    patience: Patience | None = None,
) -> Path:
    """Download weights unless they are there, and return the checked file.

    An interrupted call leaves the part it has, and the next goes on from there.

    Args:
        weights: an entry of the catalogue or its name.
        folder: where the file goes; made if need be.
        mirrors: addresses to try first, each a folder that holds the file or the file itself; a str is split at commas
            and blanks.
        on_progress: called about ten times a second.
        patience: how long to wait for a mirror; None for the defaults.

    Returns:
        where the file is.

    Raises:
        DownloadError: no mirror delivers, the disk is too small, or another download of the file is running.
    """
    weights = published(weights) if isinstance(weights, str) else weights
    target = folder / weights.filename
    if is_there(weights, folder):
        return target
    part = target.with_name(f"{target.name}.part")
    report = on_progress or (lambda done, total, host: None)
    patience = patience or Patience()
    reasons: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_one(part):
            for url in [*_mirror_urls(mirrors, weights.filename), *weights.sources]:
                try:
                    _fetch_from(url, weights, part, report, patience)
                except RefusedError as refused:
                    reasons.append(f"{host_of(url)}: {refused}")
                else:
                    part.replace(target)
                    part.with_name(f"{part.name}.json").unlink(missing_ok=True)
                    return target
    except OSError as error:
        raise DownloadError(f"{part} can't be written: {error.strerror or error}. What is there is kept") from error
    reason = f"{'; '.join(reasons)}. {_advice(weights, target)}"
    raise DownloadError(f"{weights.name} could not be fetched. {reason}", reason=reason)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def published(name: str) -> Weights:
    """Return an entry of the catalogue. Raises DownloadError for an unknown name."""
    if name not in CATALOGUE:
        raise DownloadError(f"there are no weights called {name!r} to fetch; there are: {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def is_there(weights: Weights, folder: Path) -> bool:
    """Tell whether the checked file is in the folder. Raises DownloadError where another file has its name."""
    target = folder / weights.filename
    if not target.exists():
        return False
    if target.is_file() and sha256_of(target) == weights.sha256:
        return True
    raise DownloadError(f"{target} is there, but is not the published {weights.name}; move it away and try again")


def _mirror_urls(mirrors: str | Sequence[str], filename: str) -> list[str]:
    addresses = re.split(r"[,\s]+", mirrors) if isinstance(mirrors, str) else list(mirrors)
    urls = []
    for address in filter(None, addresses):
        if not address.lower().startswith(("http://", "https://")):
            raise DownloadError(f"the mirror {address!r} is no web address; it must begin with https:// or http://")
        urls.append(address if address.endswith(f"/{filename}") else f"{address.rstrip('/')}/{filename}")
    return urls


@contextlib.contextmanager
def only_one(part: Path) -> Iterator[None]:
    """Hold the right to write `part`; it ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows; there two downloads at once spoil each other and the checksum says so
        yield
        return
    with part.with_name(f".{part.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(f"another download of {part.stem} is running; wait for it or stop it") from None
        try:
            yield
        finally:
            Path(lock.name).unlink(missing_ok=True)


def _fetch_from(url: str, weights: Weights, part: Path, report: Progress, patience: Patience) -> None:
    """Bring `part` to the complete, checked file from one mirror. Raises RefusedError when this mirror can't."""
    idle_tries = 0
    while True:
        before = size_of(part)
        check_disk(part, weights.size_bytes - before)
        report(before, weights.size_bytes, host_of(url))  # also where who watches may stop it before it connects
        problem = ""
        try:
            transfer(url, part, weights.size_bytes, report, patience)
        except BrokenError as broken:
            problem = str(broken)
        size = size_of(part)
        if size >= weights.size_bytes or (size and not problem):  # complete, even if more was announced
            if sha256_of(part) == weights.sha256:
                return
            if size >= weights.size_bytes:
                part.unlink()
                if before == 0:
                    raise RefusedError("the file it sent is not the published one (its sha256 differs)")
                problem = "what an earlier download began and what it sent do not fit together"
        problem = problem or f"it ended after {size} of {weights.size_bytes} bytes"
        if size_of(part) - before >= patience.least_progress_bytes:
            idle_tries = 0
        else:
            idle_tries += 1
        if idle_tries >= patience.tries_without_progress:
            if size_of(part) < patience.least_progress_bytes:
                part.unlink(missing_ok=True)  # an error text rather than a beginning: the next mirror starts afresh
            raise RefusedError(problem)
        time.sleep(patience.pause_s * 2**idle_tries)


def check_disk(part: Path, missing_bytes: int) -> None:
    """Raise DownloadError where the disk has no room for what `part` lacks."""
    needed_bytes = max(missing_bytes, 0) + SPARE_BYTES
    free_bytes = shutil.disk_usage(part.parent).free
    if free_bytes < needed_bytes:
        raise DownloadError(
            f"the disk of {part.parent} has {free_bytes / 2**20:.0f} MiB free, and the download of {part.stem} needs "
            f"{needed_bytes / 2**20:.0f}; make room and try again"
        )


def _advice(weights: Weights, target: Path) -> str:
    """What a person can do when no mirror delivers."""
    proxy = urllib.request.getproxies().get("https", "")
    used = f"The proxy {host_of(proxy)} was used" if proxy else "Behind a proxy, set HTTPS_PROXY=http://host:port"
    return (
        f"{used}. FFTLAMA_MIRRORS may name a mirror to try first. By hand: fetch {weights.sources[0]} on any machine "
        f"and run `fftlama weights get {weights.name} --from FILE` here, or save it as {target}"
    )
