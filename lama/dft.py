"""The two-dimensional real Fourier transform of a feature map and its inverse, as four matrices.

A product with a matrix takes any size, runs on the matrix units and sums in float32. The half-precision FFT takes
powers of two only.

Scale. The published network uses the orthonormal transform. Its constant term grows with the square root of the number
of pixels: it is 128 times the mean at 128x128, which is past the largest float16 for a mean of 512. Here the spectrum
is the plain sum over the pixels, divided by half their number (rounded up to a power of two). That is at most twice the
largest activation, so what fits float16 before the transform fits after it. The network allows this: between transform
and inverse there are only a convolution, a bias and a ReLU, and ReLU(g x + g b) = g ReLU(x + b) for g > 0. The spectrum
may be scaled by any g if its bias is too and the inverse divides by g.

Precision. The scale makes small coefficients smaller. A typical one is the activations' spread times 2 / sqrt(pixels),
which is 1/64 at 128x128: for a spread of 1 still 200 times the smallest normal float16. Below that the absolute error
(3e-8) does not grow. For sides that are powers of two, the usual ones, the constant row of every matrix is exact, so
the mean of a channel passes through all layers without a drift.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DftMatrices:
    """The four matrices for (H, W) features, K = W // 2 + 1 columns of the spectrum; float64 on the CPU unless moved.

    row            (2K, W)   a row of pixels -> real parts, then imaginary parts
    column         (2H, 2H)  (row, re/im) -> (frequency, re/im), the same for each of the K columns
    column_inverse (2H, 2H)  the other way
    row_inverse    (W, 2K)   real parts, then imaginary parts -> a row of pixels
    spectrum_gain            spectrum here / orthonormal spectrum: the factor its bias needs
    """

    row: Tensor
    column: Tensor
    column_inverse: Tensor
    row_inverse: Tensor
    spectrum_gain: float

    def to(self, device: torch.device, dtype: torch.dtype) -> "DftMatrices":
        """Return a copy on `device` in `dtype`."""
        row, column, column_inverse, row_inverse = (
            matrix.to(device, dtype) for matrix in (self.row, self.column, self.column_inverse, self.row_inverse)
        )
        return DftMatrices(row, column, column_inverse, row_inverse, self.spectrum_gain)


def dft_matrices(height: int, width: int) -> DftMatrices:
    """Build the matrices for features of `height` x `width`, any sizes from 1 up."""
    row_gain = 1 / _power_of_two_from(width)
    column_gain = 2 / _power_of_two_from(height)
    frequencies = width // 2 + 1
    angle = _angles(frequencies, width)  # (K, W)
    row = torch.cat([angle.cos(), -angle.sin()]) * row_gain
    if width % 2 == 0:  # sin(pi n) is 0, not the 1e-16 that rounding leaves
        row[-1] = 0

    angle = _angles(height, height)
    cosine, sine = angle.cos(), angle.sin()
    # (c - i s)(re + i im) = (c re + s im) + i (c im - s re); the inverse has + i s.
    column = _interleave(cosine, sine, -sine, cosine) * column_gain
    column_inverse = _interleave(cosine, -sine, sine, cosine)

    # The missing half of the spectrum mirrors the kept one: every column counts twice but the constant and Nyquist.
    twice = torch.full((frequencies,), 2.0, dtype=torch.float64)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    angle = _angles(width, frequencies)  # (W, K)
    row_inverse = torch.cat([twice * angle.cos(), -twice * angle.sin()], dim=1)
    if width % 2 == 0:
        row_inverse[:, -1] = 0
    row_inverse /= row_gain * column_gain * height * width
    return DftMatrices(row, column, column_inverse, row_inverse, row_gain * column_gain * math.sqrt(height * width))


def _angles(rows: int, columns: int) -> Tensor:
    """2 pi r c / n with n the longer of the two, reduced in integers first so that large products stay exact."""
    period = max(rows, columns)
    product = torch.outer(torch.arange(rows), torch.arange(columns)) % period
    return product.to(torch.float64) * (2 * math.pi / period)


def _interleave(re_re: Tensor, re_im: Tensor, im_re: Tensor, im_im: Tensor) -> Tensor:
    """(n, n) blocks out_in -> (2n, 2n) with real and imaginary parts next to each other on both sides."""
    size = re_re.shape[0]
    blocks = torch.stack([torch.stack([re_re, re_im], dim=2), torch.stack([im_re, im_im], dim=2)], dim=1)
    return blocks.reshape(2 * size, 2 * size)  # (out, out re/im, in, in re/im)


def _power_of_two_from(n: int) -> int:
    return 1 << (n - 1).bit_length()
