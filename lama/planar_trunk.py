"""The trunk in float32 on one or two CPU cores: a channel is one plane, and two threads share each layer.

NNPACK, which comes with PyTorch, computes the 3x3 convolutions by Winograd's F(6x6, 3x3) with a fifth of the products
(Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016), and MKL transforms planes in less time than
products with the matrices of `dft` take. NNPACK's own threads wait at full speed for their next work, as OpenMP's do,
so that side by side each takes the other's core. Hence two threads of our own, each of which computes alone what it
computes. More than two cores are left to oneDNN, which divides each step among all; nothing else was measured there.

A map is (D, H + 2, W + 2) float32, its reflected border included; a batch goes through image by image.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock

import torch
from torch import Tensor, nn

from lama.fold_batchnorm import FFCLayer

BORDER_PX = 1
MOST_THREADS = 2
_TURN = Lock()  # of the network that has both threads


def planar_is_fastest(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether this trunk runs here, and faster than oneDNN's convolutions and products with matrices."""
    return (
        device.type == "cpu"
        and dtype == torch.float32
        and torch.get_num_threads() <= MOST_THREADS
        and torch.backends.mkl.is_available()
        and torch.backends.nnpack.is_available()  # asking makes it ready: otherwise its first convolution fails
    )


class PlanarTrunk(nn.Module):
    """The residual blocks, two layers each, in float32 on the CPU."""

    def __init__(self, layers: tuple[FFCLayer, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_PlanarLayer(layer) for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) of any strides, overwritten with the result and returned."""
        for image in x:
            if torch.get_num_threads() == 1:
                self._run(image, None)
            else:
                with _TURN:
                    one, other = _two_threads()
                    one.submit(self._run, image, other).result()
        return x

    @torch.inference_mode()  # here and below, as the caller's is not the threads'
    def _run(self, image: Tensor, other: ThreadPoolExecutor | None) -> None:
        """Overwrite `image` with what the trunk makes of it; a part of each layer is left to the `other` thread."""
        channels, height, width = image.shape
        x = torch.empty(channels, height + 2 * BORDER_PX, width + 2 * BORDER_PX)
        y = torch.empty_like(x)
        _inside(x).copy_(image)
        _mirror_border(x)
        for index in range(0, len(self.layers), 2):
            self.layers[index](x, y, other, add=False)
            self.layers[index + 1](y, x, other, add=True)
        image.copy_(_inside(x))


class _PlanarLayer(nn.Module):
    """One FFC layer, ReLU included, from one bordered map (D, H + 2, W + 2) to another."""

    def __init__(self, layer: FFCLayer) -> None:
        super().__init__()
        self.local_channels = layer.local.bias.numel()
        for name, value in (
            ("local_weight", layer.local.weight),
            ("local_bias", layer.local.bias),
            ("cross_weight", layer.cross.weight),
            ("cross_bias", layer.cross.bias),
            ("enter_weight", layer.enter.weight.flatten(1)),
            ("enter_bias", layer.enter.bias[:, None]),
            ("spectrum_weight", layer.spectrum.weight.flatten(1)),
            ("spectrum_bias", layer.spectrum.bias[:, None]),
            ("leave_weight", layer.leave.flatten(1)),
        ):
            self.register_buffer(name, value.float().contiguous())

    def forward(self, x: Tensor, out: Tensor, other: ThreadPoolExecutor | None, *, add: bool) -> None:
        """Write the layer's result, or with `add` its sum with what is there, to `out`, border included."""
        outputs = len(self.get_buffer("cross_bias"))
        if other is None:
            path = self._spectral_path(x)
            self._cross(x, lambda: path, out, range(outputs), add=add)
            self._local(x, out, add=add)
            return
        first = outputs // 2  # the local convolution takes as long as the spectral path
        spectral = other.submit(self._spectral_path, x)
        rest = other.submit(self._cross, x, spectral.result, out, range(first, outputs), add=add)
        self._local(x, out, add=add)
        self._cross(x, spectral.result, out, range(first), add=add)
        rest.result()

    def _local(self, x: Tensor, out: Tensor, *, add: bool) -> None:
        y = _convolve(x, self.get_buffer("local_weight"), self.get_buffer("local_bias"))
        _write(y, out[: self.local_channels], add=add)

    @torch.inference_mode()
    def _cross(self, x: Tensor, path: Callable[[], Tensor], out: Tensor, part: range, *, add: bool) -> None:
        """Write some of the global channels; `path` gives what `_spectral_path` does, and may have to wait for it."""
        some = slice(part.start, part.stop)
        y = _convolve(
            x[: self.local_channels], self.get_buffer("cross_weight")[some], self.get_buffer("cross_bias")[some]
        )
        y.view(len(part), -1).addmm_(self.get_buffer("leave_weight")[some], path())
        _write(y, out[self.local_channels :][some], add=add)

    @torch.inference_mode()
    def _spectral_path(self, x: Tensor) -> Tensor:
        """Bordered map (D, H + 2, W + 2) -> (C, H W): the 1x1 before the transform plus its Fourier unit."""
        _, height, width = x.shape
        inputs = x[self.local_channels :].flatten(1)  # (G, (H + 2) (W + 2))
        t = torch.addmm(self.get_buffer("enter_bias"), self.get_buffer("enter_weight"), inputs).view(-1, height, width)
        t = _inside(t).clamp_min(0).contiguous()  # (C, H, W)
        z = torch.view_as_real(torch.fft.rfft2(t, norm="ortho"))  # (C, H, K, 2)
        parts = z.permute(3, 0, 1, 2).reshape(2 * len(z), -1)  # (2C, H K), all real parts first
        half = z.shape[:3]
        del z
        y = torch.addmm(self.get_buffer("spectrum_bias"), self.get_buffer("spectrum_weight"), parts).relu_()
        del parts
        spectrum = torch.complex(*y.view(2, *half))
        del y
        t += torch.fft.irfft2(spectrum, s=t.shape[1:], norm="ortho")
        return t.flatten(1)


@cache
def _two_threads() -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
    """Two threads that compute alone, for all networks: each keeps memory for the largest map it had."""
    count = torch.get_num_threads()
    one, other = (ThreadPoolExecutor(1, name) for name in ("trunk", "trunk-other"))
    for each in (one, other):
        each.submit(_compute_alone).result()
    torch.set_num_threads(count)  # or threads that begin later would compute alone too
    return one, other


def _begin_anew() -> None:
    """Forget the threads, and a turn that one of them has: a fork has neither, and would wait for them for ever."""
    global _TURN
    _TURN = Lock()
    _two_threads.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def _compute_alone() -> None:
    torch.get_num_threads()  # the first call in a thread takes over the number that any thread set last
    torch.set_num_threads(1)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3x3 of (I, H + 2, W + 2) -> (O, H, W)."""
    y: Tensor = torch._nnpack_spatial_convolution(x[None], weight, bias, padding=[0, 0], stride=[1, 1])[0]
    return y


def _write(y: Tensor, out: Tensor, *, add: bool) -> None:
    """Write the ReLU of (C, H, W), or with `add` its sum with what is there, to (C, H + 2, W + 2) with its border."""
    if add:
        _inside(out).add_(y.relu_())
    else:
        torch.clamp_min(y, 0, out=_inside(out))
    _mirror_border(out)


def _mirror_border(x: Tensor) -> None:
    """Fill the border of (C, H + 2, W + 2) from its inside, mirrored without repeating the edge."""
    x[:, 1:-1, 0], x[:, 1:-1, -1] = x[:, 1:-1, 2], x[:, 1:-1, -3]
    x[:, 0], x[:, -1] = x[:, 2], x[:, -3]


def _inside(x: Tensor) -> Tensor:
    return x[:, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]
