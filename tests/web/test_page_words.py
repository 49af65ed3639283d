"""Whatever code the program can answer with has a sentence in both languages."""

import ast
import functools
from pathlib import Path

import pytest

from web.iopaint import STATUS_HERE
from web.routes import STATUSES
from web.words import LANGUAGES, load_strings

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("imaging", "jobs", "web")
ENGINE = (
    "inference.py",
    "engine/executor.py",
    "engine/tiled_refinement.py",
    "engine/repair_steps.py",
    "engine/requests.py",
    "engine/devices.py",
    "engine/model_runner.py",
    "engine/cuda_graphs.py",
    "preprocess.py",
)
ERRORS = {"JobError", "ImagingError", "refusal_body"}


@functools.cache
def calls() -> list[ast.Call]:
    """Every call in the rooms that answer people; to read them takes a second."""
    files = [ROOT / name for name in ENGINE if (ROOT / name).is_file()]
    files += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    trees = [ast.parse(path.read_text("utf-8")) for path in files]
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]


# Refusals of the routes that speak IOPaint, which the page does not use; their statuses stand beside those routes.
ONLY_IOPAINT = set(STATUS_HERE) - set(STATUSES)


def text_of(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def error_codes() -> set[str]:
    """Codes of the errors that are made."""
    codes: set[str] = set()
    for call in calls():
        if isinstance(call.func, ast.Name) and call.func.id in ERRORS and call.args:
            code = text_of(call.args[0])
            codes |= {code} if code else set()
    return codes


def note_codes() -> set[str]:
    return {
        code
        for call in calls()
        if isinstance(call.func, ast.Name) and call.func.id == "Note"
        for keyword in call.keywords
        if keyword.arg == "code" and (code := text_of(keyword.value))
    }


@pytest.mark.slow
def test_the_search_finds_what_is_known_to_be_there() -> None:
    assert {"empty_mask", "truncated_image", "timed_out", "cross_site", "bad_weights"} <= error_codes()
    assert {"not_saved", "heic_saved_as", "scaled", "fp32_retry", "out_of_memory"} <= note_codes()


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_code_of_the_program_has_a_sentence(language: str) -> None:
    words = load_strings()[language]
    on_the_page = (error_codes() | set(STATUSES)) - ONLY_IOPAINT
    wanted = {f"errors.{code}" for code in on_the_page} | {f"notes.{code}" for code in note_codes()}
    assert wanted - set(words) == set()


def test_every_error_has_a_status() -> None:
    """What is not in the table would be answered as a fault of the server."""
    outside = {"starting", "bad_host", "cross_site"}  # answered before the routes, with statuses of their own
    assert error_codes() - outside - set(STATUSES) - ONLY_IOPAINT == set()
