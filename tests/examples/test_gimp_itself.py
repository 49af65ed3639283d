"""The GIMP plug-in in GIMP 3 itself, against a real server; skipped where there is no GIMP 3.

The command is `gimp-console-3.0`, or what the variable GIMP_CONSOLE says: a GIMP that sees this machine's files under
their own paths and its loopback address.
"""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.serving import ROOT, RunningServer

SESSION = ROOT / "tests" / "support" / "gimp_session.py"
COMMAND = shlex.split(os.environ.get("GIMP_CONSOLE", "gimp-console-3.0"))
SIZE = (120, 160)
PATIENCE_S = 300
pytestmark = pytest.mark.skipif(
    shutil.which(COMMAND[0]) is None, reason=f"there is no GIMP 3 here: {COMMAND[0]} is not found"
)


@pytest.fixture(scope="module")
def told(api_server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a session in GIMP says; its bytes lie in `told["folder"]`."""
    folder = tmp_path_factory.mktemp("gimp")
    (folder / "config" / "plug-ins").mkdir(parents=True)
    # As examples/README.md says, by a link; and a copy of what it leads to, which a GIMP in a sandbox can follow.
    shutil.copytree(ROOT / "examples" / "gimp" / "fftlama", folder / "plugin")
    (folder / "config" / "plug-ins" / "fftlama").symlink_to(folder / "plugin")
    shutil.copy(SESSION, folder / "session.py")
    pixels = np.random.default_rng(7).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    environment = {
        **os.environ, "HOME": str(folder), "GIMP3_DIRECTORY": str(folder / "config"), "LANG": "C.UTF-8",
        "FFTLAMA_GIMP_FOLDER": str(folder), "FFTLAMA_GIMP_SERVER": api_server.url,
    }  # fmt: skip
    code = f"exec(compile(open({str(folder / 'session.py')!r}).read(), 'session.py', 'exec'))"
    words = [*COMMAND, "-i", "--quit", "--batch-interpreter", "python-fu-eval", "-b", code]
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    result = folder / "told.json"
    assert result.exists(), ran.stdout + ran.stderr
    return {"folder": folder, **json.loads(result.read_text())}


@pytest.mark.parametrize(
    ("case", "bytes_per_pixel"),
    [("plain", 3), ("alpha", 4), ("grey", 1), ("sixteen", 6), ("profile", 3), ("group", 3), ("beside", 3), ("soft", 3)],
)
def test_only_what_is_selected_changes_on_a_layer_above(told: dict[str, Any], case: str, bytes_per_pixel: int) -> None:
    """Values were converted on the way, by up to 4 of 255, where the image had a colour profile of its own."""
    row = told["rows"][case]
    offset = [-30, 25] if case == "beside" else [0, 0]
    name = "Background copy (erased)" if case == "group" else "Background (erased)"
    assert row == {
        "outcome": ["success", "success"], "name": name, "offset": offset, "bytes_per_pixel": bytes_per_pixel,
    }  # fmt: skip
    files = [Path(told["folder"]) / f"{case}-{when}.bin" for when in ("before", "after")]
    before, after = (np.frombuffer(file.read_bytes(), np.uint8).reshape(*SIZE, bytes_per_pixel) for file in files)
    rows, columns = np.nonzero((before != after).any(axis=2))
    inside = np.s_[34 - offset[1] : 66 - offset[1], 44 - offset[0] : 86 - offset[0]]
    changed = (before != after).any(axis=2)
    assert changed[inside].mean() > 0.9
    ring = 32  # pixels that dilation adds at most
    assert rows.min() + offset[1] >= 30 - ring and rows.max() + offset[1] < 70 + ring
    assert columns.min() + offset[0] >= 40 - ring and columns.max() + offset[0] < 90 + ring


@pytest.mark.parametrize(
    ("case", "words"),
    [("nothing", "Nothing is selected"), ("mask", "a layer"), ("two", "one layer"), ("nobody", "No server answers"),
     ("server", "refused (422)")],
)  # fmt: skip
def test_what_does_not_work_is_a_sentence_and_adds_no_layer(told: dict[str, Any], case: str, words: str) -> None:
    status, sentence, added = told["refusals"][case]
    assert (status, added) == ("execution-error", "0") and words in sentence and "Traceback" not in sentence
