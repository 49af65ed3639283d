"""The Fourier transforms of a map as products with the matrices of `dft`.

Layouts, with K = W // 2 + 1 and C channels, all float16:
features  (B, H, W, Cx)    t, then t + its Fourier unit, live in the last C channels of the map, past the network's own
planes    (B, H, 2, K, C)  a row's real parts, then its imaginary parts: (2H, K C) of a column transform
The imaginary parts of frequency 0 and of an even width's last one are always 0. The row transforms leave them out, so
that a row of W pixels is exactly W numbers: whoever allocates the planes fills them with zeros once.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lama.dft import DftMatrices
from lama.kernels.tiles import Tile

DEPTH_MULTIPLE = 64  # the matrices' columns are filled up with zeros to a multiple of the deepest tile


@dataclass(frozen=True)
class KernelMatrix:
    """A (rows, depth) matrix stored as (rows, depth filled up with zeros) float16."""

    values: Tensor
    rows: int
    depth: int


@dataclass(frozen=True)
class KernelMatrices:
    """`DftMatrices` for the kernels: row transforms without the parts that are always 0."""

    row: KernelMatrix  # (W, W)
    column: KernelMatrix  # (2H, 2H)
    column_inverse: KernelMatrix  # (2H, 2H)
    row_inverse: KernelMatrix  # (W, W)
    spectrum_gain: float
    frequencies: int


def kernel_matrices(matrices: DftMatrices, device: torch.device) -> KernelMatrices:
    """Lay out the transform for the kernels."""
    width = matrices.row.shape[1]
    frequencies = width // 2 + 1
    kept = [i for i in range(2 * frequencies) if i != frequencies and not (width % 2 == 0 and i == 2 * frequencies - 1)]

    def stored(values: Tensor) -> KernelMatrix:
        rows, depth = values.shape
        filled = torch.zeros(rows, triton.cdiv(depth, DEPTH_MULTIPLE) * DEPTH_MULTIPLE, dtype=torch.float16)
        filled[:, :depth] = values.to("cpu", torch.float16)
        return KernelMatrix(filled.to(device), rows, depth)

    return KernelMatrices(
        row=stored(matrices.row[kept]),
        column=stored(matrices.column),
        column_inverse=stored(matrices.column_inverse),
        row_inverse=stored(matrices.row_inverse[:, kept]),
        spectrum_gain=matrices.spectrum_gain,
        frequencies=frequencies,
    )


def transform_rows(x: Tensor, matrices: KernelMatrices, planes: Tensor, *, tile: Tile) -> None:
    """Write the row transform of the last channels of `x` to `planes`."""
    x_channels, channels = x.shape[3], planes.shape[4]
    _multiply(
        matrices.row,
        x,
        planes.flatten(2, 3),
        columns=channels,
        x_first=x_channels - channels,
        out_gap=matrices.frequencies,
        tile=tile,
    )


def transform_columns(planes: Tensor, matrices: KernelMatrices, spectrum: Tensor, *, tile: Tile) -> None:
    """Write the column transform of `planes` to `spectrum`, both (B, H, 2, K, C)."""
    batch, height, _, frequencies, channels = planes.shape
    shape = (1, batch, 2 * height, frequencies * channels)
    _multiply(matrices.column, planes.view(shape), spectrum.view(shape), columns=shape[3], tile=tile)


def invert_columns(spectrum: Tensor, matrices: KernelMatrices, planes: Tensor, *, tile: Tile) -> None:
    """Write the inverse column transform of `spectrum` to `planes`, both (B, H, 2, K, C)."""
    batch, height, _, frequencies, channels = planes.shape
    shape = (1, batch, 2 * height, frequencies * channels)
    _multiply(matrices.column_inverse, spectrum.view(shape), planes.view(shape), columns=shape[3], tile=tile)


def add_inverse_rows(planes: Tensor, matrices: KernelMatrices, x: Tensor, *, tile: Tile) -> None:
    """Add the inverse row transform of `planes` to the last channels of `x`."""
    x_channels, channels = x.shape[3], planes.shape[4]
    _multiply(
        matrices.row_inverse,
        planes.flatten(2, 3),
        x,
        columns=channels,
        x_gap=matrices.frequencies,
        out_first=x_channels - channels,
        add=True,
        tile=tile,
    )


def multiply_reference(
    matrix: KernelMatrix,
    x: Tensor,
    out: Tensor,
    *,
    columns: int,
    x_first: int = 0,
    out_first: int = 0,
    x_gap: int | None = None,
    out_gap: int | None = None,
    add: bool = False,
) -> None:
    """The definition of the transforms, computed in the type of `x`: out = matrix x, or out + matrix x.

    `x` (.., rows, ..) and `out` (.., rows, ..) take part with `columns` of their columns from `x_first` and `out_first`
    on; row `x_gap` of `x` and row `out_gap` of `out` are skipped.
    """
    x_rows = [i if x_gap is None or i < x_gap else i + 1 for i in range(matrix.depth)]
    out_rows = [i if out_gap is None or i < out_gap else i + 1 for i in range(matrix.rows)]
    values = matrix.values[:, : matrix.depth].to(x.dtype)
    y = values @ x[..., x_rows, x_first : x_first + columns]
    if add:
        y = y + out[..., out_rows, out_first : out_first + columns]
    out[..., out_rows, out_first : out_first + columns] = y.to(out.dtype)


def _multiply(
    matrix: KernelMatrix,
    x: Tensor,
    out: Tensor,
    *,
    columns: int,
    tile: Tile,
    x_first: int = 0,
    out_first: int = 0,
    x_gap: int | None = None,
    out_gap: int | None = None,
    add: bool = False,
) -> None:
    """Launch what `multiply_reference` defines, for `x` and `out` of four dimensions; columns are contiguous."""
    row_tiles, column_tiles = triton.cdiv(matrix.rows, tile.rows), triton.cdiv(columns, tile.columns)
    _multiply_kernel[(x.shape[0] * x.shape[1] * row_tiles * column_tiles,)](
        matrix.values,
        x,
        out,
        matrix.rows,
        matrix.depth,
        columns,
        row_tiles,
        column_tiles,
        x.shape[1],
        matrix.values.stride(0),
        *x.stride()[:3],
        *out.stride()[:3],
        matrix.depth if x_gap is None else x_gap,
        matrix.rows if out_gap is None else out_gap,
        X_FIRST=x_first,
        OUT_FIRST=out_first,
        EVEN_COLUMNS=columns % tile.columns == 0,
        ADD=add,
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


@triton.jit(do_not_specialize=["rows", "depth", "row_tiles", "column_tiles", "inner", "x_gap", "out_gap"])
def _multiply_kernel(
    matrix,
    x,
    out,
    rows,
    depth,
    columns,
    row_tiles,
    column_tiles,
    inner,
    matrix_stride,
    x_outer_stride,
    x_inner_stride,
    x_row_stride,
    out_outer_stride,
    out_inner_stride,
    out_row_stride,
    x_gap,
    out_gap,
    X_FIRST: tl.constexpr,
    OUT_FIRST: tl.constexpr,
    EVEN_COLUMNS: tl.constexpr,
    ADD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    tile = tl.program_id(0)
    m = (tile % row_tiles) * BM + tl.arange(0, BM)
    n = (tile // row_tiles % column_tiles) * BN + tl.arange(0, BN)
    batch = tile // (row_tiles * column_tiles)
    x += (batch // inner) * x_outer_stride + (batch % inner) * x_inner_stride + X_FIRST
    out += (batch // inner) * out_outer_stride + (batch % inner) * out_inner_stride + OUT_FIRST
    k = tl.arange(0, BK)
    matrix_rows = matrix + tl.minimum(m, rows - 1)[:, None] * matrix_stride
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, depth, BK):
        a = tl.load(matrix_rows + (start + k)[None, :])
        source = tl.minimum(start + k, depth - 1)  # past the end the matrix is 0, and x only has to be finite
        source += (source >= x_gap).to(tl.int32)
        pointers = x + (source[:, None] * x_row_stride + n[None, :])
        b = tl.load(pointers) if EVEN_COLUMNS else tl.load(pointers, mask=(n < columns)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)

    target = m + (m >= out_gap).to(tl.int32)
    pointers = out + (target[:, None] * out_row_stride + n[None, :])
    mask = (m < rows)[:, None] & (n < columns)[None, :]
    if ADD:
        acc += tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    tl.store(pointers, acc.to(tl.float16), mask=mask)
