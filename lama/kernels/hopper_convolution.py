"""The trunk's 3x3 convolutions on Hopper, in Gluon, out of the pieces of `hopper_steps`.

`convolve_tile` has one tile per program and leaves half of the multiprocessor to others: the local convolution, beside
which the spectral path runs. `convolve_tiles` has one program per multiprocessor, for sums so short that beginning and
end of a tile would cost as much as its products: a warp starts the copies for all of the program's tiles in a row, and
two groups of four warps take the tiles in turn, one finishing while the other multiplies.

The copies of a step announce themselves at the slot's `ready` barrier; a barrier's phase counts how often the slot has
been filled. Needs a Triton whose Gluon looks at shared memory in another shape (3.6, 3.7 and from 3.9 on).
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma_wait

from lama.kernels.hopper_steps import (
    COLUMNS,
    CUTS,
    DEPTH,
    OPERAND,
    OUTPUTS,
    PIXELS,
    PRODUCT,
    PRODUCT8,
    RESULT,
    RESULT_BOX,
    ROWS,
    SLOT,
    SPARE,
    TILE_BYTES,
    add_tail,
    add_taps,
    copy_in,
    finish,
    load_tail,
    load_taps,
    place_of,
    reinterpret,
    synchronize,
)


@gluon.jit(do_not_specialize=["height", "width"])
def convolve_tile(
    pixels,
    pixel_row,
    side,
    side_row,
    weight,
    out,
    bias,
    scale,
    out8,
    out_side,
    height,
    width,
    STEPS: gl.constexpr,
    TO: gl.constexpr,
    ALL_OUTPUTS: gl.constexpr,
    ALL_CHANNELS: gl.constexpr,
    ADD: gl.constexpr,
    SLOTS: gl.constexpr,
    FP8: gl.constexpr,
):
    """One tile per program, without a tail: four warps multiply and refill the slots they have used."""
    steps: gl.constexpr = STEPS
    product: gl.constexpr = PRODUCT8 if FP8 else PRODUCT
    sources = (pixels, pixel_row, side, side_row, weight)
    target = (out, out8, out_side)
    size = (height, width)
    place = place_of(gl.program_id(0), height, width, ALL_OUTPUTS)
    pool = gl.allocate_shared_memory(gl.float16, [SLOTS * SLOT + SPARE, 8, DEPTH], OPERAND)
    ready = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(SLOTS):
        mbarrier.init(ready.index(slot), count=1)
    fence_async_shared()
    for ahead in gl.static_range(SLOTS):
        load_taps(ahead, ahead, ahead < steps, pool, ready, sources, place, size, ALL_OUTPUTS)
    channels = place[3] + gl.arange(0, OUTPUTS, gl.SliceLayout(1, PRODUCT))
    shift = gl.load(bias + channels)
    gain = gl.load(scale + channels) if FP8 else shift
    acc = gl.zeros([OUTPUTS, PIXELS], gl.float32, product)
    for step in range(steps):
        mbarrier.wait(ready.index(step % SLOTS), (step // SLOTS) & 1)
        acc = add_taps(acc, pool, step % SLOTS, FP8)
        later = step - 1 + SLOTS
        wanted = (step > 0) & (later < steps)
        load_taps(later, later % SLOTS, wanted, pool, ready, sources, place, size, ALL_OUTPUTS)
    acc = gl.convert_layout(warpgroup_mma_wait(0, deps=[acc]), PRODUCT)
    memory = pool.slice(0, TILE_BYTES // (8 * DEPTH * 2), 0) if CUTS else pool.index(0)
    if ADD:
        bar = ready.index(steps % SLOTS)
        box = reinterpret(memory, gl.float16, [1, ROWS, COLUMNS, OUTPUTS], RESULT_BOX)
        mbarrier.expect(bar, TILE_BYTES)
        copy_in(out, [place[0], place[1], place[2], TO + place[3]], bar, box)
        mbarrier.wait(bar, (steps // SLOTS) & 1)
    finish(acc, memory, shift, gain, target, place, size, TO, ALL_CHANNELS, ADD, FP8)
    tma.store_wait(0)


@gluon.jit
def _fetch(
    tiles,
    memory,
    sources,
    state,
    out,
    size,
    STEPS: gl.constexpr,
    TAIL_FROM: gl.constexpr,
    TAIL: gl.constexpr,
    TO: gl.constexpr,
    ALL_OUTPUTS: gl.constexpr,
    ADD: gl.constexpr,
    SLOTS: gl.constexpr,
):
    """The warp that starts every copy of the program's tiles, each as soon as its slot is free."""
    pool, ready, free, pinned, staged = memory
    steps: gl.constexpr = STEPS + TAIL // DEPTH
    for turn in range(tiles):
        place = place_of(gl.program_id(0) + turn * gl.num_programs(0), size[0], size[1], ALL_OUTPUTS)
        for step in range(steps):
            count = turn * steps + step
            slot = count % SLOTS
            mbarrier.wait(free.index(slot), ((count // SLOTS) & 1) ^ 1)
            if step < STEPS:
                load_taps(step, slot, True, pool, ready, sources, place, size, ALL_OUTPUTS)
            else:
                channel = TAIL_FROM + (step - STEPS) * DEPTH
                weight_row = (2 * STEPS + step) * ALL_OUTPUTS
                load_tail(slot, pool, ready, (state, sources[4]), place, channel, weight_row)
        if ADD:
            mbarrier.wait(staged.index(1), (turn & 1) ^ 1)
            box = reinterpret(pinned, gl.float16, [1, ROWS, COLUMNS, OUTPUTS], RESULT_BOX)
            mbarrier.expect(staged.index(0), TILE_BYTES)
            copy_in(out, [place[0], place[1], place[2], TO + place[3]], staged.index(0), box)


@gluon.jit
def _multiply(
    tiles,
    memory,
    target,
    size,
    STEPS: gl.constexpr,
    TAIL: gl.constexpr,
    TO: gl.constexpr,
    ALL_OUTPUTS: gl.constexpr,
    ALL_CHANNELS: gl.constexpr,
    ADD: gl.constexpr,
    SLOTS: gl.constexpr,
    FP8: gl.constexpr,
    FIRST: gl.constexpr,
):
    """Four warps that take every other of the program's tiles, from tile FIRST on."""
    pool, ready, free, pinned, staged = memory
    order, bias, scale, out, out8, out_side = target
    product: gl.constexpr = PRODUCT8 if FP8 else PRODUCT
    steps: gl.constexpr = STEPS + TAIL // DEPTH
    for turn in range(FIRST, tiles, 2):
        place = place_of(gl.program_id(0) + turn * gl.num_programs(0), size[0], size[1], ALL_OUTPUTS)
        channels = place[3] + gl.arange(0, OUTPUTS, gl.SliceLayout(1, PRODUCT))
        shift = gl.load(bias + channels)
        gain = gl.load(scale + channels) if FP8 else shift
        acc = gl.zeros([OUTPUTS, PIXELS], gl.float32, product)
        mbarrier.wait(order, (turn & 1) ^ 1)  # the other four have issued all products of the tile before
        count = turn * steps
        for step in range(STEPS):
            mbarrier.wait(ready.index(count % SLOTS), (count // SLOTS) & 1)
            acc = add_taps(acc, pool, count % SLOTS, FP8)
            mbarrier.arrive(free.index((count + SLOTS - 1) % SLOTS), count=1, pred=step > 0)
            count += 1
        if FP8:  # products of 8 and of 16 bits leave their sums in the same places, but Triton tells them apart
            acc = gl.convert_layout(warpgroup_mma_wait(0, deps=[acc]), PRODUCT, assert_trivial=True)
        for _ in range(STEPS, steps):
            mbarrier.wait(ready.index(count % SLOTS), (count // SLOTS) & 1)
            acc = add_tail(acc, pool, count % SLOTS)
            mbarrier.arrive(free.index((count + SLOTS - 1) % SLOTS), count=1)
            count += 1
        mbarrier.arrive(order, count=1)
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(free.index((count + SLOTS - 1) % SLOTS), count=1)
        mbarrier.wait(staged.index(1), (turn & 1) ^ 1)
        if ADD:
            mbarrier.wait(staged.index(0), turn & 1)
        finish(acc, pinned, shift, gain, (out, out8, out_side), place, size, TO, ALL_CHANNELS, ADD, FP8)
        tma.store_wait(0)
        if FP8:
            synchronize()  # all have read what the other four overwrite next
        mbarrier.arrive(staged.index(1), count=1)


@gluon.jit(do_not_specialize=["height", "width", "all_tiles"])
def convolve_tiles(
    pixels,
    pixel_row,
    side,
    side_row,
    weight,
    state,
    out,
    bias,
    scale,
    out8,
    out_side,
    height,
    width,
    all_tiles,
    STEPS: gl.constexpr,
    TAIL_FROM: gl.constexpr,
    TAIL: gl.constexpr,
    TO: gl.constexpr,
    ALL_OUTPUTS: gl.constexpr,
    ALL_CHANNELS: gl.constexpr,
    ADD: gl.constexpr,
    SLOTS: gl.constexpr,
    FP8: gl.constexpr,
):
    """One program per multiprocessor: tiles program, program + programs, ... below `all_tiles`."""
    pool = gl.allocate_shared_memory(gl.float16, [SLOTS * SLOT + SPARE, 8, DEPTH], OPERAND)
    pinned = gl.allocate_shared_memory(gl.float16, [ROWS, COLUMNS, OUTPUTS], RESULT)
    ready = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    staged = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())  # what to add is there, is used
    order = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(SLOTS):
        mbarrier.init(ready.index(slot), count=1)
        mbarrier.init(free.index(slot), count=1)
    mbarrier.init(staged.index(0), count=1)
    mbarrier.init(staged.index(1), count=1)
    mbarrier.init(order, count=1)
    fence_async_shared()
    tiles = (all_tiles - gl.program_id(0) + gl.num_programs(0) - 1) // gl.num_programs(0)
    size = (height, width)
    sources = (pixels, pixel_row, side, side_row, weight)
    memory = (pool, ready, free, pinned, staged)
    target = (order, bias, scale, out, out8, out_side)
    gl.warp_specialize(
        [
            (_multiply, (tiles, memory, target, size, STEPS, TAIL, TO, ALL_OUTPUTS, ALL_CHANNELS, ADD, SLOTS, FP8, 0)),
            (_multiply, (tiles, memory, target, size, STEPS, TAIL, TO, ALL_OUTPUTS, ALL_CHANNELS, ADD, SLOTS, FP8, 1)),
            (_fetch, (tiles, memory, sources, state, out, size, STEPS, TAIL_FROM, TAIL, TO, ALL_OUTPUTS, ADD, SLOTS)),
        ],
        [4, 1],
        [240, 24],
    )
