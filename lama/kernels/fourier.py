"""The Fourier transforms of a map as products with the matrices of `dft`.

Layouts, with K = W // 2 + 1 and C channels, all float16:
features  (B, H, W, Cx)    t, then t + its Fourier unit, live in the last C channels of the map, past the network's own
planes    (B, H, 2, K, C)  a row's real parts, then its imaginary parts: (2H, K C) of a column transform
A column transform of even height H takes half the arithmetic: cosines and sines of pixel y and frequency f + H/2 are
those of frequency f times (-1)^y, so the sums over even and over odd pixels give f as their sum and f + H/2 as their
difference. The inverse is the same with frequencies and pixels exchanged.

The imaginary parts of frequency 0 and of an even width's last one are always 0. The row transforms leave them out, so
that a row of W pixels is exactly W numbers: whoever allocates the planes fills them with zeros once.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lama.dft import DftMatrices
from lama.kernels.early_launch import early_options, wait_for_launches_before
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
    column_halves: KernelMatrix | None  # (H, H even terms, H odd terms), None where H is odd
    column_inverse_halves: KernelMatrix | None
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
        column_halves=_halves(matrices.column, device),
        column_inverse_halves=_halves(matrices.column_inverse, device),
        spectrum_gain=matrices.spectrum_gain,
        frequencies=frequencies,
    )


def _halves(matrix: Tensor, device: torch.device) -> KernelMatrix | None:
    """The upper half of a column transform's rows: terms of even pixels, then of odd ones, each filled with zeros."""
    height = matrix.shape[0] // 2
    if height % 2:
        return None
    even_odd = matrix[:height].view(height, height // 2, 2, 2).transpose(1, 2).reshape(height, 2, height)
    filled = torch.zeros(height, 2, triton.cdiv(height, DEPTH_MULTIPLE) * DEPTH_MULTIPLE, dtype=torch.float16)
    filled[:, :, :height] = even_odd.to("cpu", torch.float16)
    return KernelMatrix(filled.flatten(1).to(device), height, height)


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


def transform_columns(
    planes: Tensor, matrices: KernelMatrices, spectrum: Tensor, *, tile: Tile, early: bool = False
) -> None:
    """Write the column transform of `planes` to `spectrum`, both (B, H, 2, K, C); `early`: see `early_launch`."""
    batch, height, _, frequencies, channels = planes.shape
    if matrices.column_halves is not None:
        _multiply_halves(matrices.column_halves, planes, spectrum, tile=tile, early=early)
        return
    shape = (1, batch, 2 * height, frequencies * channels)
    _multiply(matrices.column, planes.view(shape), spectrum.view(shape), columns=shape[3], tile=tile, early=early)


def invert_columns(
    spectrum: Tensor, matrices: KernelMatrices, planes: Tensor, *, tile: Tile, early: bool = False
) -> None:
    """Write the inverse column transform of `spectrum` to `planes`, as `transform_columns`."""
    batch, height, _, frequencies, channels = planes.shape
    if matrices.column_inverse_halves is not None:
        _multiply_halves(matrices.column_inverse_halves, spectrum, planes, tile=tile, early=early)
        return
    shape = (1, batch, 2 * height, frequencies * channels)
    there, back = spectrum.view(shape), planes.view(shape)
    _multiply(matrices.column_inverse, there, back, columns=shape[3], tile=tile, early=early)


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
    early: bool = False,
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
        **early_options(x.device, early=early),
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
    EARLY: tl.constexpr = False,
):
    wait_for_launches_before(EARLY)
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


def _multiply_halves(matrix: KernelMatrix, x: Tensor, out: Tensor, *, tile: Tile, early: bool) -> None:
    """Launch a column transform, `x` and `out` (B, H, 2, K, C), from the even and odd terms of its upper rows."""
    batch, height, _, frequencies, channels = x.shape
    columns = frequencies * channels
    row_tiles, column_tiles = triton.cdiv(height, tile.rows), triton.cdiv(columns, tile.columns)
    _multiply_halves_kernel[(batch * row_tiles * column_tiles,)](
        matrix.values,
        x,
        out,
        columns,
        row_tiles,
        column_tiles,
        HEIGHT=height,
        MATRIX_STRIDE=matrix.values.shape[1],
        EVEN_COLUMNS=columns % tile.columns == 0,
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **early_options(x.device, early=early),
    )


@triton.jit(do_not_specialize=["row_tiles", "column_tiles"])
def _multiply_halves_kernel(
    matrix,
    x,
    out,
    columns,
    row_tiles,
    column_tiles,
    HEIGHT: tl.constexpr,
    MATRIX_STRIDE: tl.constexpr,
    EVEN_COLUMNS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    wait_for_launches_before(EARLY)
    tile = tl.program_id(0)
    m = (tile % row_tiles) * BM + tl.arange(0, BM)
    n = (tile // row_tiles % column_tiles) * BN + tl.arange(0, BN)
    image = tile // (row_tiles * column_tiles)
    x += image * (2 * HEIGHT) * columns
    out += image * (2 * HEIGHT) * columns
    k = tl.arange(0, BK)
    even_terms = matrix + tl.minimum(m, HEIGHT - 1)[:, None] * MATRIX_STRIDE
    odd_terms = even_terms + MATRIX_STRIDE // 2
    inside = (n < columns)[None, :]
    even = tl.zeros((BM, BN), dtype=tl.float32)
    odd = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, HEIGHT, BK):
        source = tl.minimum(start + k, HEIGHT - 1)  # past the end the matrix is 0, and x only has to be finite
        pointers = x + ((source // 2 * 4 + source % 2)[:, None] * columns + n[None, :])
        if EVEN_COLUMNS:
            even_rows = tl.load(pointers)
            odd_rows = tl.load(pointers + 2 * columns)
        else:
            even_rows = tl.load(pointers, mask=inside, other=0.0)
            odd_rows = tl.load(pointers + 2 * columns, mask=inside, other=0.0)
        even = tl.dot(tl.load(even_terms + (start + k)[None, :]), even_rows, even)
        odd = tl.dot(tl.load(odd_terms + (start + k)[None, :]), odd_rows, odd)
    pointers = out + (m[:, None] * columns + n[None, :])
    mask = (m < HEIGHT)[:, None] & inside
    tl.store(pointers, (even + odd).to(tl.float16), mask=mask)
    tl.store(pointers + HEIGHT * columns, (even - odd).to(tl.float16), mask=mask)
