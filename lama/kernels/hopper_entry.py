"""The spectral path's first launch on Hopper, in Gluon: the 1x1 of the global channels and the row transform of it.

A strip is 128 pixels in a row of the map, or two rows of 64. There is one program per multiprocessor. A warp starts the
copies for all of the program's strips in a row: the strip's pixels and the weights, 64 input channels a step. Four
warps compute 64 of the pixels and four the others, all channels of them: t, which goes to the map, stays in shared
memory too, as an operand of the row transform. Channels are computed in two parts, two thirds and one third, since a
product's number of columns has to be a power of two.
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

from lama.kernels.hopper_steps import copy_in, copy_out

HALF = gl.constexpr(64)
"""Pixels, and numbers of a row's transform, of four warps."""
STEP = gl.constexpr(64)
"""Input channels per step."""
LAYOUT = gl.constexpr(gl.NVMMASharedLayout(128, 16, rank=2))
NARROW_LAYOUT = gl.constexpr(gl.NVMMASharedLayout(64, 16, rank=2))
"""Of 32 columns."""


@gluon.jit
def _product(COLUMNS: gl.constexpr):
    """Zeros (64, COLUMNS) as a product's sum."""
    PRODUCT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, COLUMNS, 16]
    )
    return gl.zeros([HALF, COLUMNS], gl.float32, PRODUCT)


@gluon.jit
def _fetch(strips, memory, sources, FROM: gl.constexpr, INPUTS: gl.constexpr, WIDTH: gl.constexpr, SLOTS: gl.constexpr):
    """The warp that starts every copy of the program's strips, each as soon as its slot is free."""
    pixel_slots, wide_slots, narrow_slots, matrix_memory, ready, free, matrix_ready = memory
    x, weight_wide, weight_narrow, matrix = sources
    steps: gl.constexpr = INPUTS // STEP
    tiles: gl.constexpr = WIDTH // HALF
    narrow_from: gl.constexpr = weight_wide.block_shape[1]
    for turn in range(strips):
        first = (gl.program_id(0) + turn * gl.num_programs(0)) * (2 * HALF)
        for step in range(steps):
            count = turn * steps + step
            slot = count % SLOTS
            mbarrier.wait(free.index(slot), ((count // SLOTS) & 1) ^ 1)
            bar = ready.index(slot)
            mbarrier.expect(bar, (2 * HALF + narrow_from + narrow_from // 2) * STEP * 2)
            for half in gl.static_range(2):
                copy_in(x, [first + half * HALF, FROM + step * STEP], bar, pixel_slots.index(slot * 2 + half))
            copy_in(weight_wide, [step * STEP, 0], bar, wide_slots.index(slot))
            copy_in(weight_narrow, [step * STEP, narrow_from], bar, narrow_slots.index(slot))
            is_first = count == 0  # the matrix is not needed as soon as the first step's copies
            mbarrier.expect(matrix_ready, tiles * tiles * HALF * HALF * 2, pred=is_first)
            for tile in gl.static_range(tiles * tiles):
                place = [tile // tiles * HALF, tile % tiles * HALF]
                copy_in(matrix, place, matrix_ready, matrix_memory.index(tile), pred=is_first)


@gluon.jit
def _finish_entry(acc, bias, memory, x, first, TO: gl.constexpr, FROM: gl.constexpr):
    """Leave ReLU(acc + bias) in `memory` and start its way to the map."""
    PRODUCT: gl.constexpr = acc.type.layout
    shift = gl.load(bias + FROM + gl.arange(0, acc.shape[1], gl.SliceLayout(0, PRODUCT)))
    t = acc + gl.expand_dims(shift, 0)
    t = gl.where(t < 0.0, 0.0, t)  # NaN stays NaN, as in PyTorch
    memory.store(t.to(gl.float16))
    fence_async_shared()
    copy_out(x, [first, TO + FROM], memory)


@gluon.jit
def _store_planes(
    acc,
    planes,
    line,
    HALF_OF_ROW: gl.constexpr,
    FREQUENCIES: gl.constexpr,
    OUTPUTS: gl.constexpr,
    FROM: gl.constexpr,
):
    """Write 64 numbers of a row's transform to the planes, channels from FROM on."""
    COLUMNS: gl.constexpr = acc.shape[1]
    COALESCED: gl.constexpr = gl.BlockedLayout([1, 8], [256 // COLUMNS, COLUMNS // 8], [4, 1], [1, 0])
    values = gl.convert_layout(acc.to(gl.float16), COALESCED)
    m = HALF_OF_ROW * HALF + gl.arange(0, HALF, gl.SliceLayout(1, COALESCED))
    n = FROM + gl.arange(0, COLUMNS, gl.SliceLayout(0, COALESCED))
    row = line * (2 * FREQUENCIES) + m + (m >= FREQUENCIES).to(gl.int32)  # frequency 0 has no imaginary part
    gl.store(planes + (gl.expand_dims(row * OUTPUTS, 1) + gl.expand_dims(n, 0)), values)


@gluon.jit
def _compute(
    strips,
    memory,
    results,
    target,
    TO: gl.constexpr,
    INPUTS: gl.constexpr,
    WIDTH: gl.constexpr,
    FREQUENCIES: gl.constexpr,
    SLOTS: gl.constexpr,
    SECOND: gl.constexpr,
):
    """Four warps that compute the first or the second 64 pixels of the program's strips, and as much of their rows."""
    pixel_slots, wide_slots, narrow_slots, matrix_memory, ready, free, matrix_ready = memory
    wide_t, narrow_t, written, used = results
    x_wide, x_narrow, bias, planes = target
    steps: gl.constexpr = INPUTS // STEP
    WIDE: gl.constexpr = wide_slots.shape[2]
    NARROW: gl.constexpr = narrow_slots.shape[2]
    tiles: gl.constexpr = WIDTH // HALF
    count = 0
    for turn in range(strips):
        strip = gl.program_id(0) + turn * gl.num_programs(0)
        wide = _product(WIDE)
        narrow = _product(NARROW)
        for step in range(steps):
            slot = count % SLOTS
            mbarrier.wait(ready.index(slot), (count // SLOTS) & 1)
            pixels = pixel_slots.index(slot * 2 + SECOND)
            wide = warpgroup_mma(pixels, wide_slots.index(slot), wide, is_async=True)
            narrow = warpgroup_mma(pixels, narrow_slots.index(slot), narrow, is_async=True)
            wide, narrow = warpgroup_mma_wait(2, deps=[wide, narrow])
            mbarrier.arrive(free.index((count + SLOTS - 1) % SLOTS), count=1, pred=step > 0)
            count += 1
        wide, narrow = warpgroup_mma_wait(0, deps=[wide, narrow])
        mbarrier.arrive(free.index((count + SLOTS - 1) % SLOTS), count=1)
        if tiles == 2:
            mbarrier.wait(used, (turn & 1) ^ 1)  # the other four have multiplied what they need of the strip before
        first = strip * (2 * HALF) + SECOND * HALF
        _finish_entry(wide, bias, wide_t.index(SECOND), x_wide, first, TO, 0)
        _finish_entry(narrow, bias, narrow_t.index(SECOND), x_narrow, first, TO, WIDE)
        if tiles == 2:
            mbarrier.arrive(written, count=1)
            mbarrier.wait(written, turn & 1)
        mbarrier.wait(matrix_ready, 0)
        wide = _product(WIDE)
        narrow = _product(NARROW)
        for half in gl.static_range(tiles):
            # Of a row of 128 both halves; of a row of 64, which is the four warps' own, all.
            matrix = matrix_memory.index(SECOND * tiles + half if tiles == 2 else 0)
            wide = warpgroup_mma(matrix, wide_t.index(half if tiles == 2 else SECOND), wide, is_async=True)
            narrow = warpgroup_mma(matrix, narrow_t.index(half if tiles == 2 else SECOND), narrow, is_async=True)
        wide, narrow = warpgroup_mma_wait(0, deps=[wide, narrow])
        tma.store_wait(0)
        if tiles == 2:
            mbarrier.arrive(used, count=1)
        line = strip if tiles == 2 else strip * 2 + SECOND
        half_of_row: gl.constexpr = SECOND if tiles == 2 else 0
        _store_planes(wide, planes, line, half_of_row, FREQUENCIES, WIDE + NARROW, 0)
        _store_planes(narrow, planes, line, half_of_row, FREQUENCIES, WIDE + NARROW, WIDE)


@gluon.jit(do_not_specialize=["all_strips"])
def enter_strips(
    x,
    x_wide,
    x_narrow,
    weight_wide,
    weight_narrow,
    matrix,
    bias,
    planes,
    all_strips,
    FROM: gl.constexpr,
    TO: gl.constexpr,
    INPUTS: gl.constexpr,
    WIDTH: gl.constexpr,
    FREQUENCIES: gl.constexpr,
    SLOTS: gl.constexpr,
):
    """One program per multiprocessor: strips program, program + programs, ... below `all_strips`."""
    WIDE: gl.constexpr = weight_wide.block_shape[1]
    NARROW: gl.constexpr = weight_narrow.block_shape[1]
    tiles: gl.constexpr = WIDTH // HALF
    pixel_slots = gl.allocate_shared_memory(gl.float16, [SLOTS * 2, HALF, STEP], x.layout)
    wide_slots = gl.allocate_shared_memory(gl.float16, [SLOTS, STEP, WIDE], weight_wide.layout)
    narrow_slots = gl.allocate_shared_memory(gl.float16, [SLOTS, STEP, NARROW], weight_narrow.layout)
    wide_t = gl.allocate_shared_memory(gl.float16, [2, HALF, WIDE], x_wide.layout)
    narrow_t = gl.allocate_shared_memory(gl.float16, [2, HALF, NARROW], x_narrow.layout)
    matrix_memory = gl.allocate_shared_memory(gl.float16, [tiles * tiles, HALF, HALF], matrix.layout)
    ready = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    matrix_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    written = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    used = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(SLOTS):
        mbarrier.init(ready.index(slot), count=1)
        mbarrier.init(free.index(slot), count=2)
    mbarrier.init(matrix_ready, count=1)
    mbarrier.init(written, count=2)
    mbarrier.init(used, count=2)
    fence_async_shared()
    strips = (all_strips - gl.program_id(0) + gl.num_programs(0) - 1) // gl.num_programs(0)
    memory = (pixel_slots, wide_slots, narrow_slots, matrix_memory, ready, free, matrix_ready)
    results = (wide_t, narrow_t, written, used)
    target = (x_wide, x_narrow, bias, planes)
    sources = (x, weight_wide, weight_narrow, matrix)
    gl.warp_specialize(
        [
            (_compute, (strips, memory, results, target, TO, INPUTS, WIDTH, FREQUENCIES, SLOTS, 0)),
            (_compute, (strips, memory, results, target, TO, INPUTS, WIDTH, FREQUENCIES, SLOTS, 1)),
            (_fetch, (strips, memory, sources, FROM, INPUTS, WIDTH, SLOTS)),
        ],
        [4, 1],
        [240, 24],
    )
