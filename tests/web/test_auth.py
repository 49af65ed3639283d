"""The login: who comes in, who does not, and that every route is behind the gate."""

import contextlib
import html
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import argon2
import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from fastapi.testclient import TestClient

import app
import imaging.atomic_write
from config import Settings, load_settings
from imaging.atomic_write import write_atomically
from tests.support.fake_engine import FakeEngine
from tests.support.page_driver import DATA
from tests.support.quick_passwords import SLOW_PASSWORD
from tests.support.serving import RunningServer, ask_repair, follow, upload
from web.accounts import AccountError, Accounts
from web.auth import COOKIE, _safe_target, login_warning
from web.lockout import GUESSES, Lockout, place_of
from web.openapi import build_document
from web.sessions import signing_secret

PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Accounts:
    """A file with ann and bob, who have the same password."""
    made = Accounts(tmp_path_factory.mktemp("accounts") / "accounts.json")
    for name in ("ann", "bob"):
        made.set_password(name, PASSWORD)
    return made


@pytest.fixture(scope="module")
def closed_server(accounts: Accounts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with page and login."""
    running = RunningServer(tmp_path_factory.mktemp("closed"), kind="page", settings={"auth_file": accounts.path})
    running.start()
    yield running
    running.stop()


@contextlib.contextmanager
def log_in(server: RunningServer, name: str = "ann", password: str = PASSWORD) -> Iterator[httpx.Client]:
    with server.client as client:
        answer = client.post("/login", data={"name": name, "password": password, "next": ""})
        assert answer.status_code == 303, answer.text
        yield client


def test_every_documented_route_refuses_a_stranger(closed_server: RunningServer) -> None:
    """Ours by the OpenAPI document, which a stranger does not see either, and Gradio's: page, files and queue."""
    document = build_document(Settings(auth_file=Path("accounts.json")), version="0.0.0")
    ours = [
        (method.upper(), re.sub(r"\{\w+\}", "x", path))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation.get("security") != []
    ]
    ours += [("GET", "/"), ("GET", "/api/v1/nothing")]
    assert len(ours) > 30
    gradio = [
        ("GET", "/config"), ("GET", "/gradio_api/info"), ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/queue/join"), ("GET", "/gradio_api/queue/data?session_hash=x"),
        ("POST", "/gradio_api/run/predict"), ("POST", "/gradio_api/call/repair"), ("GET", "/gradio_api/file=/x"),
        ("GET", "/theme.css"), ("GET", "/gradio_api/heartbeat/x"), ("GET", "/monitoring"), ("GET", "/assets/x.js"),
        ("GET", "/gradio_api/startup-events"), ("POST", "/gradio_api/cancel"), ("GET", "/login_check"),
    ]  # fmt: skip
    with closed_server.client as client:
        for method, path in ours + gradio:
            answer = client.request(method, path)
            assert answer.status_code == 401, (method, path, answer.status_code)
            assert answer.json()["error"] == "login_required"
        assert client.get("/health").status_code == 200


def addresses(routes: Sequence[Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of every route, of mounted applications too; a part that may be anything is "x"."""
    for route in routes:
        if hasattr(route, "original_router"):  # FastAPI's place for a router that was included
            yield from addresses(route.original_router.routes, before + route.include_context.prefix)
            continue
        path = before + getattr(route, "path", "")
        inner = getattr(route, "routes", None)
        if inner is not None:
            yield from addresses(inner, path.rstrip("/"))
            yield "GET", f"{path.rstrip('/')}/nothing-of-this-name"
            continue
        for method in sorted(getattr(route, "methods", None) or {"GET"}):
            yield method, re.sub(r"\{[^}]*\}", "x", path)


@pytest.mark.slow
def test_every_route_refuses_a_stranger(accounts: Accounts, tmp_path: Path) -> None:
    """Ours and Gradio's, as the application itself lists them: what is added later is walked too."""
    folders = {"data_dir": str(tmp_path / "data"), "outputs_dir": str(tmp_path / "outputs")}
    settings = load_settings({"auth_file": str(accounts.path), **folders}, environ={})
    application = app.create_app(settings, FakeEngine())
    walked = dict.fromkeys(addresses(application.routes))
    assert {
        ("GET", "/"), ("GET", "/metrics"), ("GET", "/status"), ("POST", "/api/v1/repairs"),
        ("DELETE", "/api/v1/jobs/x"), ("POST", "/api/v1/inpaint"), ("GET", "/config"), ("GET", "/gradio_api/file=x"),
        ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/upload"),
    } <= set(walked), sorted(walked)  # fmt: skip
    let_in = set()
    client = TestClient(application, base_url="http://127.0.0.1:7860", follow_redirects=False)
    with start_blocking_portal() as client.portal:  # else each request has a thread and an event loop of its own
        for method, path in walked:
            answer = client.request(method, path)
            if path in ("/login", "/logout"):  # Gradio has some of its own; the gate's own page answers
                assert method == "HEAD" or 'name="password"' in answer.text
            elif answer.status_code != 401:
                let_in.add(path)
            elif method != "HEAD":
                assert answer.json()["error"] == "login_required"
    assert let_in == {"/health", "/ready"}


def test_browser_is_led_to_the_login_page_and_back(closed_server: RunningServer) -> None:
    with closed_server.client as client:
        answer = client.get("/", headers={"Accept": "text/html"})
        assert answer.status_code == 303 and answer.headers["location"].startswith("login?next=")
        page = client.get("/login", headers={"Accept-Language": "zh-CN"})
        assert "登录" in page.text and 'name="password"' in page.text
    with log_in(closed_server) as client:
        assert client.get("/", headers={"Accept": "text/html"}).status_code == 200


def test_login_leads_to_the_photo_that_was_asked_for_after_a_wrong_password_too(closed_server: RunningServer) -> None:
    """A wrong password forgot where the person wanted to go, and the address of a photo was never remembered."""
    with closed_server.client as client:
        answer = client.get(client.get("/?image=abc&x=1", headers={"Accept": "text/html"}).headers["location"])
        for password in ("wrong", PASSWORD):
            target = re.search(r'name="next" value="([^"]*)"', answer.text)
            assert target
            fields = {"name": "ann", "password": password, "next": html.unescape(target[1])}
            answer = client.post("/login", data=fields)
        assert answer.status_code == 303 and answer.headers["location"] == "./?image=abc&x=1"


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("PUT", "/login", "GET, HEAD, POST"), ("GET", "/logout", "POST")]
)
def test_another_method_at_the_login_is_told_which_there_are(
    closed_server: RunningServer, method: str, path: str, allowed: str
) -> None:
    with closed_server.client as client:
        answer = client.request(method, path)
    assert (answer.status_code, answer.headers.get("allow")) == (405, allowed)


def test_session_cookie_is_for_this_site_and_no_script(closed_server: RunningServer) -> None:
    with closed_server.client as client:
        answer = client.post("/login", data={"name": "ann", "password": PASSWORD})
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=lax" in cookie
        client.cookies.set("fftlama_session", answer.cookies["fftlama_session"][:-2] + "xx")
        assert client.get("/api/v1/models").status_code == 401


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::{}"])
def test_wrong_guesses_lock_the_name_out(closed_server: RunningServer, address: str) -> None:
    """By IPv6 each guess could come from another address of one machine, and none was ever locked out."""
    name = f"guessed from {address}"
    with closed_server.client as client:
        statuses = [
            client.post(
                "/login", data={"name": name, "password": "wrong"}, headers={"X-Forwarded-For": address.format(number)}
            ).status_code
            for number in range(1, GUESSES + 2)
        ]
        assert statuses == [401] * GUESSES + [429]
        from_there = {"X-Forwarded-For": address.format(99)}
        locked = client.post("/login", data={"name": name, "password": PASSWORD}, headers=from_there)
        assert locked.status_code == 429 and int(locked.headers["retry-after"]) > 0
    with log_in(closed_server):  # another name is not locked
        pass


def test_guesses_that_are_made_at_once_are_counted_too(closed_server: RunningServer) -> None:
    """They were counted when they had been looked at: as many as fit into a tenth of a second were free."""

    def guess(number: int) -> int:
        with closed_server.client as client:
            return client.post("/login", data={"name": "hurried", "password": f"wrong {number}"}).status_code

    with ThreadPoolExecutor(30) as pool:
        statuses = list(pool.map(guess, range(30)))
    assert sorted(statuses) == [401] * GUESSES + [429] * (30 - GUESSES)


def test_a_stranger_with_many_names_keeps_nobody_out(closed_server: RunningServer) -> None:
    """Each password takes a tenth of a second to check, two at a time, and the line for it had no end."""

    def guess(number: int) -> int:
        with closed_server.client as client:
            return client.post("/login", data={"name": f"name {number}", "password": SLOW_PASSWORD}).status_code

    with ThreadPoolExecutor(30) as pool:
        statuses = list(pool.map(guess, range(60)))
    assert set(statuses) == {401, 429}
    with log_in(closed_server):
        pass


def test_lockout_grows_with_every_guess() -> None:
    lockout = Lockout()
    for _ in range(GUESSES):
        lockout.count("a", "1")
    first = lockout.wait_s("a", "1")
    lockout.count("a", "1")
    assert 0 < first < lockout.wait_s("a", "1")
    assert lockout.wait_s("a", "2") == 0
    lockout.forget("a", "1")
    assert lockout.wait_s("a", "1") == 0


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"), ("", ""), ("testclient", "testclient"),
    ],
)  # fmt: skip
def test_an_address_belongs_to_its_network(address: str, place: str) -> None:
    assert place_of(address) == place


def test_api_key_comes_in_and_a_wrong_one_does_not(closed_server: RunningServer, accounts: Accounts) -> None:
    key = accounts.add_key("bob")
    assert key not in accounts.path.read_text()
    with closed_server.client as client:
        assert client.get("/api/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert client.get("/api/v1/models", headers={"Authorization": f"Bearer {key}x"}).status_code == 401


def test_changed_password_ends_sessions(closed_server: RunningServer, accounts: Accounts) -> None:
    accounts.set_password("cid", PASSWORD)
    with log_in(closed_server, "cid") as client:
        assert client.get("/api/v1/models").status_code == 200
        time.sleep(0.01)
        accounts.set_password("cid", PASSWORD + "2")
        assert client.get("/api/v1/models").status_code == 401


def test_who_logs_out_ends_the_session_for_copies_of_its_cookie_too(closed_server: RunningServer) -> None:
    """Logging out took the cookie from the browser alone: who had copied it came in for seven days."""
    with log_in(closed_server) as client, log_in(closed_server) as elsewhere:
        copied = {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        assert client.post("/logout").status_code == 303
        with closed_server.client as thief:
            assert thief.get("/api/v1/models", headers=copied).status_code == 401
        assert elsewhere.get("/api/v1/models").status_code == 200, "another device was not logged out"


def test_proxy_header_counts_from_a_named_proxy_only(start_server: Callable[..., RunningServer]) -> None:
    settings = {"auth_proxy_header": "X-Forwarded-User"}
    trusted = start_server(**settings)
    with trusted.client as client:
        assert client.get("/api/v1/models").status_code == 401
        assert client.get("/api/v1/models", headers={"X-Forwarded-User": "ann"}).status_code == 200
    other = start_server(**settings, auth_proxy_from="10.0.0.0/8")
    with other.client as client:
        forged = {"X-Forwarded-User": "ann", "X-Forwarded-For": "10.0.0.1"}
        assert client.get("/api/v1/models", headers=forged).status_code == 401


def test_people_whose_long_names_differ_at_the_end_are_two(start_server: Callable[..., RunningServer]) -> None:
    """Names were cut after 64 characters, and two of an organisation with long ones saw each other's photos."""
    server = start_server(auth_proxy_header="X-Forwarded-User")
    first, second = ({"X-Forwarded-User": f"{'x' * 64}.{name}@example.org"} for name in ("ann", "bob"))
    with server.client as client:
        files = {"file": ("a.png", (DATA / "flower.png").read_bytes())}
        image_id = client.post("/api/v1/images", files=files, headers=first).json()["image_id"]
        statuses = [client.get(f"/api/v1/images/{image_id}", headers=who).status_code for who in (first, second)]
    assert statuses == [200, 404]


def test_a_proxy_is_known_by_its_ipv4_address_where_the_server_listens_on_all(
    start_server: Callable[..., RunningServer],
) -> None:
    """With host `::` a connection from 127.0.0.1 comes from `::ffff:127.0.0.1`, and nobody was let in."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = start_server(host="::", auth_proxy_header="X-Forwarded-User")
    with server.client as client:
        assert client.get("/api/v1/models", headers={"X-Forwarded-User": "ann"}).status_code == 200
        assert client.get("/api/v1/models").status_code == 401


def test_a_server_that_others_reach_without_a_login_says_how_to_have_one(
    start_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    open_to_all = start_server(host="0.0.0.0")
    assert "Everybody who reaches 0.0.0.0" in open_to_all.log and "fftlama user add NAME" in open_to_all.log
    accounts = Accounts(tmp_path / "a.json")
    assert "Nobody can log in yet: there is no" in login_warning(Settings(auth_file=accounts.path))
    accounts.set_password("ann", PASSWORD)
    for settings in ({}, {"auth_file": accounts.path}, {"auth_proxy_header": "X-Forwarded-User"}):
        assert login_warning(Settings(host="0.0.0.0" if settings else "127.0.0.1", **settings)) == ""


def test_accounts_file_is_readable_by_its_owner_only(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a moment others of the machine read it and the secret, with which anybody can be whom they like."""
    modes: list[int] = []
    monkeypatch.setattr(imaging.atomic_write, "_sync", lambda file: modes.append(file.stat().st_mode))
    accounts.set_password("eve", PASSWORD)
    folder = accounts.path.parent / "data"
    assert signing_secret(folder) == (folder / "session_secret").read_text()
    for path in (accounts.path, folder, folder / "session_secret"):
        modes.append(path.stat().st_mode)
    assert len(modes) == 7 and not any(mode & 0o077 for mode in modes[:1] + modes[2:3] + modes[4:]), modes
    assert PASSWORD not in accounts.path.read_text() and "$argon2id$" in accounts.path.read_text()


def test_a_password_is_kept_as_what_costs_who_guesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made as the program makes it; the other tests' passwords are hashed quickly."""
    monkeypatch.setattr("web.accounts.PasswordHasher", argon2.PasswordHasher)
    accounts = Accounts(tmp_path / "accounts.json")
    accounts.set_password("ann", PASSWORD)
    text = accounts.path.read_text()
    assert PASSWORD not in text and "$argon2id$" in text
    memory_kib, passes = (int(re.search(rf"[$,]{name}=(\d+)", text)[1]) for name in "mt")  # type: ignore[index]
    assert memory_kib >= 64 << 10 and passes >= 3
    assert accounts.has_password("ann", PASSWORD) and not accounts.has_password("ann", "battery staple")


def test_two_who_change_the_accounts_at_once_both_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wrote what it had read and its own change: of six `fftlama user add` at once five people could log in."""
    path = tmp_path / "accounts.json"
    Accounts(path).set_password("ann", PASSWORD)
    keys: list[str] = []
    others: list[threading.Thread] = []

    def write_while_another_comes(target: Path, data: bytes, *, mode: int) -> None:
        if not others:
            others.append(threading.Thread(target=lambda: keys.append(Accounts(path).add_key("ann"))))
            others[0].start()
            others[0].join(0.5)  # who does not wait for this change is done by then
        write_atomically(target, data, mode=mode)

    monkeypatch.setattr("web.accounts.write_atomically", write_while_another_comes)
    keys.append(Accounts(path).add_key("ann"))
    others[0].join()
    assert [Accounts(path).owner_of_key(key) for key in keys] == ["ann"] * 2


@pytest.mark.parametrize(("name", "password"), [("a b", PASSWORD), ("", PASSWORD), ("ann", "short")])
def test_impossible_account_is_refused(tmp_path: Path, name: str, password: str) -> None:
    with pytest.raises(AccountError):
        Accounts(tmp_path / "accounts.json").set_password(name, password)


def test_damaged_accounts_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "accounts.json").write_text("{")
    with pytest.raises(AccountError, match="can't be read"):
        Accounts(tmp_path / "accounts.json").all()


def test_a_server_goes_on_with_the_accounts_it_knew_while_their_file_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everybody who was logged in, and every key, was answered "Internal Server Error" while somebody edited it."""
    path = tmp_path / "accounts.json"
    Accounts(path).set_password("ann", PASSWORD)
    key = Accounts(path).add_key("ann")
    sound = path.read_bytes()
    settings = Settings(auth_file=path, data_dir=tmp_path / "data", outputs_dir=tmp_path / "out")
    with TestClient(app.create_api(settings, FakeEngine()), base_url="http://127.0.0.1") as client:
        statuses = []
        for content in (sound, b'{"users": {', sound.replace(b'"ann"', b'"bob"')):
            path.write_bytes(content)
            answer = client.get("/api/v1/models", headers={"Authorization": f"Bearer {key}"})
            stranger = client.get("/api/v1/models", headers={"Authorization": "Bearer fft_none"})
            statuses.append((answer.status_code, stranger.status_code))
            login = client.post("/login", data={"name": "bob", "password": PASSWORD}, follow_redirects=False)
            statuses.append((login.status_code, "can't be read" in caplog.text))
    assert statuses == [(200, 401), (401, False), (200, 401), (401, True), (200, 401), (303, True)]


@pytest.mark.parametrize("content", ["", "{", '{"users": []}', None])
def test_a_start_says_that_the_accounts_cannot_be_read(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "accounts.json"
    path.mkdir() if content is None else path.write_text(content)
    assert "Nobody of auth_file can log in until it is mended" in login_warning(Settings(auth_file=path))


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "%2f%2fevil.example"])
def test_login_leads_to_this_site_only(target: str) -> None:
    assert "evil" not in _safe_target(target) or _safe_target(target).startswith("./")
    assert not _safe_target(target).startswith(("//", "http"))


def test_answers_carry_the_security_headers(closed_server: RunningServer) -> None:
    with log_in(closed_server) as client:
        for path in ("/", "/health", "/api/v1/models", "/config", "/api/v1/nothing"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff", path
            assert "frame-ancestors 'self'" in headers["content-security-policy"], path
            # A page elsewhere learned of files of input_path, named as its pictures, whether they are there.
            assert headers["cross-origin-resource-policy"] == "same-site", path


def test_other_sites_are_allowed_by_name_only(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(allowed_origins="https://tools.example")
    with server.client as client:
        ask = {"Origin": "https://tools.example", "Sec-Fetch-Site": "cross-site"}
        answer = client.post("/api/v1/repairs", json={}, headers=ask)
        assert answer.status_code == 422 and answer.headers["access-control-allow-origin"] == "https://tools.example"
        other = client.post("/api/v1/repairs", json={}, headers={**ask, "Origin": "https://evil.example"})
        assert other.status_code == 403 and "access-control-allow-origin" not in other.headers
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin", "their pages show photos of here"


def test_two_people_may_call_their_requests_the_same(closed_server: RunningServer) -> None:
    """The second was told of a conflict with a request that was none of hers."""
    strokes = [{"points": [[20, 20], [40, 40]], "radius": 5, "erase": False}]
    jobs = []
    with log_in(closed_server, "ann") as ann, log_in(closed_server, "bob") as bob:
        for client in (ann, bob):
            image_id = upload(client, (DATA / "flower.png").read_bytes())["image_id"]
            body = {"image_id": image_id, "request_id": "1", "strokes": strokes}
            answers = [client.post("/api/v1/repairs", json=body) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [202, 202]
            jobs += [answer.json()["job_id"] for answer in answers]
            assert follow(client, jobs[-1])["state"] == "done"
    assert jobs[0] == jobs[1] and jobs[2] == jobs[3] and jobs[0] != jobs[2]


def test_each_person_sees_their_own_photos_and_jobs(closed_server: RunningServer) -> None:
    with log_in(closed_server, "ann") as ann, log_in(closed_server, "bob") as bob:
        image_id = upload(ann, (DATA / "flower.png").read_bytes())["image_id"]
        body = {
            "image_id": image_id, "request_id": "ann-1",
            "strokes": [{"points": [[20, 20], [40, 40]], "radius": 5, "erase": False}],
        }  # fmt: skip
        job_id = ann.post("/api/v1/repairs", json=body).json()["job_id"]
        view = follow(ann, job_id)
        assert view["state"] == "done"
        for path in (f"images/{image_id}", f"images/{view['image_id']}/patch", f"jobs/{job_id}"):
            assert ann.get(f"/api/v1/{path}").status_code == 200, path
            assert bob.get(f"/api/v1/{path}").status_code == 404, path
        assert bob.delete(f"/api/v1/jobs/{job_id}").status_code == 404
        assert bob.post("/api/v1/repairs", json={**body, "request_id": "bob-1"}).status_code == 404


def test_nobody_looks_through_the_results_of_others(
    start_server: Callable[..., RunningServer], accounts: Accounts, tmp_path: Path
) -> None:
    """IOPaint's routes listed the folder of all results, and gave them out, to everybody who could log in."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "shared.png").write_bytes((DATA / "flower.png").read_bytes())
    server = start_server(auth_file=accounts.path, input_path=tmp_path / "open")
    with log_in(server, "ann") as ann, log_in(server, "bob") as bob:
        view = follow(ann, ask_repair(ann, upload(ann, (DATA / "flower.png").read_bytes())["image_id"]), until="saved")
        name = view["saved"].rpartition("/")[2]
        assert (server.outputs_dir / name).is_file()
        for client in (ann, bob):
            for route in ("medias?tab=output", f"media_file?tab=output&filename={name}"):
                answer = client.get(f"/api/v1/{route}")
                assert answer.status_code == 404 and "results of others" in answer.text, route
            assert [row["name"] for row in client.get("/api/v1/medias?tab=input").json()] == ["shared.png"]


def test_one_repair_does_not_wait_behind_thirty_of_somebody_else(closed_server: RunningServer) -> None:
    strokes = [{"points": [[20, 20], [40, 40]], "radius": 5, "erase": False}]
    with log_in(closed_server, "ann") as ann, log_in(closed_server, "bob") as bob:
        jobs = []
        for client, count in ((ann, 12), (bob, 1)):
            image_id = upload(client, (DATA / "flower.png").read_bytes())["image_id"]
            for number in range(count):
                body = {
                    "image_id": image_id, "request_id": f"fair-{image_id}-{number}", "strokes": strokes,
                    "options": {"feather_px": 30, "quality": "high"},  # high runs alone
                }  # fmt: skip
                jobs.append((client, client.post("/api/v1/repairs", json=body).json()["job_id"]))
        bobs = bob.get(f"/api/v1/jobs/{jobs[-1][1]}").json()
        assert bobs["position"] <= 2
        for client, job_id in jobs[1:-1]:
            client.delete(f"/api/v1/jobs/{job_id}")
        assert follow(bob, jobs[-1][1])["state"] == "done"


@pytest.mark.parametrize("text", ["//[x", "http://[::1", "%2F%2F%5Bx"])
def test_malformed_target_leads_to_the_page(text: str) -> None:
    """`//[x` raised ValueError: 500 after a login."""
    assert _safe_target(text) == "./"
