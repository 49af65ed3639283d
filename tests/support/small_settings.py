"""Stand-ins for config.py and requirements.lock in the small copies of the program that the scripts are tried in.

Every start and every upgrade asks config.py twice, and to import what it is made of takes a quarter of a second each
time; to look up a hundred libraries takes half of that. Those tests that are about settings or libraries have the
program's own.
"""

SMALL_SETTINGS = """
import os
from pathlib import Path
from types import SimpleNamespace

DEFAULTS = {"host": "127.0.0.1", "port": "7860", "outputs_dir": "outputs", "profile": "auto", "weights": ""}

class SettingsError(ValueError):
    pass

def load_settings(arguments=None, environ=os.environ, file=Path(__file__).with_name("fftlama.yaml")):
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    pairs = [line.split(": ", 1) for line in lines if line and not line.startswith("#")]
    values = {name: text.strip("'") for name, text in pairs}
    values |= {name: environ[name.upper()] for name in ("host", "port") if name.upper() in environ}
    settings = SimpleNamespace(**{**DEFAULTS, **values})
    settings.port = int(settings.port)
    settings.outputs_dir = Path(__file__).resolve().parent / settings.outputs_dir
    return settings
"""
SMALL_LOCK_NAMES = ("numpy==", "pillow==", "pyyaml==")


def small_lock(lock: str) -> str:
    """Return the lines of a few libraries, from the text of requirements.lock."""
    return "".join(line for line in lock.splitlines(keepends=True) if line.startswith(SMALL_LOCK_NAMES))
