"""The REST routes as programs use them, against a real server process with a fake engine."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageCms

from detection.spots import FoundSpots
from jobs.errors import JobError
from tests.support.fake_engine import FAIL
from tests.support.serving import RunningServer, ask_repair, follow, upload
from web.detect import KEPT_BYTES, SearchCache
from web.routes import _ended_at_once

GRADIENT = np.dstack([*np.meshgrid(np.arange(64), np.arange(48)), np.full((48, 64), 99)]).astype(np.uint8)


def encoded(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


PHOTO = encoded(GRADIENT)


@pytest.fixture
def client(api_server: RunningServer) -> Iterator[httpx.Client]:
    with api_server.client as client:
        yield client


@pytest.mark.parametrize("written", ["{}", "data:image/png;base64,{}", "DATA:image/png;base64,{}", "in lines"])
def test_a_mask_may_come_in_lines_and_as_a_data_url(client: httpx.Client, written: str) -> None:
    """`base64 mask.png` writes lines of 76 characters, and they were refused."""
    marked = np.zeros((48, 64), np.uint8)
    marked[20:30, 20:30] = 255
    mask = base64.b64encode(encoded(marked)).decode()
    lines = "".join(f"{mask[at : at + 76]}\r\n" for at in range(0, len(mask), 76))
    text = lines if written == "in lines" else written.format(mask)
    body = {"image_id": upload(client, PHOTO)["image_id"], "request_id": written, "mask_png": text}
    answer = client.post("/api/v1/repairs", json=body)
    assert answer.status_code == 202
    assert follow(client, answer.json()["job_id"])["state"] == "done"


def test_a_click_from_upload_to_download(client: httpx.Client, api_server: RunningServer) -> None:
    image = upload(client, PHOTO, "my photo.png")
    assert image | {"image_id": ""} == {
        "image_id": "", "width": 64, "height": 48, "format": "PNG", "name": "my photo.png", "notes": [],
    }  # fmt: skip
    view = follow(client, ask_repair(client, image["image_id"]), until="saved")
    assert view["state"] == "done" and view["position"] == 0 and view["error"] is None
    assert set(view) == {
        "job_id", "state", "position", "stage", "timings_ms", "image_id", "patch", "notes", "saved", "error", "version",
        "waiting_for",
    }  # fmt: skip
    assert view["patch"]["url"] == f"/api/v1/images/{view['image_id']}/patch"
    left, top, right, bottom = view["patch"]["box"]
    patch = client.get(view["patch"]["url"])
    assert patch.headers["content-type"] == "image/png" and "immutable" in patch.headers["cache-control"]
    whole = GRADIENT.copy()
    whole[top:bottom, left:right] = decoded(patch.content)
    download = client.get(f"/api/v1/images/{view['image_id']}")
    assert np.array_equal(decoded(download.content), whole)
    assert 'filename="my photo_repaired.png"' in download.headers["content-disposition"]
    saved = api_server.folder / view["saved"]
    assert saved.parent == api_server.outputs_dir and np.array_equal(decoded(saved.read_bytes()), whole)
    info = client.get(f"/api/v1/images/{view['image_id']}/info").json()
    assert info["parent_id"] == image["image_id"] and (info["width"], info["height"]) == (64, 48)
    assert info["name"] == "my photo.png" and info["format"] == "PNG" and info["created"] > 1.7e9


def test_what_browsers_show_of_a_photo_has_its_colour_profile(client: httpx.Client) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = upload(client, encoded(GRADIENT, "JPEG", icc_profile=icc))["image_id"]
    view = follow(client, ask_repair(client, photo))
    urls = [view["patch"]["url"]] + [
        f"/api/v1/images/{image_id}?format={format}&max_px=32"
        for image_id in (photo, view["image_id"])
        for format in ("png", "webp", "jpeg")
    ]
    for url in urls:
        assert Image.open(io.BytesIO(client.get(url).content)).info["icc_profile"] == icc, url


def test_an_uploaded_photo_comes_back_byte_for_byte(client: httpx.Client) -> None:
    data = encoded(GRADIENT, "JPEG", quality=77)
    image = upload(client, data, "a.jpg")
    for address in ("", "?format=original"):
        answer = client.get(f"/api/v1/images/{image['image_id']}{address}")
        assert answer.content == data and answer.headers["content-type"] == "image/jpeg"
    assert client.get(f"/api/v1/images/{image['image_id']}/patch").status_code == 404


@pytest.mark.parametrize(
    ("format", "media_type"), [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")]
)
def test_other_formats_and_previews(client: httpx.Client, format: str, media_type: str) -> None:
    image = upload(client, PHOTO)
    address = f"/api/v1/images/{image['image_id']}?format={format}"
    full, preview = client.get(address), client.get(address + "&max_px=32")
    for answer, size in ((full, (64, 48)), (preview, (32, 24))):
        assert answer.status_code == 200 and answer.headers["content-type"] == f"image/{format}"
        assert Image.open(io.BytesIO(answer.content)).size == size
        assert "immutable" in answer.headers["cache-control"]
    assert "attachment" in full.headers["content-disposition"]
    assert "content-disposition" not in preview.headers


@pytest.mark.parametrize("format", ["", "&format=jpeg", "&format=webp"])
def test_a_preview_has_the_quality_that_is_asked_for(client: httpx.Client, format: str) -> None:
    """It was passed over, and what was kept for one quality was given for all."""
    address = f"/api/v1/images/{upload(client, PHOTO)['image_id']}?max_px=32{format}"
    sizes = [len(client.get(address + quality).content) for quality in ("&quality=1", "", "&quality=100")]
    assert sizes[0] < sizes[1] < sizes[2]


def test_names_in_any_language_survive_the_header(client: httpx.Client) -> None:
    image = upload(client, PHOTO, "照片 “1”.png")
    header = client.get(f"/api/v1/images/{image['image_id']}").headers["content-disposition"]
    assert "filename*=UTF-8''%E7%85%A7%E7%89%87%20%E2%80%9C1%E2%80%9D.png" in header


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("=?utf-8?B?54Wn54mHLnBuZw==?=", "照片.png"),
        ("=?utf-8?B?Lz8/LnBuZw==?=", "??.png"),
        ("=?utf-8?B?/w==?=", "w==?="),
    ],
)
def test_a_name_as_dotnet_clients_write_it_is_read(client: httpx.Client, sent: str, kept: str) -> None:
    """It was kept as an encoded word, of which a slash cut off the beginning."""
    assert upload(client, PHOTO, sent)["name"] == kept


def test_a_retry_is_harmless_and_another_body_a_conflict(client: httpx.Client) -> None:
    image = upload(client, PHOTO)
    first = ask_repair(client, image["image_id"], "one click")
    assert ask_repair(client, image["image_id"], "one click") == first
    body = {"image_id": image["image_id"], "request_id": "one click", "strokes": []}
    answer = client.post("/api/v1/repairs", json=body)
    assert answer.status_code == 409 and answer.json()["error"] == "request_conflict"


def test_three_people_at_once_all_get_theirs(api_server: RunningServer) -> None:
    def person(level: int) -> bool:
        with api_server.client as client:
            image = upload(client, encoded(np.full((40, 50, 3), level, np.uint8)))
            view = follow(client, ask_repair(client, image["image_id"], feather_px=5))
            result = decoded(client.get(f"/api/v1/images/{view['image_id']}").content)
            return view["state"] == "done" and bool((result == level).all())

    with ThreadPoolExecutor(3) as people:
        assert all(people.map(person, (10, 120, 240)))


def test_places_count_down_and_cancel_frees_one(client: httpx.Client) -> None:
    image_id = upload(client, PHOTO)["image_id"]
    running = ask_repair(client, image_id, feather_px=60)
    follow(client, running, until="running")
    waiting = [ask_repair(client, image_id) for _ in range(3)]
    assert [client.get(f"/api/v1/jobs/{job}").json()["position"] for job in waiting] == [1, 2, 3]
    answer = client.delete(f"/api/v1/jobs/{waiting[0]}")
    assert answer.status_code == 202 and answer.json()["state"] == "cancelled"
    assert [client.get(f"/api/v1/jobs/{job}").json()["position"] for job in waiting] == [0, 1, 2]
    assert [follow(client, job)["state"] for job in [running, *waiting]] == ["done", "cancelled", "done", "done"]


def test_a_long_poll_returns_when_the_stage_changes(client: httpx.Client) -> None:
    job = ask_repair(client, upload(client, PHOTO)["image_id"], feather_px=30)
    stages, view = [], client.get(f"/api/v1/jobs/{job}").json()
    while view["state"] in ("queued", "running"):
        stages.append(view["stage"])
        view = client.get(f"/api/v1/jobs/{job}", params={"wait_s": 20, "seen": view["version"]}).json()
    assert "predict" in stages, "a wait of 0.3 s is long enough to be seen"
    assert view["state"] == "done" and view["stage"] is None


def test_a_change_is_held_back_for_a_moment_in_case_the_job_ends(client: httpx.Client) -> None:
    image_id = upload(client, PHOTO)["image_id"]
    job = ask_repair(client, image_id, feather_px=10)
    query: dict[str, float] = {"wait_s": 20, "seen": -1, "settle_s": 1}
    assert client.get(f"/api/v1/jobs/{job}", params=query).json()["state"] == "done", "told once, when it is done"
    strokes = [{"points": [[30, 20]], "radius": 5, "erase": False}]
    body = {"image_id": image_id, "request_id": "told at once", "strokes": strokes, "settle_s": 1}
    told = client.post("/api/v1/repairs", json=body)
    assert told.status_code == 202 and told.json()["job"]["state"] == "done"
    patch = client.get(told.json()["job"]["patch"]["url"]).content
    assert base64.b64decode(told.json()["patch_png"]) == patch
    again = client.post("/api/v1/repairs", json=body).json()
    assert again["job_id"] == told.json()["job_id"] and again["patch_png"] == told.json()["patch_png"]
    slow = ask_repair(client, image_id, feather_px=300)
    view = client.get(f"/api/v1/jobs/{slow}", params={**query, "settle_s": 0.05}).json()
    assert view["state"] in ("queued", "running")
    assert client.get(f"/api/v1/jobs/{slow}", params={**query, "settle_s": "nan"}).status_code == 200
    assert follow(client, slow)["state"] == "done"


def test_patient_clients_do_not_keep_the_others_out(api_server: RunningServer) -> None:
    """Each long poll once took one of the 40 threads that uploads need as well."""
    with api_server.client as client:
        image_id = upload(client, PHOTO)["image_id"]
        slow = ask_repair(client, image_id, feather_px=300)
        follow(client, slow, until="running")
        waiting = ask_repair(client, image_id)
        version = client.get(f"/api/v1/jobs/{waiting}").json()["version"]
        limits = httpx.Limits(max_connections=100)
        with httpx.Client(base_url=api_server.url, timeout=30, trust_env=False, limits=limits) as patient:
            threads = [
                threading.Thread(target=patient.get, args=(f"/api/v1/jobs/{waiting}?wait_s=20&seen={version}",))
                for _ in range(60)
            ]
            for thread in threads:
                thread.start()
            upload(client, PHOTO)
            assert client.get("/health").json()["queue_length"] == 1, "the slow one still runs"
            client.delete(f"/api/v1/jobs/{slow}")
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive()


def test_twenty_uploads_at_once(api_server: RunningServer) -> None:
    photo = encoded(np.random.default_rng(1).integers(0, 255, (600, 800, 3), dtype=np.uint8))

    def send(n: int) -> str:
        with api_server.client as client:
            return str(upload(client, photo, f"{n}.png")["name"])

    with ThreadPoolExecutor(20) as people:
        assert list(people.map(send, range(20))) == [f"{n}.png" for n in range(20)]


def test_one_shot_returns_the_file_in_its_own_format(client: httpx.Client) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 10:20] = 255
    files = {"image": ("a.jpg", encoded(GRADIENT, "JPEG")), "mask": ("mask.png", encoded(mask))}
    answer = client.post("/api/v1/repair", files=files, data={"options": json.dumps({"dilate_px": 0})})
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
    assert 'filename="a_repaired.jpg"' in answer.headers["content-disposition"]
    # A proxy refuses an answer whose headers are longer than some kilobytes.
    long = client.post("/api/v1/repair", files={**files, "image": ("photo" * 700 + ".jpg", *files["image"][1:])})
    assert long.status_code == 200 and len(long.headers["content-disposition"]) < 500
    assert Image.open(io.BytesIO(answer.content)).size == (64, 48)
    as_file = ("options", ("blob", json.dumps({"dilate_px": "x"}).encode(), "application/json"))  # FormData of a Blob
    refused = client.post("/api/v1/repair", files=[*files.items(), as_file])
    assert "dilate_px is 'x'" in refused.json()["message"]
    failed = client.post("/api/v1/repair", files=files, data={"options": json.dumps({"dilate_px": FAIL})})
    assert failed.status_code == 500 and failed.json()["error"] == "server_error"


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    def counters() -> dict[str, float]:
        answer = client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        lines = (line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    image_id = upload(client, PHOTO)["image_id"]
    before = counters()
    assert follow(client, ask_repair(client, image_id))["state"] == "done"
    assert follow(client, ask_repair(client, image_id, dilate_px=FAIL))["state"] == "failed"
    after = counters()
    for name in ('fftlama_jobs_total{state="done"}', 'fftlama_jobs_total{state="failed"}'):
        assert after[name] == before[name] + 1
    predicted = 'fftlama_stage_seconds_count{stage="predict"}'
    assert after[predicted] == before.get(predicted, 0) + 1
    assert after['fftlama_failures_total{error="server_error"}'] >= 1
    assert (
        after['fftlama_wait_seconds_count{kind="interactive"}']
        == before['fftlama_wait_seconds_count{kind="interactive"}'] + 1
    )
    assert after["fftlama_batch_size_count"] == before["fftlama_batch_size_count"] + 2
    assert after['fftlama_queue_length{kind="interactive"}'] == after['fftlama_queue_length{kind="batch"}'] == 0
    assert after['fftlama_device_memory_bytes{device="fake",worker="device-0"}'] == 12.5 * (1 << 20)
    assert after['fftlama_workers{state="idle"}'] == 1 and after['fftlama_waiting_for{obstacle="storage"}'] == 0


def test_health_says_what_runs(client: httpx.Client, api_server: RunningServer) -> None:
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["device"] == "fake" and health["profile_reason"]
    assert api_server.process is not None and health["pid"] == api_server.process.pid
    assert {"version", "precision", "weights", "uptime_s", "queue_length"} <= set(health)


def test_waiting_for_not_a_number_of_seconds_is_no_waiting(client: httpx.Client) -> None:
    """A limit that no time compares with would never be over, and its thread would never rest."""
    job = follow(client, ask_repair(client, upload(client, PHOTO)["image_id"]), until="saved")
    query = {"wait_s": "nan", "seen": job["version"]}
    assert client.get(f"/api/v1/jobs/{job['job_id']}", params=query, timeout=5).json() == job


def test_head_tells_what_get_would(client: httpx.Client) -> None:
    """Monitors and download managers ask this way."""
    address = f"/api/v1/images/{upload(client, PHOTO)['image_id']}"
    for path in ("/health", "/api/v1/models", address, f"{address}?max_px=20"):
        head, get = client.head(path), client.get(path)
        assert head.status_code == get.status_code == 200, path
        assert head.content == b""
        assert head.headers["content-type"] == get.headers["content-type"]
    assert client.head("/api/v1/repair").status_code == 405


def test_a_repair_that_was_taken_is_not_refused_for_a_look_at_its_end() -> None:
    def view(*_: object, **__: object) -> None:
        raise JobError("storage_unavailable", "The disk does not answer.")

    queue: Any = SimpleNamespace(view=view)
    assert _ended_at_once(queue, "job", 0.1) == {}


def test_spots_of_large_photos_are_kept_up_to_a_limit() -> None:
    searches = SearchCache()
    for number in range(8):
        found = FoundSpots((4000, 4000), np.zeros(4_000_000, np.uint32), np.zeros(4_000_000, np.uint8))
        searches.keep("spots", str(number), None, found)
    assert sum(searches.get("spots", str(number), None) is not None for number in range(8)) == KEPT_BYTES // 20_000_000
    assert searches.get("spots", "7", None) is not None
