// The spectral path's first launch on maps of 128 columns, for Hopper: the 1x1 convolution of a row of pixels with bias
// and ReLU, which is t, and the row transform of t. Constants in capitals that are not defined here are written before
// this text by `hopper_rows.py`, with `hopper_pieces.cuh`.
//
// A program has one row of the map. Two groups of warps multiply, each for half of the row's pixels and all channels; a
// thread of a third one starts the copies.

constexpr int WIDTH = 128;
constexpr int PIXELS_PIECE = WIDTH * ROW_BYTES, STEPS = INPUTS / PIECE, MATRIX_BYTES = WIDTH / PIECE * PIXELS_PIECE;
constexpr int WEIGHTS_OF_STEP = CHANNELS * ROW_BYTES, STEP_BYTES = PIXELS_PIECE + WEIGHTS_OF_STEP;
constexpr int UNITS = CHANNELS / 8;

// Where things lie in shared memory; pieces begin at multiples of 512 bytes.
constexpr int STEPS_AT = 0, STATE_AT = STEPS_AT + SLOTS * STEP_BYTES;
constexpr int MATRIX_AT = STATE_AT + CHANNELS / PIECE * PIXELS_PIECE, BARRIERS_AT = MATRIX_AT + MATRIX_BYTES;
static_assert(BARRIERS_AT + 8 * (1 + 2 * SLOTS) == SHARED_BYTES, "as the host counts it");

// Start the copies of a step: 32 channels of the row's pixels, and the weights of these channels.
__device__ __forceinline__ void copy_step(
    word base, const TensorMap* pixels, const char* weights, int line, int from, int step, word there) {
    const word target = base + STEPS_AT + step % SLOTS * STEP_BYTES, barrier = there + 8 * (step % SLOTS);
    expect_bytes(barrier, STEP_BYTES);
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3}], [%4];" ::"r"(target),
        "l"(pixels), "r"(from + step * PIECE), "r"(line * WIDTH), "r"(barrier)
        : "memory");
    copy_bytes(target + PIXELS_PIECE, weights + step * WEIGHTS_OF_STEP, WEIGHTS_OF_STEP, barrier);
}

// Where 16 bytes of a row lie.
__device__ __forceinline__ word unit_at(int row, int unit) {
    return unit / 4 * PIXELS_PIECE + row * ROW_BYTES + (unit % 4 ^ row / 2 % 4) * 16;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) enter_rows(
    const __grid_constant__ TensorMap pixels, const char* weights, const char* matrix, const float* bias, char* map,
    char* planes, int from, int to, int map_channels, int frequencies) {
    extern __shared__ __align__(1024) char memory[];
    const word base = shared_address(memory);
    const word matrix_there = base + BARRIERS_AT, step_there = matrix_there + 8, step_free = step_there + 8 * SLOTS;
    const int thread = threadIdx.x, line = blockIdx.x;

    // The warp that starts copies does not wait for the others: its thread has made the barriers itself.
    if (thread == MULTIPLYING) {
        prefetch_map(&pixels);
        init_barrier(matrix_there, 1);
        for (int slot = 0; slot < SLOTS; slot++) {
            init_barrier(step_there + 8 * slot, 1);
            init_barrier(step_free + 8 * slot, MULTIPLYING / 32);
        }
        show_to_products();
        for (int step = 0; step < SLOTS && step < STEPS; step++) {
            copy_step(base, &pixels, weights, line, from, step, step_there);
        }
        expect_bytes(matrix_there, MATRIX_BYTES);
        copy_bytes(base + MATRIX_AT, matrix, MATRIX_BYTES, matrix_there);
    }
    __syncthreads();
    if (thread >= MULTIPLYING) {
        give_back_registers<40>();
        if (thread > MULTIPLYING) return;
        for (int step = SLOTS; step < STEPS; step++) {
            wait(step_free + 8 * (step % SLOTS), (step / SLOTS - 1) & 1);
            copy_step(base, &pixels, weights, line, from, step, step_there);
        }
        return;
    }
    take_registers<232>();

    const int group = group_of(thread), lane = thread % 32, pair = lane % 4, own_rows = 64 * group;
    const int row = own_rows + thread % 128 / 32 * 16 + lane / 4;  // a thread has this one and the eighth after it
    const word state = base + STATE_AT;

    float sums[CHANNELS / 2] = {};
#pragma unroll 1
    for (int step = 0; step < STEPS; step++) {
        const int slot = step % SLOTS;
        wait(step_there + 8 * slot, step / SLOTS & 1);
        const word a = base + STEPS_AT + slot * STEP_BYTES + own_rows * ROW_BYTES;
        const word b = base + STEPS_AT + slot * STEP_BYTES + PIXELS_PIECE;
        begin_products();
        multiply_terms_inside<CHANNELS>(sums, terms_inside(a), terms_inside(b), step > 0);
        multiply_terms_inside<CHANNELS>(sums, terms_inside(a + 32), terms_inside(b + 32), 1);
        commit_products();
        wait_for_products<1>();
        if (step > 0 && lane == 0) arrive(step_free + 8 * ((step - 1) % SLOTS));
    }
    wait_for_products<0>();
#pragma unroll
    for (int i = 0; i < UNITS; i++) {
        const float2 shift = *reinterpret_cast<const float2*>(bias + 8 * i + 2 * pair);
#pragma unroll
        for (int below = 0; below < 2; below++) {
            const int n = 4 * i + 2 * below;
            store_shared(
                state + unit_at(row + 8 * below, i) + 4 * pair,
                two_halves(rectified(sums[n] + shift.x), rectified(sums[n + 1] + shift.y)));
        }
    }
    show_to_products();
    meet(1, MULTIPLYING);

    // The row transform, while t goes to the map.
    wait(matrix_there, 0);
    begin_products();
#pragma unroll
    for (int step = 0; step < WIDTH / 16; step++) {
        const word a = base + MATRIX_AT + step / 2 * PIXELS_PIECE + own_rows * ROW_BYTES + step % 2 * 32;
        multiply_terms_outside<CHANNELS>(
            sums, terms_inside(a), terms_outside(state + step * 16 * ROW_BYTES, PIXELS_PIECE), step > 0);
    }
    commit_products();
    char* const there = map + ((long long)line * WIDTH * map_channels + to) * 2;
#pragma unroll 4
    for (int n = thread; n < WIDTH * UNITS; n += MULTIPLYING) {
        move_unit(
            there + (long long)(n / UNITS) * map_channels * 2 + n % UNITS * 16, state + unit_at(n / UNITS, n % UNITS));
    }
    wait_for_products<0>();
    meet(1, MULTIPLYING);  // t has been read: its transform takes its place
#pragma unroll
    for (int i = 0; i < UNITS; i++) {
#pragma unroll
        for (int below = 0; below < 2; below++) {
            const int n = 4 * i + 2 * below;
            store_shared(state + unit_at(row + 8 * below, i) + 4 * pair, two_halves(sums[n], sums[n + 1]));
        }
    }
    meet(1, MULTIPLYING);
    // Real parts, then imaginary parts. The first and the last of these are always 0: none of them is written.
#pragma unroll 4
    for (int n = thread; n < WIDTH * UNITS; n += MULTIPLYING) {
        const int r = n / UNITS;
        const long long plane = (long long)line * (2 * frequencies) + r + (r >= frequencies);
        move_unit(planes + (plane * CHANNELS) * 2 + n % UNITS * 16, state + unit_at(r, n % UNITS));
    }
}
