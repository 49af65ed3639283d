"""The tree in CONTRIBUTING.md names every folder and every module of the rooms, and nothing that is not there."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.test_rooms import ROOMS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TREE = TEXT.split("<!-- tree -->\n```\n")[1].split("\n```\n<!-- /tree -->")[0]
FILE_NAME = re.compile(r"[\w./-]+\.(?:py|js|ts|css|html|sh|yaml|toml|md|in|lock|txt)\b|\bLICENSE\b")
NOT_NAMED = {"__init__.py"}  # every package has one


def named() -> tuple[set[str], set[str]]:
    """Return the folders and the files that the tree names, as paths from the root."""
    folders, files, folder = set(), set(), ""
    for line in TREE.splitlines():
        words = line.split()
        if words and not line.startswith(" "):
            folder = words[0] if words[0].endswith("/") else ""
            folders.add(folder)
        # What stands in brackets explains, and may name other files.
        files |= {folder + name for name in FILE_NAME.findall(re.sub(r"\([^)]*\)", "", line))}
    return folders - {""}, files


def present(*patterns: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)}


def test_every_file_and_folder_of_the_tree_is_there() -> None:
    folders, files = named()
    assert [name for name in sorted(folders | files) if not (ROOT / name).exists()] == []


def test_every_folder_is_in_the_tree() -> None:
    folders, _ = named()
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if kept.returncode:
        pytest.skip("not a git checkout")
    top = {f"{name.split('/')[0]}/" for name in kept.stdout.splitlines() if "/" in name and not name.startswith(".")}
    assert top - folders == set()


def test_every_module_of_a_room_is_in_the_tree() -> None:
    """A module that is not named can't be found by who only reads the tree: give it a word in CONTRIBUTING.md."""
    _, files = named()
    modules = present("*.py", "scripts/*", *(f"{room}/**/*.py" for room in ROOMS), "web/static/*", "web/locales/*")
    missing = {name for name in modules if Path(name).name not in NOT_NAMED and (ROOT / name).is_file()} - files
    assert {name for name in missing if "__pycache__" not in name} == set()


@pytest.mark.parametrize(
    ("task", "file", "there"),
    [
        ("default.*brush size", "web/static/store.js", r"hand: \{.*radius: \d+"),
        ("feather", "masks/dilation.py", r"feather_px: int = \d+"),
        ("how many jobs may wait", "config.py", r"queue_limit: int = Field\(\s*default=\d+"),
        ("DFT on a CPU", "lama/torch_backend.py", r"= dft_matrices\("),
        ("words? of the page, those of refusals", "web/locales/en.yaml", r"(?m)^errors\.queue_full: "),
    ],
)
def test_a_task_leads_to_its_file(task: str, file: str, there: str) -> None:
    """Whoever knows only the tree finds where to change it; once the brush size had moved and the tree had not."""
    assert re.search(there, (ROOT / file).read_text(encoding="utf-8"))
    folder, name = file.rsplit("/", 1) if "/" in file else ("", file)
    part = TREE.split(f"{folder}/ ", 1)[1] if folder else TREE
    line = next(line for line in part.splitlines() if re.search(rf"\b{re.escape(name)}", line))
    assert re.search(task, line.replace("defaults", "default")), line
