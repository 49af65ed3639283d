"""The inference form in plain PyTorch: the definition of what the kernels compute, and what runs without them.

Works on any device and in any floating type. Feature maps are (B, C, H, W) in channels-last memory. The trunk's maps
carry their reflected border with them, (B, D, H + 2, W + 2): a layer writes the inside of the next map and mirrors four
lines, so nothing is padded or concatenated by copying. On the CPU, bias, ReLU and the sum with the spectral path are
part of oneDNN's convolutions. On one or two cores in float32 another trunk takes less time (`planar_trunk`).
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lama.devices import cpu_supports_bf16
from lama.dft import dft_matrices
from lama.fold_batchnorm import Convolution, FFCLayer, FoldedNetwork
from lama.planar_trunk import PlanarTrunk, planar_is_fastest

BORDER_PX = 1  # of the trunk's maps
ENDS_BORDER_PX = 3  # of the 7x7 convolutions
# Rows of the image whose maps of full size a CPU makes at once: 9 MB each at 512x512, which stay in its cache. A
# multiple of 8, as the image's sides are, so that no strip is lower than the border.
STRIP_ROWS = 128


@dataclass(frozen=True)
class _Transform:
    """`dft.DftMatrices` for maps with a border: zero columns over the border, parts before frequencies in the spectrum.

    row (2K, W + 2); column (2H, 2H) from (row, part) to (part, frequency), column_inverse back; row_inverse (W, 2K).
    """

    row: Tensor
    column: Tensor
    column_inverse: Tensor
    row_inverse: Tensor
    spectrum_gain: float


class TorchBackend(nn.Module):
    """The folded network on `device` in `dtype`."""

    def __init__(self, network: FoldedNetwork, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.device, self.dtype = device, dtype
        self.strip_rows = STRIP_ROWS if device.type == "cpu" else sys.maxsize
        self.stem = _FoldedConvolution(network.stem, device, dtype)
        self.downs = nn.ModuleList(_FoldedConvolution(down, device, dtype) for down in network.downs)
        is_planar = planar_is_fastest(device, dtype)
        self.trunk = PlanarTrunk(network.layers) if is_planar else _Trunk(network.layers, device, dtype)
        self.ups = nn.ModuleList(_FoldedConvolution(up, device, dtype) for up in network.ups)
        self.head_rows: _FoldedConvolution | None = None
        if device.type == "cpu" and dtype == torch.float32:
            rows, columns = _separate_head(network.head)
            self.head_rows = _FoldedConvolution(rows, device, dtype)
            self.head = _FoldedConvolution(columns, device, dtype)
        else:
            self.head = _FoldedConvolution(network.head, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, H, W) -> (B, 3, H, W) float32 in [0, 1]; `x` is not modified."""
        x = self._enter(x.to(self.dtype))
        for down in self.downs[1:]:
            x = down(_reflect(x, BORDER_PX), relu=True, stride=2)
        x = self.trunk(x)
        for up in self.ups[:-1]:
            x = _upsample(up, x).relu_()
        return self._leave(x)

    def _enter(self, x: Tensor) -> Tensor:
        """(B, 4, H, W) -> what the first downsampling makes of it, (B, C, H / 2, W / 2)."""
        x = _reflect(x, ENDS_BORDER_PX)
        rows = (x.shape[2] - 2 * ENDS_BORDER_PX) // 2
        parts = []
        for strip in _strips(rows, self.strip_rows // 2):
            is_first = strip.start == 0
            top = max(2 * strip.start - 1, 0)
            full = self.stem(x[:, :, top : 2 * strip.stop + 2 * ENDS_BORDER_PX], relu=True)  # rows from `top` on
            # Steps of two never reach the border below and on the right.
            bordered = _reflect(full, BORDER_PX, top=is_first, bottom=False)
            parts.append(self.downs[0](bordered, relu=True, stride=2))
        return _joined(parts)

    def _leave(self, x: Tensor) -> Tensor:
        """(B, C, H / 2, W / 2) -> the image, (B, 3, H, W) float32 in [0, 1], by the last upsampling and the head."""
        half = x.shape[2]
        parts = []
        for strip in _strips(2 * half, self.strip_rows):
            first, last = max(strip.start - ENDS_BORDER_PX, 0), min(strip.stop + ENDS_BORDER_PX, 2 * half)
            # A row of the result takes the row of the map that it lies in, and the next.
            begin, end = first // 2, min((last + 1) // 2 + 1, half)
            full = _upsample(self.ups[-1], x[:, :, begin:end])[:, :, first - 2 * begin : last - 2 * begin]
            bordered = _reflect(full, ENDS_BORDER_PX, relu=True, top=strip.start == 0, bottom=strip.stop == 2 * half)
            if self.head_rows is not None:
                bordered = self.head_rows(bordered, relu=False)
            parts.append(self.head(bordered, relu=False).float().sigmoid_())
        return _joined(parts).contiguous()


class _FoldedConvolution(nn.Module):
    """Weight (channels-last) and bias as buffers; calling it convolves without padding."""

    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: Convolution, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        weight = convolution.weight.to(device, dtype).contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", convolution.bias.to(device, dtype))
        self.fuses = _onednn_fuses(device, dtype)

    def forward(self, x: Tensor, *, relu: bool, stride: int = 1, addend: Tensor | None = None) -> Tensor:
        """Convolve, add `addend` (overwritten with the result) where there is one, then ReLU where asked."""
        geometry = ([0, 0], [stride, stride], [1, 1], 1)  # padding, stride, dilation, groups
        if not self.fuses:
            y = F.conv2d(x, self.weight, self.bias, stride)
            y = y if addend is None else addend.add_(y)
            return y.relu_() if relu else y
        activation = "relu" if relu else "none"
        if addend is None:
            return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *geometry, activation, [], "")
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            addend, x, self.weight, self.bias, *geometry, "add", 1.0, activation, [], ""
        )


def _onednn_fuses(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether oneDNN's convolutions with ReLU and sum run on the device in the type."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    # Without AVX-512 they raise an error in bfloat16; PyTorch's plain convolution is slower and right.
    return dtype == torch.float32 or (dtype == torch.bfloat16 and cpu_supports_bf16())


def _separate_head(head: Convolution) -> tuple[Convolution, Convolution]:
    """Split the 7x7 convolution to 3 channels into 7x1 to 21 and 1x7 back to 3, exactly.

    oneDNN fills 3 output channels up to 16; 21 (one for each horizontal tap and colour) waste less: 110 -> 50 ms on one
    core at 512x512 in float32. The second only sums, shifted. In bfloat16 the sums between would be rounded.
    """
    colours, inputs, _, taps = head.weight.shape
    rows = head.weight.permute(3, 0, 1, 2).reshape(taps * colours, inputs, -1, 1)
    columns = torch.zeros(colours, taps * colours, 1, taps, dtype=head.weight.dtype)
    for tap in range(taps):
        for colour in range(colours):
            columns[colour, tap * colours + colour, 0, tap] = 1
    return Convolution(rows, torch.zeros(taps * colours, dtype=head.bias.dtype)), Convolution(columns, head.bias)


class _Trunk(nn.Module):
    """The residual blocks, two layers each, as products and convolutions that run on any device."""

    def __init__(self, layers: tuple[FFCLayer, ...], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.device, self.dtype = device, dtype
        self.layers = nn.ModuleList(_FoldedFFC(layer, device, dtype) for layer in layers)
        self._transforms: dict[tuple[int, int], _Transform] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> the same shape."""
        transform = self.transform(x.shape[2], x.shape[3])
        x = _reflect(x, BORDER_PX)
        y = torch.empty_like(x)
        for index in range(0, len(self.layers), 2):
            self.layers[index](x, y, transform, add=False)
            self.layers[index + 1](y, x, transform, add=True)
        del y
        return _inside(x, BORDER_PX)

    def transform(self, height: int, width: int) -> _Transform:
        """The transform for (height, width) features, built once."""
        if (height, width) not in self._transforms:
            matrices = dft_matrices(height, width)
            # The spectrum lies here as (part, frequency): then each part is one matrix for the 1x1 convolution.
            by_part = matrices.column.view(height, 2, -1).transpose(0, 1).reshape(2 * height, -1)
            from_part = matrices.column_inverse.view(-1, height, 2).transpose(1, 2).reshape(-1, 2 * height)
            self._transforms[height, width] = _Transform(
                row=F.pad(matrices.row, (BORDER_PX, BORDER_PX)).to(self.device, self.dtype),
                column=by_part.to(self.device, self.dtype),
                column_inverse=from_part.to(self.device, self.dtype),
                row_inverse=matrices.row_inverse.to(self.device, self.dtype),
                spectrum_gain=matrices.spectrum_gain,
            )
        return self._transforms[height, width]


class _FoldedFFC(nn.Module):
    """One FFC layer of the trunk, ReLU included, from one bordered map (B, D, H + 2, W + 2) to another."""

    leave_weight: Tensor
    spectrum_weights: Tensor
    spectrum_bias: Tensor

    def __init__(self, layer: FFCLayer, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.local = _FoldedConvolution(layer.local, device, dtype)
        self.cross = _FoldedConvolution(layer.cross, device, dtype)
        self.local_channels = layer.local.bias.numel()
        # Zero weights for the local channels: a third more arithmetic, and no copy of the global ones.
        enter = F.pad(layer.enter.weight, (0, 0, 0, 0, self.local_channels, 0))
        self.enter = _FoldedConvolution(Convolution(enter, layer.enter.bias), device, dtype)
        self.register_buffer("leave_weight", layer.leave.flatten(1).t().to(device, dtype).contiguous())  # (C, G)
        channels = layer.leave.shape[1]
        parts = layer.spectrum.weight.view(2, channels, 2, channels)  # (out part, out, in part, in)
        self.register_buffer("spectrum_weights", parts.permute(2, 0, 3, 1).to(device, dtype).contiguous())
        self.register_buffer("spectrum_bias", layer.spectrum.bias.view(2, 1, channels).to(device, dtype))

    def forward(self, x: Tensor, out: Tensor, transform: _Transform, *, add: bool) -> None:
        """Write the layer's result, or with `add` its sum with what is there, to `out`, border included."""
        y_local = self.local(x, relu=True)
        s = self.spectral_path(x, transform)  # (B, H, W, C)
        leave = torch.matmul(s, self.leave_weight).permute(0, 3, 1, 2)  # (B, G, H, W)
        y_global = self.cross(x[:, : self.local_channels], relu=True, addend=leave)
        inside = _inside(out, BORDER_PX)
        for target, y in (
            (inside[:, : self.local_channels], y_local),
            (inside[:, self.local_channels :], y_global),
        ):
            target.add_(y) if add else target.copy_(y)
        _mirror_border(out, BORDER_PX)

    def spectral_path(self, x: Tensor, transform: _Transform) -> Tensor:
        """Bordered map (B, D, H + 2, W + 2) -> (B, H, W, C): the 1x1 before the transform plus its Fourier unit."""
        batch, _, height, width = x.shape
        height, width = height - 2 * BORDER_PX, width - 2 * BORDER_PX
        frequencies = width // 2 + 1
        t = self.enter(x, relu=True).permute(0, 2, 3, 1)  # (B, H + 2, W + 2, C), border included
        channels = t.shape[3]
        y = torch.matmul(transform.row, t[:, BORDER_PX:-BORDER_PX])  # (B, H, 2K, C)
        z = torch.matmul(transform.column, y.view(batch, 2 * height, frequencies * channels))  # (B, 2H, K C)
        z = self._convolve_spectrum(z.view(batch, 2, height * frequencies, channels), transform.spectrum_gain)
        y = torch.matmul(transform.column_inverse, z.view(batch, 2 * height, frequencies * channels))  # (B, 2H, K C)
        fourier = torch.matmul(transform.row_inverse, y.view(batch, height, 2 * frequencies, channels))  # (B, H, W, C)
        return fourier.add_(t[:, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX])

    def _convolve_spectrum(self, z: Tensor, gain: float) -> Tensor:
        """ReLU(1x1 + gain bias) of (B, 2, H K, C): each part of the result sums over both parts of `z`."""
        y = torch.empty_like(z)
        for image, convolved in zip(z, y, strict=True):
            for part in range(2):
                torch.addmm(
                    gain * self.spectrum_bias[part], image[0], self.spectrum_weights[0, part], out=convolved[part]
                )
                convolved[part].addmm_(image[1], self.spectrum_weights[1, part])
        return y.relu_()


def _strips(rows: int, step: int) -> Iterator[range]:
    """Cut so many rows into strips of at most `step`."""
    for start in range(0, rows, step):
        yield range(start, min(start + step, rows))


def _joined(parts: list[Tensor]) -> Tensor:
    """One above the other."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _upsample(up: nn.Module, x: Tensor) -> Tensor:
    """Double both sides, by a 3x3 convolution backwards."""
    weight, bias = up.get_buffer("weight"), up.get_buffer("bias")
    return F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)


def _reflect(x: Tensor, border_px: int, *, relu: bool = False, top: bool = True, bottom: bool = True) -> Tensor:
    """Copy `x`, or its ReLU, into channels-last memory with its mirror image around it; F.pad takes twice as long.

    Without `top` or `bottom`, as for a strip out of a map, `x` has these rows of the border already, or needs none.
    """
    batch, channels, height, width = x.shape
    rows = slice(border_px if top else 0, height + (border_px if top else 0))
    out = torch.empty(
        (batch, channels, rows.stop + (border_px if bottom else 0), width + 2 * border_px),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    inside = out[:, :, rows, border_px:-border_px]
    if relu:
        torch.clamp_min(x, 0, out=inside)
    else:
        inside.copy_(x)
    _mirror_border(out, border_px, top=top, bottom=bottom)
    return out


def _mirror_border(x: Tensor, border_px: int, *, top: bool = True, bottom: bool = True) -> None:
    """Fill the border of `x` from its inside, mirrored without repeating the edge."""
    _, _, height, width = x.shape
    inner_rows = slice(border_px if top else 0, height - border_px if bottom else height)
    for i in range(border_px):
        x[:, :, inner_rows, i] = x[:, :, inner_rows, 2 * border_px - i]
        x[:, :, inner_rows, width - 1 - i] = x[:, :, inner_rows, width - 1 - 2 * border_px + i]
    for i in range(border_px):
        if top:
            x[:, :, i] = x[:, :, 2 * border_px - i]
        if bottom:
            x[:, :, height - 1 - i] = x[:, :, height - 1 - 2 * border_px + i]


def _inside(x: Tensor, border_px: int) -> Tensor:
    return x[:, :, border_px:-border_px, border_px:-border_px]
