"""The inference form in plain PyTorch: the definition of what the kernels compute, and what runs without them.

Works on any device and in any floating type. Feature maps are (B, C, H, W) in channels-last memory, so that a pixel's
channels are a row and every 1x1 convolution a matrix product without a copy.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lama.dft import DftMatrices, dft_matrices
from lama.fold import Convolution, FFCLayer, FoldedNetwork


class TorchForm(nn.Module):
    """The folded network on `device`; convolutions in `dtype`, the Fourier transforms in `spectral_dtype`."""

    def __init__(
        self, network: FoldedNetwork, *, device: torch.device, dtype: torch.dtype, spectral_dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.device, self.dtype, self.spectral_dtype = device, dtype, spectral_dtype
        self.stem = _FoldedConvolution(network.stem, device, dtype)
        self.downs = nn.ModuleList(_FoldedConvolution(down, device, dtype) for down in network.downs)
        self.layers = nn.ModuleList(_FoldedFFC(layer, device, dtype, spectral_dtype) for layer in network.layers)
        self.ups = nn.ModuleList(_FoldedConvolution(up, device, dtype) for up in network.ups)
        self.head = _FoldedConvolution(network.head, device, dtype)
        self._matrices: dict[tuple[int, int], DftMatrices] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, H, W) -> (B, 3, H, W) float32 in [0, 1]; `x` is not modified."""
        x = x.to(self.dtype, memory_format=torch.channels_last)
        x = self.stem(_reflect(x, 3)).relu_()
        for down in self.downs:
            x = down(_reflect(x, 1), stride=2).relu_()
        matrices = self.matrices(x.shape[2], x.shape[3])
        for index in range(0, len(self.layers), 2):
            y = self.layers[index](x, matrices)
            x = self.layers[index + 1](y, matrices).add_(x)
        for up in self.ups:
            x = cast(_FoldedConvolution, up).transposed(x).relu_()
        return self.head(_reflect(x, 3)).float().sigmoid_().contiguous()

    def matrices(self, height: int, width: int) -> DftMatrices:
        """The transform for (height, width) features, built once."""
        if (height, width) not in self._matrices:
            self._matrices[height, width] = dft_matrices(height, width).to(self.device, self.spectral_dtype)
        return self._matrices[height, width]


class _FoldedConvolution(nn.Module):
    """Weight (channels-last) and bias as buffers; calling it convolves without padding."""

    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: Convolution, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        weight = convolution.weight.to(device, dtype).contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", convolution.bias.to(device, dtype))

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, stride)

    def transposed(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1, output_padding=1)


class _FoldedFFC(nn.Module):
    """One FFC layer of the trunk, ReLU included: (B, C, H, W) -> the same shape, local channels first."""

    enter_weight: Tensor
    enter_bias: Tensor
    spectrum_weight: Tensor
    spectrum_bias: Tensor
    leave_weight: Tensor

    def __init__(self, layer: FFCLayer, device: torch.device, dtype: torch.dtype, spectral_dtype: torch.dtype) -> None:
        super().__init__()
        self.spectral_dtype = spectral_dtype
        self.local = _FoldedConvolution(layer.local, device, dtype)
        self.cross = _FoldedConvolution(layer.cross, device, dtype)
        self.local_channels = layer.local.bias.numel()

        def matrix(weight: Tensor, to: torch.dtype) -> Tensor:
            return weight.flatten(1).t().to(device, to).contiguous()  # (I, O)

        self.register_buffer("enter_weight", matrix(layer.enter.weight, dtype))
        self.register_buffer("enter_bias", layer.enter.bias.to(device, dtype))
        self.register_buffer("spectrum_weight", matrix(layer.spectrum.weight, spectral_dtype))
        self.register_buffer("spectrum_bias", layer.spectrum.bias.to(device, spectral_dtype))
        self.register_buffer("leave_weight", matrix(layer.leave, dtype))

    def forward(self, x: Tensor, matrices: DftMatrices) -> Tensor:
        padded = _reflect(x, 1)
        y_local = self.local(padded)
        y_global = self.cross(padded[:, : self.local_channels])
        s = self.spectral_path(x[:, self.local_channels :].permute(0, 2, 3, 1), matrices)  # (B, H, W, C)
        leave = torch.matmul(s, self.leave_weight).permute(0, 3, 1, 2)
        return torch.cat([y_local, y_global.add_(leave)], dim=1).relu_()

    def spectral_path(self, x: Tensor, matrices: DftMatrices) -> Tensor:
        """Global features (B, H, W, G) -> (B, H, W, C): the 1x1 before the transform plus its Fourier unit."""
        batch, height, width, _ = x.shape
        t = (torch.matmul(x, self.enter_weight) + self.enter_bias).relu_()  # (B, H, W, C)
        channels = t.shape[3]
        frequencies = width // 2 + 1
        rows = t.to(self.spectral_dtype).reshape(batch * height, width, channels)
        y = torch.matmul(matrices.row, rows)  # (B H, 2K, C)
        y = y.view(batch, 2 * height, frequencies * channels)
        z = torch.matmul(matrices.column, y)  # (B, 2H, K C)
        z = z.view(batch, height, 2, frequencies, channels).transpose(2, 3).reshape(-1, 2 * channels)
        bias = self.spectrum_bias * matrices.spectrum_gain
        z = torch.addmm(bias, z, self.spectrum_weight).relu_()  # (B H K, 2C)
        z = z.view(batch, height, frequencies, 2, channels).transpose(2, 3)
        z = z.reshape(batch, 2 * height, frequencies * channels)
        y = torch.matmul(matrices.column_inverse, z).view(batch * height, 2 * frequencies, channels)
        fourier = torch.matmul(matrices.row_inverse, y).view(batch, height, width, channels)
        return t + fourier.to(t.dtype)


def _reflect(x: Tensor, border_px: int) -> Tensor:
    return F.pad(x, (border_px,) * 4, mode="reflect")
