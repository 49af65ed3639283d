"""The ONNX file computes what the published form computes, at sizes that nobody named when it was written."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lama.generator import Generator
from lama.onnx_export import IR_VERSION, OPSET, export_onnx
from tests.support.networks import live_generator, masked_input

MOST_DIFFERENCE = 2e-4  # of the range 0 to 1; what other programs may rely on


@pytest.fixture(scope="module")
def generator() -> Generator:
    return live_generator(width=16, blocks=2)


@pytest.fixture(scope="module")
def file(generator: Generator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "lama.onnx"
    export_onnx(generator, path, name="random")
    return path


@pytest.fixture(scope="module")
def session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, image: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    return session.run(["prediction"], {"image": image.numpy(), "mask": mask.numpy()})[0]


@pytest.mark.parametrize(
    ("batch", "height", "width"),
    [(1, 16, 16), (1, 24, 40), (1, 40, 24), (1, 64, 72), (2, 72, 64), (1, 128, 256), (1, 264, 200)],
)
@torch.no_grad()
def test_onnxruntime_agrees_with_the_published_form(
    generator: Generator, session: onnxruntime.InferenceSession, batch: int, height: int, width: int
) -> None:
    x = masked_input(height, width, batch=batch)
    expected = generator(x).numpy()
    got = run(session, x[:, :3], x[:, 3:])
    assert got.shape == expected.shape and got.dtype == np.float32
    assert np.abs(got - expected).max() <= MOST_DIFFERENCE
    assert expected.std() > 0.01, "a network that says the same everywhere would agree with anything"


def test_what_lies_in_the_hole_does_not_count(session: onnxruntime.InferenceSession) -> None:
    """A program passes the photo as it is, and a mask whose edge may be soft: above a half is hole."""
    x = masked_input(64, 64)
    mask, noise = x[:, 3:], torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    filled = x[:, :3] + noise * mask
    assert np.array_equal(run(session, x[:, :3], mask), run(session, filled, mask))
    assert np.array_equal(run(session, x[:, :3], mask), run(session, filled, mask * 0.6 + 0.1))


def test_the_file_states_opset_sides_and_weights(file: Path) -> None:
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [(one.domain, one.version) for one in model.opset_import]) == (IR_VERSION, [("", OPSET)])
    assert {one.name: [side.dim_param or side.dim_value for side in one.type.tensor_type.shape.dim] for one in (
        *model.graph.input, *model.graph.output)} == {
        "image": ["batch", 3, "height", "width"],
        "mask": ["batch", 1, "height", "width"],
        "prediction": ["batch", 3, "height", "width"],
    }  # fmt: skip
    assert {one.key: one.value for one in model.metadata_props}["weights"] == "random"


def test_no_operator_is_missing_from_small_runtimes(file: Path) -> None:
    """DFT is what onnxruntime-web, OpenCV and darktable's runtime lack; nothing of another domain either."""
    nodes = onnx.load(file).graph.node
    assert {node.domain for node in nodes} == {""}
    assert not {"DFT", "STFT", "Einsum", "Loop", "If"} & {node.op_type for node in nodes}


def test_a_failed_export_leaves_the_old_file(generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        export_onnx(generator, tmp_path / "missing" / "lama.onnx")
    (tmp_path / "lama.onnx").write_bytes(b"old")
    export_onnx(generator, tmp_path / "lama.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["lama.onnx"]
    assert (tmp_path / "lama.onnx").stat().st_size > 10_000
