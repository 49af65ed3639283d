"""The decoder's transposed convolutions on Hopper, in Gluon, out of the pieces of `hopper_steps`.

An output row 2y sees the input row y, an output row 2y + 1 the rows y and y + 1, and columns likewise. So a tile of 256
input pixels (32 x 8) and 64 outputs has four results, one for each parity of row and column. There is one program per
multiprocessor. A warp starts the copies for all of the program's tiles in a row; four warps compute the odd output rows
and four the even ones, first of the odd output columns, then of the even ones.

A step of the sum is 32 input channels of the pixels or of those one column to the right, and three taps: two of the odd
rows, one of the even ones. The pixel below is the same memory, eight rows of it on. What lies beyond the right or lower
border the copy engine fills with zeros.
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

from lama.kernels.hopper_steps import (
    COLUMNS,
    DEPTH,
    OPERAND,
    OPERAND_BOX,
    OUTPUTS,
    PIXELS,
    PRODUCT,
    RESULT,
    RESULT_BOX,
    ROWS,
    SLOT,
    SPARE,
    copy_in,
    copy_out,
    pixels_in,
    place_of,
    reinterpret,
    weights_in,
)

STEP_BYTES = gl.constexpr((33 * 8 + 3 * 64) * 32 * 2)


@gluon.jit
def _fetch(tiles, memory, sources, size, INPUTS: gl.constexpr, ALL_OUTPUTS: gl.constexpr, SLOTS: gl.constexpr):
    """The warp that starts every copy of the program's tiles, each as soon as its slot is free."""
    pool, ready, free, _staged = memory
    pixels, pixel_row, weight = sources
    chunks: gl.constexpr = INPUTS // DEPTH
    steps: gl.constexpr = 3 * chunks
    for turn in range(tiles):
        image, y, x, output = place_of(gl.program_id(0) + turn * gl.num_programs(0), size[0], size[1], ALL_OUTPUTS)
        for step in range(steps):
            count = turn * steps + step
            slot = count % SLOTS
            mbarrier.wait(free.index(slot), ((count // SLOTS) & 1) ^ 1)
            bar = ready.index(slot)
            # Two steps a chunk for the odd columns, the second one column on, then one for the even columns.
            column = gl.where(step < 2 * chunks, x + step % 2, x)
            channel = gl.where(step < 2 * chunks, step // 2, step - 2 * chunks) * DEPTH
            inner = pixels_in(pool, slot, 0, [1, ROWS, COLUMNS, DEPTH], OPERAND_BOX)
            below = reinterpret(pool.index(slot * SLOT + ROWS), gl.float16, [1, 1, COLUMNS, DEPTH], OPERAND_BOX)
            mbarrier.expect(bar, STEP_BYTES)
            copy_in(pixels, [image, y, column, channel], bar, inner)
            copy_in(pixel_row, [image, y + ROWS, column, channel], bar, below)
            for tap in gl.static_range(3):
                row = (step * 3 + tap) * ALL_OUTPUTS + output
                copy_in(weight, [row, 0], bar, weights_in(pool, slot, tap))


@gluon.jit
def _add_step(acc, pool, slot, ODD: gl.constexpr):
    """Multiply a step's taps of the odd or of the even rows; on return the step before has been multiplied."""
    here = pixels_in(pool, slot, 0, [PIXELS, DEPTH], OPERAND)
    if ODD:
        below = pixels_in(pool, slot, 1, [PIXELS, DEPTH], OPERAND)
        acc = warpgroup_mma(weights_in(pool, slot, 0), here.permute((1, 0)), acc, is_async=True)
        acc = warpgroup_mma(weights_in(pool, slot, 1), below.permute((1, 0)), acc, is_async=True)
        return warpgroup_mma_wait(2, deps=[acc])
    else:
        acc = warpgroup_mma(weights_in(pool, slot, 2), here.permute((1, 0)), acc, is_async=True)
        return warpgroup_mma_wait(1, deps=[acc])


@gluon.jit
def _multiply(
    tiles,
    memory,
    target,
    size,
    INPUTS: gl.constexpr,
    ALL_OUTPUTS: gl.constexpr,
    SLOTS: gl.constexpr,
    ODD: gl.constexpr,
):
    """Four warps that compute the odd or the even output rows of the program's tiles."""
    pool, ready, free, staged = memory
    out, bias = target
    count = 0
    for turn in range(tiles):
        image, y, x, output = place_of(gl.program_id(0) + turn * gl.num_programs(0), size[0], size[1], ALL_OUTPUTS)
        shift = gl.load(bias + output + gl.arange(0, OUTPUTS, gl.SliceLayout(1, PRODUCT)))
        for odd_column in gl.static_range(1, -1, -1):
            acc = gl.zeros([OUTPUTS, PIXELS], gl.float32, PRODUCT)
            for step in range((1 + odd_column) * (INPUTS // DEPTH)):
                slot = count % SLOTS
                mbarrier.wait(ready.index(slot), (count // SLOTS) & 1)
                acc = _add_step(acc, pool, slot, ODD)
                mbarrier.arrive(free.index((count + SLOTS - 1) % SLOTS), count=1, pred=step > 0)
                count += 1
            acc = warpgroup_mma_wait(0, deps=[acc])
            mbarrier.arrive(free.index((count + SLOTS - 1) % SLOTS), count=1)
            total = acc + gl.expand_dims(shift, 1)
            total = gl.where(total < 0.0, 0.0, total)  # NaN stays NaN, as in PyTorch
            memory_of_result = staged.index(ODD)
            tma.store_wait(0)  # the result before has left it
            reinterpret(memory_of_result, gl.float16, [PIXELS, OUTPUTS], RESULT).permute((1, 0)).store(
                total.to(gl.float16)
            )
            fence_async_shared()
            box = reinterpret(memory_of_result, gl.float16, [ROWS, 1, COLUMNS, OUTPUTS], RESULT_BOX)
            copy_out(out, [image * size[0] + y, ODD, x, odd_column * ALL_OUTPUTS + output], box)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["height", "width", "all_tiles"])
def upsample_tiles(
    pixels,
    pixel_row,
    weight,
    out,
    bias,
    height,
    width,
    all_tiles,
    INPUTS: gl.constexpr,
    ALL_OUTPUTS: gl.constexpr,
    SLOTS: gl.constexpr,
):
    """One program per multiprocessor: tiles program, program + programs, ... below `all_tiles`."""
    pool = gl.allocate_shared_memory(gl.float16, [SLOTS * SLOT + SPARE, 8, DEPTH], OPERAND)
    staged = gl.allocate_shared_memory(gl.float16, [2, PIXELS, OUTPUTS], RESULT)
    ready = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(SLOTS):
        mbarrier.init(ready.index(slot), count=1)
        mbarrier.init(free.index(slot), count=2)
    fence_async_shared()
    tiles = (all_tiles - gl.program_id(0) + gl.num_programs(0) - 1) // gl.num_programs(0)
    size = (height, width)
    memory = (pool, ready, free, staged)
    target = (out, bias)
    gl.warp_specialize(
        [
            (_multiply, (tiles, memory, target, size, INPUTS, ALL_OUTPUTS, SLOTS, 1)),
            (_multiply, (tiles, memory, target, size, INPUTS, ALL_OUTPUTS, SLOTS, 0)),
            (_fetch, (tiles, memory, (pixels, pixel_row, weight), size, INPUTS, ALL_OUTPUTS, SLOTS)),
        ],
        [4, 1],
        [240, 24],
    )
