// The spectral path's first launch, for Hopper: the 1x1 convolution of a row of pixels with bias and ReLU, which is t,
// and the row transform of t. What stands in capitals and is not defined here `rows_candidate.py` writes before this
// text, with `hopper_pieces.cuh` and `rows_pieces.cuh`.
//
// A program has a row of the map, WIDTH pixels, and PROGRAM_OUTPUTS channels of t. With 128 pixels each group of warps
// has half of them and all channels of the program, with 64 all pixels and half of the channels.

constexpr int GROUPS_OF_ROWS = WIDTH / 64, SIDES = 2 / GROUPS_OF_ROWS;
constexpr int PROGRAM_OUTPUTS = OUTPUTS * SIDES, PROGRAMS_OF_LINE = CHANNELS / PROGRAM_OUTPUTS;
constexpr int PIXELS_PIECE = WIDTH * ROW_BYTES, STEPS = INPUTS / PIECE, MATRIX_BYTES = WIDTH / PIECE * PIXELS_PIECE;
constexpr int WEIGHTS_OF_STEP = PROGRAM_OUTPUTS * ROW_BYTES, STEP_BYTES = PIXELS_PIECE + WEIGHTS_OF_STEP;
constexpr int SIDE_PIECES = (OUTPUTS + PIECE - 1) / PIECE, SIDE_BYTES = SIDE_PIECES * PIXELS_PIECE;

// Where things lie in shared memory; pieces begin at multiples of 512 bytes.
constexpr int STEPS_AT = 0, STATE_AT = STEPS_AT + SLOTS * STEP_BYTES, MATRIX_AT = STATE_AT + SIDES * SIDE_BYTES;
constexpr int BARRIERS_AT = MATRIX_AT + MATRIX_BYTES;
static_assert(BARRIERS_AT + 8 * (1 + 2 * SLOTS) == SHARED_BYTES, "as the host counts it");

// A step: the row's pixels in 32 channels, and the program's weights for these.
__device__ __forceinline__ void copy_step(
    word base, const TensorMap* pixels, const char* weights, int line, int first, int from, int step, word there) {
    const word target = base + STEPS_AT + step % SLOTS * STEP_BYTES, barrier = there + 8 * (step % SLOTS);
    expect_bytes(barrier, STEP_BYTES);
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3}], [%4];" ::"r"(target),
        "l"(pixels), "r"(from + step * PIECE), "r"(line * WIDTH), "r"(barrier)
        : "memory");
    copy_bytes(target + PIXELS_PIECE, weights + (step * CHANNELS + first) * ROW_BYTES, WEIGHTS_OF_STEP, barrier);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) enter_lines(
    const __grid_constant__ TensorMap pixels, const char* weights, const char* matrix, const float* bias, char* map,
    char* planes, int from, int to, int map_channels, int frequencies) {
    extern __shared__ __align__(1024) char memory[];
    const word base = shared_address(memory);
    const word matrix_there = base + BARRIERS_AT, step_there = matrix_there + 8, step_free = step_there + 8 * SLOTS;
    const int thread = threadIdx.x, line = blockIdx.x / PROGRAMS_OF_LINE;
    const int first = blockIdx.x % PROGRAMS_OF_LINE * PROGRAM_OUTPUTS;

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
            copy_step(base, &pixels, weights, line, first, from, step, step_there);
        }
        expect_bytes(matrix_there, MATRIX_BYTES);
        copy_bytes(base + MATRIX_AT, matrix, MATRIX_BYTES, matrix_there);
    }
    __syncthreads();
    if (thread >= MULTIPLYING) {
        give_back_registers();
        if (thread > MULTIPLYING) return;
        for (int step = SLOTS; step < STEPS; step++) {
            wait(step_free + 8 * (step % SLOTS), (step / SLOTS - 1) & 1);
            copy_step(base, &pixels, weights, line, first, from, step, step_there);
        }
        return;
    }
    take_registers();

    const int group = group_of(thread), lane = thread % 32, pair = lane % 4;
    const int side = SIDES == 2 ? group : 0, own_rows = SIDES == 2 ? 0 : 64 * group;
    const int row = own_rows + thread % 128 / 32 * 16 + lane / 4;  // a thread has this one and the eighth after it
    const int own_first = first + side * OUTPUTS;
    const word state = base + STATE_AT + side * SIDE_BYTES;
    constexpr int TOGETHER = SIDES == 2 ? 128 : MULTIPLYING;  // threads that share `state`
    const int meeting = SIDES == 2 ? 1 + group : 1;

    float sums[OUTPUTS / 2] = {};
#pragma unroll 1
    for (int step = 0; step < STEPS; step++) {
        const int slot = step % SLOTS;
        wait(step_there + 8 * slot, step / SLOTS & 1);
        const word a = base + STEPS_AT + slot * STEP_BYTES + own_rows * ROW_BYTES;
        const word b = base + STEPS_AT + slot * STEP_BYTES + PIXELS_PIECE + side * OUTPUTS * ROW_BYTES;
        begin_products();
        multiply_terms_inside<OUTPUTS>(sums, terms_inside(a), terms_inside(b), step > 0);
        multiply_terms_inside<OUTPUTS>(sums, terms_inside(a + 32), terms_inside(b + 32), 1);
        commit_products();
        wait_for_products<1>();
        if (step > 0 && lane == 0) arrive(step_free + 8 * ((step - 1) % SLOTS));
    }
    wait_for_products<0>();
#pragma unroll
    for (int i = 0; i < OUTPUTS / 8; i++) {
        const float2 shift = *reinterpret_cast<const float2*>(bias + own_first + 8 * i + 2 * pair);
#pragma unroll
        for (int below = 0; below < 2; below++) {
            const int r = row + 8 * below, n = 4 * i + 2 * below;
            store_shared(
                state + i / 4 * PIXELS_PIECE + r * ROW_BYTES + (i % 4 ^ r / 2 % 4) * 16 + 4 * pair,
                two_halves(rectified(sums[n] + shift.x), rectified(sums[n + 1] + shift.y)));
        }
    }
    show_to_products();
    meet(meeting, TOGETHER);

    // The row transform, while t goes to the map.
    wait(matrix_there, 0);
    begin_products();
#pragma unroll
    for (int step = 0; step < WIDTH / 16; step++) {
        const word a = base + MATRIX_AT + step / 2 * PIXELS_PIECE + own_rows * ROW_BYTES + step % 2 * 32;
        multiply_terms_outside<OUTPUTS>(
            sums, terms_inside(a), terms_outside(state + step * 16 * ROW_BYTES, PIXELS_PIECE), step > 0);
    }
    commit_products();
    move_rows<WIDTH, OUTPUTS>(state, thread % TOGETHER, TOGETHER, [&](int r) {
        return map + (((long long)line * WIDTH + r) * map_channels + to + own_first) * 2;
    });
    wait_for_products<0>();
    meet(meeting, TOGETHER);  // t has been read: its transform takes its place
#pragma unroll
    for (int i = 0; i < OUTPUTS / 8; i++) {
#pragma unroll
        for (int below = 0; below < 2; below++) {
            const int r = row + 8 * below, n = 4 * i + 2 * below;
            store_shared(
                state + i / 4 * PIXELS_PIECE + r * ROW_BYTES + (i % 4 ^ r / 2 % 4) * 16 + 4 * pair,
                two_halves(sums[n], sums[n + 1]));
        }
    }
    meet(meeting, TOGETHER);
    // Real parts, then imaginary ones without the first, which is always 0.
    move_rows<WIDTH, OUTPUTS>(state, thread % TOGETHER, TOGETHER, [&](int r) {
        const long long plane = (long long)line * (2 * frequencies) + r + (r >= frequencies);
        return planes + (plane * CHANNELS + own_first) * 2;
    });
}
