"""Prints the largest difference of each training kernel from its definition; run under Triton's interpreter."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F

from training.kernels import distance, normalise, padding


def largest(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(got, wanted, strict=True))


def compared(fast: torch.Tensor, plain: torch.Tensor, inputs: list[torch.Tensor]) -> float:
    slope = torch.randn(plain.shape)
    return largest(
        [fast, *torch.autograd.grad(fast, inputs, slope)], [plain, *torch.autograd.grad(plain, inputs, slope)]
    )


def main() -> None:
    torch.manual_seed(0)
    differences = {}
    for name, shape, with_residual in (
        ("norm", (2, 24, 9, 7), False),
        ("norm with residual", (2, 24, 9, 7), True),
        ("norm of rows", (50, 40), False),
    ):
        x = torch.randn(shape)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        inputs = [x, torch.rand(shape[1]), torch.randn(shape[1])]
        inputs += [torch.randn(shape)] if with_residual else []
        for tensor in inputs:
            tensor.requires_grad_()
        residual = inputs[3] if with_residual else None
        x, weight, bias = inputs[:3]
        fast = normalise._BatchNormReLU.apply(x, weight, bias, residual)[0]
        plain = normalise.batch_norm_relu_plain(x, weight, bias, residual)[0]
        differences[name] = compared(fast, plain, inputs)
    parts = [torch.randn(2, channels, 6, 4).requires_grad_() for channels in (5, 7)]
    plain = F.pad(torch.cat(parts, 1), (2,) * 4, mode="reflect")
    differences["pad"] = compared(padding._ReflectPad.apply(2, 2, False, False, *parts), plain, parts)
    for name, pads, from_depth, to_depth in (
        ("pad to depth", (3, 3), False, True),
        ("pad from depth to depth", (2, 0), True, True),
        ("pad from depth", (1, 2), True, False),
    ):
        shape = (2, 20, 4, 3) if from_depth else (2, 5, 8, 6)
        x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
        plain = padding.reflect_pad_plain(*pads, from_depth, to_depth, x)
        differences[name] = compared(padding._ReflectPad.apply(*pads, from_depth, to_depth, x), plain, [x])
    got, want = torch.randn(2, 24, 5, 7).requires_grad_(), torch.randn(2, 24, 5, 7)
    fast, plain = distance._FeatureDistance.apply(got, want), distance.feature_distance_plain(got, want)
    differences["distance"] = compared(fast, plain, [got])
    print(json.dumps(differences))


if __name__ == "__main__":
    main()
