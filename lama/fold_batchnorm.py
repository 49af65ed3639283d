"""Inference weights: a `Generator` with its batch-norms folded away and its parallel convolutions merged.

Everything is computed in float64 from the parameters and returned in float64, so that the type the network runs in is
the only rounding. Knows nothing of devices, kernels or memory layouts beyond PyTorch's own (out, in, height, width).

A batch-norm in evaluation is y = s x + (beta - s mean) with s = gamma / sqrt(variance + eps): the factor goes into the
convolution before it, the rest becomes its bias.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lama.generator import DOWNSAMPLINGS, Generator

BATCH_NORM_EPS = 1e-5  # torch.nn.BatchNorm2d's default, which the published network keeps

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Convolution:
    """A convolution with its bias: weight (O, I, h, w), or (I, O, h, w) where it is transposed; bias (O,)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class FFCLayer:
    """One Fast Fourier Convolution of the residual trunk.

    `local` sees all channels (local to local and global to local are one convolution), `cross` takes the local part to
    the global one and carries the global bias. `enter`, `spectrum` and `leave` are the 1x1 convolutions of the spectral
    path; `leave` adds to `cross` and has no bias. The channels of `spectrum` are all real parts, then all imaginary
    ones, on both sides (published: interleaved).
    """

    local: Convolution
    cross: Convolution
    enter: Convolution
    spectrum: Convolution
    leave: Tensor


@dataclass(frozen=True)
class FoldedNetwork:
    """The whole network: `layers` holds two per residual block, in order."""

    stem: Convolution
    downs: tuple[Convolution, ...]
    layers: tuple[FFCLayer, ...]
    ups: tuple[Convolution, ...]
    head: Convolution


def fold_generator(generator: Generator) -> FoldedNetwork:
    """Return the inference weights of `generator` (not modified) in float64 on the CPU."""
    parameters = {
        name: value.detach().to("cpu", torch.float64)
        for name, value in generator.state_dict().items()
        if value.is_floating_point()
    }
    first_block = 2 + DOWNSAMPLINGS
    blocks = generator.blocks
    first_up = first_block + blocks + 1  # past the module that joins local and global
    downs = []
    for step in range(DOWNSAMPLINGS):
        prefix = f"model.{2 + step}"
        down = _fold(parameters, f"{prefix}.ffc.convl2l", f"{prefix}.bn_l")
        if step == DOWNSAMPLINGS - 1:  # the last one makes the global channels as well
            to_global = _fold(parameters, f"{prefix}.ffc.convl2g", f"{prefix}.bn_g")
            down = Convolution(torch.cat([down.weight, to_global.weight]), torch.cat([down.bias, to_global.bias]))
        downs.append(down)
    head = f"model.{first_up + 3 * DOWNSAMPLINGS + 1}"
    return FoldedNetwork(
        stem=_fold(parameters, "model.1.ffc.convl2l", "model.1.bn_l"),
        downs=tuple(downs),
        layers=tuple(
            _fold_layer(parameters, f"model.{first_block + block}.{layer}")
            for block in range(blocks)
            for layer in ("conv1", "conv2")
        ),
        ups=tuple(_fold_transposed(parameters, first_up + 3 * step) for step in range(DOWNSAMPLINGS)),
        head=Convolution(parameters[f"{head}.weight"], parameters[f"{head}.bias"]),
    )


def _fold_layer(parameters: Parameters, prefix: str) -> FFCLayer:
    local_scale, local_shift = _batch_norm(parameters, f"{prefix}.bn_l")
    global_scale, global_shift = _batch_norm(parameters, f"{prefix}.bn_g")
    local_weight = torch.cat(
        [parameters[f"{prefix}.ffc.convl2l.weight"], parameters[f"{prefix}.ffc.convg2l.weight"]], dim=1
    )
    path = f"{prefix}.ffc.convg2g"
    spectrum = _fold(parameters, f"{path}.fu.conv_layer", f"{path}.fu.bn")
    interleaved = torch.arange(spectrum.bias.numel()).view(-1, 2)  # (C, re/im)
    grouped = interleaved.t().reshape(-1)
    return FFCLayer(
        local=Convolution(_scale_outputs(local_weight, local_scale), local_shift),
        cross=Convolution(_scale_outputs(parameters[f"{prefix}.ffc.convl2g.weight"], global_scale), global_shift),
        enter=_fold(parameters, f"{path}.conv1.0", f"{path}.conv1.1"),
        spectrum=Convolution(spectrum.weight[grouped][:, grouped], spectrum.bias[grouped]),
        leave=_scale_outputs(parameters[f"{path}.conv2.weight"], global_scale),
    )


def _fold(parameters: Parameters, convolution: str, batch_norm: str) -> Convolution:
    scale, shift = _batch_norm(parameters, batch_norm)
    return Convolution(_scale_outputs(parameters[f"{convolution}.weight"], scale), shift)


def _fold_transposed(parameters: Parameters, index: int) -> Convolution:
    scale, shift = _batch_norm(parameters, f"model.{index + 1}")
    weight, bias = parameters[f"model.{index}.weight"], parameters[f"model.{index}.bias"]
    return Convolution(weight * scale.view(1, -1, 1, 1), bias * scale + shift)


def _batch_norm(parameters: Parameters, prefix: str) -> tuple[Tensor, Tensor]:
    scale = parameters[f"{prefix}.weight"] / torch.sqrt(parameters[f"{prefix}.running_var"] + BATCH_NORM_EPS)
    return scale, parameters[f"{prefix}.bias"] - parameters[f"{prefix}.running_mean"] * scale


def _scale_outputs(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale.view(-1, 1, 1, 1)
