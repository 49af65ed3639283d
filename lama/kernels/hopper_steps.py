"""Pieces of the convolutions in `hopper_convolution`: one tile's copies, products and epilogue, in Gluon.

A tile is 64 outputs of 32 x 8 pixels. One step of its sum is 32 input channels and one column of taps: the 34 x 8
pixels that the column's three taps look at come into shared memory once, and since eight pixels of a row are one period
of the swizzle, the tap above or below is the same memory, eight rows of it on. So pixels are read three times instead
of nine. Outputs are the rows of the matrix product and pixels its 256 columns: per number of the result the matrix
units then read less out of shared memory than with any narrower product.

The copy engine fetches boxes of the map, so nothing computes addresses. Rows beyond the border are fetched as single
rows from where they are mirrored; columns beyond it come from the map's side columns (`hopper_trunk`), which every
convolution keeps up to date for the next.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

# What Triton 3.6 and 3.7 name as on the right, 3.9 names as on the left.
copy_in = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
copy_out = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global
synchronize = getattr(gl, "barrier", None) or gl.thread_barrier
reinterpret = getattr(gl.shared_memory_descriptor, "reinterpret", None) or gl.shared_memory_descriptor._reinterpret
# From 3.9 on memory cannot be looked at as more than was cut out of it. What begins anywhere in a slot is cut out of
# all slots then, and slots lie a power of two apart; before, that many units could not be cut out.
CUTS = gl.constexpr(hasattr(gl.shared_memory_descriptor, "reinterpret"))

ROWS = gl.constexpr(32)  # of a tile, in pixels
COLUMNS = gl.constexpr(8)
PIXELS = gl.constexpr(256)
OUTPUTS = gl.constexpr(64)
DEPTH = gl.constexpr(32)
"""Input channels per step."""
SIDE_COLUMNS = gl.constexpr(16)
SLOT = gl.constexpr(64 if CUTS.value else 58)
"""Memory of a step, in units of 8 rows of `DEPTH` numbers: 34 of pixels, from WEIGHTS on 3 taps of 8 of weights."""
TAP = gl.constexpr(8)
WEIGHTS = gl.constexpr(SLOT.value - 3 * TAP.value)
SPARE = gl.constexpr(2 if CUTS.value else 0)
"""Units behind the last slot, since what is cut out from a slot's third row on has the length of all slots too."""
TAPS_BYTES = gl.constexpr(58 * 8 * 32 * 2)
TAIL_BYTES = gl.constexpr((32 + 8) * 8 * 32 * 2)
TILE_BYTES = gl.constexpr(256 * 64 * 2)

OPERAND = gl.constexpr(gl.NVMMASharedLayout(64, 16, rank=2))
OPERAND_BOX = gl.constexpr(gl.NVMMASharedLayout(64, 16, rank=4))
RESULT = gl.constexpr(gl.NVMMASharedLayout(128, 16, rank=2))
RESULT_BOX = gl.constexpr(gl.NVMMASharedLayout(128, 16, rank=4))
PRODUCT = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 256, 16]))
# The same of numbers of 8 bits. A step has twice as many in the same bytes, so copies stay as they are: the copy engine
# takes two for one number of 16 bits.
DEPTH8 = gl.constexpr(64)
OPERAND8 = gl.constexpr(gl.NVMMASharedLayout(64, 8, rank=2))
PRODUCT8 = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 256, 32]))
LARGEST8 = gl.constexpr(448.0)
COALESCED = gl.constexpr(gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0]))
COALESCED8 = gl.constexpr(gl.BlockedLayout([1, 16], [8, 4], [4, 1], [1, 0]))


@gluon.jit
def place_of(tile, height, width, ALL_OUTPUTS: gl.constexpr):
    """Return a tile's place: image of the batch, first row, first column, first output channel."""
    # Tiles of the same pixels run next to each other, so that the second finds them in the L2 cache.
    output_tiles: gl.constexpr = ALL_OUTPUTS // OUTPUTS
    pixel_tile = tile // output_tiles
    across = width // COLUMNS
    down = height // ROWS
    x = (pixel_tile % across) * COLUMNS
    y = ((pixel_tile // across) % down) * ROWS
    return pixel_tile // (across * down), y, x, (tile % output_tiles) * OUTPUTS


@gluon.jit
def _mirrored(i, n):
    i = gl.where(i < 0, -i, i)
    return gl.where(i >= n, 2 * n - 2 - i, i)


@gluon.jit
def pixels_in(pool, slot, FROM: gl.constexpr, SHAPE: gl.constexpr, LAYOUT: gl.constexpr):
    """The 32 rows of eight pixels in a slot that begin at its row FROM, in another shape."""
    if CUTS:
        slots: gl.constexpr = pool.shape[0] // SLOT
        cut = pool.slice(FROM, slots * SLOT, 0)
        rows = reinterpret(cut, gl.float16, [slots, SLOT * 8, DEPTH], OPERAND).index(slot)
    else:
        rows = pool.index(slot * SLOT + FROM)
    return reinterpret(rows, gl.float16, SHAPE, LAYOUT)


@gluon.jit
def weights_in(pool, slot, tap):
    """A tap's weights in a slot (OUTPUTS, DEPTH)."""
    if CUTS:
        slots: gl.constexpr = pool.shape[0] // SLOT
        taps = reinterpret(pool.slice(0, slots * SLOT, 0), gl.float16, [slots * SLOT // TAP, OUTPUTS, DEPTH], OPERAND)
        return taps.index(slot * (SLOT // TAP) + WEIGHTS // TAP + tap)
    else:
        return reinterpret(pool.index(slot * SLOT + WEIGHTS + tap * TAP), gl.float16, [OUTPUTS, DEPTH], OPERAND)


@gluon.jit
def load_taps(step, slot, wanted, pool, ready, sources, place, size, ALL_OUTPUTS: gl.constexpr):
    """Start the copies of a step (input channels x a column of taps) into its slot, if it is `wanted`."""
    pixels, pixel_row, side, side_row, weight = sources
    image, y, x, output = place
    height, width = size
    channel = (step // 3) * DEPTH
    dx = step % 3 - 1
    right = (dx > 0) & (x + COLUMNS == width)
    beyond = ((dx < 0) & (x == 0)) | right
    column = gl.where(beyond, gl.where(right, COLUMNS, 0), x + dx)
    within = wanted & (beyond == 0)
    beyond = wanted & beyond
    above = _mirrored(y - 1, height)
    below = _mirrored(y + ROWS, height)
    bar = ready.index(slot)
    row: gl.constexpr = [1, 1, COLUMNS, DEPTH]
    top = reinterpret(pool.index(slot * SLOT), gl.float16, row, OPERAND_BOX)
    inner = pixels_in(pool, slot, 1, [1, ROWS, COLUMNS, DEPTH], OPERAND_BOX)
    bottom = reinterpret(pool.index(slot * SLOT + 1 + ROWS), gl.float16, row, OPERAND_BOX)
    mbarrier.expect(bar, TAPS_BYTES, pred=wanted)
    copy_in(pixel_row, [image, above, column, channel], bar, top, pred=within)
    copy_in(pixels, [image, y, column, channel], bar, inner, pred=within)
    copy_in(pixel_row, [image, below, column, channel], bar, bottom, pred=within)
    copy_in(side_row, [image, above, column, channel], bar, top, pred=beyond)
    copy_in(side, [image, y, column, channel], bar, inner, pred=beyond)
    copy_in(side_row, [image, below, column, channel], bar, bottom, pred=beyond)
    for tap in gl.static_range(3):
        weight_row = (step * 3 + tap) * ALL_OUTPUTS + output
        copy_in(weight, [weight_row, 0], bar, weights_in(pool, slot, tap), pred=wanted)


@gluon.jit
def load_tail(slot, pool, ready, sources, place, channel, weight_row):
    """Start the copies of a step of the 1x1: pixels from `channel` on and weights from `weight_row` on."""
    pixels, weight = sources
    image, y, x, output = place
    bar = ready.index(slot)
    mbarrier.expect(bar, TAIL_BYTES)
    copy_in(pixels, [image, y, x, channel], bar, pixels_in(pool, slot, 1, [1, ROWS, COLUMNS, DEPTH], OPERAND_BOX))
    copy_in(weight, [weight_row + output, 0], bar, weights_in(pool, slot, 0))


@gluon.jit
def add_taps(acc, pool, slot, FP8: gl.constexpr):
    """Multiply a column of taps; on return the step before has been multiplied and this one is on its way."""
    for tap in gl.static_range(3):
        a = weights_in(pool, slot, tap)
        b = pixels_in(pool, slot, tap, [PIXELS, DEPTH], OPERAND)
        if FP8:
            a = reinterpret(a, gl.float8e4nv, [OUTPUTS, DEPTH8], OPERAND8)
            b = reinterpret(b, gl.float8e4nv, [PIXELS, DEPTH8], OPERAND8)
        acc = warpgroup_mma(a, b.permute((1, 0)), acc, is_async=True)
    return warpgroup_mma_wait(3, deps=[acc])


@gluon.jit
def add_tail(acc, pool, slot):
    """The same for a step of the 1x1."""
    b = pixels_in(pool, slot, 1, [PIXELS, DEPTH], OPERAND)
    acc = warpgroup_mma(weights_in(pool, slot, 0), b.permute((1, 0)), acc, is_async=True)
    return warpgroup_mma_wait(1, deps=[acc])


@gluon.jit
def finish(
    acc,
    memory,
    shift,
    gain,
    target,
    place,
    size,
    TO: gl.constexpr,
    ALL_CHANNELS: gl.constexpr,
    ADD: gl.constexpr,
    FP8: gl.constexpr,
):
    """Start the store of ReLU(acc + shift), plus what `memory` holds if ADD, and write its side columns.

    If FP8, it is ReLU(acc * gain + shift), and the 8-bit map is written too; its side columns then, not those of `out`.
    """
    out, out8, out_side = target
    image, y, x, output = place
    _height, width = size
    to = TO + output
    staged = reinterpret(memory, gl.float16, [PIXELS, OUTPUTS], RESULT)
    if FP8:
        acc = acc * gl.expand_dims(gain, 1)
    total = acc + gl.expand_dims(shift, 1)
    total = gl.where(total < 0.0, 0.0, total)  # NaN stays NaN, as in PyTorch
    if ADD:
        total += staged.permute((1, 0)).load(PRODUCT).to(gl.float32)
    staged.permute((1, 0)).store(total.to(gl.float16))
    fence_async_shared()
    box = reinterpret(memory, gl.float16, [1, ROWS, COLUMNS, OUTPUTS], RESULT_BOX)
    copy_out(out, [image, y, x, to], box)
    if FP8:
        _write_8_bits(staged.load(COALESCED8), out8, out_side, place, size, to, ALL_CHANNELS)
    elif (x == 0) | (x + COLUMNS == width):
        _write_sides(staged.load(COALESCED), out_side, place, size, to, ALL_CHANNELS, COALESCED)


@gluon.jit
def _write_8_bits(finished, out, out_side, place, size, to, ALL_CHANNELS: gl.constexpr):
    """Write a tile (PIXELS, OUTPUTS) to the 8-bit map; what is too large becomes NaN, as in `fp8.rounded`."""
    image, y, x, _ = place
    height, width = size
    # What ReLUs give, and their sums, is not negative.
    finished = gl.where(finished > LARGEST8, float("nan"), finished.to(gl.float32)).to(gl.float8e4nv)
    p = gl.arange(0, PIXELS, gl.SliceLayout(1, COALESCED8))
    pixel = gl.expand_dims((image * height + y + p // COLUMNS) * width + x + p % COLUMNS, 1)
    channel = gl.expand_dims(to + gl.arange(0, OUTPUTS, gl.SliceLayout(0, COALESCED8)), 0)
    gl.store(out + (pixel * ALL_CHANNELS + channel), finished)
    if (x == 0) | (x + COLUMNS == width):
        _write_sides(finished, out_side, place, size, to, ALL_CHANNELS, COALESCED8)


@gluon.jit
def _write_sides(finished, out_side, place, size, to, ALL_CHANNELS: gl.constexpr, LAYOUT: gl.constexpr):
    """Write the side columns of a tile (PIXELS, OUTPUTS) at the map's left or right border."""
    image, y, x, _ = place
    height, width = size
    p = gl.arange(0, PIXELS, gl.SliceLayout(1, LAYOUT))
    column = gl.expand_dims(p % COLUMNS, 1)
    row = gl.expand_dims((image * height + y + p // COLUMNS) * SIDE_COLUMNS, 1)
    channel = gl.expand_dims(to + gl.arange(0, OUTPUTS, gl.SliceLayout(0, LAYOUT)), 0)
    if x == 0:
        gl.store(out_side + ((row + column + 1) * ALL_CHANNELS + channel), finished, mask=column < COLUMNS - 1)
        gl.store(out_side + (row * ALL_CHANNELS + channel), finished, mask=column == 1)
    if x + COLUMNS == width:
        gl.store(out_side + ((row + column + COLUMNS - 1) * ALL_CHANNELS + channel), finished, mask=column > 0)
        gl.store(out_side + ((row + SIDE_COLUMNS - 1) * ALL_CHANNELS + channel), finished, mask=column == COLUMNS - 2)
