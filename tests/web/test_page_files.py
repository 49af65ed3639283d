"""The page's scripts: ES modules under an address that names their content, compressed, behind any path prefix."""

import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.support.page_driver import Person, photo_file
from tests.support.serving import RunningServer
from web import page_files
from web.page_files import MADE, STATIC_FOLDER, PageFiles
from web.words import load_strings

Visit = Callable[..., Person]


@pytest.fixture
def http(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=20) as client:
        yield client


def script_address(http: httpx.Client) -> str:
    """Where the page says that its first script is."""
    found = re.search(r"page/[0-9a-f]{16}/canvas\.js", http.get("/").text)
    assert found
    return found[0]


def test_the_address_changes_with_any_script_and_with_what_is_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = PageFiles({"language": "en"})
    assert PageFiles({"language": "en"}).digest == first.digest != PageFiles({"language": "zh-CN"}).digest
    copy = shutil.copytree(STATIC_FOLDER, tmp_path / "static")
    monkeypatch.setattr(page_files, "STATIC_FOLDER", copy)
    assert PageFiles({"language": "en"}).digest == first.digest
    (copy / "view.js").write_text("// changed\n", encoding="utf-8")
    assert PageFiles({"language": "en"}).digest != first.digest


def test_words_reach_the_scripts_as_json() -> None:
    module = PageFiles({"strings": load_strings()}).files[MADE].decode()
    assert json.loads(module.removeprefix("export const setup = ").removesuffix(";\n"))["strings"] == load_strings()


def test_every_import_names_a_script_that_is_there() -> None:
    files = PageFiles({}).files
    # A worker is named by its address, and imports like any other.
    naming = re.compile(r'(?:from |new URL\()"\./([\w.]+)"')
    imported = {name for data in files.values() for name in naming.findall(data.decode())}
    assert imported == set(files) - {"canvas.js"}


def test_scripts_are_kept_for_good_and_compressed(http: httpx.Client) -> None:
    address = script_address(http)
    plain = http.get(address, headers={"Accept-Encoding": "identity"})
    assert plain.status_code == 200 and plain.headers["content-type"].startswith("text/javascript")
    assert "immutable" in plain.headers["cache-control"]
    with http.stream("GET", address, headers={"Accept-Encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip" and gzip.decompress(packed) == plain.content
    assert len(packed) < len(plain.content) / 2


@pytest.mark.parametrize("change", [("canvas.js", "app.py"), ("canvas.js", "canvas.html"), ("page/", "page/0")])
def test_another_name_or_version_is_404_and_not_kept(http: httpx.Client, change: tuple[str, str]) -> None:
    answer = http.get(script_address(http).replace(*change))
    assert answer.status_code == 404
    assert "immutable" not in answer.headers.get("cache-control", "")


def test_the_page_goes_out_compressed_and_photos_as_they_are(http: httpx.Client) -> None:
    with http.stream("GET", "/", headers={"Accept-Encoding": "gzip"}) as answer:
        size = sum(len(part) for part in answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert size < 40_000
    photo = photo_file()
    image_id = http.post("/api/v1/images", files={"file": (photo["name"], photo["buffer"])}).json()["image_id"]
    assert "content-encoding" not in http.get(f"/api/v1/images/{image_id}").headers


def test_nothing_of_the_scripts_is_global_and_one_that_does_not_arrive_is_said_in_both_languages(
    person: Person,
) -> None:
    assert person.page.evaluate("typeof startCanvas + typeof createStore + typeof setup") == "undefined" * 3
    # One does not arrive.
    person.stops.add("*/page/*/repair.js", lambda stopped: stopped.abort())
    person.page.goto(person.url)
    status = person.page.locator(".fft-status").first
    expect(status).to_contain_text("Please reload")
    expect(status).to_contain_text("请刷新")
