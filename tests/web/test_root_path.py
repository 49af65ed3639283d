"""The program under a sub-path, behind a real nginx that takes the path off or leaves it, over http and TLS."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser

from config import SettingsError, load_settings
from tests.support.certificate import make_certificate
from tests.support.page_driver import DATA, Person, photo_file
from tests.support.reverse_proxy import ReverseProxy
from tests.support.serving import RunningServer, ask_repair, follow, upload
from web.accounts import Accounts
from web.proxy import RootPath, path_below_root

ROOT_PATH = "/lama"


@pytest.fixture(scope="module")
def server_below(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with page that knows its sub-path, and that people have to log in to."""
    accounts = Accounts(tmp_path_factory.mktemp("accounts") / "accounts.json")
    accounts.set_password("ann", "correct horse")
    settings = {"root_path": ROOT_PATH, "auth_file": accounts.path}
    running = RunningServer(tmp_path_factory.mktemp("below"), kind="page", settings=settings).start()
    yield running
    running.stop()


@pytest.fixture(scope="module", params=["http, path left", "TLS, path taken off"])
def proxy(
    request: pytest.FixtureRequest, server_below: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReverseProxy]:
    """An nginx in front of it; the path and the scheme are read in two places that do not know each other."""
    folder = tmp_path_factory.mktemp("proxy")
    certificate = make_certificate(folder / "proxy.pem") if request.param.startswith("TLS") else None
    strips = request.param.endswith("off")
    started = ReverseProxy(folder, server_below.port, ROOT_PATH, strips=strips, certificate=certificate).start()
    yield started
    started.kill()


@pytest.fixture
def outside(proxy: ReverseProxy) -> Iterator[httpx.Client]:
    """A program that is logged in, at the proxy's site."""
    with httpx.Client(base_url=proxy.origin, verify=False, timeout=30.0, trust_env=False) as client:
        answer = client.post(f"{ROOT_PATH}/login", data={"name": "ann", "password": "correct horse", "next": ""})
        assert answer.status_code == 303, answer.text
        assert client.get(str(answer.url.join(answer.headers["location"]))).status_code == 200
        yield client


# The page sees nothing of what becomes of the path, and of TLS its cookie: each once. Programs try all three below.
@pytest.mark.parametrize("proxy", ["http, path left", "TLS, path taken off"], indirect=True)
def test_a_person_comes_in_and_repairs(proxy: ReverseProxy, browser: Browser) -> None:
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    page.goto(proxy.origin + ROOT_PATH)
    page.fill('[name="name"]', "ann")
    page.fill('[name="password"]', "correct horse")
    page.click("button")
    page.wait_for_url(f"{proxy.origin}{ROOT_PATH}/")
    (cookie,) = [cookie for cookie in context.cookies() if cookie["name"] == "fftlama_session"]
    assert (cookie["path"], cookie["secure"]) == (f"{ROOT_PATH}/", bool(proxy.certificate))

    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda r: None if r.url.startswith(("data:", "blob:")) else asked.append(r.url))
    page.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    person = Person(context, proxy.origin + ROOT_PATH, page)
    person.have_gradio()
    person.open(photo_file())
    person.paint((0.4, 0.4), (0.6, 0.6))
    with person.page.expect_request("**/api/v1/jobs/**"):
        person.repair()
    with person.page.expect_request(lambda request: "/patch" in request.url):  # the answer to the click held it
        person.visit()
    person.page.locator(".fft-rounds li:nth-child(2)").wait_for()
    assert [url for url in asked if not url.startswith(f"{proxy.origin}{ROOT_PATH}")] == []
    assert wrong == [] and person.errors == []
    for kind in ("theme.css", ".woff2", "/assets/", "/api/v1/jobs/", "/patch"):
        assert any(kind in url for url in asked), kind
    context.close()


def test_the_sub_path_itself_leads_to_the_page(proxy: ReverseProxy, outside: httpx.Client) -> None:
    answer = outside.get(ROOT_PATH, headers={"Accept": "text/html"})
    assert answer.status_code in (301, 307)
    assert str(answer.url.join(answer.headers["location"])) == f"{proxy.origin}{ROOT_PATH}/"
    assert outside.get(f"{ROOT_PATH}/", headers={"Accept": "text/html"}).status_code == 200


def test_addresses_in_answers_lie_under_the_sub_path(outside: httpx.Client) -> None:
    files = {"file": ("photo.png", (DATA / "flower.png").read_bytes())}
    image_id = outside.post(f"{ROOT_PATH}/api/v1/images", files=files).json()["image_id"]
    body = {
        "image_id": image_id,
        "request_id": "r1" + image_id,
        "strokes": [{"points": [[9, 9]], "radius": 3, "erase": False}],
    }
    answer = outside.post(f"{ROOT_PATH}/api/v1/repairs", json=body)
    assert answer.headers["location"] == f"{ROOT_PATH}/api/v1/jobs/{answer.json()['job_id']}"
    view = outside.get(answer.headers["location"], params={"wait_s": 20, "seen": -1}).json()
    while view["state"] != "done":
        view = outside.get(answer.headers["location"], params={"wait_s": 20, "seen": view["version"]}).json()
    assert view["patch"]["url"].startswith(f"{ROOT_PATH}/api/v1/images/")
    assert outside.get(view["patch"]["url"]).status_code == 200
    cancelled = outside.delete(answer.headers["location"]).json()
    assert cancelled["patch"] == view["patch"]


def test_gradio_client_works_there(tmp_path: Path, start_server: Callable[..., RunningServer]) -> None:
    server = start_server(kind="page", root_path=ROOT_PATH)
    proxy = ReverseProxy(tmp_path / "proxy", server.port, ROOT_PATH, strips=False).start()
    try:
        from gradio_client import Client, handle_file  # here, because it takes a second and not every process needs it

        client = Client(f"{proxy.origin}{ROOT_PATH}/", verbose=False, download_files=str(tmp_path))
        with Image.open(DATA / "flower.png") as photo:
            mask = Image.new("L", photo.size)
        mask.paste(255, (20, 20, 60, 50))
        mask.save(tmp_path / "mask.png")
        files = handle_file(DATA / "flower.png"), handle_file(tmp_path / "mask.png")
        path = client.predict(*files, None, api_name="/repair")
        assert Path(path).stat().st_size > 0
    finally:
        proxy.kill()


def test_the_server_also_answers_without_its_sub_path(start_server: Callable[..., RunningServer]) -> None:
    """So does a check of its health inside a container, which knows nothing of the proxy."""
    server = start_server(kind="api", root_path="/tools/lama")
    with server.client as client:
        assert client.get("/health").status_code == client.get("/tools/lama/health").status_code == 200
        job_id = ask_repair(client, upload(client, (DATA / "flower.png").read_bytes())["image_id"])
        patch = follow(client, job_id)["patch"]["url"]
        assert patch.startswith("/tools/lama/api/v1/images/") and client.get(patch).status_code == 200
        answer = client.get("/tools/lama?a=b")
        assert (answer.status_code, answer.headers["location"]) == (307, "/tools/lama/?a=b")
        assert client.get("/tools").status_code == client.get("/tools/lamas").status_code == 404


def test_while_it_starts_the_sub_path_says_so(tmp_path: Path) -> None:
    running = RunningServer(tmp_path, kind="page", settings={"root_path": ROOT_PATH}).start(wait=False)
    try:
        with running.client as client:
            seen: list[tuple[int, str]] = []
            while not seen or seen[-1][0] != 200:
                try:
                    answer = client.get(f"{ROOT_PATH}/health")
                except httpx.TransportError:
                    continue
                seen.append((answer.status_code, answer.json()["status"]))
    finally:
        running.kill()
    assert set(seen) == {(503, "starting"), (200, "ok")}


@pytest.mark.parametrize("value", ["lama", "/lama/", "/", "//evil.example", "/la ma", "https://a.example/lama", "/ä"])
def test_other_values_are_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="root_path"):
        load_settings({"root_path": value}, environ={})


@pytest.mark.parametrize(
    ("path", "below"),
    [("/lama/x", "/x"), ("/x", "/x"), ("/lama/", "/"), ("/", "/"), ("/lamas", "/lamas"), ("/lama/lama/", "/lama/")],
)
def test_paths_below_the_root(path: str, below: str) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope = {"type": "http", "path": path, "raw_path": path.encode(), "root_path": ""}
    # In a thread of its own: the browser of the tests before keeps an event loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, RootPath(app, ROOT_PATH)(scope, None, None)).result()  # type: ignore[arg-type]
    assert path_below_root(seen[0]) == below
    assert seen[0]["path"].startswith("/lama/") and seen[0]["raw_path"] == seen[0]["path"].encode()
