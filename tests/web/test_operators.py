"""What operators look at: /ready, /status and /metrics, with and without login, in both languages."""

import html
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from playwright.sync_api import Browser, expect
from prometheus_client import CollectorRegistry, generate_latest

from jobs.store import JobStore
from jobs.views import obstacles
from tests.support.fake_engine import LITTLE_MEMORY
from tests.support.page_driver import DATA, open_browser
from tests.support.redis_server import FakeWorker, RedisServer
from tests.support.serving import RunningServer, ask_repair, follow, upload, wait_until
from web.accounts import Accounts
from web.metrics import Metrics
from web.operators import status_page
from web.words import LANGUAGES, load_strings

ROOT = Path(__file__).resolve().parents[2]
PHOTO = (DATA / "flower.png").read_bytes()
HTML = {"Accept": "text/html"}


@pytest.fixture
def client(api_server: RunningServer) -> Iterator[httpx.Client]:
    with api_server.client as made:
        yield made


def test_a_server_that_repairs_is_ready(client: httpx.Client) -> None:
    answer = client.get("/ready")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "waiting_for": []})


def test_a_server_without_its_data_folder_is_not_ready(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(kind="api")
    with server.client as client:
        assert client.get("/ready").status_code == 200
        shutil.rmtree(server.data_dir)
        answer = client.get("/ready")
        assert (answer.status_code, answer.json()["waiting_for"]) == (503, ["storage"])
        assert answer.headers["retry-after"] and client.get("/health").status_code == 200
        assert client.get("/status").json()["waiting_for"] == ["storage"]


def test_a_server_whose_disk_is_full_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(tmp_path)
    worker = SimpleNamespace(engine=SimpleNamespace())
    assert obstacles(store, [worker]) == []  # type: ignore[list-item]
    monkeypatch.setattr("jobs.views.LEAST_FREE_BYTES", 1 << 62)
    assert obstacles(store, [worker]) == ["storage"]  # type: ignore[list-item]


def test_a_server_whose_photos_have_no_folder_or_a_read_only_one_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that it was ready while it refused every upload."""
    store = JobStore(tmp_path)
    worker = SimpleNamespace(engine=SimpleNamespace())
    with monkeypatch.context() as patched:
        patched.setattr("jobs.views.os.access", lambda path, mode: path != store.images_dir)
        assert obstacles(store, [worker]) == ["storage"]  # type: ignore[list-item]
    assert obstacles(store, [worker]) == []  # type: ignore[list-item]
    shutil.rmtree(store.images_dir)
    assert obstacles(store, [worker]) == ["storage"]  # type: ignore[list-item]


def test_status_says_who_waits_and_who_repairs(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(kind="api")
    with server.client as client:
        image_id = upload(client, PHOTO)["image_id"]
        first = ask_repair(client, image_id, feather_px=150, quality="high")
        follow(client, first, until="running")
        others = [ask_repair(client, image_id, priority=kind) for kind in ("interactive", "batch", "batch")]
        told = client.get("/status").json()
        assert told["waiting"] == {"interactive": 1, "batch": 2} and told["running"] == 1
        (worker,) = told["workers"]
        assert worker["state"] == "busy" and worker["memory_mib"] == 12.5 and worker["device"] == "fake"
        metrics = client.get("/metrics").text
        assert 'fftlama_queue_length{kind="batch"} 2.0' in metrics and "fftlama_running 1.0" in metrics
        for job_id in [first, *others]:
            assert follow(client, job_id)["state"] == "done"
        told = client.get("/status").json()
        assert told["ended"] == {"done": 4, "failed": 0, "cancelled": 0} and told["running"] == 0
        assert told["free_disk_bytes"] > 0 and told["queue_limit"] == 32 and told["uptime_s"] > 0
        metrics = client.get("/metrics").text
        assert 'fftlama_wait_seconds_count{kind="batch"} 2.0' in metrics
        assert 'fftlama_wait_seconds_count{kind="interactive"} 2.0' in metrics


def test_ways_with_less_memory_are_counted(client: httpx.Client) -> None:
    image_id = upload(client, PHOTO)["image_id"]
    assert follow(client, ask_repair(client, image_id, dilate_px=LITTLE_MEMORY))["state"] == "done"
    assert 'fftlama_out_of_memory_steps_total{how="it is fake"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize(("accepted", "title"), [("zh-CN,zh;q=0.9", "状态"), ("en", "Status"), ("fr", "Status")])
def test_people_get_a_page_in_their_language(client: httpx.Client, accepted: str, title: str) -> None:
    answer = client.get("/status", headers={**HTML, "Accept-Language": accepted})
    assert answer.headers["content-type"].startswith("text/html") and f"<h1>{title}</h1>" in answer.text
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("language", LANGUAGES)
def test_page_says_every_word_it_has_and_escapes_what_workers_call_themselves(language: str) -> None:
    ended = {"done": 0, "failed": 0, "cancelled": 0}
    told = {
        "version": "1", "uptime_s": 1.0, "waiting": {"interactive": 0, "batch": 0}, "running": 0, "ended": ended,
        "free_disk_bytes": None, "waiting_for": ["storage", "redis", "workers"],
        "workers": [
            {"name": "<script>", "device": "{title}", "weights": None, "memory_mib": None, "state": state}
            for state in ("idle", "busy", "starting", "stuck", "refused")
        ],
    }  # fmt: skip
    page = status_page(told, language)
    assert page.count("<script") == 1 and "&lt;script&gt;" in page and "{title}" in page and ">None<" not in page
    words = {key: text for key, text in load_strings()[language].items() if key.startswith("server.")}
    unsaid = {key for key, text in words.items() if html.escape(text) not in page}
    assert unsaid == {"server.ready"}  # said when nothing is waited for


def test_the_page_of_status_is_brought_up_to_date_in_place(browser: Browser, api_server: RunningServer) -> None:
    """It was loaded anew every five seconds, so that a screen reader began at the top again and again."""
    context = open_browser(browser)
    page = context.new_page()
    page.goto(f"{api_server.url}/status")
    page.evaluate("window.isTheSame = true")
    done = page.get_by_role("row", name="Done since the start").locator("td")
    before = int(done.inner_text())
    with api_server.client as client:
        follow(client, ask_repair(client, upload(client, PHOTO)["image_id"]))
    expect(done).to_have_text(str(before + 1))
    assert page.evaluate("window.isTheSame")
    context.close()


def test_two_pages_of_figures_at_once_are_both_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of one page was cleared by the other, and a series was missing."""
    figures = Metrics()
    worker = {"state": "idle", "name": "a", "device": "cpu", "memory_mib": 12.5}
    status = {"waiting": {}, "running": 0, "workers": [worker], "waiting_for": []}
    cleared, written = threading.Event(), threading.Event()
    clear, pages = figures._memory.clear, []

    def clear_once_more() -> None:
        clear()
        if threading.current_thread() is second:
            cleared.set()
            written.wait(20)  # until the first page stands

    def write(registry: CollectorRegistry) -> bytes:
        if threading.current_thread() is not second:
            second.start()
            cleared.wait(0.2)  # where the second waits for its turn it clears nothing meanwhile
        page = generate_latest(registry)
        written.set()
        return page

    second = threading.Thread(target=lambda: pages.append(figures.render(status)))
    monkeypatch.setattr(figures._memory, "clear", clear_once_more)
    monkeypatch.setattr("web.metrics.generate_latest", write)
    pages.append(figures.render(status))
    second.join()
    assert len(pages) == 2 and all(b"fftlama_device_memory_bytes{" in page for page in pages)


def test_only_operators_see_status_and_metrics(start_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "accounts.json")
    for name in ("ann", "bob"):
        accounts.set_password(name, "correct horse")
    keys = {name: accounts.add_key(name) for name in ("ann", "bob")}
    server = start_server(kind="api", auth_file=accounts.path, operators="ann, carla")
    with server.client as client:
        for path in ("/status", "/metrics"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": f"Bearer {keys['ann']}"}).status_code == 200
            refused = client.get(path, headers={"Authorization": f"Bearer {keys['bob']}"})
            assert (refused.status_code, refused.json()["error"]) == (403, "forbidden")
        assert client.get("/ready").status_code == client.get("/health").status_code == 200


@pytest.mark.slow
def test_a_server_without_redis_or_workers_says_so(tmp_path: Path) -> None:
    redis_ = RedisServer(tmp_path / "redis").start()
    web = RunningServer(tmp_path / "web", kind="celery", settings={"redis_url": redis_.url})
    worker = FakeWorker(redis_.url, tmp_path)
    other = FakeWorker(redis_.url, tmp_path, number=1, version="other").start()
    try:
        wait_until(lambda: len(redis_.client.keys("fftlama:worker:*")), {1}, limit_s=30.0)
        web.start()
        with web.client as client:

            def waits_for() -> str:
                return " ".join(client.get("/ready").json()["waiting_for"])

            assert wait_until(waits_for, {"workers"}) == "workers"
            assert [row["state"] for row in client.get("/status").json()["workers"]] == ["refused"]
            worker.start()
            assert wait_until(waits_for, {""}, limit_s=30.0) == ""
            rows = {row["state"]: row for row in client.get("/status").json()["workers"]}
            assert rows["idle"]["memory_mib"] == 12.5 and rows["idle"]["weights"] == "fake"
            metrics = client.get("/metrics").text
            assert 'fftlama_workers{state="idle"} 1.0' in metrics
            redis_.kill()
            assert wait_until(waits_for, {"redis"}) == "redis"
            assert client.get("/ready").status_code == 503 and client.get("/health").json()["redis"] == "unreachable"
            assert 'fftlama_waiting_for{obstacle="redis"} 1.0' in client.get("/metrics").text
            page = client.get("/status", headers=HTML).text
            assert "Redis is not reachable, so repairs wait." in page
    finally:
        for running in (web, worker, other, redis_):
            running.kill()


def test_dashboard_asks_for_metrics_that_there_are(client: httpx.Client) -> None:
    image_id = upload(client, PHOTO)["image_id"]
    follow(client, ask_repair(client, image_id, dilate_px=LITTLE_MEMORY))
    with_failures = client.get("/metrics").text + "fftlama_failures_total{"
    served = set(re.findall(r"^(\w+)(?:\{| )", with_failures.replace("fftlama_failures", "\nfftlama_failures"), re.M))
    dashboard = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked = {name for expression in expressions for name in re.findall(r"\b(?:fftlama|process)_\w+", expression)}
    assert len(asked) >= 10 and asked - served == set()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
