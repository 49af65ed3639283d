"""Folders as users of cv_fft_inpainting_lama have them, in three shapes, and the state of every file in a folder."""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.networks import live_generator

OLD_APP = """import http.server
import gradio_like_settings
demo = "the old app"
# demo.launch(server_name="0.0.0.0", server_port=7860)
"""
OLD_START = "#!/bin/bash\ncd $(dirname $0)\nnohup python app.py > app.log 2>&1 &\necho started\n"
OLD_STOP = "#!/bin/bash\npkill -f the-old-app-of-this-test\n"


def training_checkpoint(path: Path, *, seed: int = 0) -> None:
    """Write a small LaMa training checkpoint: the generator with its prefix, and a discriminator to ignore."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"generator.{name}": tensor for name, tensor in live_generator(8, 1, seed=seed).state_dict().items()}
    state["discriminator.model0.0.weight"] = torch.zeros(4, 3, 4, 4)
    torch.save({"state_dict": state, "epoch": 3}, path)


def flat_folder(folder: Path) -> None:
    """Everything in one folder; weights beside the scripts; results in outputs/."""
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(OLD_APP)
    (folder / "start_app.sh").write_text(OLD_START)
    (folder / "stop_app.sh").write_text(OLD_STOP)
    (folder / "start_app.sh").chmod(0o755)
    training_checkpoint(folder / "best.ckpt")
    (folder / "outputs").mkdir()
    (folder / "outputs" / "outputs_20250101010101.png").write_bytes(b"\x89PNG an old result")
    (folder / "启动.md").write_text("怎么启动\n", encoding="utf-8")


def nested_folder(folder: Path) -> None:
    """config.py and configs/ hold the address; weights deep in models/, beside a larger file of another network."""
    folder.mkdir(parents=True)
    (folder / "app.py").write_bytes(b"from config import PORT\r\nprint(PORT)\r\n")
    (folder / "start_app.sh").write_text(f"#!/bin/bash\n{sys.executable}.missing/bin/python app.py\n")
    (folder / "stop_app.sh").write_text(OLD_STOP)
    (folder / "config.py").write_text('SERVER_NAME = "127.0.0.1"\nSERVER_PORT = 7861\n')
    (folder / "configs").mkdir()
    (folder / "configs" / "prediction.yaml").write_text("model:\n  path: models/big-lama\n")
    training_checkpoint(folder / "models" / "big-lama" / "模型 v1" / "best.ckpt", seed=1)
    torch.save({"features.0.weight": torch.zeros(300, 1000)}, folder / "models" / "vgg.pth")
    (folder / "outputs").mkdir()
    (folder / "outputs" / "empty").mkdir()


def cluttered_folder(folder: Path) -> None:
    """Folders with our rooms' names, a script that is a link, read-only files, weights behind a link, no outputs/."""
    folder.mkdir(parents=True)
    for name in ("lama", "web", "scripts", "weights"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"mine = {name!r}\n")
    (folder / "app.py").write_text(OLD_APP.replace("7860", "8123"))
    (folder / "scripts" / "start.sh").write_text("#!/bin/sh\npython app.py\n")
    (folder / "start_app.sh").symlink_to("scripts/start.sh")
    (folder / "stop_app.sh").write_text(OLD_STOP)
    (folder / "stop_app.sh").chmod(0o444)
    elsewhere = folder.parent / "weights of all"
    elsewhere.mkdir()
    save_file(live_generator(8, 1, seed=2).state_dict(), elsewhere / "it's lama.safetensors")
    (folder / "weights" / "shared").symlink_to(elsewhere)


SHAPES: Mapping[str, Callable[[Path], None]] = {
    "flat": flat_folder,
    "nested": nested_folder,
    "cluttered": cluttered_folder,
}
PLACES: Mapping[str, str] = {  # where a shape is put, below any folder
    "flat": "cv_fft_inpainting_lama",
    "nested": "我的 照片/cv_fft [2] lama",
    "cluttered": "it's $HOME/cv fft*",
}
ADDRESSES: Mapping[str, tuple[str, int]] = {
    "flat": ("0.0.0.0", 7860),
    "nested": ("127.0.0.1", 7861),
    "cluttered": ("0.0.0.0", 8123),
}


def state_of(folder: Path) -> dict[str, str]:
    """Return what is at each path below `folder`: kind, mode and checksum of the content, or a link's target."""
    state = {}
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(parent) / name
            key = str(path.relative_to(folder))
            if path.is_symlink():
                state[key] = f"link to {path.readlink()}"
            elif path.is_dir():
                state[key] = "folder"
            else:
                state[key] = f"{path.stat().st_mode & 0o777:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return state
