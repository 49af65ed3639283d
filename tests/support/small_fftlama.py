"""A small fftlama to upgrade folders from: the real scripts, and a program of some lines."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.serving import ROOT, clean_environment
from tests.support.small_settings import SMALL_SETTINGS, small_lock

ADDED = ("fftlama", ".fftlama-upgrade")
# Answers /health as the program does, and says which settings it read, but loads no model.
SMALL_APP = """
import http.server, json, os
from config import load_settings

settings = load_settings()

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        health = {"pid": os.getpid(), "device": "cpu", "precision": "fp32", "profile": settings.profile,
                  "profile_reason": "", "weights": settings.weights}
        self.wfile.write(json.dumps(health).encode())

http.server.HTTPServer((settings.host, settings.port), Health).serve_forever()
"""
SMALL_CLI = """
def main():
    print("card        CPU")
    print("profile     cpu")
    print("why         No CUDA card is in use; it's a CPU.")
    return 0
"""


class Checkout:
    """A small fftlama to upgrade from; runs its script on a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def environment(self) -> dict[str, str]:
        """Of a person in this checkout's environment, so that no other Python is asked first, which takes seconds."""
        return {**clean_environment(), "VIRTUAL_ENV": str(self.root / ".venv")}

    def command(self, folder: Path, *arguments: str) -> list[str]:
        return ["bash", str(self.root / "apply_optimization.sh"), str(folder), *arguments]

    def run(self, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the script to its end; stdout holds both outputs."""
        return subprocess.run(
            self.command(folder, *arguments),
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )


def make_checkout(root: Path, *, is_quick: bool) -> Checkout:
    """Make one with an environment of its own that borrows the libraries.

    Args:
        root: where.
        is_quick: with stand-ins of config.py and requirements.lock, not with the program's own.

    Returns:
        the checkout.
    """
    root.mkdir()
    for name in ("apply_optimization.sh", "start_app.sh", "stop_app.sh", "config.py", "requirements.lock"):
        shutil.copy2(ROOT / name, root / name)
    shutil.copy2(ROOT / "hardware_profiles.yaml", root / "hardware_profiles.yaml")
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    if is_quick:
        (root / "config.py").write_text(SMALL_SETTINGS)
        lock = root / "requirements.lock"
        lock.write_text(small_lock(lock.read_text(encoding="utf-8")), encoding="utf-8")
    (root / "app.py").write_text(SMALL_APP)
    (root / "cli").mkdir()
    (root / "cli" / "__init__.py").write_text("")
    (root / "cli" / "main.py").write_text(SMALL_CLI)
    (root / "fftlama.yaml").write_text("port: 1\n")  # the settings of this copy are not the folder's
    (root / "tests").mkdir()
    (root / "tests" / "__init__.py").write_text("")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    (packages,) = (root / ".venv" / "lib").glob("python3*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Checkout(root)


def without_added(state: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in state.items() if not name.split("/")[0].startswith(ADDED)}
