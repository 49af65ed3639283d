"""The network in kernels is the published one, and its tiles fit into every card."""

import pytest
import torch

from lama.fast_generator import FastGenerator
from tests.support.kernels import DEVICE
from tests.support.networks import live_generator, masked_input


@pytest.mark.parametrize(
    ("height", "width", "batch", "cross_beside"), [(24, 16, 2, False), (16, 128, 1, True), (16, 128, 1, False)]
)
def test_whole_network_in_kernels_matches_the_published_form(
    height: int, width: int, batch: int, cross_beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block is two layers; from 128 pixels on, rows are long enough for the kernels of whole rows.

    In shorter ones the cross convolution is never beside the spectral path.
    """
    from lama import trunk_schedule
    from lama.triton_backend import TritonBackend

    generator = live_generator(blocks=1)
    fused = FastGenerator(generator, device=DEVICE, dtype=torch.float16, kernels="triton")
    assert isinstance(fused.backend, TritonBackend)
    monkeypatch.setattr(trunk_schedule, "FEW_ROWS", 2**40 if cross_beside else 0)
    x = masked_input(height, width, batch=batch)
    with torch.no_grad():
        expected = generator.double()(x.double())
    difference = (fused(x.to(DEVICE)).cpu() - expected).abs()
    assert difference.max() < 4 / 255
    assert difference.mean() < 0.3 / 255


@pytest.mark.parametrize("capability", [(9, 0), (8, 9), (8, 0), (7, 5), (6, 1)])
def test_tiles_fit_the_shared_memory_of_every_card(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lama.kernels import tiles

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    tiles.shared_bytes.cache_clear()
    device = torch.device("cuda")
    for kernel, choices in tiles.TILES.items():
        for rows, _ in choices:
            tile = tiles.tile_for(kernel, rows, columns=384, depth=192, device=device)
            assert tiles._bytes(kernel, tile) <= tiles.shared_bytes(device), (kernel, tile)
            assert 384 % tile.columns == 0 and 192 % tile.depth == 0
    tiles.shared_bytes.cache_clear()


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # what is left out is read nevertheless
def test_sweeps_of_the_forward_leave_it_as_it_was() -> None:
    """`bench/tune_forward.py` swaps kernels and tiles under the network; none of that stays."""
    from bench import tune_forward
    from lama.kernels.tiles import TILES
    from lama.triton_backend import TritonBackend

    fused = FastGenerator(live_generator(blocks=1), device=DEVICE, dtype=torch.float16, kernels="triton")
    assert isinstance(fused.backend, TritonBackend)
    small, tiles = masked_input(16, 16).to(DEVICE), dict(TILES)
    form, channels = fused.backend, fused.backend._encode(small).shape[-1]
    features = torch.randn(1, 2, 16, channels).half().to(DEVICE)  # of a photo 128 pixels wide, whose rows are whole

    def run_trunk() -> torch.Tensor:
        """Leave out the ends, which the interpreter takes most of its time for."""
        return form.trunk.run(features.clone())

    first = run_trunk()
    for name, change in tune_forward._changes(form, ["leave_rows"]):
        with change:
            if "Tile" in name:
                assert tiles != TILES, name
            elif name == "ends alone":
                fused(small)
            elif "alone" in name:
                run_trunk()
    assert tiles == TILES
    assert torch.equal(run_trunk(), first)
