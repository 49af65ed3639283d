"""How three downloaders cope with servers that stall, cut, lie and redirect: ours, huggingface_hub's and PyTorch's.

    HF_HUB_DOWNLOAD_TIMEOUT=1 python bench/downloads.py [--out FOLDER]

Each is asked for one file from the misbehaving mirror of the tests (on this machine, nothing else is reached), from
nothing and with a beginning that an earlier download left. Written down is what lies there afterwards and what a person
is told. Prints a table and one JSON line, and writes them to FOLDER/downloads.md.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "1")  # read when huggingface_hub is imported
os.environ["no_proxy"] = "*"

import huggingface_hub  # noqa: E402
import torch  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from huggingface_hub.file_download import http_get  # noqa: E402

from lama.catalogue import Weights, fetch  # noqa: E402
from lama.transfer import Patience  # noqa: E402
from tests.support.misbehaving_mirror import CONTENT, SHA256, running_mirror  # noqa: E402

LIMIT_S = 15.0
STALL_S = 1.0
CHUNK_BYTES = 16 * 1024  # huggingface_hub has 10 MB, keeps whole ones only, and the mirror's file is smaller
PATIENCE = Patience(
    stall_s=STALL_S, slowest_bytes_s=5000, tries_without_progress=2, least_progress_bytes=1000, pause_s=0.1
)
WORDS = {
    "cuts": "cuts the connection every 100 kB",
    "busy": "answers 503 once",
    "no_length": "gives no length",
    "ignores_range": "ignores Range",
    "changed_since": "has another file than before the cut",
    "wrong_part": "sends another part than asked for",
    "trickles": "sends 50 bytes a second",
    "stalls": "stops in the middle",
    "web_page": "sends a login page",
    "wrong_bytes": "sends another file of that length",
    "endless": "sends more than the file",
    "missing": "answers 404",
}
Downloader = Callable[[str, Path], None]


def ours(url: str, target: Path) -> None:
    fetch(Weights("file", target.name, SHA256, len(CONTENT), (url,), ""), folder=target.parent, patience=PATIENCE)


def hub(url: str, target: Path) -> None:
    """huggingface_hub's transfer, with the part, the checksum and the name around it that it leaves to its caller."""
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    part = target.with_name(f"{target.name}.part")
    with part.open("ab") as file:
        http_get(url, file, resume_size=file.tell(), expected_size=len(CONTENT))
    if hashlib.sha256(part.read_bytes()).hexdigest() != SHA256:
        part.unlink()
        raise ValueError("sha256 differs")
    part.rename(target)


def torch_hub(url: str, target: Path) -> None:
    torch.hub.download_url_to_file(url, str(target), hash_prefix=SHA256, progress=False)


DOWNLOADERS: dict[str, Downloader] = {"lama/transfer.py": ours, "huggingface_hub": hub, "torch.hub": torch_hub}


def attempt(download: Downloader, behaviour: str) -> tuple[str, str]:
    """Return what came of one download, and what was said."""
    folder = Path(tempfile.mkdtemp())
    said: list[str] = []

    def run() -> None:
        try:
            download(f"{mirror.url}/{behaviour}/weights.bin", folder / "weights.bin")
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}".splitlines()[0])

    with running_mirror() as mirror:
        thread = threading.Thread(target=run, daemon=True)
        began_s = time.monotonic()
        thread.start()
        thread.join(LIMIT_S)
        is_running, took_s = thread.is_alive(), time.monotonic() - began_s
        ranges = [asked for asked in mirror.ranges() if asked]
    target = folder / "weights.bin"
    if is_running:
        outcome = f"still waiting after {LIMIT_S:.0f} s"
    elif target.exists():
        outcome = "right file" if target.read_bytes() == CONTENT else "wrong file"
        outcome += ", went on where it was" if ranges and outcome == "right file" else ""
    else:
        outcome = f"nothing, {took_s:.0f} s"
    shutil.rmtree(folder, ignore_errors=True)
    return outcome, said[0].replace(str(folder), "FOLDER").replace(mirror.url, "URL") if said else ""


def main() -> int:
    """Try all, print and write, and return the exit code: 1 where ours leaves a wrong file or waits for ever."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    folder = parser.parse_args().out
    rows = {behaviour: {name: attempt(one, behaviour) for name, one in DOWNLOADERS.items()} for behaviour in WORDS}
    report = {"huggingface_hub": huggingface_hub.__version__, "torch": torch.__version__, "rows": rows}
    lines = [
        "# Three downloaders and servers that misbehave",
        "",
        f"`python bench/downloads.py`; huggingface_hub {huggingface_hub.__version__} (`http_get`, limit 1 s, chunks "
        f"of 16 KiB), PyTorch {torch.__version__} (`torch.hub.download_url_to_file`), ours with {STALL_S:g} s for a "
        "stall. All check the sha256.",
        "",
        f"| the server | {' | '.join(DOWNLOADERS)} |",
        f"|---|{'---|' * len(DOWNLOADERS)}",
        *(
            f"| {WORDS[behaviour]} | {' | '.join(outcome for outcome, _ in cells.values())} |"
            for behaviour, cells in rows.items()
        ),
        "",
        json.dumps(report, ensure_ascii=False),
        "",
    ]
    text = "\n".join(lines)
    print(text)
    (folder / "downloads.md").write_text(text, encoding="utf-8")
    own = [cells["lama/transfer.py"][0] for cells in rows.values()]
    return 1 if any(outcome.startswith(("wrong", "still")) for outcome in own) else 0


if __name__ == "__main__":
    sys.exit(main())
