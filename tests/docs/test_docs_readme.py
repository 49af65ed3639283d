"""The READMEs are complete: every setting, variable, route and picture, in both languages."""

import re
from pathlib import Path

import pytest
from PIL import Image

from config import Settings, choices_of

ROOT = Path(__file__).resolve().parents[2]
READMES = ["README.md", "README.zh-CN.md"]
# Of pip and uv, not of this project.
FOREIGN_VARIABLES = re.compile(r"(UV|PIP|SSL)_")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


OTHERS_ROUTES = ("iopaint", "lama_cleaner")  # theirs stand in docs/iopaint.md


@pytest.mark.parametrize("name", READMES)
def test_settings_table_is_complete_and_in_order(name: str) -> None:
    rows = [cells_of(line) for line in text_of(name).splitlines() if re.match(r"\| `[a-z_]+` \|", line)]
    documented = [(row[0].strip("`"), row[1]) for row in rows]
    empty = {"README.md": "(empty)", "README.zh-CN.md": "（空）"}[name]
    defaults = {setting: field.default for setting, field in Settings.model_fields.items()}
    assert documented == [(s, empty if default in ("", None) else f"`{default}`") for s, default in defaults.items()]
    assert all(row[2] for row in rows)


@pytest.mark.parametrize("name", READMES)
def test_choices_of_a_setting_stand_in_its_row(name: str) -> None:
    text = text_of(name)
    for setting, field in Settings.model_fields.items():
        (row,) = re.findall(rf"^\| `{setting}` \|.*$", text, re.MULTILINE)
        if len(choices_of(field)) > 1:
            assert all(f"`{choice}`" in row for choice in choices_of(field)), setting


@pytest.mark.parametrize("name", READMES)
def test_variables_of_the_scripts_are_documented(name: str) -> None:
    scripts = [*ROOT.glob("*.sh"), *ROOT.glob("scripts/*.sh")]
    used = {variable for path in scripts for variable in re.findall(r"\$\{([A-Z_]+):[-+]", path.read_text())}
    own = {variable for variable in used if not FOREIGN_VARIABLES.match(variable)}
    assert {"TORCH_BACKEND", "START_TIMEOUT_S", "STOP_TIMEOUT_S"} <= own
    for variable in own | {"HOST", "PORT", "QUEUE"}:
        assert f"`{variable}" in text_of(name), variable


@pytest.mark.parametrize("name", READMES)
def test_every_route_is_documented_and_no_other(name: str) -> None:
    own = [path for path in sorted((ROOT / "web").glob("*.py")) if path.stem not in OTHERS_ROUTES]
    code = "".join(path.read_text(encoding="utf-8") for path in own)
    routes = re.findall(r'@router\.(get|post|delete)\(\s*"([^"]+)"', code)
    served = {(method.upper(), re.sub(r"\{\w+\}", "{id}", path)) for method, path in routes}
    documented = set(re.findall(r"`(GET|POST|DELETE) (/[^`]+)`", text_of(name)))
    assert documented == served


def test_routes_of_other_programs_are_documented() -> None:
    code = "".join((ROOT / "web" / f"{name}.py").read_text(encoding="utf-8") for name in OTHERS_ROUTES)
    document = (ROOT / "docs" / "iopaint.md").read_text(encoding="utf-8")
    for path in re.findall(r'@router\.\w+\(\s*"([^"{]+)', code):
        assert path.rstrip("/").rsplit("/", 1)[1] in document, path


@pytest.mark.parametrize("name", READMES)
def test_links_point_to_files_that_are_there(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", text_of(name))
    assert "docs/before-mask-after.jpg" in links
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("name", READMES)
def test_picture_carries_the_credit_that_the_page_shows(name: str) -> None:
    with Image.open(ROOT / "docs" / "before-mask-after.jpg") as picture:
        credit = picture.info["comment"].decode()
    assert credit.startswith("Photo: ")
    assert f"*{credit}*" in text_of(name)


def test_both_languages_show_the_same_commands_and_examples() -> None:
    examples = [re.sub(r"\s*#.*", "", block) for block in re.findall(r"```.*?```", text_of("README.md"), re.DOTALL)]
    translated = [
        re.sub(r"\s*#.*", "", block) for block in re.findall(r"```.*?```", text_of("README.zh-CN.md"), re.DOTALL)
    ]
    assert examples == translated


def test_status_codes_of_the_scripts_are_in_their_headers() -> None:
    for name in ("start_app.sh", "stop_app.sh", "run_tests.sh"):
        header, body = text_of(name).split("set -euo pipefail", 1)
        documented = set(re.findall(r"^#   (\d) ", header, re.MULTILINE))
        used = set(re.findall(r"(?:exit|fail) (\d)\b", body))
        assert used <= documented, name
        if "venv.sh" in body:
            shared = set(re.findall(r"^EXIT_\w+=(\d)", text_of("scripts/venv.sh"), re.MULTILINE))
            assert shared <= documented, name


def test_lock_files_hold_exact_versions_and_no_addresses() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        for line in text_of(name).splitlines():
            assert re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*( ; .+)?", line), f"{name}: {line}"


def test_lock_holds_every_direct_need() -> None:
    for needs, lock in (("requirements.in", "requirements.lock"), ("requirements-dev.in", "requirements-dev.lock")):
        direct = re.findall(r"^([a-z0-9-]+)", text_of(needs), re.MULTILINE)
        locked = re.findall(r"^([a-z0-9-]+)==", text_of(lock), re.MULTILINE)
        assert direct and not set(direct) - set(locked)
