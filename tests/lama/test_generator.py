"""The generator against an independent reference: the published network written out in NumPy, in float64."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lama.generator import Generator
from tests.support.networks import enliven

Array = NDArray[np.float64]


class Reference:
    """The published forward pass on one image, straight from a state dict; its own convolutions and transforms."""

    def __init__(self, state: dict[str, torch.Tensor], blocks: int) -> None:
        self.state = {name: value.numpy().astype(np.float64) for name, value in state.items()}
        self.blocks = blocks

    def batch_norm_relu(self, x: Array, name: str) -> Array:
        scale, shift, mean, variance = (
            self.state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * scale + shift, 0)

    def convolve(self, x: Array, name: str, *, padding_px: int, stride: int = 1) -> Array:
        """Correlate (C, H, W) with the kernels of `name`, mirrored at the borders."""
        kernels = self.state[f"{name}.weight"]
        side = kernels.shape[-1]
        padded = np.pad(x, ((0, 0), (padding_px, padding_px), (padding_px, padding_px)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))[:, ::stride, ::stride]
        return np.einsum("chwij,ocij->ohw", windows, kernels)

    def spectral_transform(self, x: Array, name: str) -> Array:
        x = self.batch_norm_relu(self.convolve(x, f"{name}.conv1.0", padding_px=0), f"{name}.conv1.1")
        channels, height, width = x.shape
        spectrum = np.fft.fft2(x, norm="ortho")[:, :, : width // 2 + 1]
        interleaved = np.empty((2 * channels, *spectrum.shape[1:]))
        interleaved[0::2], interleaved[1::2] = spectrum.real, spectrum.imag
        interleaved = self.convolve(interleaved, f"{name}.fu.conv_layer", padding_px=0)
        interleaved = self.batch_norm_relu(interleaved, f"{name}.fu.bn")
        back = np.fft.irfft2(interleaved[0::2] + 1j * interleaved[1::2], s=(height, width), norm="ortho")
        return self.convolve(x + back, f"{name}.conv2", padding_px=0)

    def ffc(self, local: Array, global_: Array, name: str) -> tuple[Array, Array]:
        to_local = self.convolve(local, f"{name}.ffc.convl2l", padding_px=1)
        to_local = to_local + self.convolve(global_, f"{name}.ffc.convg2l", padding_px=1)
        to_global = self.convolve(local, f"{name}.ffc.convl2g", padding_px=1)
        to_global = to_global + self.spectral_transform(global_, f"{name}.ffc.convg2g")
        return self.batch_norm_relu(to_local, f"{name}.bn_l"), self.batch_norm_relu(to_global, f"{name}.bn_g")

    def double(self, x: Array, index: int) -> Array:
        """Transposed 3x3 convolution to twice the size: every input pixel stamps its kernel onto the output."""
        kernels, bias = self.state[f"model.{index}.weight"], self.state[f"model.{index}.bias"]
        _, height, width = x.shape
        canvas = np.zeros((kernels.shape[1], 2 * height + 2, 2 * width + 2))
        for i in range(3):
            for j in range(3):
                stamp = np.einsum("chw,co->ohw", x, kernels[:, :, i, j])
                canvas[:, i : i + 2 * height : 2, j : j + 2 * width : 2] += stamp
        y = canvas[:, 1 : 2 * height + 1, 1 : 2 * width + 1] + bias[:, None, None]
        return self.batch_norm_relu(y, f"model.{index + 1}")

    def forward(self, x: Array) -> Array:
        x = self.batch_norm_relu(self.convolve(x, "model.1.ffc.convl2l", padding_px=3), "model.1.bn_l")
        for index in (2, 3):
            x = self.convolve(x, f"model.{index}.ffc.convl2l", padding_px=1, stride=2)
            x = self.batch_norm_relu(x, f"model.{index}.bn_l")
        local, global_ = (
            self.batch_norm_relu(
                self.convolve(x, f"model.4.ffc.convl2{part}", padding_px=1, stride=2), f"model.4.bn_{part}"
            )
            for part in ("l", "g")
        )
        for index in range(5, 5 + self.blocks):
            inner = self.ffc(*self.ffc(local, global_, f"model.{index}.conv1"), f"model.{index}.conv2")
            local, global_ = local + inner[0], global_ + inner[1]
        x = np.concatenate([local, global_])
        first = 5 + self.blocks + 1
        for index in (first, first + 3, first + 6):
            x = self.double(x, index)
        x = self.convolve(x, f"model.{first + 10}", padding_px=3)
        x = x + self.state[f"model.{first + 10}.bias"][:, None, None]
        return 1 / (1 + np.exp(-x))


def live_generator(width: int, blocks: int) -> Generator:
    """A generator whose batch-norms do something: random statistics, scales and shifts."""
    torch.manual_seed(width * 100 + blocks)
    generator = enliven(Generator(width, blocks))
    for module in generator.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.weight.data.mul_(2)  # untrained layers shrink their input
    return generator


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (24, 40), (40, 72), (16, 24)])
def test_generator_equals_the_numpy_reference(size: tuple[int, int]) -> None:
    """Sizes cover even and odd feature maps (24 / 8 = 3, 40 / 8 = 5, 72 / 8 = 9) and the smallest."""
    generator = live_generator(4, 2).double()
    x = torch.rand(2, 4, *size, dtype=torch.float64)
    with torch.inference_mode():
        got = generator(x).numpy()
    reference = Reference(generator.state_dict(), 2)
    for index in range(2):
        expected = reference.forward(x[index].numpy())
        assert np.ptp(expected) > 0.05, "a flat reference would prove nothing"
        np.testing.assert_allclose(got[index], expected, rtol=0, atol=1e-12)


def test_float32_follows_float64() -> None:
    generator = live_generator(4, 2)
    x = torch.rand(1, 4, 32, 24)
    with torch.inference_mode():
        single = generator(x)
        double = generator.double()(x.double())
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert (single - double).abs().max() < 1e-5


def test_parameters_are_named_and_shaped_as_published() -> None:
    """Spot checks of the big-lama checkpoint: 51.0 M parameters, 989 tensors."""
    with torch.device("meta"):
        state = Generator().state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes["model.1.ffc.convl2l.weight"] == (64, 4, 7, 7)
    assert shapes["model.4.ffc.convl2g.weight"] == (384, 256, 3, 3)
    assert shapes["model.5.conv1.ffc.convg2g.conv1.0.weight"] == (192, 384, 1, 1)
    assert shapes["model.22.conv2.ffc.convg2g.fu.conv_layer.weight"] == (384, 384, 1, 1)
    assert shapes["model.22.conv2.ffc.convg2l.weight"] == (128, 384, 3, 3)
    assert shapes["model.24.weight"] == (512, 256, 3, 3)
    assert shapes["model.34.bias"] == (3,)
    assert len(shapes) == 989
    trained = sum(value.numel() for name, value in state.items() if "running" not in name and "num_" not in name)
    assert round(trained / 1e6, 1) == 51.0


@pytest.mark.parametrize("shape", [(1, 4, 8, 64), (1, 4, 64, 20), (1, 4, 0, 16), (1, 3, 64, 64), (4, 64, 64)])
def test_impossible_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the generator takes"):
        live_generator(2, 1)(torch.zeros(shape))


def test_impossible_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match="from 1 up"):
        Generator(0, 3)


def test_input_is_not_modified_and_gradients_reach_every_parameter() -> None:
    """ReLUs work in place; none may touch the input or what the backward pass needs."""
    generator = live_generator(2, 2).train()
    x = torch.rand(2, 4, 32, 32)
    before = x.clone()
    generator(x).square().mean().backward()
    assert torch.equal(x, before)
    without = [name for name, parameter in generator.named_parameters() if parameter.grad is None]
    assert not without


def test_bfloat16_features_are_transformed_in_float32() -> None:
    """FFTs do not take bfloat16; the spectrum is computed in float32 and handed on in the features' type."""
    generator = live_generator(4, 1)
    x = torch.rand(1, 4, 24, 24)
    with torch.inference_mode():
        expected = generator(x)
        got = generator.bfloat16()(x.bfloat16())
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).abs().mean() < 0.02
