"""Weights kept as their difference from other weights: a second network for half the room of the first.

Two networks of which one was trained on from the other differ by a tenth of their weights, so eight bits a number keep
the difference to 1 % of itself. A file holds, for each tensor of the generator that is a matrix or more, its difference
as int8 with one float32 step per filter (`<name>.step`), and for each vector the float32 difference. Its header names
the weights that the difference is from by a digest of their tensors: of any others it would make nothing sensible.
It is a .safetensors file by another ending, so that nobody is offered it as weights to choose.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lama.catalogue import EMBEDDED_NAME, WEIGHTS_FOLDER
from lama.generator import Generator
from lama.safe_unpickle import CheckpointError

__all__ = ["CRISP_WEIGHTS", "apply_difference", "save_difference"]

CRISP_WEIGHTS = WEIGHTS_FOLDER / f"{EMBEDDED_NAME}-crisp.difference"

KIND = "difference"
STEP = ".step"  # after a tensor's name
LARGEST = 127  # of an int8


def apply_difference(base: Generator, path: str | Path) -> Generator:
    """Return the second generator of a file of differences.

    Args:
        base: the generator that the differences are from, float32, on the CPU; not modified.
        path: the file.

    Returns:
        A generator of the same form, in eval mode, float32, on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged or holds no differences, or those of other weights.
    """
    file = Path(path)
    state = base.state_dict()
    try:
        with safe_open(file, framework="pt", device="cpu") as content:
            header = content.metadata() or {}
            if header.get("kind") != KIND:
                raise CheckpointError(f"{file} holds no differences of weights")
            # The digest takes as long as what it is to allow, and both let go of the interpreter.
            with ThreadPoolExecutor(1, thread_name_prefix="reads-differences") as beside:
                changed = beside.submit(lambda: {name: _read(content, name, value) for name, value in state.items()})
                if header.get("from") != digest_of(state):
                    raise CheckpointError(f"{file} holds the differences from other weights than these")
                tensors = changed.result()
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} can't be read: {error}") from error
    with torch.device("meta"):
        generator = Generator(base.width, base.blocks)
    generator.load_state_dict(tensors, strict=True, assign=True)
    return generator.eval()


def save_difference(base: Generator, other: Generator, path: str | Path) -> None:
    """Write what makes `other` of `base`, two generators of one form; both stay as they are.

    The file appears complete or not at all; an existing one is replaced.
    """
    state, wanted = base.state_dict(), other.state_dict()
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        difference = (wanted[name] - value).contiguous()
        if value.ndim < 2:
            tensors[name] = difference
            continue
        step = difference.flatten(1).abs().amax(1).clamp_min(1e-12) / LARGEST
        tensors[name] = (difference / _by_filter(step, value)).round().to(torch.int8)
        tensors[name + STEP] = step
    from imaging.atomic_write import part_file  # late: to start and only read takes a twentieth of a second less

    header = {"format": "pt", "kind": KIND, "from": digest_of(state)}
    with part_file(Path(path)) as part:
        part.write_bytes(save(tensors, metadata=header))


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Return a digest of a generator's float32 tensors; it does not depend on the file they came from."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        if state[name].is_floating_point():
            digest.update(name.encode())
            digest.update(state[name].contiguous().numpy().data)
    return digest.hexdigest()


def _read(content: safe_open, name: str, value: Tensor) -> Tensor:
    """The tensor `name` of the second generator, given that of the first."""
    if not value.is_floating_point():
        return value.clone()
    difference = content.get_tensor(name)
    if difference.shape != value.shape:
        raise CheckpointError(f"the difference of {name} has the shape {tuple(difference.shape)}")
    if value.ndim > 1:
        difference = difference.float() * _by_filter(content.get_tensor(name + STEP), value)
    changed = value + difference
    if not torch.isfinite(changed).all():
        raise CheckpointError(f"the difference of {name} makes values that are no finite numbers")
    return changed


def _by_filter(step: Tensor, like: Tensor) -> Tensor:
    return step.view(-1, *[1] * (like.ndim - 1))
