"""The tables of figures in the READMEs are what docs/make_tables.py renders from bench/results."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from lama.checkpoint import load_generator

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
PAGES = {"README.md": "en", "README.zh-CN.md": "zh-CN"}


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def block(text: str, name: str) -> str:
    (found,) = re.findall(rf"<!-- table:{name} -->\n(.*?)<!-- /table:{name} -->", text, re.DOTALL)
    return str(found)


@pytest.mark.parametrize("name", PAGES)
def test_page_holds_exactly_what_is_rendered(tables: ModuleType, name: str) -> None:
    assert tables.render_page(page(name), PAGES[name]) == page(name), "stale: run docs/make_tables.py"


@pytest.mark.parametrize("name", PAGES)
def test_every_table_has_its_markers_in_every_language(tables: ModuleType, name: str) -> None:
    opened = re.findall(r"<!-- table:([\w-]+) -->", page(name))
    closed = re.findall(r"<!-- /table:([\w-]+) -->", page(name))
    assert sorted(opened) == sorted(closed) == sorted(tables.TABLES)


@pytest.mark.parametrize("name", PAGES)
def test_times_and_ratios_are_those_of_the_result_file(name: str) -> None:
    rows = json.loads((RESULTS / "speed-model-h200.json").read_text())["model"]
    (ours, trace) = (
        next(r["median_ms"] for r in rows if r["form"] == form and (r["batch"], r["width"]) == (1, 1024))
        for form in ("ours fp16", "trace")
    )
    (row,) = (line for line in block(page(name), "speed").splitlines() if line.startswith("| 1024x1024 |"))
    assert f"**{ours:.2f}**" in row and f" / {trace / ours:.1f} |" in row


@pytest.mark.parametrize("name", PAGES)
def test_whole_repairs_are_those_of_the_result_file(name: str) -> None:
    rows = json.loads((RESULTS / "speed-repair-5-h200.json").read_text())["repair"]
    timed = [row for row in rows if "forward_ms" in row]
    lines = [line for line in block(page(name), "repair").splitlines() if line.startswith("| ") and "x" in line[:12]]
    assert len(lines) == len(timed) > 0
    for row, line in zip(timed, lines, strict=True):
        assert f"| {row['size']} | {row['hole_px']} | **{row['median_ms']:.1f}** |" in line


@pytest.mark.parametrize("name", PAGES)
def test_figures_of_the_included_weights_are_those_of_the_result_file(name: str) -> None:
    means = json.loads((RESULTS / "quality-network-lama-compact.json").read_text())["means"]["lama-compact"]
    (row,) = (line for line in block(page(name), "quality").splitlines() if line.startswith("| **fftlama** |"))
    for figures in means.values():
        assert f"| {figures['psnr']:.1f} / {figures['ssim']:.2f} / {figures['perceptual']:.2f} |" in row


def test_another_result_changes_the_table(tables: ModuleType, tmp_path: Path) -> None:
    report = json.loads((RESULTS / "speed-model-h200.json").read_text())
    report["model"][0]["median_ms"] = 0.25
    (tmp_path / "speed-model-h200.json").write_text(json.dumps(report))
    text = tables.render_page("a\n<!-- table:speed -->\nold\n<!-- /table:speed -->\nz", "en", tmp_path)
    assert "**0.25**" in text and "old" not in text
    assert text.startswith("a\n") and text.endswith("\nz")


def test_repairs_by_another_network_than_the_included_one_are_called_so(
    tables: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = json.loads((RESULTS / "speed-repair-5-h200.json").read_text())
    for now in (report["environment"]["included_blocks"], 40):
        monkeypatch.setattr(tables, "included_blocks", lambda now=now: now)
        for words in tables.WORDS.values():
            assert ("40" in tables.render_repair(report, words).splitlines()[0]) == (now == 40)


def test_blocks_of_the_included_network_are_counted(tables: ModuleType) -> None:
    assert tables.included_blocks() == load_generator(None).blocks


def test_missing_result_leaves_its_table_out(tables: ModuleType, tmp_path: Path) -> None:
    text = "a\n<!-- table:click -->\nold\n<!-- /table:click -->\nz"
    assert tables.render_page(text, "en", tmp_path) == "a\n<!-- table:click -->\n<!-- /table:click -->\nz"


def test_unknown_table_is_refused(tables: ModuleType) -> None:
    with pytest.raises(ValueError, match="no table 'sped'; there are repair, speed"):
        tables.render_page("<!-- table:sped -->\n<!-- /table:sped -->", "en")


def test_languages_have_the_same_words_and_columns(tables: ModuleType) -> None:
    english, chinese = tables.WORDS["en"], tables.WORDS["zh-CN"]
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", chinese[key])), key
        assert text.count("|") == chinese[key].count("|"), key


def test_the_bare_network_has_a_row_and_is_no_peer(tables: ModuleType) -> None:
    report = json.loads((RESULTS / "quality-network-lama-compact.json").read_text())
    (row,) = (
        r for r in report["differences"] if r["kind"] == "object" and "rim" in r["peer"] and r["figure"] == "psnr"
    )
    row["verdict"] = "open"
    for words in tables.WORDS.values():
        text = tables.render_quality(report, words)
        thin = report["means"][tables.BARE_NETWORK]["thin"]["psnr"]
        assert f"\n| {words['quality.bare']} | {thin:.1f} / " in text
        assert text.endswith(words["quality.won"])


def test_a_comparison_that_is_open_is_named(tables: ModuleType) -> None:
    report = json.loads((RESULTS / "quality-network-lama-compact.json").read_text())
    (row,) = (r for r in report["differences"] if (r["kind"], r["peer"], r["figure"]) == ("thin", "biharmonic", "psnr"))
    row["verdict"] = "open"
    text = tables.render_quality(report, tables.WORDS["en"])
    assert text.endswith("Too close to call (95 % interval over the photos): biharmonic, thin PSNR.")
