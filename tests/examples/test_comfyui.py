"""The ComfyUI node with tensors as ComfyUI passes them, in process and by address; ComfyUI itself is not needed."""

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from inference import Inpainter
from tests.support.serving import RunningServer

Node = NODE_CLASS_MAPPINGS["FftlamaErase"]
node_module = importlib.import_module("examples.comfyui.node")


@pytest.fixture
def image() -> torch.Tensor:
    """Two pictures of 64 x 96 as 8-bit files give them."""
    levels = torch.randint(0, 256, (2, 64, 96, 3), generator=torch.Generator().manual_seed(4))
    return levels.float() / 255


@pytest.fixture
def mask() -> torch.Tensor:
    hole = torch.zeros(1, 64, 96)
    hole[:, 20:40, 30:60] = 1
    return hole


def erase(image: torch.Tensor, mask: torch.Tensor, **options: Any) -> torch.Tensor:
    names = {name for group in Node.INPUT_TYPES().values() for name in group}
    assert {"image", "mask", *options} <= names, "ComfyUI passes what INPUT_TYPES names"
    (result,) = getattr(Node(), Node.FUNCTION)(image=image, mask=mask, **options)
    assert result.shape == image.shape and result.dtype == image.dtype
    return result


def test_comfyui_finds_what_it_looks_for() -> None:
    assert NODE_CLASS_MAPPINGS.keys() == NODE_DISPLAY_NAME_MAPPINGS.keys()
    assert Node.RETURN_TYPES == ("IMAGE",) and Node.INPUT_TYPES()["required"] == {
        "image": ("IMAGE",),
        "mask": ("MASK",),
    }


def test_readme_names_what_comfyuis_python_lacks() -> None:
    """It named torchvision, which nothing imports any more."""
    root = Path(__file__).resolve().parents[2]
    files = [root / "inference.py", root / "preprocess.py"]
    files += [file for room in ("engine", "tensor_ops", "masks", "lama") for file in (root / room).rglob("*.py")]
    imported: set[str] = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    ours = {path.stem for path in root.iterdir()}
    there = {"torch", "triton", "cuda", "numpy"}  # in ComfyUI, where it runs on a card
    needed = imported - ours - there - set(sys.stdlib_module_names) - {"onnx"}  # which `fftlama export` alone takes
    text = (root / "examples" / "README.md").read_text(encoding="utf-8")
    named = re.search(r"what fftlama's `inference\.py` needs: ([^)]*)\)", text)
    packages = {"cv2": "opencv-python-headless", "yaml": "pyyaml"}
    assert named and set(named[1].split(", ")) == {packages.get(name, name) for name in needed}


def test_in_process_the_networks_fill_comes_back(image: torch.Tensor, mask: torch.Tensor) -> None:
    given = image.clone()
    result = erase(image, mask, dilate_px=0)
    hole = mask[0] > 0.5
    assert torch.equal(image, given), "the tensor that came in is not written to"
    assert torch.equal(result[:, ~hole], image[:, ~hole])
    pixels = (image[1] * 255).round().byte().numpy()
    expected = Inpainter.load().repair(pixels, hole.numpy(), dilate_px=0).image
    assert np.abs((result[1] * 255).round().numpy() - expected).max() <= 1


def test_by_address_a_server_repairs(
    image: torch.Tensor, mask: torch.Tensor, api_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # it was asked for 127.0.0.1, which to it is itself
    monkeypatch.delenv("no_proxy", raising=False)
    result = erase(image, mask, url=f"{api_server.url}/", dilate_px=0, quality="high")
    hole = mask[0] > 0.5
    assert torch.equal(result[:, ~hole], image[:, ~hole])
    mean = (image[0] * 255).reshape(-1, 3).mean(dim=0).floor() / 255  # the stand-in engine's fill
    assert torch.allclose(result[0][hole], mean, atol=1 / 255 + 1e-6)


def test_floats_between_the_levels_keep_their_exact_values(mask: torch.Tensor) -> None:
    image = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(4))
    result = erase(image, mask, dilate_px=0)
    hole = mask[0] > 0.5
    assert torch.equal(result[:, ~hole], image[:, ~hole]) and not torch.equal(result[:, hole], image[:, hole])


def test_masks_by_image_of_another_size_and_empty(
    image: torch.Tensor, mask: torch.Tensor, api_server: RunningServer
) -> None:
    both = torch.cat([mask, torch.zeros_like(mask)])
    result = erase(image, both, url=api_server.url, dilate_px=0)
    assert torch.equal(result[1], image[1]) and not torch.equal(result[0], image[0])
    small = mask[0, ::2, ::2]
    assert torch.equal(erase(image, small, url=api_server.url), erase(image, mask, url=api_server.url))


def test_what_does_not_fit_is_said(
    image: torch.Tensor, mask: torch.Tensor, monkeypatch: pytest.MonkeyPatch, api_server: RunningServer
) -> None:
    with pytest.raises(ValueError, match="2 images need one mask or 2, got 3"):
        erase(image, mask.expand(3, 64, 96))
    with pytest.raises(ValueError, match="an image"):
        erase(image[0], mask)
    with pytest.raises(RuntimeError, match="can't be reached"):
        erase(image, mask, url="http://127.0.0.1:9")
    with pytest.raises(RuntimeError, match="the server refused"):
        erase(image, mask, url=f"{api_server.url}/nowhere")
    monkeypatch.setattr(node_module, "CHECKOUT", node_module.CHECKOUT / "docs")
    node_module._engine.cache_clear()
    with pytest.raises(RuntimeError, match="is not fftlama's folder"):
        erase(image, mask)
