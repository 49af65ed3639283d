"""apply_optimization.sh --celery with the whole program: real Redis, real worker, a repair, and the way back."""

import io
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.imaging_files import DATA
from tests.support.original_folders import state_of, training_checkpoint
from tests.support.redis_server import RedisServer
from tests.support.serving import clean_environment, free_port

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {"tests", "training", "bench", "docs", "examples"}
LIMIT_S = 300
# The included weights, which an upgrade takes along and sums up several times; the folder's own are those that repair.
INCLUDED, LARGE = Path("weights/lama-compact.safetensors"), ("*.pt", "*.ckpt", "*.safetensors", "*.difference")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A copy of this program with an environment of its own that borrows the libraries."""
    root = tmp_path / "from 源"
    root.mkdir()
    for path in ROOT.iterdir():
        is_room = (path / "__init__.py").is_file() and path.name not in OUTSIDE
        if path.is_file() and not path.name.startswith((".", "fftlama.")):
            shutil.copy2(path, root / path.name)
        elif is_room or path.name in ("scripts", "weights"):
            shutil.copytree(path, root / path.name, ignore=shutil.ignore_patterns("__pycache__", *LARGE))
    (root / INCLUDED).write_bytes(b"in their place")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    (packages,) = (root / ".venv" / "lib").glob("python3*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return root


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()


def upgrade(program: Path, folder: Path, *arguments: str, **variables: str) -> str:
    """Run the script to its end and return what it says."""
    done = subprocess.run(
        ["bash", str(program / "apply_optimization.sh"), str(folder), *arguments],
        env={**clean_environment(), "VIRTUAL_ENV": str(program / ".venv"), "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_upgraded_folder_repairs_on_a_worker_and_goes_back(
    program: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    folder, port = tmp_path / "old app's 旧", free_port()
    training_checkpoint(folder / "best.ckpt")
    (folder / "app.py").write_text(f'demo.launch(server_name="127.0.0.1", server_port={port})\n')
    (folder / "start_app.sh").write_text("#!/bin/bash\nnohup python app.py > app.log 2>&1 &\n")
    (folder / "stop_app.sh").write_text("#!/bin/bash\npkill -f the-old-app-of-this-test\n")
    (folder / "outputs").mkdir()
    before = state_of(folder)

    said = upgrade(program, folder, "--celery", REDIS_URL=redis_server.url)
    worker_command = [str(folder / "fftlama" / ".venv" / "bin" / "fftlama"), "worker", "--redis", redis_server.url]
    assert (folder / "fftlama" / INCLUDED).read_bytes() == (program / INCLUDED).read_bytes()
    told = next(line.partition(": ")[2] for line in said.splitlines() if line.startswith("Start a worker"))
    assert shlex.split(told) == worker_command, "it says how a worker is started, in words that a shell takes"
    worker: subprocess.Popen[bytes] | None = None
    try:
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S, trust_env=False)
        assert client.get("/ready").status_code == 503, "there is no worker yet"
        with (tmp_path / "worker.log").open("wb") as log:
            environment = {**clean_environment(), "OMP_NUM_THREADS": "1"}
            worker = subprocess.Popen(worker_command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        until_s = time.monotonic() + LIMIT_S
        while client.get("/ready").status_code != 200:
            assert worker.poll() is None and time.monotonic() < until_s, (tmp_path / "worker.log").read_text()
            time.sleep(0.2)
        photo = (DATA / "pier.jpg").read_bytes()
        width, height = Image.open(io.BytesIO(photo)).size
        mask = np.zeros((height, width), np.uint8)
        mask[40:80, 60:110] = 255
        hole = io.BytesIO()
        Image.fromarray(mask).save(hole, "PNG")
        files = {"image": ("beach.jpg", photo), "mask": ("mask.png", hole.getvalue())}
        answer = client.post("/api/v1/repair", files=files)
        assert answer.status_code == 200, answer.text
        repaired = Image.open(io.BytesIO(answer.content))
        assert (repaired.format, repaired.size) == ("JPEG", (width, height)) and answer.content != photo
        assert client.get("/health").json()["weights"] == "best"
        again = upgrade(program, folder, "--celery", REDIS_URL=redis_server.url)
        assert "nothing to change" in again
        upgrade(program, folder, "--revert")
        with pytest.raises(httpx.TransportError):
            client.get("/health")
    finally:
        subprocess.run(["bash", "stop_app.sh"], cwd=folder, capture_output=True)
        if worker is not None:
            worker.terminate()
            assert worker.wait(60) == 0
    assert {name: state for name, state in state_of(folder).items() if not name.startswith("outputs/")} == before
