"""Both forms of the network on a real card: the kernels compute what plain PyTorch does, at every split into tiles."""

from collections.abc import Sequence

import pytest
import torch

from lama.checkpoint import load_generator
from lama.fast_generator import FastGenerator
from tests.support.networks import live_generator, masked_input

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Rows of the trunk's products, batch (side / 8)^2, on both sides of every step in the table of tiles.
SIZES = [(256, 1), (256, 4), (256, 8), (384, 1), (512, 1), (512, 2), (512, 4), (512, 8), (640, 1), (768, 1), (1024, 1)]
ORDERS = [(256, 8), (512, 1), (512, 8), (1024, 1)]
REPEATS = 5  # a race does not show every time
LARGEST_DIFFERENCE = 2 / 255


def assert_the_same_in_turns(
    network: FastGenerator, photos: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]
) -> None:
    """Predict the photos in turns, outside a graph and in one; each prediction is the expected one to the bit."""
    x = photos[0].clone()
    network(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = network(x)
    for turn in range(len(photos) * REPEATS):
        photo, right = photos[turn % len(photos)], expected[turn % len(photos)]
        x.copy_(photo)
        assert torch.equal(network(x), right)
        captured.zero_()
        graph.replay()
        assert torch.equal(captured, right)


@pytest.mark.parametrize("network", ["included", "as wide as big-lama"])
@pytest.mark.parametrize(("side", "batch"), SIZES)
def test_kernels_compute_what_plain_pytorch_does(network: str, side: int, batch: int) -> None:
    generator = load_generator(None) if network == "included" else live_generator(64, 2)
    plain = FastGenerator(generator, device="cuda", dtype=torch.float32, kernels="torch")
    fused = FastGenerator(generator, device="cuda", dtype=torch.float16, kernels="triton")
    x = masked_input(side, side, batch=batch).cuda()
    with torch.inference_mode():
        expected = plain(x)
        for _ in range(REPEATS):
            assert (fused(x) - expected).abs().max().item() <= LARGEST_DIFFERENCE


@pytest.mark.parametrize("cross_beside", [True, False])
@pytest.mark.parametrize("network", ["included", "as wide as big-lama"])
@pytest.mark.parametrize(("side", "batch"), ORDERS)
def test_both_orders_of_a_layer_compute_the_same(
    network: str, side: int, batch: int, cross_beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where maps are small one of them is taken, where they are large the other."""
    from lama import trunk_schedule
    from lama.triton_backend import TritonBackend

    generator = load_generator(None) if network == "included" else live_generator(64, 2)
    plain = FastGenerator(generator, device="cuda", dtype=torch.float32, kernels="torch")
    fused = FastGenerator(generator, device="cuda", dtype=torch.float16, kernels="triton")
    assert isinstance(fused.backend, TritonBackend)
    monkeypatch.setattr(trunk_schedule, "FEW_ROWS", 2**40 if cross_beside else 0)
    x = masked_input(side, side, batch=batch).cuda()
    with torch.inference_mode():
        expected = plain(x)
        for _ in range(REPEATS):
            assert (fused(x) - expected).abs().max().item() <= LARGEST_DIFFERENCE


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper card"
)
@pytest.mark.parametrize("network", ["included", "as wide as big-lama"])
@pytest.mark.parametrize(("side", "batch"), SIZES)
def test_launches_that_begin_early_read_what_is_written(
    network: str, side: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launch that reads what the one before has not written yet gives other bits, in a graph or outside.

    Two photos in turns, as what a photo left in memory would look right for the same photo.
    """
    from lama.kernels import cuda_kernel, early_launch
    from lama.kernels.cuda_kernel import driver_config

    def late_config(*sizes: int, early: bool) -> object:
        return driver_config(*sizes, early=False)

    generator = load_generator(None) if network == "included" else live_generator(64, 4)
    fused = FastGenerator(generator, device="cuda", dtype=torch.float16, kernels="triton")
    photo = masked_input(side, side, batch=batch).cuda()
    photos = (photo, photo.flip(-1).contiguous())
    with torch.inference_mode():
        with monkeypatch.context() as patch:
            patch.setattr(early_launch, "why_not_card", lambda _device: "not early")
            patch.setattr(cuda_kernel, "driver_config", late_config)
            expected = [fused(each) for each in photos]
        assert_the_same_in_turns(fused, photos, expected)


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper card"
)
@pytest.mark.parametrize(("network", "side", "batch"), [("included", 512, 8), ("wide", 1024, 1), ("wide", 512, 4)])
def test_fp8_is_near_float16_and_the_same_each_time(network: str, side: int, batch: int) -> None:
    """Two photos in turns, outside a graph and in one: a race gives other bits in one of them."""
    generator = load_generator(None) if network == "included" else live_generator(64, 4)
    plain, fp8 = (
        FastGenerator(generator, device="cuda", dtype=torch.float16, kernels="triton", fp8=each)
        for each in (False, True)
    )
    assert fp8.has_fp8 and not plain.has_fp8
    assert "FP8" in fp8.describe() and "FP8" not in plain.describe()
    photo = masked_input(side, side, batch=batch).cuda()
    photos = (photo, photo.flip(-1).contiguous())
    with torch.inference_mode():
        expected = [fp8(each) for each in photos]
        for each, result in zip(photos, expected, strict=True):
            difference = (result - plain(each)).abs() * 255
            assert 0 < difference.mean().item() < 1
        assert_the_same_in_turns(fp8, photos, expected)


def test_fp8_changes_nothing_where_maps_are_small() -> None:
    plain, fp8 = (
        FastGenerator(load_generator(None), device="cuda", dtype=torch.float16, fp8=each) for each in (False, True)
    )
    x = masked_input(256, 256).cuda()
    with torch.inference_mode():
        assert torch.equal(plain(x), fp8(x))
