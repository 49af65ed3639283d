"""Profiles: how the model runs on a card, and which row of `hardware_profiles.yaml` a card gets, with the reason.

`choose_profile` looks at the rows of `hardware_profiles.local.yaml` first, which `fftlama profile --measure` writes.
Knows neither torch (the caller describes the card) nor the program's settings, so that the engine runs where only
torch, NumPy, Pillow, OpenCV, PyYAML and safetensors are installed.
"""

import difflib
import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

PROFILES_FOLDER = Path(__file__).resolve().parents[1]
PROFILES_FILE = "hardware_profiles.yaml"
LOCAL_PROFILES_FILE = "hardware_profiles.local.yaml"
LARGEST_FILE_BYTES = 1 << 16
DEFAULT_LADDER_PX = (256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)


class ProfileError(ValueError):
    """A profile is unknown, or a profiles file holds something impossible; the text says which and what is allowed."""


@dataclass(frozen=True)
class Card:
    """What a device says of itself: its name, CUDA compute capability and memory. None = not known or no such thing."""

    name: str
    capability: tuple[int, int] | None = None
    memory_mib: int | None = None


@dataclass(frozen=True)
class Profile:
    """How the model runs on a card.

    `buckets_px`: square sides the model runs at, ascending, the largest is `input_px`. `cuda_graph`: "on", "off", or
    "verify" (replay is compared with eager first). `memory_fraction`: most of the card's memory that may be taken.
    `fp8`: "on" or "off", as `FastGenerator` takes it.
    """

    name: str
    input_px: int
    precision: str
    cuda_graph: str
    buckets_px: tuple[int, ...]
    memory_fraction: float
    max_batch: int
    fp8: str = "off"


@dataclass(frozen=True)
class _Key:
    """One key of a row: its type, and its limits, choices or pattern; `allowed` says them in words."""

    kind: type
    allowed: str
    low: float = 0
    high: float = 0
    multiple_of: int = 1
    choices: tuple[str, ...] = ()
    pattern: str = ""

    def parse(self, key: str, raw: object) -> Any:
        """Return a YAML value as the key's type. Raises ValueError that says got and allowed."""
        refusal = ValueError(f"{key}: {_short(raw)} is not allowed; allowed: {self.allowed}")
        if self.choices and isinstance(raw, bool):  # YAML 1.1 reads a bare on/off as true/false
            raw = "on" if raw else "off"
        if raw is None or isinstance(raw, bool | list | dict):
            raise refusal
        try:
            value = self.kind(str(raw).strip())
        except ValueError:
            raise refusal from None
        if self.kind is str:
            fits = value in self.choices if self.choices else re.fullmatch(self.pattern, value)
        else:
            # A comparison with NaN is false, so NaN is refused too.
            fits = self.low <= value <= self.high and (self.kind is float or value % self.multiple_of == 0)
        if not fits:
            raise refusal
        return value


def _number(kind: type, low: float, high: float, multiple_of: int = 1) -> _Key:
    noun = "a whole number" if kind is int else "a number"
    multiple = f", a multiple of {multiple_of}" if multiple_of > 1 else ""
    return _Key(kind, f"{noun} from {low:g} to {high:g}{multiple}", low, high, multiple_of)


def _choice(*choices: str) -> _Key:
    return _Key(str, "one of " + ", ".join(choices), choices=choices)


_SIDE_PX = _number(int, 64, 4096, multiple_of=8)
_KEYS: dict[str, _Key] = {
    "name": _Key(str, "small letters, digits, dots and dashes", pattern=r"[a-z0-9][a-z0-9.-]*"),
    "input_px": _SIDE_PX,
    "precision": _choice("fp16", "bf16", "fp32"),
    "cuda_graph": _choice("on", "off", "verify"),
    "fp8": _choice("on", "off"),
    "memory_fraction": _number(float, 0.1, 1.0),
    "max_batch": _number(int, 1, 64),
    "capability": _Key(str, 'compute capability at least, as "8.6"', pattern=r"\d+\.\d+"),
    "memory_mib": _number(int, 0, 1 << 24),
}
_LIST_KEYS = ("match", "buckets_px")
_OPTIONAL_KEYS = ("match", "buckets_px", "fp8", "capability", "memory_mib")
# Words in a device name that say nothing about which chip it is: vendor and series, memory size, form factor.
_EMPTY_WORDS = re.compile(r"nvidia|geforce|tesla|\d+gb|sxm\d?|pcie|hbm\d\w?|with|design")


@dataclass(frozen=True)
class _Row:
    """A profile and when it applies: names (shell wildcards allowed) and least capability and memory."""

    profile: Profile
    names: tuple[str, ...]
    capability: tuple[int, int]
    memory_mib: int

    def fits(self, card: Card) -> bool:
        enough_memory = card.memory_mib is None or card.memory_mib >= self.memory_mib
        return enough_memory and (card.capability or (0, 0)) >= self.capability


def _short(value: object) -> str:
    """Return a value as Python writes it, cut to fit a sentence: a kilobyte of YAML's aliases can be terabytes."""
    writer = reprlib.Repr()
    writer.maxlevel, writer.maxlist, writer.maxstring, writer.maxother = 1, 16, 120, 120
    return writer.repr(value)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"the nearest is {close[0]!r}" if close else "known: " + ", ".join(names)


def _chip_words(device_name: str) -> str:
    words = re.findall(r"[a-z0-9.*]+", device_name.lower())
    return " ".join(word for word in words if not _EMPTY_WORDS.fullmatch(word))


def _parse_row(row: object, where: str) -> _Row:
    if not isinstance(row, dict):
        raise ProfileError(f"{where} must be a table of `key: value`, not {_short(row)}")
    name = row.get("name", "without a name")
    where = f"{where} ({name if isinstance(name, str) else _short(name)})"
    for key in row:
        if key not in _KEYS and key not in _LIST_KEYS:
            raise ProfileError(f"{where}: unknown key {_short(key)}; {_nearest(str(key), (*_KEYS, *_LIST_KEYS))}")
    for key in _KEYS:
        if key not in row and key not in _OPTIONAL_KEYS:
            raise ProfileError(f"{where}: {key} is missing; allowed: {_KEYS[key].allowed}")
    for key in _LIST_KEYS:
        if not isinstance(row.get(key, []), list):
            raise ProfileError(f"{where}: {key} must be a list, not {_short(row[key])}")
    try:
        values = {key: _KEYS[key].parse(key, raw) for key, raw in row.items() if key in _KEYS}
        input_px = values["input_px"]
        ladder = (*(px for px in DEFAULT_LADDER_PX if px < input_px), input_px)
        buckets = tuple(_SIDE_PX.parse("buckets_px", px) for px in row.get("buckets_px", ladder))
    except ValueError as problem:
        raise ProfileError(f"{where}: {problem}") from None
    if list(buckets) != sorted(set(buckets)) or not buckets or buckets[-1] != input_px:
        raise ProfileError(f"{where}: buckets_px {_short(list(buckets))} must rise and end in input_px, {input_px}")
    major, minor = str(values.pop("capability", "0.0")).split(".")
    memory_mib = values.pop("memory_mib", 0)
    names = tuple(_chip_words(str(name)) for name in row.get("match", []))
    return _Row(Profile(buckets_px=buckets, **values), names, (int(major), int(minor)), memory_mib)


def _read_rows(path: Path) -> list[_Row]:
    # The parser in C, where there is one, takes a fifth of the time; but brackets that nest deep end the process in it.
    is_shipped = path == PROFILES_FOLDER / PROFILES_FILE
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if is_shipped else yaml.SafeLoader
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(LARGEST_FILE_BYTES + 1)
        if len(text) > LARGEST_FILE_BYTES:
            raise yaml.YAMLError("it is larger than 64 KiB, which no file of profiles is")
        content = yaml.load(text, Loader=loader)
    except RecursionError:
        raise ProfileError(f"{path} cannot be read: it nests too deeply") from None
    # ValueError and AttributeError: text that is no UTF-8, a day 99, a number of thousands of digits, `!!timestamp x`.
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as problem:
        # A parser's message is several lines, which a terminal and a log show as one.
        raise ProfileError(f"{path} cannot be read: {' '.join(str(problem).split())}") from problem
    if not isinstance(content, dict) or list(content) != ["profiles"] or not isinstance(content["profiles"], list):
        raise ProfileError(f"{path} must hold one key, `profiles`, with a list of rows")
    return [_parse_row(row, f"{path.name}, row {number}") for number, row in enumerate(content["profiles"], 1)]


def choose_profile(card: Card, *, name: str = "auto", folder: Path | None = None) -> tuple[Profile, str]:
    """Choose how the model runs on a card.

    Args:
        card: What the device says of itself; without a compute capability it is a CPU.
        name: A row by name; "auto" matches the device name, else the compute capability and the memory.
        folder: Where the profiles files are, by default the program's folder; the local file's rows come first.

    Returns:
        The profile, and a sentence for people that says why.

    Raises:
        ProfileError: No row has that name, or a profiles file holds something impossible.
    """
    folder = folder or PROFILES_FOLDER
    shipped_path = folder / PROFILES_FILE if (folder / PROFILES_FILE).is_file() else PROFILES_FOLDER / PROFILES_FILE
    local_path = folder / LOCAL_PROFILES_FILE
    shipped = _read_rows(shipped_path)
    local = _read_rows(local_path) if local_path.is_file() else []
    if name != "auto":
        for row in local + shipped:
            if row.profile.name == name:
                return row.profile, f"The profile {name} was asked for by name."
        raise ProfileError(f"there is no profile {name!r}; {_nearest(name, {r.profile.name for r in local + shipped})}")
    chip = _chip_words(card.name)
    for rows, source in (local, f", from {LOCAL_PROFILES_FILE}"), (shipped, ""):
        for row in rows:
            if any(fnmatchcase(chip, pattern) for pattern in row.names) and row.fits(card):
                subject = "The device name" if card.capability else "No CUDA card is in use;"
                return row.profile, f"{subject} {card.name} has the profile {row.profile.name}{source}."
        for row in rows:
            if card.capability is None and "cpu" in row.names:
                return row.profile, f"No CUDA card is in use; {card.name} has the profile {row.profile.name}{source}."
            if card.capability is not None and not row.names and row.fits(card):
                memory = "unknown memory" if card.memory_mib is None else f"{card.memory_mib} MiB"
                return row.profile, (
                    f"{card.name} has no row of its own; compute capability {card.capability[0]}.{card.capability[1]} "
                    f"and {memory} lead to the profile {row.profile.name}{source}."
                )
    raise ProfileError(f"no profile fits {card}; {PROFILES_FILE} must end in a row that fits every card")
