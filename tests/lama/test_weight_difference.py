"""A second network from its difference to the first: near enough, of the right weights only."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lama.catalogue import list_weights
from lama.checkpoint import CheckpointError, load_generator, save_generator
from lama.generator import Generator
from lama.weight_difference import CRISP_WEIGHTS, apply_difference, save_difference


def make_two() -> tuple[Generator, Generator]:
    """A tiny generator, and one that differs from it by a tenth of every tensor's spread."""
    torch.manual_seed(0)
    base, other = Generator(width=4, blocks=1).eval(), Generator(width=4, blocks=1).eval()
    with torch.no_grad():
        for one, two in zip(base.state_dict().values(), other.state_dict().values(), strict=True):
            if one.is_floating_point():
                two.copy_(one + 0.1 * one.abs().mean() * torch.randn_like(one))
    return base, other


def test_the_second_network_comes_back_to_a_hundredth_of_the_difference(tmp_path: Path) -> None:
    base, other = make_two()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    save_difference(base, other, tmp_path / "difference.safetensors")
    (tmp_path / "any").touch()
    assert (tmp_path / "difference.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode
    back = apply_difference(base, tmp_path / "difference.safetensors").state_dict()
    for name, value in other.state_dict().items():
        wanted = value - before[name]
        assert float((back[name] - value).float().norm()) <= 0.01 * float(wanted.float().norm())
        assert torch.equal(base.state_dict()[name], before[name])


def test_the_difference_survives_that_the_first_network_is_saved_again(tmp_path: Path) -> None:
    base, other = make_two()
    save_generator(base, tmp_path / "base.safetensors")
    base = load_generator(tmp_path / "base.safetensors")
    save_difference(base, other, tmp_path / "difference.safetensors")
    again = load_generator(tmp_path / "base.safetensors")
    assert apply_difference(again, tmp_path / "difference.safetensors").blocks == 1


def test_differences_from_other_weights_are_refused(tmp_path: Path) -> None:
    base, other = make_two()
    save_difference(base, other, tmp_path / "difference.safetensors")
    with pytest.raises(CheckpointError, match="from other weights"):
        apply_difference(other, tmp_path / "difference.safetensors")


def test_what_holds_no_differences_is_refused(tmp_path: Path) -> None:
    base, other = make_two()
    with pytest.raises(CheckpointError, match="can't be read"):
        apply_difference(base, tmp_path / "missing.safetensors")
    save_generator(other, tmp_path / "whole.safetensors")
    with pytest.raises(CheckpointError, match="no differences"):
        apply_difference(base, tmp_path / "whole.safetensors")
    file = tmp_path / "difference.safetensors"
    save_difference(base, other, file)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="can't be read"):
        apply_difference(base, cut)


def test_a_difference_with_a_tensor_missing_or_not_finite_is_refused(tmp_path: Path) -> None:
    from safetensors import safe_open

    base, other = make_two()
    file = tmp_path / "difference.safetensors"
    save_difference(base, other, file)
    with safe_open(file, framework="pt") as content:
        header = content.metadata()
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(".step"))
    save_file({**tensors, name: tensors[name] * float("inf")}, tmp_path / "infinite.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match="no finite numbers"):
        apply_difference(base, tmp_path / "infinite.safetensors")
    save_file({key: value for key, value in tensors.items() if key != name}, tmp_path / "few.safetensors", header)
    with pytest.raises(CheckpointError, match="can't be read"):
        apply_difference(base, tmp_path / "few.safetensors")


@pytest.mark.slow
def test_the_two_files_that_come_with_the_program_belong_together_and_fit_the_budget() -> None:
    base = load_generator()
    crisp = apply_difference(base, CRISP_WEIGHTS)
    assert (crisp.width, crisp.blocks) == (base.width, base.blocks)
    sizes = [file.stat().st_size for file in (CRISP_WEIGHTS, CRISP_WEIGHTS.with_name("lama-compact.safetensors"))]
    assert sum(sizes) <= 40_000_000
    assert CRISP_WEIGHTS not in [choice.path for choice in list_weights()]  # alone it is nothing to choose
