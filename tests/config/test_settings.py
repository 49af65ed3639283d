"""Settings: precedence, limits, and refusals that help."""

import logging
import pickle
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import CHECKOUT, Settings, SettingsError, allowed_values, load_settings
from notices import Note


def test_every_setting_has_help_and_says_what_it_allows() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert allowed_values(field), name


def test_defaults_are_safe_and_absolute() -> None:
    settings = load_settings(environ={})
    assert (settings.host, settings.port) == ("127.0.0.1", 7860)
    assert settings.data_dir == CHECKOUT / "data"
    assert settings.outputs_dir == CHECKOUT / "outputs"


def test_defaults_are_values_that_the_table_itself_allows() -> None:
    given = {name: str(field.default) for name, field in Settings.model_fields.items() if field.default is not None}
    assert Settings.model_validate(given) == Settings()


def test_settings_made_directly_read_neither_environment_nor_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFTLAMA_PORT", "1")
    monkeypatch.setenv("PORT", "2")
    assert Settings().port == 7860


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "fftlama.yaml"
    file.write_text("port: 1001\nqueue_limit: 5\nlog_level: debug\nkeep_days: 9\n")
    environ = {"PORT": "1002", "FFTLAMA_PORT": "1003", "FFTLAMA_QUEUE_LIMIT": "6", "HOST": "0.0.0.0"}
    settings = load_settings({"port": "1004"}, environ, file)
    assert (settings.port, settings.queue_limit, settings.log_level) == (1004, 6, "debug")
    assert (settings.keep_days, settings.host, settings.keep_mib) == (9, "0.0.0.0", 4096)
    assert load_settings(environ=environ, file=file).port == 1003
    assert load_settings(environ={"PORT": "1002"}, file=file).port == 1002


def test_relative_paths_belong_to_who_wrote_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    file = tmp_path / "fftlama.yaml"
    file.write_text("data_dir: mine\n")
    monkeypatch.chdir(tmp_path / "here")
    settings = load_settings({"outputs-dir": "results"}, {}, file)
    assert settings.data_dir == tmp_path / "mine"
    assert settings.outputs_dir == tmp_path / "here" / "results"


def test_empty_variable_counts_as_unset() -> None:
    assert load_settings(environ={"PORT": "", "FFTLAMA_LOG_LEVEL": ""}) == load_settings(environ={})


def test_what_kubernetes_sets_for_a_service_of_our_name_is_no_setting() -> None:
    """No container beside a service called fftlama started: "the environment has an unknown setting 'service_host'"."""
    links = {
        "FFTLAMA_SERVICE_HOST": "10.0.0.7", "FFTLAMA_SERVICE_PORT": "7860", "FFTLAMA_SERVICE_PORT_HTTP": "7860",
        "FFTLAMA_PORT": "tcp://10.0.0.7:7860", "FFTLAMA_PORT_7860_TCP": "tcp://10.0.0.7:7860",
        "FFTLAMA_PORT_7860_TCP_PROTO": "tcp", "FFTLAMA_PORT_7860_TCP_PORT": "7860",
        "FFTLAMA_PORT_7860_TCP_ADDR": "10.0.0.7", "FFTLAMA_REDIS_SERVICE_HOST": "10.0.0.8",
        "FFTLAMA_REDIS_PORT": "tcp://10.0.0.8:6379",
    }  # fmt: skip
    assert load_settings(environ=links) == load_settings(environ={})
    assert load_settings(environ={**links, "FFTLAMA_PORT": "8000"}).port == 8000
    assert load_settings(environ={**links, "PORT": "8000"}).port == 8000
    with pytest.raises(SettingsError, match="'service'"):
        load_settings(environ={**links, "FFTLAMA_SERVICE": "x"})


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        ({"prot": "1"}, {}, ("the command line", "'prot'", "'port'")),
        ({}, {"FFTLAMA_WEIGTHS": "x"}, ("the environment", "'weigths'", "'weights'")),
        ({"port": "99999"}, {}, ("port", "99999", "from 1 to 65535")),
        ({"port": "http"}, {}, ("port", "'http'", "whole number")),
        ({"device": "gpu"}, {}, ("device", "'gpu'", "cuda:N")),
        ({"precision": "fp8"}, {}, ("'fp8'", "one of auto, fp16, bf16, fp32")),
        ({}, {"QUEUE": "kafka"}, ("queue", "'kafka'", "local")),
        ({"masks_dir": "x" * 300}, {}, ("masks_dir", "longer than a path can be")),
        ({"weights": "x/" * 3000}, {}, ("weights", "longer than a path can be")),
        ({"auth_proxy_from": "::1, nonsense"}, {}, ("auth_proxy_from", "nonsense", "addresses or networks")),
    ],
)
def test_refusal_names_place_value_and_what_is_allowed(
    arguments: dict[str, str], environ: dict[str, str], words: tuple[str, ...]
) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings(arguments, environ)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize("content", ["- a\n- list\n", "port: [1]\n", "port: true\n", "a: {\n", "port:\n", "3: x\n"])
def test_broken_file_is_refused_with_its_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / "fftlama.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=r"fftlama\.yaml"):
        load_settings(environ={}, file=file)


LAUGHS = 'a: &a ["lol"]\n' + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(20)
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('host: "a\\nb"', ("host", "not allowed")),
        ("host: ''", ("host", "not allowed")),
        ("host: a b", ("host", "not allowed")),
        ("host: !!set {a}", ("host", "not allowed")),
        ("allowed_hosts: .", ("allowed_hosts", "'.'")),
        ("allowed_hosts: photos.example.org, .org", ("allowed_hosts", ".org")),
        ('allowed_hosts: "*"', ("allowed_hosts", "'*'")),
        ("allowed_origins: example.org", ("allowed_origins", "'example.org'")),
        ("allowed_origins: https://*.example.org", ("allowed_origins", "*.example.org")),
        ("mirrors: mirror.example", ("mirrors", "'mirror.example'", "web addresses")),
        ("mirrors: https://a.example ftp://b.example", ("mirrors", "ftp://b.example")),
        ("outputs_dir: data/results\ndata_dir: data", ("outputs_dir", "lies in data_dir")),
        ("outputs_dir: data\ndata_dir: data", ("outputs_dir", "lies in data_dir")),
        ("outputs_dir: other/results\ndata_dir: data", ("outputs_dir", "lies in data_dir")),
        ("input_path: data/images\ndata_dir: data", ("input_path", "lies in data_dir")),
        ("data_dir: ~no-such-person/data", ("data_dir", "home folder", "does not exist")),
        ("data_dir: ~/data", ("data_dir", "home folder", "does not exist")),
        ("auth_file: ~no-such-person/x", ("auth_file", "home folder", "does not exist")),
        ("weights: ~no-such-person/x.pt", ("weights", "home folder", "does not exist")),
        ('data_dir: "a\\0b"', ("data_dir", "not allowed")),
        ("data_dir: ''", ("data_dir", "not allowed")),
        ("port: " + "9" * 5000, ("cannot be read",)),
        ("host: 2001-99-99", ("cannot be read",)),
        ("host: !!timestamp x", ("cannot be read",)),
        ("host: " + "[" * 5_000, ("cannot be read", "nests too deeply")),
        ("host: a # " + "x" * 70_000, ("larger than 64 KiB",)),
        (LAUGHS + "port: *u", ("unknown setting 'a'",)),
        (LAUGHS.replace("a: &a", "port: &a"), ("port", "not allowed")),
    ],
)
def test_what_yaml_allows_and_nobody_means_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "absent"))
    (tmp_path / "data").mkdir()
    (tmp_path / "other").symlink_to("data")
    file = tmp_path / "fftlama.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError) as refusal:
        load_settings(environ={}, file=file)
    told = str(refusal.value)
    assert all(word in told for word in words)
    assert "\n" not in told and len(told) < 1000


@pytest.mark.parametrize(
    "content",
    [
        "host: 0.0.0.0",
        'host: "::1"',
        "host: fe80::1%eth0",
        "host: photos.example.org",
        "allowed_hosts: photos.example.org, [::1]:8080, 10.0.0.7:80, my_host",
        "allowed_origins: https://a.example, http://b.example:8080/, chrome-extension://abcdef",
        'allowed_origins: "*"',
        "mirrors: https://a.example/lama HTTP://b.example:8080, http://[::1]/c,",
        "outputs_dir: data-results\ndata_dir: data",
    ],
)
def test_what_somebody_means_is_taken(tmp_path: Path, content: str) -> None:
    file = tmp_path / "fftlama.yaml"
    file.write_text(content)
    load_settings(environ={}, file=file)


def test_a_name_without_a_value_is_not_set_where_the_default_is_empty(tmp_path: Path) -> None:
    """README gives "(empty)" as their default, and a line such as `weights:` was refused."""
    empty = [name for name, field in Settings.model_fields.items() if field.default in ("", None)]
    assert {"weights", "auth_file", "input_path", "operators", "devices"} <= set(empty)
    file = tmp_path / "fftlama.yaml"
    file.write_text("".join(f"{name}:\n" for name in empty))
    assert load_settings(environ={}, file=file) == load_settings(environ={})
    file.write_text("wieghts:\n")
    with pytest.raises(SettingsError, match="the nearest is 'weights'"):
        load_settings(environ={}, file=file)


@pytest.mark.parametrize(
    "address",
    [
        "redis://:secret#1@h:6379/0", "redis://:secret/1@h/0", "redis://:12?secret@h/0", "redis://:12#secret@h/0",
        "redis://:secret@h:port/0", "redis://:secret@h:6379/first", "redis://:secret@h:70000", "http://:secret@h",
        "redis://[::1:6379", "who:secret@h:6379", "redis://h:port/0?password=secret",
    ],
)  # fmt: skip
def test_an_address_of_redis_that_is_none_is_refused_without_its_password(address: str) -> None:
    """A `#` in a password: the start ended with "Port could not be cast to integer value" and a piece of it."""
    with pytest.raises(SettingsError, match=r"redis_url.*is not allowed; allowed: .*%23") as refusal:
        load_settings(environ={"FFTLAMA_REDIS_URL": address})
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "address",
    [
        "redis://h", "redis://h/", "redis://:a%23b@h:6379/0", "redis://who:a@b@h:6379/15", "redis:///", "redis://[::1]:1/2",
        "rediss://h/0?ssl_ca_certs=/path/ca.pem",
    ],
)  # fmt: skip
def test_an_address_of_redis_is_taken_as_it_is(address: str) -> None:
    assert load_settings(environ={"FFTLAMA_REDIS_URL": address}).redis_url == address


@pytest.mark.parametrize("address", ["https://who:secret@a.example", "who:secret@a.example"])
def test_mirrors_are_refused_without_their_password(address: str) -> None:
    """What was refused for want of a scheme was shown with it."""
    with pytest.raises(SettingsError, match=r"mirrors: .*a\.example mirror") as refusal:
        load_settings({"mirrors": f"{address} mirror"}, {})
    assert "secret" not in str(refusal.value)


def test_missing_file_that_was_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(environ={}, file=tmp_path / "absent.yaml")


NUMBERS = {name: allowed_values(field) for name, field in Settings.model_fields.items() if field.annotation is int}


@given(st.sampled_from(sorted(NUMBERS)), st.integers(-(10**9), 10**9))
def test_numbers_are_taken_exactly_inside_the_limits_that_refusals_name(name: str, number: int) -> None:
    low, high = (int(word) for word in NUMBERS[name].split() if word.isdecimal())
    if low <= number <= high:
        assert getattr(load_settings({name: str(number)}, {}), name) == number
    else:
        with pytest.raises(
            SettingsError, match=f"{name}: '{number}' is not allowed; allowed: a whole number from {low}"
        ):
            load_settings({name: str(number)}, {})


@pytest.mark.parametrize("host", ["x86_64-conda-linux-gnu", socket.gethostname(), "203.0.113.9", "a" * 70 + ".example"])
def test_host_that_shells_export_is_passed_over_with_a_warning(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """conda exports HOST as a compiler's name, tcsh as the machine's; either made the start fail, or opened it."""
    with caplog.at_level(logging.WARNING, "fftlama"):
        assert load_settings(environ={"HOST": host}).host == "127.0.0.1"
    assert f"HOST={host} is passed over" in caplog.text and "FFTLAMA_HOST" in caplog.text


def test_host_that_somebody_meant_is_never_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    for host in ("0.0.0.0", "localhost", "127.0.0.1"):
        assert load_settings(environ={"HOST": host}).host == host
    compiler = "x86_64-conda-linux-gnu"
    assert load_settings(environ={"FFTLAMA_HOST": compiler, "HOST": compiler}).host == compiler
    assert load_settings({"host": compiler}, {"HOST": compiler}).host == compiler
    assert load_settings(environ={"HOST": compiler, "PORT": "none"}, serving=False) == load_settings(environ={})
    assert not caplog.records


def test_note_is_its_sentence_and_survives_pickling() -> None:
    note = Note("The box was scaled down to 768 px.", code="scaled", input_px=768)
    copy = pickle.loads(pickle.dumps(note))
    assert copy == "The box was scaled down to 768 px."
    assert (copy.code, copy.params) == ("scaled", {"input_px": 768})


def test_weights_beside_the_file_that_names_them_are_found_from_anywhere(tmp_path: Path) -> None:
    file = tmp_path / "fftlama.yaml"
    file.write_text("weights: mine.safetensors\n")
    assert load_settings({}, {}, file).weights == "mine.safetensors", "what is no file there is a name"
    (tmp_path / "mine.safetensors").touch()
    assert load_settings({}, {}, file).weights == str(tmp_path / "mine.safetensors")
