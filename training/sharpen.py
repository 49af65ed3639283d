"""Fits a generator's last convolution anew, so that its fills have more contrast in their finest detail.

    python -m training.sharpen --weights FILE --photos DIR --gain 1.2 --out FILE

Weights between an accurate and a crisp network are near the photo in colour and a little dull. What is missing is the
energy of the finest detail (`losses.fine_part`), and the last convolution sees what it takes to bring it back: a linear
fit of 1,569 numbers for each colour, by least squares with a ridge, over the holes of photos. Nothing else changes, so
a repair takes no longer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from imaging.atomic_write import write_atomically
from lama.checkpoint import CheckpointError, load_generator
from lama.generator import Generator
from training.examples import Example, draw_examples, draw_photos
from training.given import read_weights
from training.losses import fine_part
from training.teacher import mesh_of

EXIT_FAILED = 1
LEAST_HOLE_PX = 2000
KIND_SHARES = {"thick": 0.5, "object": 0.5}
PIXELS = 3000  # of a hole that are looked at
BRIGHTEST = 0.997  # what the last step, a sigmoid, is asked for at most
LEAST_SLOPE = 0.02  # of the sigmoid: an error counts as it is seen, but not for nothing


@torch.inference_mode()
def sharpen(
    generator: Generator, examples: Iterable[Example], gain: float, *, mesh: float = 0.0, ridge: float, seed: int
) -> float:
    """Change the last convolution so that the finest detail in holes is `gain` times as strong.

    Args:
        generator: in eval mode, float32, on the CPU; its last convolution is changed.
        examples: photos and masks, as `draw_examples` yields them.
        gain: of the fill's `fine_part`.
        mesh: the share of what repeats every 8 px (`mesh_of`) that is taken away.
        ridge: how far the weights are held where they were, as a part of the mean squared input.
        seed: of the choice of pixels.

    Returns:
        The share of the wanted change that the fit explains.

    Raises:
        ValueError: there are no examples.
    """
    random = np.random.default_rng(seed)
    head = [module for module in generator.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    assert head.bias is not None
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0], output)))
    size = head.weight[0].numel() + 1
    products = torch.zeros(size, size, dtype=torch.float64)
    wanted = torch.zeros(size, len(head.weight), dtype=torch.float64)
    energy = 0.0
    for image, mask in examples:
        seen.clear()
        fill = generator(torch.cat([image * (1 - mask), mask], 1))
        filled = fill * mask + image * (1 - mask)
        target = fill + (gain - 1) * fine_part(filled) - mesh * mesh_of(filled, mask)
        rows, columns = torch.nonzero(mask[0, 0], as_tuple=True)
        chosen = torch.from_numpy(random.permutation(len(rows))[:PIXELS])
        rows, columns = rows[chosen], columns[chosen]
        padded, logits = seen
        taps = [
            padded[0, :, rows + y, columns + x]
            for y in range(head.weight.shape[2])
            for x in range(head.weight.shape[3])
        ]
        inputs = torch.stack(taps, -1).permute(1, 0, 2).flatten(1)
        inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1).double()
        asked = target[0, :, rows, columns].clamp(1 - BRIGHTEST, BRIGHTEST).logit() - logits[0, :, rows, columns]
        seen_fill = fill[0, :, rows, columns]
        slope = (seen_fill * (1 - seen_fill)).mean(0).clamp_min(LEAST_SLOPE).double()[:, None]
        change = asked.T.double() * slope
        inputs = inputs * slope
        products += inputs.T @ inputs
        wanted += inputs.T @ change
        energy += float(change.square().sum())
    hook.remove()
    if not energy:
        raise ValueError("there are no examples: the photos have no room for a hole")
    hold = ridge * products.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    step = torch.linalg.solve(products + hold, wanted)
    head.weight += step[:-1].T.reshape(head.weight.shape).float()
    head.bias += step[-1].float()
    return float((2 * (step * wanted).sum() - (step * (products @ step)).sum()) / energy)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, fit and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="published safetensors to start from")
    parser.add_argument("--photos", type=Path, required=True, help="folder of training photos, searched recursively")
    parser.add_argument("--gain", type=float, default=1.2, help="of the finest detail")
    parser.add_argument("--mesh", type=float, default=0.0, help="share of what repeats every 8 px that is taken away")
    parser.add_argument("--ridge", type=float, default=1e-4)
    parser.add_argument("--count", type=int, default=60, help="photos drawn")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="file to write, float16")
    chosen = parser.parse_args(arguments)
    try:
        photos = draw_photos(chosen.photos, chosen.count, chosen.seed)
        generator = load_generator(chosen.weights)
        examples = draw_examples(photos, chosen.seed, KIND_SHARES, LEAST_HOLE_PX)
        share = sharpen(generator, examples, chosen.gain, mesh=chosen.mesh, ridge=chosen.ridge, seed=chosen.seed)
        names = read_weights(chosen.weights).keys()
    except (CheckpointError, ValueError) as error:
        parser.error(str(error))
    tensors = {name: value.half() for name, value in generator.state_dict().items() if name in names}
    try:
        write_atomically(chosen.out, save(tensors))
    except OSError as error:
        parser.exit(EXIT_FAILED, f"{parser.prog}: error: {error}\n")
    print(f"{len(photos)} photos; the last convolution brings {share:.0%} of the detail asked for")


if __name__ == "__main__":
    main()
