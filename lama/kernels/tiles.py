"""Block shapes of the kernels: a fixed table per kernel and size, fitted to the card's shared memory.

Nothing is tuned at run time, so the first repair costs what the hundredth does. The table was measured on Hopper
(`bench/tune_kernels.py` prints it); older cards get the same shapes with fewer stages, or smaller ones where even two
stages do not fit.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch

BYTES_PER_NUMBER = 2  # float16
SHARED_KIB_BY_CAPABILITY = ((12, 0, 99), (9, 0, 227), (8, 9, 99), (8, 7, 163), (8, 6, 99), (8, 0, 163), (7, 5, 64))
"""Largest shared memory of one block in KiB, from the CUDA C++ programming guide's table of compute capabilities."""
OPERANDS = {"up": (2, 3), "columns": (2, 2)}
"""How many row and column tiles a step loads, where it is not one of each."""
SHARED_BYTES_KEPT_BACK = 3072  # what the compiler takes for layout changes between registers


@dataclass(frozen=True)
class Tile:
    """What one program computes (rows x columns of the output), `depth` terms of the sum at a time.

    `warps` is its number of warps, `stages` how many loads are in flight, `split` the number of programs a sum is
    split over.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    split: int = 1


Choices = tuple[tuple[int, Tile], ...]
"""(from this many rows of the product up, tile), largest first."""

TILES: dict[str, Choices] = {
    "local": (
        (12288, Tile(128, 128, 64, 4, 4)),
        (3072, Tile(64, 128, 64, 4, 4)),
        (0, Tile(64, 64, 64, 4, 4, 4)),
    ),
    "global": ((12288, Tile(128, 128, 64, 8, 3)), (3072, Tile(64, 128, 64, 8, 3)), (0, Tile(64, 64, 64, 4, 4))),
    "down": ((4096, Tile(128, 128, 64, 4, 3)), (0, Tile(64, 64, 64, 4, 4))),
    "up": ((4096, Tile(128, 64, 32, 4, 3)), (0, Tile(64, 64, 32, 4, 3))),
    "enter": ((8192, Tile(128, 64, 64, 4, 4)), (0, Tile(64, 64, 64, 4, 4))),
    "enter_rows": ((0, Tile(128, 64, 64, 4, 3)),),
    "enter_short_rows": ((8192, Tile(64, 64, 64, 4, 3)), (0, Tile(64, 64, 64, 4, 4))),
    "cross_taps": ((0, Tile(64, 128, 64, 4, 3)),),
    "leave_rows": ((8192, Tile(64, 64, 64, 4, 1)), (0, Tile(64, 128, 64, 4, 1))),
    "rows": ((0, Tile(64, 64, 64, 4, 2)),),
    "columns": ((0, Tile(64, 64, 64, 4, 2)),),
    "spectrum": ((6144, Tile(64, 128, 64, 4, 3)), (0, Tile(64, 64, 64, 4, 3))),
    "stem": ((0, Tile(64, 128, 32, 4, 1)),),
    "head": ((524288, Tile(64, 32, 64, 4, 3)), (0, Tile(64, 32, 16, 4, 3))),
}


def tile_for(kernel: str, rows: int, *, columns: int, depth: int, device: torch.device) -> Tile:
    """Choose the tile of `kernel` for a product with `rows` rows.

    Args:
        kernel: a key of TILES.
        rows: of the product.
        columns: what the tile's columns must divide; 0 for nothing.
        depth: what the tile's depth must divide; 0 for nothing.
        device: where it runs; its shared memory limits the tile.

    Returns:
        the tile.
    """
    tile = next(tile for from_rows, tile in TILES[kernel] if rows >= from_rows)
    while columns and columns % tile.columns:
        tile = replace(tile, columns=tile.columns // 2)
    while depth and depth % tile.depth:
        tile = replace(tile, depth=tile.depth // 2)
    limit = shared_bytes(device) - SHARED_BYTES_KEPT_BACK
    while tile.stages > 2 and _bytes(kernel, tile) > limit:
        tile = replace(tile, stages=tile.stages - 1)
    while _bytes(kernel, tile) > limit and tile.rows > 32:
        tile = replace(tile, rows=tile.rows // 2)
    while _bytes(kernel, tile) > limit and tile.columns > 32:
        tile = replace(tile, columns=tile.columns // 2)
    return tile


@cache
def multiprocessors(device: torch.device) -> int:
    """Return how many multiprocessors `device` has; the interpreter is one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@cache
def shared_bytes(device: torch.device) -> int:
    """Return the largest shared memory one block may use on `device`; the interpreter has no limit."""
    if device.type != "cuda":
        return 1 << 30
    return shared_bytes_of(torch.cuda.get_device_capability(device))


def shared_bytes_of(capability: tuple[int, int]) -> int:
    """Return the largest shared memory one block may use on a card of this compute capability."""
    return next((kib for major, minor, kib in SHARED_KIB_BY_CAPABILITY if capability >= (major, minor)), 48) * 1024


@cache
def copies_boxes(device: torch.device) -> bool:
    """Whether `device` copies boxes of a tensor to shared memory by itself (from Hopper on; the interpreter does)."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)


def _bytes(kernel: str, tile: Tile) -> int:
    row_tiles, column_tiles = OPERANDS.get(kernel, (1, 1))
    numbers = (row_tiles * tile.rows + column_tiles * tile.columns) * tile.depth
    return numbers * BYTES_PER_NUMBER * tile.stages
