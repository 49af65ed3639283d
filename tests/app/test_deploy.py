"""The container, compose file, systemd units and nginx example: what can be tried without a daemon is."""

import configparser
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app import EXIT_PORT, EXIT_SETTINGS
from config import ENVIRONMENT_PREFIX, Settings, load_settings
from tests.support.certificate import make_certificate
from tests.support.page_driver import DATA
from tests.support.reverse_proxy import find_nginx, run_nginx
from tests.support.serving import RunningServer, ask_repair, follow, free_port
from tests.test_rooms import ROOMS, ROOT_FILES

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "deploy").glob("*.service"))
INSTALLED = "/opt/fftlama"


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def files_of_the_image() -> list[str]:
    """The files of this checkout that `.dockerignore` lets into the image: the last line that fits decides."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in text_of(".dockerignore").splitlines() if line and not line.startswith("#")]
    chosen = []
    for name in listed.stdout.splitlines():
        is_in = True
        for line in lines:
            pattern = line.removeprefix("!")
            # A star does not reach into folders, but a folder that fits takes all it holds along.
            parts = name.split("/")
            heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
            if any(pattern.count("/") == head.count("/") and fnmatch.fnmatchcase(head, pattern) for head in heads):
                is_in = line.startswith("!")
        if is_in and (ROOT / name).is_file():
            chosen.append(name)
    return chosen


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text_of("Dockerfile"), flags=re.MULTILINE))
    return [(line.split()[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def settings_of(names: Iterator[str] | list[str]) -> set[str]:
    return {name.removeprefix(ENVIRONMENT_PREFIX).lower() for name in names if name.startswith(ENVIRONMENT_PREFIX)}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the image holds under /opt/fftlama."""
    folder = tmp_path_factory.mktemp("image")
    for name in files_of_the_image():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def test_image_holds_the_program_and_nothing_else() -> None:
    names = set(files_of_the_image())
    program = {f"{name}.py" for name in ROOT_FILES}
    program |= {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for kind in ("*.py", "*.cu", "*.cuh")
        for path in (ROOT / room).rglob(kind)
    }
    program |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "web").rglob("*") if path.is_file()}
    program = {name for name in program if "__pycache__" not in name}
    assert program - names == set()
    assert {"weights/lama-compact.safetensors", "hardware_profiles.yaml", "pyproject.toml", "LICENSE"} <= names
    others = {name.split("/")[0] for name in names} - ROOMS - {"scripts", "weights"}
    assert all("/" not in name for name in others)
    assert not {name for name in names if name.startswith(("tests/", "bench/", "training/", "docs/", ".", "deploy/"))}


def test_image_is_sound(image: Path) -> None:
    """It runs as nobody in particular, checks its health, and each COPY names something that is there."""
    found = instructions()
    kinds = [kind for kind, _ in found]
    assert [argument for kind, argument in found if kind == "USER"][-1] == "10001:10001"
    assert kinds.index("USER") > max(n for n, kind in enumerate(kinds) if kind in ("RUN", "COPY"))
    assert kinds.count("HEALTHCHECK") == kinds.count("CMD") == 1 and "ADD" not in kinds
    for kind, argument in found:
        if kind == "COPY":
            assert all((image / source).exists() for source in argument.split()[:-1]), argument
    environment = dict(re.findall(r"(\w+)=(\S+)", next(argument for kind, argument in found if kind == "ENV")))
    assert settings_of(list(environment)) and load_settings({}, environ=environment).host == "0.0.0.0"
    volumes = json.loads(next(argument for kind, argument in found if kind == "VOLUME"))
    for name in ("FFTLAMA_DATA_DIR", "FFTLAMA_OUTPUTS_DIR", "TRITON_CACHE_DIR"):
        assert any(environment[name].startswith(f"{volume}/") for volume in volumes), name


def test_compose_file_has_a_closed_redis_a_server_and_two_workers() -> None:
    content = yaml.safe_load(text_of("compose.yaml"))
    services: dict[str, Any] = content["services"]
    assert set(services) == {"redis", "web", "worker-1", "worker-2"}
    assert "ports" not in services["redis"] and "--requirepass" in services["redis"]["command"]
    assert services["web"]["ports"] == ["127.0.0.1:7860:7860"]
    assert all(isinstance(word, str) for word in services["redis"]["command"])
    for name, service in services.items():
        used = {volume.split(":")[0] for volume in service.get("volumes", ())}
        assert used <= set(content["volumes"])
        if name == "redis":
            continue
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["depends_on"]["redis"]
        environment = {key: _substituted(value) for key, value in service["environment"].items()}
        assert settings_of(list(environment)) <= set(Settings.model_fields)
        settings = load_settings({}, environ=environment)
        assert settings.redis_url == "redis://:secret@redis:6379/0"
        assert (settings.queue == "celery") == (name == "web")
    assert services["worker-1"]["command"][:3] == ["python", "-m", "cli.main"]
    laid_over = yaml.safe_load(text_of("deploy/compose.gpu.yaml"))["services"]
    assert set(laid_over) == {"worker-1", "worker-2"}
    devices = [service["deploy"]["resources"]["reservations"]["devices"][0] for service in laid_over.values()]
    assert [device["device_ids"] for device in devices] == [["0"], ["1"]]


def _substituted(value: str) -> str:
    return re.sub(r"\$\{REDIS_PASSWORD:\?[^}]*\}", "secret", value)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_start_what_is_there_and_leave_alone_what_cannot_start(unit: Path, tmp_path: Path) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit, encoding="utf-8")
    service = parser["Service"]
    program, *arguments = service["ExecStart"].split()
    assert program == f"{INSTALLED}/.venv/bin/python"
    if arguments[0] == "-m":
        assert (ROOT / f"{arguments[1].replace('.', '/')}.py").is_file()
        assert service["RestartPreventExitStatus"] == "2"
    else:
        assert (ROOT / arguments[0].removeprefix(f"{INSTALLED}/")).is_file()
        assert service["RestartPreventExitStatus"].split() == [str(EXIT_SETTINGS), str(EXIT_PORT)]
    given = re.findall(r"(FFTLAMA_\w+)=", unit.read_text(encoding="utf-8"))
    assert settings_of([name for name in given if name != "FFTLAMA_NAME"]) <= set(Settings.model_fields)
    assert service["User"] == "fftlama" and service["ProtectSystem"] == "strict"
    documentation = parser["Unit"]["Documentation"].removeprefix(f"file://{INSTALLED}/")
    assert (ROOT / documentation).is_file()
    if shutil.which("systemd-analyze"):
        # It wants the program to be there; this Python stands in for the one in /opt.
        text = unit.read_text(encoding="utf-8").replace(
            f"{INSTALLED}/.venv/bin/python", os.path.realpath(sys.executable)
        )
        copy = tmp_path / unit.name.replace("@", "@0")
        copy.write_text(text, encoding="utf-8")
        ended = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True)
        own = [line for line in (ended.stdout + ended.stderr).splitlines() if unit.stem.split("@")[0] in line]
        assert [line for line in own if "Unknown" in line or "Failed to parse" in line or "ignoring" in line] == []


def test_nginx_example_serves_the_sub_path(tmp_path: Path) -> None:
    text = text_of("deploy/nginx.conf")
    waits_s = int(re.findall(r"proxy_read_timeout (\d+)s;", text)[0])
    assert waits_s > Settings().job_timeout_s, "nginx gave one-shots up after 90 s"
    root_path = re.findall(r"root_path: (\S+) ", text)[0]
    server = RunningServer(
        tmp_path / "server", settings={"root_path": root_path, "allowed_hosts": "photos.example.org"}
    )
    server.start()
    certificate, port = make_certificate(tmp_path / "site.pem"), free_port()
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl").replace(
        "127.0.0.1:7860", f"127.0.0.1:{server.port}"
    )
    text = re.sub(r"/etc/ssl/\S+\.(?:pem|key)", str(certificate), text)
    assert find_nginx()
    process = run_nginx(tmp_path / "nginx", text, port=port)
    try:
        origin = f"https://127.0.0.1:{port}"
        name = {"Host": "photos.example.org"}
        with httpx.Client(base_url=origin + root_path, verify=False, headers=name, timeout=30.0) as client:
            assert client.get("/health").status_code == 200
            assert client.get(f"{origin}{root_path}").headers["location"] == f"{root_path}/"
            photo = (DATA / "pier.jpg").read_bytes() + b"\0" * (3 << 20)  # more than nginx takes unless it is told
            image_id = client.post("/api/v1/images", files={"file": ("a.jpg", photo)}).json()["image_id"]
            job_id = ask_repair(client, image_id)
            patch = follow(client, job_id)["patch"]["url"]
            assert client.get(origin + patch).status_code == 200
            headers = {"Origin": "https://photos.example.org", "Sec-Fetch-Site": "same-origin"}
            assert client.delete(f"/api/v1/jobs/{job_id}", headers=headers).status_code == 202
    finally:
        process.kill()
        process.wait()
        server.kill()
