"""The shape of the program: imports go down the list of rooms only, and importing a room does nothing else."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Top to bottom, as in docs/architecture.md. A room may import itself and what stands below it.
ROOMS = (
    ("cli", "batch", "terminal"),
    ("app",),
    ("web",),
    ("jobs",),
    ("inference", "repairs", "measure", "filling", "broad", "refine", "runner", "graphs", "stages"),
    (
        "preprocess",
        "blend",
        "bounds",
        "crop_kernels",
        "cropping",
        "device_holes",
        "hole_groups",
        "holes",
        "own_kernels",
        "rim_kernels",
        "scaling",
        "shadows",
        "staging",
    ),
    ("downloads", "transfer"),
    ("imaging",),
    ("lama",),
    ("config",),
)
RANK = {module: rank for rank, room in enumerate(ROOMS) for module in room}
OUTSIDE = {"training", "bench", "tests", "scripts", "docs"}
# What running the program and its tools leaves in the checkout; see .gitignore.
NOT_OURS = {"build", "data", "outputs", "logs", "run"}
# What a room must not know, however deep in a function the import stands.
WEB = {"fastapi", "starlette", "gradio", "uvicorn"}
TORCH = {"torch", "torchvision"}
FOREIGN = {
    "web": TORCH,
    "jobs": WEB,
    "inference": WEB,
    "preprocess": WEB | {"lama"},
    "downloads": WEB | TORCH,
    "imaging": WEB | TORCH,
    "lama": WEB | {"config"},
    "config": WEB | TORCH,
}


def python_files() -> list[Path]:
    """Every Python file here but those of installed libraries and of work that is hidden or the user's."""
    tops = [top for top in ROOT.iterdir() if top.name[0] != "." and top.name not in NOT_OURS]
    return sorted(file for top in tops for file in ([top] if top.suffix == ".py" else top.rglob("*.py")))


def room_files() -> list[Path]:
    """Every Python file of the program itself."""
    return [path for path in python_files() if module_of(path) not in OUTSIDE]


def outside_files() -> list[Path]:
    """Every Python file beside the program."""
    return [path for path in python_files() if module_of(path) in OUTSIDE]


def module_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """The top-level names of everything that the file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(module_of(path) if node.level else (node.module or "").split(".")[0])
    return names


def test_every_file_has_a_room() -> None:
    found = {module_of(path) for path in python_files()}
    assert found == set(RANK) | OUTSIDE, "a new module needs its place in ROOMS and docs"


def test_the_list_of_rooms_in_the_docs_is_this_one() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|")[2] for line in text.splitlines() if line.startswith("|")][2:]
    listed = [tuple(re.findall(r"`(\w+)(?:\.py|/)`", row)) for row in rows]
    assert listed == list(ROOMS)
    outside = text.partition("Outside the rooms")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)/`", outside)) == OUTSIDE


@pytest.mark.parametrize("path", outside_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_stands_outside_is_imported_by_tests_alone(path: Path) -> None:
    module = module_of(path)
    others = (imports_of(path) & OUTSIDE) - {module}
    assert module == "tests" or not others, f"{path.name} imports {others}, which stand beside {module}"


@pytest.mark.parametrize("path", room_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    module = module_of(path)
    for name in imports_of(path):
        assert name not in OUTSIDE, f"{path.name} imports {name}, which nothing may import"
        if name in RANK and name != module:
            assert RANK[name] >= RANK[module], f"{path.name} imports {name}, which stands above {module}"
        assert name not in FOREIGN.get(ROOMS[RANK[module]][0], set()), (
            f"{path.name} imports {name}, of which {module} knows nothing"
        )


def modules_after_importing(names: list[str], folder: Path) -> tuple[set[str], list[str], bool]:
    """Import in a fresh process; return the modules loaded, the files made in `folder`, whether os.environ changed."""
    code = (
        "import sys, os, json\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        # OpenCV's own loader adds to LD_LIBRARY_PATH; that is not ours to judge.
        "environment = lambda: {k: v for k, v in os.environ.items() if k != 'LD_LIBRARY_PATH'}\n"
        "before = environment()\n"
        f"import {', '.join(names)}\n"
        "print(json.dumps([sorted(sys.modules), os.listdir('.'), environment() != before]))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    modules, files, changed = json.loads(result.stdout)
    return set(modules), files, changed


def test_settings_files_and_downloads_do_without_torch(tmp_path: Path) -> None:
    modules, files, changed = modules_after_importing(["config", "imaging", "downloads"], tmp_path)
    assert not modules & {"torch", "torchvision", "gradio", "fastapi"}
    assert files == [] and not changed


def test_engine_does_without_the_web_and_without_torchvision(tmp_path: Path) -> None:
    """A bare GPU box has no Gradio; torchvision takes seconds to import and is loaded when it is first used."""
    modules, files, changed = modules_after_importing(["inference"], tmp_path)
    assert not modules & {"gradio", "fastapi", "starlette", "uvicorn", "torchvision"}
    assert files == []
    assert not changed
