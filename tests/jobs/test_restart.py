"""A server that is killed, started again, or runs out of disk: real processes, nothing lost."""

import io
import resource
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.support.serving import RunningServer, ask_repair, follow, upload


def noise_png(height: int = 48, width: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_kill_9_loses_nothing(start_server: Callable[..., RunningServer]) -> None:
    """What was done is served, what ran is run again once, what waited keeps its order."""
    server = start_server(kind="api")
    with server.client as client:
        image_id = upload(client, noise_png())["image_id"]
        done = follow(client, ask_repair(client, image_id), until="saved")
        patch = client.get(done["patch"]["url"]).content
        photo = client.get(f"/api/v1/images/{done['image_id']}").content
        running = ask_repair(client, image_id, "the running one", feather_px=300)
        follow(client, running, until="running")
        waiting = [ask_repair(client, image_id) for _ in range(2)]
    server.kill()
    server.start()
    with server.client as client:
        assert client.get(f"/api/v1/jobs/{done['job_id']}").json() == done
        assert client.get(done["patch"]["url"]).content == patch
        assert client.get(f"/api/v1/images/{done['image_id']}").content == photo
        assert ask_repair(client, image_id, "the running one", feather_px=300) == running, "a retry after the crash"
        follow(client, running, until="running")
        assert [client.get(f"/api/v1/jobs/{job}").json()["position"] for job in waiting] == [1, 2]
        server.kill()
        server.start()
        interrupted = follow(client, running)
        assert interrupted["state"] == "failed" and interrupted["error"]["error"] == "interrupted"
        assert [follow(client, job, until="saved")["state"] for job in waiting] == ["done"] * 2
    assert len(list(server.outputs_dir.iterdir())) == 3
    assert not list(server.folder.rglob("*.part"))


def test_stopping_gives_a_running_job_back_and_ends_with_0(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(kind="api")
    with server.client as client:
        job = ask_repair(client, upload(client, noise_png())["image_id"], feather_px=1000)
        follow(client, job, until="running")
    assert server.stop() == 0
    server.settings["job_timeout_s"] = 1
    server.start()
    with server.client as client:
        view = follow(client, job, limit_s=8.0)
        assert view["error"]["error"] == "timed_out", "it was run again, and it is still too slow"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process's files")
def test_a_full_disk_is_said_and_nothing_is_lost(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(kind="api")
    assert server.process is not None
    whole_limit = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    with server.client as client:
        image_id = upload(client, noise_png())["image_id"]
        done = follow(client, ask_repair(client, image_id), until="saved")
        running = ask_repair(client, image_id, feather_px=60)
        follow(client, running, until="running")
        # No file may grow: every write fails, as it does on a full disk.
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, whole_limit[1]))
        before = sorted(path.name for path in server.data_dir.rglob("*"))
        refused = client.post("/api/v1/images", files={"file": ("a.png", noise_png())})
        assert (refused.status_code, refused.json()["error"]) == (507, "disk_full"), refused.text
        large = client.post("/api/v1/images", files={"file": ("a.png", noise_png(900, 900))})
        assert (large.status_code, large.json()["error"]) == (507, "disk_full"), "while it is spooled"
        body = {"image_id": image_id, "request_id": "x", "strokes": [{"points": [[9, 9]], "radius": 3, "erase": False}]}
        repair = client.post("/api/v1/repairs", json=body)
        assert (repair.status_code, repair.json()["error"]) == (507, "disk_full"), repair.text
        failed = follow(client, running)
        assert failed["state"] == "failed" and failed["error"]["error"] == "disk_full"
        assert client.get(f"/api/v1/jobs/{done['job_id']}").json() == done
        assert client.get(done["patch"]["url"]).status_code == 200
        assert client.get("/health").status_code == 200
        assert sorted(path.name for path in server.data_dir.rglob("*")) == before, "nothing half-written"
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, whole_limit)
        assert follow(client, ask_repair(client, image_id), until="saved")["state"] == "done"
        assert client.post("/api/v1/repairs", json=body).status_code == 202


def test_a_result_that_cannot_be_saved_is_still_served(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(kind="api")
    server.outputs_dir.write_text("a file stands where the folder should be")
    with server.client as client:
        view = follow(client, ask_repair(client, upload(client, noise_png())["image_id"]))
        while not view["notes"]:
            view = client.get(f"/api/v1/jobs/{view['job_id']}?wait_s=5&seen={view['version']}").json()
        assert view["state"] == "done" and view["saved"] is None
        assert [note["code"] for note in view["notes"]] == ["not_saved"]
        assert client.get(f"/api/v1/images/{view['image_id']}").status_code == 200


def test_old_photos_are_cleaned_away_while_the_server_idles(start_server: Callable[..., RunningServer]) -> None:
    """Settings reach the clean-up; 64 MiB is the smallest size that may be set."""
    server = start_server(kind="api", keep_mib=64)
    photo = io.BytesIO()
    Image.new("RGB", (3000, 2700)).save(photo, "BMP")  # 23.2 MiB
    with server.client as client:
        ids = [upload(client, photo.getvalue(), "a.bmp")["image_id"] for _ in range(3)]
    server.stop()
    server.start()
    with server.client as client:
        until_s = time.monotonic() + 10
        statuses = [200]
        while statuses[0] == 200 and time.monotonic() < until_s:
            statuses = [client.get(f"/api/v1/images/{image_id}/info").status_code for image_id in reversed(ids)][::-1]
        assert statuses == [404, 200, 200], "the oldest goes first"
