"""The LaMa generator as published: a residual network of Fast Fourier Convolutions.

Input is (B, 4, H, W): RGB in [0, 1] with the hole already set to 0, then the mask (1 = hole). Output is (B, 3, H, W) in
[0, 1]. Nothing here masks, thresholds or composites.

Every feature map past the last downsampling is a pair: a *local* part (a quarter of the channels), seen through 3x3
convolutions, and a *global* part (three quarters), seen through a Fourier transform of the whole map, so that each
layer looks at the whole image. Parameter names and numerics are those of the published checkpoints;
`fast_generator` computes the same function faster.

Sources: LaMa, Suvorov et al. 2021, arXiv:2109.07161 (section 2.1 and figure 2; the big-lama configuration);
FFC, Chi et al., "Fast Fourier Convolution", NeurIPS 2020. Layer layout after github.com/advimman/lama.
"""

from typing import cast

import torch
from torch import Tensor, nn

INPUT_CHANNELS = 4  # RGB and mask
OUTPUT_CHANNELS = 3
DOWNSAMPLINGS = 3
SIZE_MULTIPLE_PX = 2**DOWNSAMPLINGS
SMALLEST_SIZE_PX = 16  # reflection needs at least 2x2 features after the downsamplings
GLOBAL_RATIO = 0.75  # share of the channels that is global, from the last downsampling on

Pair = tuple[Tensor, Tensor | None]
"""Local and global features of one map: (B, C_local, H, W), and (B, C_global, H, W) or None where there are none."""


class FourierUnit(nn.Module):
    """1x1 convolution, batch-norm and ReLU in the frequency domain (FFC: "Fourier Unit").

    (B, C, H, W) -> (B, C, H, W). Real and imaginary parts of one channel are neighbours: channel 2c and 2c + 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(2 * channels, 2 * channels, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(2 * channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Transform, convolve the spectrum and transform back: (B, C, H, W) -> (B, C_out, H, W)."""
        height, width = x.shape[-2:]
        # The transform has no half precision worth having: powers of two only, and the constant term overflows.
        spectrum = torch.fft.rfft2(at_least_float32(x), norm="ortho")
        parts = torch.stack((spectrum.real, spectrum.imag), dim=2)  # (B, C, 2, H, W // 2 + 1)
        z = parts.flatten(1, 2).to(x.dtype)  # (B, 2C, H, W // 2 + 1)
        z = at_least_float32(self.relu(self.bn(self.conv_layer(z))))
        z = z.unflatten(1, (-1, 2))  # (B, C, 2, H, W // 2 + 1)
        spectrum = torch.complex(z[:, :, 0], z[:, :, 1])
        # Without `s` an odd width would come back one pixel short.
        return torch.fft.irfft2(spectrum, s=(height, width), norm="ortho").to(x.dtype)


class SpectralTransform(nn.Module):
    """The global-to-global path: half the channels, a Fourier unit with a shortcut, and back.

    The local Fourier unit of the FFC paper is left out, as LaMa does (`enable_lfu: false`).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        inner_channels = out_channels // 2
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, inner_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(inner_channels),
            nn.ReLU(inplace=True),
        )
        self.fu = FourierUnit(inner_channels)
        self.conv2 = nn.Conv2d(inner_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map the global part to the global part: (B, C_in, H, W) -> (B, C_out, H, W)."""
        x = self.conv1(x)
        return self.conv2(x + self.fu(x))


class FFC(nn.Module):
    """Fast Fourier Convolution: four paths between the local and the global part.

    A path whose input or output has no channels is an identity without parameters and is never run.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_px: int,
        global_ratio_in: float,
        global_ratio_out: float,
        stride: int = 1,
        padding_px: int = 0,
    ) -> None:
        super().__init__()
        in_global = int(in_channels * global_ratio_in)
        self.out_global = int(out_channels * global_ratio_out)
        in_local = in_channels - in_global
        self.out_local = out_channels - self.out_global

        def convolution(channels_in: int, channels_out: int) -> nn.Module:
            if channels_in == 0 or channels_out == 0:
                return nn.Identity()
            return nn.Conv2d(
                channels_in, channels_out, kernel_px, stride, padding_px, bias=False, padding_mode="reflect"
            )

        self.convl2l = convolution(in_local, self.out_local)
        self.convl2g = convolution(in_local, self.out_global)
        self.convg2l = convolution(in_global, self.out_local)
        both_global = in_global > 0 and self.out_global > 0
        self.convg2g = SpectralTransform(in_global, self.out_global) if both_global else nn.Identity()

    def forward(self, pair: Pair) -> Pair:
        """Run the paths that exist; a part of the result without channels is None."""
        x_local, x_global = pair
        y_local = self.convl2l(x_local)
        y_global = self.convl2g(x_local) if self.out_global else None
        if x_global is not None:
            y_local = y_local + self.convg2l(x_global)
            if y_global is not None:
                y_global = y_global + self.convg2g(x_global)
        return y_local, y_global


class FFCBatchNormReLU(nn.Module):
    """An FFC with batch-norm and ReLU on each part. A plain tensor counts as a pair without a global part."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_px: int,
        global_ratio_in: float,
        global_ratio_out: float,
        stride: int = 1,
        padding_px: int = 0,
    ) -> None:
        super().__init__()
        self.ffc = FFC(
            in_channels,
            out_channels,
            kernel_px=kernel_px,
            global_ratio_in=global_ratio_in,
            global_ratio_out=global_ratio_out,
            stride=stride,
            padding_px=padding_px,
        )
        self.bn_l = nn.BatchNorm2d(self.ffc.out_local)
        self.bn_g = nn.BatchNorm2d(self.ffc.out_global) if self.ffc.out_global else nn.Identity()
        self.act_l = nn.ReLU(inplace=True)
        self.act_g = nn.ReLU(inplace=True) if self.ffc.out_global else nn.Identity()

    def forward(self, x: Tensor | Pair) -> Pair:
        """Take a pair, or a tensor as the local part alone, through the FFC, batch-norm and activation."""
        y_local, y_global = self.ffc(x if isinstance(x, tuple) else (x, None))
        y_local = self.act_l(self.bn_l(y_local))
        return y_local, None if y_global is None else self.act_g(self.bn_g(y_global))


class FFCResidualBlock(nn.Module):
    """Two FFC layers with a shortcut around both; no activation after the sum (LaMa figure 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = self._layer(channels)
        self.conv2 = self._layer(channels)

    @staticmethod
    def _layer(channels: int) -> FFCBatchNormReLU:
        return FFCBatchNormReLU(
            channels,
            channels,
            kernel_px=3,
            padding_px=1,
            global_ratio_in=GLOBAL_RATIO,
            global_ratio_out=GLOBAL_RATIO,
        )

    def forward(self, pair: Pair) -> Pair:
        """Add what both layers make of the pair to the pair; the shapes stay."""
        x_local, x_global = pair
        y_local, y_global = self.conv2(self.conv1(pair))
        return x_local + y_local, x_global + y_global


class JoinParts(nn.Module):
    """Local and global channels side by side again: (B, C_local + C_global, H, W), local first."""

    def forward(self, pair: Pair) -> Tensor:
        """Concatenate the two parts along the channels."""
        return torch.cat(cast(tuple[Tensor, Tensor], pair), dim=1)


class Generator(nn.Module):
    """Fill the hole of a masked image (LaMa section 2.1).

    big-lama is width 64, 18 blocks: 51.0 M parameters.

    Args:
        width: number of channels at full resolution; it is 8 times that after the downsamplings.
        blocks: number of residual blocks.
    """

    def __init__(self, width: int = 64, blocks: int = 18) -> None:
        super().__init__()
        if width < 1 or blocks < 1:
            raise ValueError(f"a generator needs a width and a number of blocks from 1 up, got {width} and {blocks}")
        self.width = width
        self.blocks = blocks

        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            FFCBatchNormReLU(INPUT_CHANNELS, width, kernel_px=7, global_ratio_in=0, global_ratio_out=0),
        ]
        for step in range(DOWNSAMPLINGS):
            last = step == DOWNSAMPLINGS - 1
            layers.append(
                FFCBatchNormReLU(
                    width * 2**step,
                    width * 2 ** (step + 1),
                    kernel_px=3,
                    stride=2,
                    padding_px=1,
                    global_ratio_in=0,
                    global_ratio_out=GLOBAL_RATIO if last else 0,
                )
            )
        channels = width * 2**DOWNSAMPLINGS
        layers += [FFCResidualBlock(channels) for _ in range(blocks)]
        layers.append(JoinParts())
        for _ in range(DOWNSAMPLINGS):
            layers += [
                nn.ConvTranspose2d(channels, channels // 2, kernel_size=3, stride=2, padding=1, output_padding=1),
                nn.BatchNorm2d(channels // 2),
                nn.ReLU(inplace=True),
            ]
            channels //= 2
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, OUTPUT_CHANNELS, kernel_size=7), nn.Sigmoid()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Predict an image from a masked one.

        Args:
            x: (B, 4, H, W), floating point: RGB in [0, 1] with the hole set to 0, then the mask. H and W are multiples
                of 8, from 16 up. Not modified.

        Returns:
            (B, 3, H, W) in [0, 1], of the type of `x`.

        Raises:
            ValueError: `x` has another shape.
        """
        if not torch.jit.is_tracing():
            check_input_shape(tuple(x.shape))
        return self.model(x)


def check_input_shape(shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `shape` is (B, 4, H, W) with H and W multiples of 8, from 16 up."""
    if len(shape) != 4 or shape[1] != INPUT_CHANNELS:
        raise ValueError(f"the generator takes (B, {INPUT_CHANNELS}, H, W): masked RGB and mask, got {shape}")
    if any(size_px < SMALLEST_SIZE_PX or size_px % SIZE_MULTIPLE_PX for size_px in shape[2:]):
        raise ValueError(
            f"the generator takes heights and widths that are multiples of {SIZE_MULTIPLE_PX} px, "
            f"from {SMALLEST_SIZE_PX} up, got {shape[2]}x{shape[3]}; pad the image first"
        )


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` itself if it is float32 or float64, else a float32 copy."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
