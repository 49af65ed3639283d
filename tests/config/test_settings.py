"""Settings: precedence, limits, and refusals that help."""

import pickle
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import CHECKOUT, SETTINGS, Settings, SettingsError, load_settings
from notices import Note


def test_table_and_dataclass_name_the_same_settings() -> None:
    assert [setting.name for setting in SETTINGS] == [field.name for field in fields(Settings)]
    assert all(setting.help for setting in SETTINGS)


def test_defaults_are_safe_and_absolute() -> None:
    settings = load_settings(environ={})
    assert (settings.host, settings.port) == ("127.0.0.1", 7860)
    assert settings.data_dir == CHECKOUT / "data"
    assert settings.outputs_dir == CHECKOUT / "outputs"


def test_defaults_are_values_that_the_table_itself_allows() -> None:
    for setting in SETTINGS:
        assert setting.parse(str(setting.default)) == setting.default


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


def test_missing_file_that_was_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(environ={}, file=tmp_path / "absent.yaml")


@given(st.sampled_from([s for s in SETTINGS if s.kind == "int"]), st.integers(-(10**9), 10**9))
def test_numbers_are_taken_exactly_inside_their_limits(setting, number: int) -> None:  # type: ignore[no-untyped-def]
    inside = setting.low <= number <= setting.high
    if inside:
        assert setting.parse(str(number)) == number
    else:
        with pytest.raises(ValueError, match=setting.name):
            setting.parse(str(number))


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
