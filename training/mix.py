"""Mixes weights of one form: a point on the line between networks, or a step beyond one of them.

    python -m training.mix --out FILE run-13.safetensors:0.55 run-12.safetensors:0.45
    python -m training.mix --out FILE crisp.safetensors:1.08 accurate.safetensors:-0.08

    python -m training.mix --out FILE a.safetensors:0.7 b.safetensors:0.3 --late a.safetensors:1 --photos DIR

Networks that were trained on from the same weights lie in one valley, and the mean of two is better than each
(arXiv:1809.00219, arXiv:2203.05482). Shares add up to 1; a negative one steps away from a network. `--late` has
shares of its own for the upsampling layers and what follows them, where texture and mesh are made. What a batch-norm
layer was told of its input is not quite true of a mix; with `--photos` it is measured anew (arXiv:1803.05407).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from imaging.atomic_write import part_file
from lama.checkpoint import load_generator
from lama.generator import Generator
from training.examples import Example, draw_examples, draw_photos
from training.given import read_weights

EXIT_FAILED = 1
SMALLEST_VARIANCE = 1e-8
BATCH = 6
# Deep holes, which the crisp network fills, and some of all others.
KIND_SHARES = {"thin": 0.05, "medium": 0.15, "thick": 0.3, "object": 0.4, "text": 0.07, "blemish": 0.03}
Weights = Mapping[str, torch.Tensor]


def mixed(parts: Sequence[tuple[float, Weights]]) -> dict[str, torch.Tensor]:
    """Return the weighted sum of weights.

    Running variances are summed by their logarithms: a step beyond would make some of them negative, and the fill
    noise.

    Args:
        parts: a share and weights each, all of one form.

    Returns:
        The sum, float32.

    Raises:
        ValueError: the forms differ, or the shares do not add up to 1.
    """
    if abs(sum(share for share, _ in parts) - 1) > 1e-6:
        raise ValueError("the shares must add up to 1")
    first = parts[0][1]
    for _, weights in parts:
        if {name: value.shape for name, value in weights.items()} != {n: value.shape for n, value in first.items()}:
            raise ValueError("the weights must be of one form")
    result = {}
    for name in first:
        values = [(share, weights[name].double()) for share, weights in parts]
        if name.endswith("running_var"):
            logarithm = torch.stack([share * value.clamp_min(SMALLEST_VARIANCE).log() for share, value in values])
            result[name] = logarithm.sum(0).exp().float()
        else:
            result[name] = torch.stack([share * value for share, value in values]).sum(0).float()
    return result


def with_late(early: Weights, late: Weights) -> dict[str, torch.Tensor]:
    """Return the first weights up to the last residual block, and the others' from the first upsampling on.

    Raises ValueError where they are of no published generator.
    """
    if early.keys() != late.keys() or not all(name.startswith("model.") and name.count(".") >= 2 for name in early):
        raise ValueError("--late is about generators of one form under their published names")
    layers = {name: int(name.split(".")[1]) for name in early}
    upsampling = min(layers[name] for name, value in early.items() if name.count(".") == 2 and value.dim() == 4)
    return {name: (late if layers[name] >= upsampling else early)[name] for name in early}


@torch.inference_mode()
def measure_statistics(generator: Generator, examples: Iterable[Example]) -> None:
    """Set the batch-norm layers' means and variances to those of their inputs over examples, in batches of six.

    Args:
        generator: float32, on the CPU; changed, and left in eval mode.
        examples: photos and masks of one size.

    Raises:
        ValueError: there are fewer examples than a batch has, so that nothing would be measured.
    """
    batches = 0
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    generator.train()
    batch: list[torch.Tensor] = []
    for image, mask in examples:
        batch.append(torch.cat([image * (1 - mask), mask], 1))
        if len(batch) == BATCH:
            generator(torch.cat(batch))
            batch.clear()
            batches += 1
    generator.eval()
    if not batches:
        raise ValueError(f"statistics are measured over {BATCH} photos or more that have room for a crop")


def read_part(text: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the share, and the weights, of `FILE:SHARE`."""
    file, _, share = text.rpartition(":")
    if not Path(file).is_file():
        raise ValueError(f"{text}: there is no file {file!r}; wanted is FILE:SHARE")
    try:
        number = float(share)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text}: {share!r} is no share; wanted is FILE:SHARE")
    return number, read_weights(Path(file))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and mix."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="+", metavar="FILE:SHARE", help="a .safetensors file and its share each")
    parser.add_argument("--late", nargs="+", metavar="FILE:SHARE", help="other shares from the first upsampling on")
    parser.add_argument("--photos", type=Path, help="folder of photos over which batch-norm statistics are measured")
    parser.add_argument("--count", type=int, default=140, help="photos drawn for them")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--out", type=Path, required=True, help="file to write, float16")
    chosen = parser.parse_args(arguments)
    try:
        weights = mixed([read_part(part) for part in chosen.parts])
        if chosen.late:
            weights = with_late(weights, mixed([read_part(part) for part in chosen.late]))
        with part_file(chosen.out) as part:  # a file that is there stays where the photos do not suffice
            part.write_bytes(save({name: value.half() for name, value in weights.items()}))
            if chosen.photos:
                generator = load_generator(part)
                photos = draw_photos(chosen.photos, chosen.count, chosen.seed)
                measure_statistics(generator, draw_examples(photos, chosen.seed, KIND_SHARES))
                state = generator.state_dict()
                part.write_bytes(save({name: state[name].half() for name in weights}))
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.exit(EXIT_FAILED, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
