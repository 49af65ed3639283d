"""The settings of the program, and the profile chosen for a card with the reason.

`Settings` is the one table of settings: default, kind, allowed values and help of each. `load_settings` reads them:
command line before environment (`FFTLAMA_NAME`, or plain `HOST`, `PORT`, `QUEUE`) before `fftlama.yaml` before default.
`choose_profile` picks a row of `hardware_profiles.yaml` (or of `hardware_profiles.local.yaml`, which wins) for a card.
Knows nothing of torch: who calls describes the card.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parent
SETTINGS_FILE = "fftlama.yaml"
PROFILES_FILE = "hardware_profiles.yaml"
LOCAL_PROFILES_FILE = "hardware_profiles.local.yaml"
ENVIRONMENT_PREFIX = "FFTLAMA_"
PLAIN_ENVIRONMENT = {"HOST": "host", "PORT": "port", "QUEUE": "queue"}
DEFAULT_LADDER_PX = (256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)


class SettingsError(ValueError):
    """A setting is unknown or its value is not allowed; the text names the key, the value and what is allowed."""


class ProfileError(ValueError):
    """A profile is unknown, or a profiles file holds something impossible; the text says which and what is allowed."""


@dataclass(frozen=True)
class Setting:
    """One key a person may write: its kind, default, help and limits.

    Kinds: "text", "path", "file or name" (a file where there is one, else a name), "int", "float", "choice".
    """

    name: str
    default: Any
    kind: str
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    pattern: str = ""
    unit_px: int = 1

    @property
    def allowed(self) -> str:
        """The allowed values as words for people."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind in ("int", "float"):
            noun = "a whole number" if self.kind == "int" else "a number"
            multiple = f", a multiple of {self.unit_px}" if self.unit_px > 1 else ""
            return f"{noun} from {self.low:g} to {self.high:g}{multiple}"
        return self.help if self.pattern else "text"

    def parse(self, raw: object) -> Any:
        """Return `raw` (text, or a YAML value) as this setting's type; ValueError says got and allowed."""
        refusal = ValueError(f"{self.name}: {raw!r} is not allowed; allowed: {self.allowed}")
        if self.choices and isinstance(raw, bool):  # YAML 1.1 reads a bare on/off as true/false
            raw = "on" if raw else "off"
        if raw is None or isinstance(raw, bool | list | dict):
            raise refusal
        text = str(raw).strip()
        if self.kind in ("int", "float"):
            try:
                value = int(text) if self.kind == "int" else float(text)
            except ValueError:
                raise refusal from None
            # A comparison with NaN is false, so "not inside" refuses it too.
            if not (self.low is None or self.low <= value) or not (self.high is None or value <= self.high):
                raise refusal
            if self.unit_px > 1 and value % self.unit_px:
                raise refusal
            return value
        if (self.choices and text not in self.choices) or (self.pattern and not re.fullmatch(self.pattern, text)):
            raise refusal
        return Path(text).expanduser() if self.kind == "path" else text

    def resolve(self, value: Any, folder: Path) -> Any:
        """Return a parsed value with what is relative in it taken from `folder`."""
        if self.kind == "path":
            return folder / value
        if self.kind == "file or name" and value:
            file = folder / Path(value).expanduser()
            return str(file) if file.is_file() else value
        return value


def _setting(default: Any, kind: str, help: str, **limits: Any) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help, **limits})


@dataclass(frozen=True)
class Settings:
    """Every setting of the program. Paths are absolute when they come from `load_settings`."""

    host: str = _setting("127.0.0.1", "text", "address to listen on; 0.0.0.0 lets other machines in")
    port: int = _setting(7860, "int", "port to listen on", low=1, high=65535)
    allowed_hosts: str = _setting(
        "",
        "text",
        "names the server is called by behind a proxy, separated by commas",
        pattern=r"[\w.:\[\]-]*(\s*,\s*[\w.:\[\]-]+)*",
    )
    device: str = _setting("auto", "text", "auto, cpu, cuda or cuda:N", pattern=r"auto|cpu|cuda(:\d+)?")
    precision: str = _setting(
        "auto", "choice", "number format of the network; auto = the profile's", choices=("auto", "fp16", "bf16", "fp32")
    )
    weights: str = _setting("", "file or name", "weights file or name; empty = big-lama if it is there, else embedded")
    weights_dir: Path = _setting(Path("weights"), "path", "folder of the weights to choose from")  # noqa: RUF009 (immutable)
    mirrors: str = _setting("", "text", "addresses to fetch weights from before the published ones")
    profile: str = _setting("auto", "text", "name of a row of hardware_profiles.yaml; auto = chosen for the card")
    data_dir: Path = _setting(Path("data"), "path", "folder for photos, rounds and jobs")  # noqa: RUF009 (immutable)
    outputs_dir: Path = _setting(Path("outputs"), "path", "folder results are written to")  # noqa: RUF009 (immutable)
    max_file_mib: int = _setting(100, "int", "largest photo file taken, MiB", low=1, high=4096)
    max_image_mpx: int = _setting(100, "int", "largest photo taken, million pixels", low=1, high=1000)
    queue: str = _setting("local", "choice", "where repairs run: local = in this process", choices=("local",))
    queue_limit: int = _setting(32, "int", "most repairs that may wait; more are refused with 429", low=1, high=10000)
    job_timeout_s: int = _setting(300, "int", "longest one repair may take, seconds", low=1, high=86400)
    keep_days: int = _setting(7, "int", "photos in data_dir older than this are deleted, days", low=1, high=3650)
    keep_mib: int = _setting(4096, "int", "above this size of data_dir the oldest go, MiB", low=64, high=1 << 24)
    log_level: str = _setting("info", "choice", "how much is logged", choices=("debug", "info", "warning", "error"))
    language: str = _setting(
        "auto", "choice", "language of the page; auto = the browser's", choices=("auto", "en", "zh-CN")
    )


SETTINGS: tuple[Setting, ...] = tuple(Setting(f.name, f.default, **f.metadata) for f in fields(Settings))


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"the nearest is {close[0]!r}" if close else "known: " + ", ".join(names)


def _read_yaml(path: Path, error: type[ValueError]) -> object:
    try:
        # The parser in C, where there is one, is some five times as fast.
        return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise error(f"{path} cannot be read: {problem}") from problem


def load_settings(
    arguments: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None, file: Path | None = None
) -> Settings:
    """Return the settings in force.

    `arguments`: the command line's, keys with `-` or `_`. `environ`: default `os.environ`; empty values count as unset.
    `file`: default `fftlama.yaml` beside this file, if it is there. Relative paths mean: from the current folder on the
    command line and in the environment, else from the folder of the file (for defaults, of this program).
    Raises SettingsError for an unknown key or a value that is not allowed, naming where it stands.
    """
    environ = os.environ if environ is None else environ
    if file is None and (CHECKOUT / SETTINGS_FILE).is_file():
        file = CHECKOUT / SETTINGS_FILE
    in_file: object = (_read_yaml(file, SettingsError) or {}) if file else {}
    if not isinstance(in_file, dict):
        raise SettingsError(f"{file} must hold lines of the form `name: value`, not a {type(in_file).__name__}")
    plain = {name: environ[key] for key, name in PLAIN_ENVIRONMENT.items() if environ.get(key)}
    prefixed = {
        key.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for key, value in environ.items()
        if key.startswith(ENVIRONMENT_PREFIX) and value
    }
    given = {name.replace("-", "_"): value for name, value in (arguments or {}).items() if value is not None}
    home = file.resolve().parent if file else CHECKOUT
    layers: tuple[tuple[str, Mapping[Any, Any], Path], ...] = (
        (str(file), in_file, home),
        ("the environment", plain, Path.cwd()),
        ("the environment", prefixed, Path.cwd()),
        ("the command line", given, Path.cwd()),
    )
    table = {setting.name: setting for setting in SETTINGS}
    values: dict[str, Any] = {s.name: CHECKOUT / s.default for s in SETTINGS if s.kind == "path"}
    for source, layer, folder in layers:
        for name, raw in layer.items():
            if name not in table:
                raise SettingsError(f"{source} has an unknown setting {name!r}; {_nearest(str(name), table)}")
            try:
                value = table[name].parse(raw)
            except ValueError as problem:
                raise SettingsError(f"{source}: {problem}") from None
            values[name] = table[name].resolve(value, folder)
    return Settings(**values)


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
    """

    name: str
    input_px: int
    precision: str
    cuda_graph: str
    buckets_px: tuple[int, ...]
    memory_fraction: float
    max_batch: int


_SIDE_PX = Setting("input_px", None, "int", "", low=64, high=4096, unit_px=8)
PROFILE_KEYS: dict[str, Setting] = {
    key.name: key
    for key in (
        Setting("name", None, "text", "small letters, digits, dots and dashes", pattern=r"[a-z0-9][a-z0-9.-]*"),
        _SIDE_PX,
        Setting("precision", None, "choice", "", choices=("fp16", "bf16", "fp32")),
        Setting("cuda_graph", None, "choice", "", choices=("on", "off", "verify")),
        Setting("memory_fraction", None, "float", "", low=0.1, high=1.0),
        Setting("max_batch", None, "int", "", low=1, high=64),
        Setting("capability", None, "text", 'compute capability at least, as "8.6"', pattern=r"\d+\.\d+"),
        Setting("memory_mib", None, "int", "", low=0, high=1 << 24),
    )
}
_LIST_KEYS = ("match", "buckets_px")
_OPTIONAL_KEYS = ("match", "buckets_px", "capability", "memory_mib")
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


def _chip_words(device_name: str) -> str:
    words = re.findall(r"[a-z0-9.*]+", device_name.lower())
    return " ".join(word for word in words if not _EMPTY_WORDS.fullmatch(word))


def _parse_row(row: object, where: str) -> _Row:
    if not isinstance(row, dict):
        raise ProfileError(f"{where} must be a table of `key: value`, not {row!r}")
    where = f"{where} ({row.get('name', 'without a name')})"
    for key in row:
        if key not in PROFILE_KEYS and key not in _LIST_KEYS:
            raise ProfileError(f"{where}: unknown key {key!r}; {_nearest(str(key), (*PROFILE_KEYS, *_LIST_KEYS))}")
    for key in PROFILE_KEYS:
        if key not in row and key not in _OPTIONAL_KEYS:
            raise ProfileError(f"{where}: {key} is missing; allowed: {PROFILE_KEYS[key].allowed}")
    for key in _LIST_KEYS:
        if not isinstance(row.get(key, []), list):
            raise ProfileError(f"{where}: {key} must be a list, not {row[key]!r}")
    try:
        values = {key: PROFILE_KEYS[key].parse(raw) for key, raw in row.items() if key in PROFILE_KEYS}
        input_px = values["input_px"]
        ladder = (*(px for px in DEFAULT_LADDER_PX if px < input_px), input_px)
        buckets = tuple(_SIDE_PX.parse(px) for px in row.get("buckets_px", ladder))
    except ValueError as problem:
        raise ProfileError(f"{where}: {problem}") from None
    if list(buckets) != sorted(set(buckets)) or not buckets or buckets[-1] != input_px:
        raise ProfileError(f"{where}: buckets_px {list(buckets)} must rise and end in input_px, {input_px}")
    major, minor = str(values.pop("capability", "0.0")).split(".")
    memory_mib = values.pop("memory_mib", 0)
    names = tuple(_chip_words(str(name)) for name in row.get("match", []))
    return _Row(Profile(buckets_px=buckets, **values), names, (int(major), int(minor)), memory_mib)


def _read_rows(path: Path) -> list[_Row]:
    content = _read_yaml(path, ProfileError)
    if not isinstance(content, dict) or list(content) != ["profiles"] or not isinstance(content["profiles"], list):
        raise ProfileError(f"{path} must hold one key, `profiles`, with a list of rows")
    return [_parse_row(row, f"{path.name}, row {number}") for number, row in enumerate(content["profiles"], 1)]


def choose_profile(card: Card, *, name: str = "auto", folder: Path | None = None) -> tuple[Profile, str]:
    """Return the profile for `card` and a sentence that says why.

    `name`: a row by name, or "auto": matched on the device name, else by compute capability and memory; a card without
    a compute capability is a CPU. `folder`: where the profiles files are (default: beside this file); rows of
    `hardware_profiles.local.yaml` are tried first. Raises ProfileError for an unknown name or a bad file.
    """
    folder = folder or CHECKOUT
    shipped_path = folder / PROFILES_FILE if (folder / PROFILES_FILE).is_file() else CHECKOUT / PROFILES_FILE
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
