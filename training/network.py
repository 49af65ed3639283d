"""The generator as it is trained: the published function arranged for matrix units, its weights in one flat buffer.

The same function as `lama.generator.Generator` in training mode (a test compares them), in another form:

- features are channels-last; the local and the global part are two tensors, l2l and g2l are one convolution;
- the 2-D real DFT is one matrix product over the flattened pixels, (2 * frequencies, pixels) @ (pixels, channels), with
  real and imaginary rows interleaved, so that its output already is the (frequencies, 2 * channels) matrix the 1x1
  convolution takes;
- batch-norm, ReLU and the residual are one kernel (`training.kernels`);
- at the photo's own size, where there are few channels, maps are in depth form (`training.kernels.padding`): squares of
  four pixels as one with four times the channels, which cuDNN convolves five times faster.

`Layout` fixes where each weight lies; `published` and `collect` translate to and from the published checkpoint's names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F

from lama.generator import Generator
from training.kernels.normalise import EPSILON, batch_norm_relu
from training.kernels.padding import reflect_pad, space_form

GLOBAL_SHARE = 0.75
DOWNS = 3
FIRST_BLOCK_KEY = ".conv1.ffc.convl2l.weight"  # the end of a name that every block has once
NEW_BLOCK_SCALE = 0.1  # of a new block's last batch-norms: at 0 its ReLU would pass no gradient, ever


@dataclass(frozen=True)
class Weight:
    """One trained tensor.

    It has a logical shape, a fan-in, and the published keys that it is put together from.
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int
    keys: tuple[str, ...]
    join: Callable[[list[torch.Tensor]], torch.Tensor] = field(default=lambda parts: torch.cat(parts, 1))
    split: Callable[[torch.Tensor], list[torch.Tensor]] = field(default=lambda whole: [whole])
    orthogonal: bool = True

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def _fourier_order(channels: int) -> torch.Tensor:
    """Positions of (all real, all imaginary) among the published (c0 real, c0 imaginary, c1 real, …)."""
    return torch.cat([torch.arange(0, channels, 2), torch.arange(1, channels, 2)])


class Layout:
    """The generator's weights and batch-norms, in the order of the flat buffers."""

    def __init__(self, width: int, blocks: int) -> None:
        self.width, self.blocks = width, blocks
        self.channels = width << DOWNS
        self.globe = int(self.channels * GLOBAL_SHARE)
        self.local = self.channels - self.globe
        self.weights: list[Weight] = []
        # Of each: name, channels, published prefix, order of channels.
        self.norms: list[tuple[str, int, str, torch.Tensor | None]] = []
        self._conv("stem", width, 4, 7, ("model.1.ffc.convl2l.weight",), orthogonal=False)
        self._norm("stem", width, "model.1.bn_l")
        for i in range(DOWNS - 1):
            self._conv(f"down{i}", width << (i + 1), width << i, 3, (f"model.{2 + i}.ffc.convl2l.weight",))
            self._norm(f"down{i}", width << (i + 1), f"model.{2 + i}.bn_l")
        last = 1 + DOWNS
        inner = width << (DOWNS - 1)
        self._conv("down_l", self.local, inner, 3, (f"model.{last}.ffc.convl2l.weight",))
        self._conv("down_g", self.globe, inner, 3, (f"model.{last}.ffc.convl2g.weight",))
        self._norm("down_l", self.local, f"model.{last}.bn_l")
        self._norm("down_g", self.globe, f"model.{last}.bn_g")
        for block in range(blocks):
            for half in (1, 2):
                self._ffc(f"{block}.{half}", f"model.{last + 1 + block}.conv{half}")
        first_up = last + 1 + blocks + 1
        for i in range(DOWNS):
            wide = self.channels >> i
            self._conv(f"up{i}", wide, wide // 2, 3, (f"model.{first_up + 3 * i}.weight",))
            self._norm(f"up{i}", wide // 2, f"model.{first_up + 3 * i + 1}")
        self.up_biases = tuple((f"model.{first_up + 3 * i}.bias", self.channels >> (i + 1)) for i in range(DOWNS))
        self.head = f"model.{first_up + 3 * DOWNS + 1}"
        self._conv("head", 3, width, 7, (f"{self.head}.weight",), orthogonal=False)
        # Equal shapes side by side: the optimiser takes them as one batch of matrices.
        self.weights.sort(key=lambda w: (not w.orthogonal, w.shape, w.name))

    def _conv(self, name: str, out: int, into: int, size: int, keys: tuple[str, ...], orthogonal: bool = True) -> None:
        self.weights.append(Weight(name, (out, into, size, size), into * size * size, keys, orthogonal=orthogonal))

    def _norm(self, name: str, channels: int, prefix: str, order: torch.Tensor | None = None) -> None:
        self.norms.append((name, channels, prefix, order))

    def _ffc(self, name: str, key: str) -> None:
        local, globe, half = self.local, self.globe, self.globe // 2
        order = _fourier_order(2 * half)
        back = torch.argsort(order)
        self.weights += [
            Weight(
                f"{name}.l",
                (local, local + globe, 3, 3),
                9 * (local + globe),
                (f"{key}.ffc.convl2l.weight", f"{key}.ffc.convg2l.weight"),
                split=lambda whole: [whole[:, :local], whole[:, local:]],
            ),
            Weight(f"{name}.g", (globe, local, 3, 3), 9 * local, (f"{key}.ffc.convl2g.weight",)),
            Weight(f"{name}.enter", (half, globe, 1, 1), globe, (f"{key}.ffc.convg2g.conv1.0.weight",)),
            Weight(
                f"{name}.spectrum",
                (2 * half, 2 * half, 1, 1),
                2 * half,
                (f"{key}.ffc.convg2g.fu.conv_layer.weight",),
                join=lambda parts: parts[0][order][:, order],
                split=lambda whole: [whole[back][:, back]],
            ),
            Weight(f"{name}.leave", (globe, half, 1, 1), half, (f"{key}.ffc.convg2g.conv2.weight",)),
        ]
        self._norm(f"{name}.enter", half, f"{key}.ffc.convg2g.conv1.1")
        self._norm(f"{name}.spectrum", 2 * half, f"{key}.ffc.convg2g.fu.bn", order)
        self._norm(f"{name}.l", local, f"{key}.bn_l")
        self._norm(f"{name}.g", globe, f"{key}.bn_g")


@lru_cache(maxsize=8)
def dft_matrices(
    height: int, width: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the orthonormal 2-D real DFT over flattened pixels and its inverse.

    They are (2 * frequencies, pixels) and (pixels, 2 * frequencies), with rows (frequency, real | imaginary)
    interleaved; the frequencies are the `height * (width // 2 + 1)` of `torch.fft.rfft2`. Built in float64.
    """
    rows = torch.arange(height, dtype=torch.float64)
    columns = torch.arange(width, dtype=torch.float64)
    half = torch.arange(width // 2 + 1, dtype=torch.float64)
    turn_rows = torch.outer(rows, rows)[:, None, :, None] / height
    turn_columns = torch.outer(half, columns)[None, :, None, :] / width
    angle = 2 * math.pi * (turn_rows + turn_columns).reshape(height * len(half), height * width)
    scale = 1 / math.sqrt(height * width)
    forward = torch.stack([angle.cos(), -angle.sin()], 1).reshape(-1, height * width) * scale
    # A column other than the first and, for even widths, the last stands for its mirror image too.
    twice = torch.full((len(half),), 2.0, dtype=torch.float64)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    weight = twice.repeat(height).repeat_interleave(2)
    inverse = forward.t() * weight
    return forward.to(device, dtype), inverse.to(device, dtype)


def depth_weight(weight: torch.Tensor) -> torch.Tensor:
    """(O, C, 7, 7) -> (4 O, 4 C, 4, 4): the same convolution from depth form to depth form."""
    phases = [F.pad(weight, (x, 1 - x, y, 1 - y)) for y in (0, 1) for x in (0, 1)]
    return strided_depth_weight(torch.cat(phases))


def strided_depth_weight(weight: torch.Tensor) -> torch.Tensor:
    """(O, C, 2 k, 2 k) -> (O, 4 C, k, k): a convolution of stride 2, from depth form to the plain one."""
    out, into, height, width = weight.shape
    squares = weight.view(out, into, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    whole = squares.reshape(out, 4 * into, height // 2, width // 2)
    return whole.contiguous(memory_format=torch.channels_last)


Weights = dict[str, torch.Tensor]
Moments = list[tuple[torch.Tensor, torch.Tensor]]


class TrainingForward:
    """Runs the generator on given weights in training mode.

    `moments` collects each batch-norm's statistics in the layout's order.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def __call__(self, x: torch.Tensor, weights: Weights, moments: Moments) -> torch.Tensor:
        """x: (B, 4, H, W) channels-last, masked RGB and mask. Returns logits (B, 3, H, W) before the sigmoid."""
        self.weights, self.moments = weights, moments
        y = F.conv2d(reflect_pad(3, x, to_depth=True), depth_weight(weights["stem"]))
        y = self._norm_in_depth("stem", y)
        # The first row of a square above the map has no weight: the taps are three and begin with the second.
        y = reflect_pad((2, 0), y, from_depth=True, to_depth=True)
        y = self._norm("down0", F.conv2d(y, strided_depth_weight(F.pad(weights["down0"], (1, 0, 1, 0)))))
        for i in range(1, DOWNS - 1):
            y = self._norm(f"down{i}", F.conv2d(reflect_pad(1, y), weights[f"down{i}"], stride=2))
        padded = reflect_pad(1, y)
        local = self._norm("down_l", F.conv2d(padded, weights["down_l"], stride=2))
        globe = self._norm("down_g", F.conv2d(padded, weights["down_g"], stride=2))
        for block in range(self.layout.blocks):
            inner = self._ffc(f"{block}.1", local, globe, None)
            local, globe = self._ffc(f"{block}.2", *inner, (local, globe))
        y = torch.cat([local, globe], 1)
        for i in range(DOWNS):
            y = F.conv_transpose2d(y, weights[f"up{i}"], stride=2, padding=1, output_padding=1)
            y = self._norm(f"up{i}", y)
        y = F.conv2d(reflect_pad(3, y, to_depth=True), depth_weight(weights["head"]))
        return space_form(y).float() + weights["head.bias"].view(1, -1, 1, 1)

    def _norm(self, name: str, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        y, mean, variance = batch_norm_relu(x, self.weights[f"{name}.scale"], self.weights[f"{name}.shift"], residual)
        self.moments.append((mean, variance))
        return y

    def _norm_in_depth(self, name: str, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        pixels = self._norm(name, x.permute(0, 2, 3, 1).reshape(-1, channels // 4))
        return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def _ffc(
        self, name: str, local: torch.Tensor, globe: torch.Tensor, residual: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        w = self.weights
        padded = reflect_pad(1, local, globe)
        mixed = self._spectral(name, globe)  # (B * H * W, half): norms in the order enter, spectrum, l, g
        new_local = self._norm(f"{name}.l", F.conv2d(padded, w[f"{name}.l"]), residual[0] if residual else None)
        from_local = F.conv2d(reflect_pad(1, local), w[f"{name}.g"])
        batch, channels, height, width = from_local.shape
        rows = from_local.permute(0, 2, 3, 1).reshape(-1, channels)
        rows = torch.addmm(rows, mixed, w[f"{name}.leave"].flatten(1).t())
        new_globe = rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return new_local, self._norm(f"{name}.g", new_globe, residual[1] if residual else None)

    def _spectral(self, name: str, globe: torch.Tensor) -> torch.Tensor:
        w = self.weights
        batch, channels, height, width = globe.shape
        rows = globe.permute(0, 2, 3, 1).reshape(-1, channels)
        entered = self._norm(f"{name}.enter", F.linear(rows, w[f"{name}.enter"].flatten(1)))
        half = entered.shape[1]
        pixels = entered.view(batch, height * width, half)
        forward, inverse = dft_matrices(height, width, globe.device, globe.dtype)
        spectrum = torch.bmm(forward.expand(batch, -1, -1), pixels).view(-1, 2 * half)
        spectrum = self._norm(f"{name}.spectrum", F.linear(spectrum, w[f"{name}.spectrum"].flatten(1)))
        back = torch.baddbmm(pixels, inverse.expand(batch, -1, -1), spectrum.view(batch, -1, half))
        return back.view(-1, half)


class FrozenForward(TrainingForward):
    """Runs the generator in evaluation mode, on weights whose batch-norms hold their statistics (`frozen`)."""

    def _norm(self, name: str, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        shape = (1, -1, 1, 1) if x.dim() == 4 else (1, -1)
        scale, shift = (self.weights[f"{name}.{part}"].to(x.dtype).view(shape) for part in ("scale", "shift"))
        y = torch.addcmul(shift, x, scale).relu_()
        return y if residual is None else y + residual


class FrozenNetwork:
    """Fills holes with weights that are not trained.

    Args:
        layout: of the weights.
        state: published weights.
        device: where they run.
        dtype: of their products.
    """

    def __init__(
        self, layout: Layout, state: dict[str, torch.Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        tensors = {name: value.to(device) for name, value in frozen(layout, state).items()}
        self._weights: Weights = {name: v.to(dtype) if v.dim() > 1 else v for name, v in tensors.items()}
        self._forward = FrozenForward(layout)

    @torch.no_grad()
    def fill(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return photos, (B, 3, H, W) float32 in [0, 1], with the holes of (B, 1, H, W) masks (1 = hole) filled."""
        x = torch.cat([image * (1 - mask), mask], 1).to(self._weights["stem"].dtype)
        logits = self._forward(x.contiguous(memory_format=torch.channels_last), self._weights, [])
        return torch.sigmoid(logits) * mask + image * (1 - mask)


def published(
    layout: Layout, weights: Weights, means: dict[str, torch.Tensor], variances: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the weights under the published checkpoint's names.

    They are float32 on the CPU, ready for `Generator.load_state_dict(strict)`.
    """
    state: dict[str, torch.Tensor] = {}
    for weight in layout.weights:
        for key, part in zip(weight.keys, weight.split(weights[weight.name].detach().float().cpu()), strict=True):
            state[key] = part.contiguous()
    for name, channels, prefix, order in layout.norms:
        back = torch.arange(channels) if order is None else torch.argsort(order)
        state[f"{prefix}.weight"] = weights[f"{name}.scale"].detach().float().cpu()[back]
        state[f"{prefix}.bias"] = weights[f"{name}.shift"].detach().float().cpu()[back]
        state[f"{prefix}.running_mean"] = means[name].detach().float().cpu()[back]
        state[f"{prefix}.running_var"] = variances[name].detach().float().cpu()[back]
        state[f"{prefix}.num_batches_tracked"] = torch.tensor(0)
    for key, channels in layout.up_biases:
        state[key] = torch.zeros(channels)  # a bias before a batch-norm has no effect and is not trained
    state[f"{layout.head}.bias"] = weights["head.bias"].detach().float().cpu()
    return state


def collect(layout: Layout, state: dict[str, torch.Tensor]) -> Weights:
    """Return the trained tensors out of a published state.

    The inverse of `published`, except for the running statistics. Raises ValueError for a network of another shape.
    """
    _check_shapes(layout, state)
    weights: Weights = {w.name: w.join([state[key].float() for key in w.keys]) for w in layout.weights}
    for name, channels, prefix, order in layout.norms:
        pick = torch.arange(channels) if order is None else order
        weights[f"{name}.scale"] = state[f"{prefix}.weight"].float()[pick]
        weights[f"{name}.shift"] = state[f"{prefix}.bias"].float()[pick]
    weights["head.bias"] = state[f"{layout.head}.bias"].float()
    return weights


def _check_shapes(layout: Layout, state: dict[str, torch.Tensor]) -> None:
    """Raise ValueError where a published state is not of a layout, statistics included; say the first difference."""
    with torch.device("meta"):  # the shapes alone
        wanted = Generator(layout.width, layout.blocks).state_dict()
    for name, tensor in wanted.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in state or state[name].shape != tensor.shape:
            got = f"is {tuple(state[name].shape)}" if name in state else "is not there"
            raise ValueError(
                f"they are of another network than width {layout.width} with {layout.blocks} blocks: {name} {got} and "
                f"has to be {tuple(tensor.shape)}"
            )


def frozen(layout: Layout, state: dict[str, torch.Tensor]) -> Weights:
    """Return the tensors out of a published state with the running statistics put into each norm's scale and shift."""
    weights = collect(layout, state)
    for name, channels, prefix, order in layout.norms:
        pick = torch.arange(channels) if order is None else order
        mean, variance = (state[f"{prefix}.running_{part}"].float()[pick] for part in ("mean", "var"))
        weights[f"{name}.scale"] = weights[f"{name}.scale"] / (variance + EPSILON).sqrt()
        weights[f"{name}.shift"] = weights[f"{name}.shift"] - mean * weights[f"{name}.scale"]
    for i, (key, _) in enumerate(layout.up_biases):  # which training mode needs not, since the mean takes it away
        weights[f"up{i}.shift"] = weights[f"up{i}.shift"] + state[key].float() * weights[f"up{i}.scale"]
    return weights


def continued(layout: Layout, state: dict[str, torch.Tensor]) -> Weights:
    """Return what a training of `layout` takes over from a published state of its width with as many blocks or fewer.

    Blocks beyond those of the state are not in the result but for the scales of their last batch-norms, which are so
    small that the deeper network starts close to where the shallower one was.
    """
    blocks = sum(key.endswith(FIRST_BLOCK_KEY) for key in state)
    if not blocks:
        raise ValueError("they are of no LaMa generator: there are no residual blocks in them")
    if blocks > layout.blocks:
        raise ValueError(f"the weights to start from have {blocks} blocks, the network to train only {layout.blocks}")
    weights = collect(Layout(layout.width, blocks), state)
    new = tuple(f"{block}.2." for block in range(blocks, layout.blocks))
    for name, channels, _, _ in layout.norms:
        if name.startswith(new) and name.endswith((".l", ".g")):
            weights[f"{name}.scale"] = torch.full((channels,), NEW_BLOCK_SCALE)
    return weights
