"""The program's settings, and where they are read from.

`Settings` is the one table of settings: name, type, default, limits and help of each. `load_settings` fills it from the
command line, else the environment (`FFTLAMA_NAME`, or a variable of `PLAIN_ENVIRONMENT`), else `fftlama.yaml`, else the
default. How the model runs on a card is no setting: see `engine/profiles.py`. `program_version` is here too, since the
process and the command line both read it off this checkout.
"""

import argparse
import difflib
import errno
import ipaddress
import logging
import os
import re
import reprlib
import socket
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import yaml
from annotated_types import Ge, Le
from pydantic import AfterValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

CHECKOUT = Path(__file__).resolve().parent
SETTINGS_FILE = "fftlama.yaml"
ENVIRONMENT_PREFIX = "FFTLAMA_"
PLAIN_ENVIRONMENT = {
    "HOST": "host", "PORT": "port", "QUEUE": "queue", "REDIS_URL": "redis_url", "DEVICES": "devices",
    "AUTH_FILE": "auth_file",
}  # fmt: skip
# What Kubernetes, as Docker's links did, sets in each container beside a service called fftlama or fftlama-redis.
SERVICE_LINKS = re.compile(
    r"FFTLAMA_(\w+_)?(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=.*|PORT_\d+_(TCP|UDP)(_\w+)?=.*|PORT=(tcp|udp)://.*)"
)
FILE_OR_NAME = "file or name"
LARGEST_FILE_BYTES = 64 << 10  # the parser needs 3 s for as many brackets
# A name with a letter or digit in each of its parts, or IPv6 in brackets; with or without a port.
HOST_NAME = r"([\w-]+(\.[\w-]+)*\.?|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?"
ORIGIN = r"(\*|[a-z][a-z0-9+.-]*://[^\s,/*]+/?)"  # no * inside: an origin is compared as a whole
WEB_ADDRESS = r"https?://[^\s,/]+[^\s,]*"

log = logging.getLogger("fftlama")


class SettingsError(ValueError):
    """A setting is unknown or its value is not allowed; the text names the key, the value and what is allowed."""


def _check_networks(text: str) -> str:
    """Return a list of addresses and networks as it is; ValueError where one is none."""
    for part in text.replace(",", " ").split():
        ipaddress.ip_network(part, strict=False)
    return text


def _check_redis_url(text: str) -> str:
    """Return a Redis's address as it is; ValueError where host, port or the database's number can be none."""
    parts = urlsplit(text)
    # A `#`, `/` or `?` of the password that is not percent-encoded ends the host there.
    if parts.port == 0 or (parts.netloc and not parts.hostname) or parts.fragment:
        raise ValueError("no address")
    if not re.fullmatch(r"(/[0-9]*/?)?", parts.path):
        raise ValueError("no number of a database")
    return text


class Settings(BaseSettings):
    """Every setting of the program.

    `Settings(name=value)` takes the values given and the defaults, and reads nothing else. Paths are absolute when they
    come from `load_settings`.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    host: str = Field(
        default="127.0.0.1",
        pattern=r"^[\w.:%-]+$",
        description="address to listen on; 0.0.0.0 lets other machines in",
    )
    port: int = Field(default=7860, ge=1, le=65535, description="port to listen on")
    allowed_hosts: str = Field(
        default="",
        pattern=rf"^({HOST_NAME}(\s*,\s*{HOST_NAME})*)?$",
        description="names the server is called by behind a proxy, separated by commas",
    )
    root_path: str = Field(
        default="",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="path under which a proxy serves this, /lama for example, without a slash at the end",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$",
        description="auto, cpu, mps (untested), cuda or cuda:N",
    )
    precision: Literal["auto", "fp16", "bf16", "fp32"] = Field(
        default="auto", description="number format of the network; auto = the profile's"
    )
    weights: Annotated[str, FILE_OR_NAME] = Field(
        default="", description="weights file or name; empty = big-lama or lama-fourier if it is there, else embedded"
    )
    large_holes: Literal["crisp", "accurate"] = Field(
        default="crisp",
        description="what fills large holes with the embedded weights: crisp = a second network, sharper; "
        "accurate = the one that fills all others, softer and nearer in colour",
    )
    weights_dir: Path = Field(default=Path("weights"), description="folder of the weights to choose from")
    mirrors: str = Field(
        default="",
        pattern=rf"(?i)^[\s,]*({WEB_ADDRESS}([\s,]+|$))*$",
        description="web addresses to fetch weights from before the published ones, separated by blanks",
    )
    fetch_weights: Literal["page", "terminal"] = Field(
        default="page",
        description="where published weights are fetched: page = the page offers it too; terminal = by command only",
    )
    profile: str = Field(
        default="auto", description="name of a row of hardware_profiles.yaml; auto = chosen for the card"
    )
    data_dir: Path = Field(default=Path("data"), description="folder for photos, edits and jobs")
    outputs_dir: Path = Field(default=Path("outputs"), description="folder results are written to")
    input_path: Path | None = Field(
        default=None, description="photo or folder that IOPaint's clients may open; empty = none"
    )
    masks_dir: Path | None = Field(
        default=None, description="folder of masks that IOPaint's clients may look through; empty = none"
    )
    max_file_mib: int = Field(default=100, ge=1, le=4096, description="largest photo file taken, MiB")
    max_image_mpx: int = Field(default=100, ge=1, le=1000, description="largest photo taken, million pixels")
    work_memory_mib: int = Field(
        default=2048,
        ge=256,
        le=1 << 20,
        description="memory for decoding, masks and encoding of all requests together, MiB; the model's is beside it",
    )
    queue: Literal["local", "celery"] = Field(
        default="local",
        description="where repairs run: local = in this process; celery = on the workers that meet at redis_url",
    )
    redis_url: Annotated[str, AfterValidator(_check_redis_url)] = Field(
        default="redis://127.0.0.1:6379/0",
        pattern=r"^rediss?://\S+$",
        description="where queue=celery meets its workers, redis://[:password@]host:port/number or rediss://; "
        "#, / and ? in the password are written %23, %2F and %3F",
    )
    devices: str = Field(
        default="",
        pattern=r"^([0-9]+(\s*,\s*[0-9]+)*)?$",
        description="numbers of the CUDA cards to run on, separated by commas; empty = the one that device names",
    )
    queue_limit: int = Field(
        default=32, ge=1, le=10000, description="most repairs that may wait; more are refused with 429"
    )
    job_timeout_s: int = Field(default=300, ge=1, le=86400, description="longest one repair may take, seconds")
    keep_days: int = Field(default=7, ge=1, le=3650, description="photos in data_dir older than this are deleted, days")
    keep_mib: int = Field(default=4096, ge=64, le=1 << 24, description="above this size of data_dir the oldest go, MiB")
    auth_file: Path | None = Field(
        default=None,
        description="file of people and API keys, made by `fftlama user add`; with it everybody has to log in",
    )
    auth_proxy_header: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9-]*$",
        description="header in which a proxy that checked a person names them, X-Forwarded-User for example",
    )
    auth_proxy_from: Annotated[str, AfterValidator(_check_networks)] = Field(
        default="127.0.0.1, ::1",
        description="addresses or networks of the proxies whose auth_proxy_header counts, separated by commas",
    )
    operators: str = Field(
        default="",
        description="names of people who may see /status and /metrics, separated by commas; empty = who may come in",
    )
    allowed_origins: str = Field(
        default="",
        pattern=rf"^({ORIGIN}(\s*,\s*{ORIGIN})*)?$",
        description="other sites whose pages may call the REST routes from a browser, separated by commas; * = all",
    )
    client_waiting_jobs: int = Field(
        default=0, ge=0, le=10000, description="most repairs of one client that may wait; 0 = no limit of its own"
    )
    client_requests_per_minute: int = Field(
        default=0, ge=0, le=100000, description="most requests of one client that change something; 0 = no limit"
    )
    client_mib_per_minute: int = Field(
        default=0, ge=0, le=1 << 20, description="most MiB that one client may send a minute; 0 = no limit"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="form of the log's lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="how much is logged")
    language: Literal["auto", "en", "zh-CN"] = Field(
        default="auto", description="language of the page; auto = the browser's"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing but the arguments; `load_settings` brings sources of its own, whose refusals name the place."""
        return (init_settings,)


class _Source(PydanticBaseSettingsSource):
    """The settings that one place gives, as text; what is relative in them is taken from `folder`.

    YAML's null, which a name without a value is too, counts as not given where the default is empty.

    Raises SettingsError for a key that is no setting, and for a value that is no single text or number.
    """

    def __init__(self, place: str, values: Mapping[Any, Any], folder: Path) -> None:
        super().__init__(Settings)
        self.place = place
        self.values = {name: value for name, value in values.items() if value is not None or not _may_be_empty(name)}
        self._folder = folder
        for name, value in self.values.items():
            if name not in Settings.model_fields:
                raise SettingsError(f"{place} has an unknown setting {short(name)}; {nearest(str(name)[:80])}")
            # YAML's true, lists and tables would pass for numbers or text once they are converted. Line breaks and
            # control characters are in no address, name or path that somebody means; Rust and C read them otherwise.
            if value is None or isinstance(value, bool | list | dict | set) or not str(value).strip().isprintable():
                raise self.refusal(name)

    def refusal(self, name: str) -> SettingsError:
        """Return the error for the value that this place gives for a setting."""
        field = Settings.model_fields[name]
        value = short(self.values[name])
        if name in ("redis_url", "mirrors"):
            # A refusal is shown and logged; a password is not, with or without a scheme before it.
            value = re.sub(r"^([^@]*?://|['\"])?.*@", r"\1...@", value)
            value = re.sub(r"\?.*?(['\"]?)$", r"?...\1", value)  # it may be an option too: ?password=
        return SettingsError(f"{self.place}: {name}: {value} is not allowed; allowed: {allowed_values(field)}")

    def _path(self, name: str, text: str) -> Path:
        """Return a path, absolute; SettingsError where it begins with the home of nobody, or is too long."""
        home = text.partition("/")[0]
        if home.startswith("~"):
            try:
                is_there = Path(home).expanduser().is_dir()
            except RuntimeError:  # there is no such person
                is_there = False
            if not is_there:
                raise SettingsError(
                    f"{self.place}: {name}: {short(text)} begins with a home folder that does not exist"
                )
        path = self._folder / Path(text).expanduser()
        try:
            os.lstat(path)
        except OSError as problem:
            if problem.errno == errno.ENAMETOOLONG:  # which whoever only asks whether it is there does not expect
                raise SettingsError(f"{self.place}: {name}: {short(text)} is longer than a path can be") from None
        return path

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return a setting's value from this place, None where it has none; part of pydantic-settings' interface."""
        if field_name not in self.values:
            return None, field_name, False
        text = str(self.values[field_name]).strip()
        if field.annotation == Path | None and not text:
            return None, field_name, False
        if field.annotation in (Path, Path | None):
            if not text:
                raise self.refusal(field_name)
            return self._path(field_name, text), field_name, False
        if FILE_OR_NAME in field.metadata and text:
            file = self._path(field_name, text)
            return (str(file) if file.is_file() else text), field_name, False
        return text, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return every setting that this place gives."""
        return {name: self.get_field_value(Settings.model_fields[name], name)[0] for name in self.values}


def _may_be_empty(name: Any) -> bool:
    """Tell whether this is the name of a setting whose default is empty."""
    return name in Settings.model_fields and Settings.model_fields[name].default in ("", None)


def program_version() -> str:
    """Return the version that `pyproject.toml` states."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["version"])


def load_settings(
    arguments: Mapping[str, str | None] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
    *,
    serving: bool = True,
    tell: Callable[[str], None] = log.warning,
) -> Settings:
    """Return the settings in force.

    Args:
        arguments: Those of the command line, keys with `-` or `_`; None counts as not given.
        environ: The environment, by default `os.environ`; empty values count as unset.
        file: By default `fftlama.yaml` beside this file, if it is there.
        serving: Whether the caller serves requests; if not, the variables without prefix are not looked at.
        tell: Is given the sentence about a variable that is passed over. Who sets up the log by these settings says it
            afterwards, in the form they ask for.

    Returns:
        The settings. Relative paths are taken from the current folder where the command line or the environment gave
        them, from the folder of `file` where that did, and from the program's own folder where they are defaults.

    Raises:
        SettingsError: A key is unknown, a value is not allowed, or `file` cannot be read; the text says where.
    """
    environ = os.environ if environ is None else environ
    if file is None and (CHECKOUT / SETTINGS_FILE).is_file():
        file = CHECKOUT / SETTINGS_FILE
    given = {name.replace("-", "_"): value for name, value in (arguments or {}).items() if value is not None}
    prefixed = {
        key.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for key, value in environ.items()
        if key.startswith(ENVIRONMENT_PREFIX) and value and not SERVICE_LINKS.fullmatch(f"{key}={value}")
    }
    plain = _plain_environment(environ, decided=given.keys() | prefixed.keys(), tell=tell) if serving else {}
    default_folders = {name: field.default for name, field in Settings.model_fields.items() if field.annotation is Path}
    sources = (
        _Source("the command line", given, Path.cwd()),
        _Source("the environment", prefixed, Path.cwd()),
        _Source("the environment", plain, Path.cwd()),
        *([_Source(str(file), _read_file(file), file.resolve().parent)] if file else []),
        _Source("the defaults", default_folders, CHECKOUT),
    )
    try:
        # Typed as if it were a field; its own docstring calls it the sources to build from.
        settings = Settings(_build_sources=(sources, {}))  # type: ignore[call-arg]
    except ValidationError as problem:
        name = str(problem.errors()[0]["loc"][0])
        raise next(source for source in sources if name in source.values).refusal(name) from None
    _refuse_folders_in_data(settings)
    return settings


def _refuse_folders_in_data(settings: Settings) -> None:
    """Raise SettingsError where people's files would lie among the program's own, which clean-up removes."""
    data = os.path.realpath(settings.data_dir)
    for name in ("outputs_dir", "input_path", "masks_dir"):
        folder = getattr(settings, name)
        if folder and os.path.commonpath([data, os.path.realpath(folder)]) == data:
            raise SettingsError(
                f"{name}: {short(str(folder))} lies in data_dir ({short(str(settings.data_dir))}), where photos are"
                " removed after keep_days; choose a folder outside of it"
            )


def _plain_environment(
    environ: Mapping[str, str], *, decided: Iterable[str], tell: Callable[[str], None]
) -> dict[str, str]:
    """Return what the variables without prefix set, as far as it is not decided already."""
    plain = {name: environ[key] for key, name in PLAIN_ENVIRONMENT.items() if environ.get(key) and name not in decided}
    host = plain.get("host", "").strip()
    # conda exports HOST=x86_64-conda-linux-gnu, tcsh and zsh the machine's own name: nobody meant an address. The
    # machine's name often does resolve, to an address that other machines reach, so it counts only if asked for.
    if host and host != "localhost" and (host == socket.gethostname() or not _can_listen(host)):
        del plain["host"]
        tell(
            f"the variable HOST={host} is passed over, because it is this machine's name or no address to listen on "
            "here; FFTLAMA_HOST sets one"
        )
    return plain


def _can_listen(host: str) -> bool:
    """Return whether this machine can listen on an address, given by number or name."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]  # fmt: skip
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except (OSError, UnicodeError):  # a label of more than 63 letters is a UnicodeError
        return False
    return True


def _read_file(file: Path) -> Mapping[Any, Any]:
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(LARGEST_FILE_BYTES + 1)
        if len(text) > LARGEST_FILE_BYTES:
            raise SettingsError(f"{file} is larger than 64 KiB, which no file of settings is")
        content = yaml.safe_load(text) or {}
    except RecursionError:
        raise SettingsError(f"{file} cannot be read: it nests too deeply") from None
    # ValueError and AttributeError: text that is no UTF-8, a day 99, a number of thousands of digits, `!!timestamp x`.
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as problem:
        if isinstance(problem, SettingsError):
            raise
        raise SettingsError(f"{file} cannot be read: {' '.join(str(problem).split())}") from problem
    if not isinstance(content, dict):
        raise SettingsError(f"{file} must hold lines of the form `name: value`, not a {type(content).__name__}")
    return content


def short(value: object) -> str:
    """Return a value as Python writes it, cut to what fits a sentence."""
    # Not repr(): of nested YAML aliases, of which a kilobyte can stand for terabytes.
    writer = reprlib.Repr()
    writer.maxstring = writer.maxother = 120
    return writer.repr(value)


def nearest(name: str) -> str:
    """Return words that lead from an unknown setting to the nearest known one."""
    names = sorted(Settings.model_fields)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"the nearest is {close[0]!r}" if close else "known: " + ", ".join(names)


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """Return the values to choose from where a setting has a fixed list, else nothing."""
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def allowed_values(field: FieldInfo) -> str:
    """Return the allowed values of a setting as words for people."""
    if choices := choices_of(field):
        return "one of " + ", ".join(choices)
    if field.annotation in (int, float):
        noun = "a whole number" if field.annotation is int else "a number"
        low = next((f" from {limit.ge}" for limit in field.metadata if isinstance(limit, Ge)), "")
        high = next((f" to {limit.le}" for limit in field.metadata if isinstance(limit, Le)), "")
        return noun + low + high
    return field.description if field.metadata and field.description else "text"


class ExactParser(argparse.ArgumentParser):
    """A parser, and one of commands, that takes options by their whole names and names the nearest to a wrong one.

    Args:
        **options: those of `argparse.ArgumentParser`.

    Attributes:
        too_many: what is said of a word that has no place.
    """

    too_many = "--help says what is taken"

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse a command line; argparse has each command's parser asked in this way, and what it knows is needed."""
        chosen, unknown = super().parse_known_args(args, namespace)
        if option := next((word for word in unknown if word.startswith("-")), ""):
            name = option.partition("=")[0]
            close = difflib.get_close_matches(name, self._option_string_actions, n=1, cutoff=0.5)
            hint = f"the nearest is {close[0]!r}" if close else "--help lists those there are"
            self.error(f"unknown option {short(name)}; {hint}")
        if unknown:  # said here, argparse's own refusal shows the usage of the program, not of the command
            self.error(f"{short(unknown[0])} is one argument too many; {self.too_many}")
        return chosen, unknown


def add_arguments(parser: argparse.ArgumentParser, names: Iterable[str] = ()) -> None:
    """Add an option with its help for each of the settings named, by default for all."""
    wanted = set(names) or Settings.model_fields.keys()
    for name, field in Settings.model_fields.items():
        if name in wanted:
            help_text = (field.description or "").replace("%", "%%")
            parser.add_argument(f"--{name.replace('_', '-')}", metavar="X", help=help_text)
