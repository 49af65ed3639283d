"""The shape of the program, where import-linter cannot look: the Python files in the root, and what imports cause.

The rooms themselves are checked by import-linter; its contracts stand in `pyproject.toml`.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"cli", "web", "jobs", "detection", "engine", "tensor_ops", "masks", "imaging", "lama"}
# Which parts of the program each Python file in the root may import.
ROOT_FILES = {
    "app": {"config", "inference", "engine", "web", "jobs", "lama", "imaging", "detection", "notices"},
    "inference": {"engine", "masks", "lama", "notices", "tensor_ops"},
    "preprocess": {"tensor_ops", "masks"},
    "config": {"notices"},
    "notices": set(),
}


def test_the_root_holds_no_other_python_files() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == set(ROOT_FILES)


@pytest.mark.parametrize("name", ROOT_FILES)
def test_root_file_imports_only_what_lies_below_it(name: str) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported & (ROOMS | set(ROOT_FILES)) <= ROOT_FILES[name]


def modules_after_importing(names: list[str], folder: Path) -> tuple[set[str], list[str], bool]:
    """Import in a fresh process; return the modules loaded, the files made in `folder`, whether os.environ changed."""
    code = (
        "import gc, sys, os, json\n"
        "gc.disable()\n"  # and nothing is freed at the end: both take as long as an import of PyTorch
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        # OpenCV's own loader adds to LD_LIBRARY_PATH; that is not ours to judge.
        "environment = lambda: {k: v for k, v in os.environ.items() if k != 'LD_LIBRARY_PATH'}\n"
        "before = environment()\n"
        f"import {', '.join(names)}\n"
        "print(json.dumps([sorted(sys.modules), os.listdir('.'), environment() != before]), flush=True)\n"
        "os._exit(0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    modules, files, changed = json.loads(result.stdout)
    return set(modules), files, changed


def test_settings_files_and_catalogue_do_without_torch(tmp_path: Path) -> None:
    modules, files, changed = modules_after_importing(
        ["config", "imaging", "lama.catalogue", "engine.requests", "jobs.request_parsing"], tmp_path
    )
    assert not modules & {"torch", "torchvision", "gradio", "fastapi"}
    assert files == [] and not changed


@pytest.mark.slow
def test_engine_does_without_the_web_and_without_torchvision(tmp_path: Path) -> None:
    """A bare GPU box has no Gradio; torchvision takes seconds to import, and nothing here needs it."""
    modules, files, changed = modules_after_importing(["inference"], tmp_path)
    assert not modules & {"gradio", "fastapi", "starlette", "uvicorn", "torchvision", "pydantic"}
    assert files == []
    assert not changed


def test_the_engines_tests_load_where_the_engine_does(tmp_path: Path) -> None:
    """On a bare GPU box they failed before the first test: a module of theirs had begun to import the settings."""
    modules, _, _ = modules_after_importing(["tests.conftest"], tmp_path)
    assert not modules & {"gradio", "fastapi", "pydantic", "pydantic_settings", "annotated_types", "celery", "redis"}
