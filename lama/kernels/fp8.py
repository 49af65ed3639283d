"""Numbers of 8 bits (E4M3: 4 bits of exponent, 3 of mantissa) for products of the Hopper kernels.

A Hopper card multiplies them twice as fast as float16 and reads half as many bytes. Weights are divided by a scale of
their output, so that the largest of each output is the format's largest number; what the trunk's layers give lies well
within its range as it is: up to 48 in the included network. A number beyond it becomes NaN and with it the prediction,
which the engine then repeats in float32: the largest number in its place would be a wrong one that nobody sees.
"""

from dataclasses import replace

import torch
from torch import Tensor

from lama.fold_batchnorm import Convolution, FFCLayer

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
LARGEST_TAIL = 2.0**14
"""Of a tail's weights, which are divided by the same scales and stay float16."""


def scales(weight: Tensor, tail: Tensor | None) -> Tensor:
    """Return what each output's weights are divided by.

    Args:
        weight: (O, I, 3, 3), for FP8.
        tail: (O, T, 1, 1) for float16, whose sums are added to those of `weight`, or None.

    Returns:
        (O,) of the type of `weight`, positive.
    """
    scale = weight.abs().amax((1, 2, 3)) / LARGEST
    if tail is not None:
        scale = scale.maximum(tail.abs().amax((1, 2, 3)) / LARGEST_TAIL)
    return scale.where(scale > 0, torch.ones_like(scale))


def rounded(x: Tensor) -> Tensor:
    """Return `x` in FP8, NaN for numbers beyond its range, as the kernels round."""
    return x.where(x.abs() <= LARGEST, torch.nan).to(FP8)


def rounded_weights(weight: Tensor, scale: Tensor) -> Tensor:
    """Return weights (O, …) divided by their output's scale (O,), in FP8."""
    divided = weight / scale.view(-1, *[1] * (weight.ndim - 1))
    return divided.clamp(-LARGEST, LARGEST).to(FP8)  # a quotient is rounded, and may be a little more


def layer_in_fp8(layer: FFCLayer) -> FFCLayer:
    """Return a layer with the weights by which its 3x3 convolutions multiply in FP8."""

    def in_fp8(convolution: Convolution, tail: Tensor | None = None) -> Convolution:
        weight, scale = convolution.weight, scales(convolution.weight, tail)
        return replace(convolution, weight=rounded_weights(weight, scale).to(weight.dtype) * scale.view(-1, 1, 1, 1))

    return replace(layer, local=in_fp8(layer.local), cross=in_fp8(layer.cross, layer.leave))
