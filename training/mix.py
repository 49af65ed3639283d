"""Mixes weights of one form: a point on the line between networks, or a step beyond one of them.

    python -m training.mix --out FILE run-13.safetensors:0.55 run-12.safetensors:0.45
    python -m training.mix --out FILE crisp.safetensors:1.08 accurate.safetensors:-0.08

Networks that were trained on from the same weights lie in one valley, and the mean of two is better than each
(arXiv:1809.00219, arXiv:2203.05482). Shares add up to 1; a negative one steps away from a network.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SMALLEST_VARIANCE = 1e-8
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


def read_part(text: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the share, and the weights, of `FILE:SHARE`."""
    file, _, share = text.rpartition(":")
    return float(share), load_file(file)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and mix."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="+", metavar="FILE:SHARE", help="a .safetensors file and its share each")
    parser.add_argument("--out", type=Path, required=True, help="file to write, float16")
    chosen = parser.parse_args(arguments)
    save_file({name: value.half() for name, value in mixed([read_part(p) for p in chosen.parts]).items()}, chosen.out)


if __name__ == "__main__":
    main()
