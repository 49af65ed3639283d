// The spectral path's last launch for small maps, for Hopper: t plus the inverse row transform, a 1x1 convolution of
// that, and ReLU of this and of what the cross convolution has summed before. What stands in capitals and is not
// defined here `rows_candidate.py` writes before this text, with `hopper_pieces.cuh` and `rows_pieces.cuh`.
//
// A program has a row of the map, WIDTH (64) pixels, and the output channels of its two groups of warps. The groups
// deal out the pieces of t among themselves, and both use all of them.

constexpr int PROGRAM_OUTPUTS = 2 * OUTPUTS, PROGRAMS_OF_LINE = ALL_OUTPUTS / PROGRAM_OUTPUTS;
constexpr int PIECES = CHANNELS / PIECE, PIECE_BYTES = WIDTH * ROW_BYTES, STATE_BYTES = PIECES * PIECE_BYTES;
constexpr int SIDE_BYTES = (OUTPUTS + PIECE - 1) / PIECE * PIECE_BYTES, MATRIX_BYTES = WIDTH / PIECE * PIECE_BYTES;
constexpr int WEIGHTS_PIECE = PROGRAM_OUTPUTS * ROW_BYTES;

// Where things lie in shared memory; pieces begin at multiples of 512 bytes.
constexpr int WAVES_AT = 0;  // what is transformed; later t plus its transform
constexpr int STATE_AT = WAVES_AT + STATE_BYTES, BEFORE_AT = STATE_AT + STATE_BYTES;
constexpr int OLD_AT = BEFORE_AT + 2 * SIDE_BYTES, MATRIX_AT = OLD_AT + 2 * SIDE_BYTES;
constexpr int WEIGHTS_AT = MATRIX_AT + MATRIX_BYTES;
constexpr int BARRIERS_AT = WEIGHTS_AT + PIECES * WEIGHTS_PIECE;
static_assert(BARRIERS_AT + 8 * 2 == SHARED_BYTES, "as the host counts it");

extern "C" __global__ void __launch_bounds__(THREADS, 1) leave_lines(
    const char* planes, const char* map, const char* weights, const char* matrix, const char* before, char* out,
    int state_from, int map_channels, int to, int out_channels, int frequencies, int adds) {
    extern __shared__ __align__(1024) char memory[];
    const word base = shared_address(memory);
    const word matrix_there = base + BARRIERS_AT, weights_there = matrix_there + 8;
    const int thread = threadIdx.x, first = blockIdx.x % PROGRAMS_OF_LINE * PROGRAM_OUTPUTS;
    const long long line = blockIdx.x / PROGRAMS_OF_LINE;

    if (thread == MULTIPLYING) {
        init_barrier(matrix_there, 1);
        init_barrier(weights_there, 1);
        show_to_products();
        expect_bytes(matrix_there, MATRIX_BYTES);
        copy_bytes(base + MATRIX_AT, matrix, MATRIX_BYTES, matrix_there);
        expect_bytes(weights_there, PIECES * WEIGHTS_PIECE);
        for (int piece = 0; piece < PIECES; piece++) {
            const char* source = weights + (piece * ALL_OUTPUTS + first) * ROW_BYTES;
            copy_bytes(base + WEIGHTS_AT + piece * WEIGHTS_PIECE, source, WEIGHTS_PIECE, weights_there);
        }
    }
    __syncthreads();
    if (thread >= MULTIPLYING) {
        give_back_registers();
        return;
    }
    take_registers();

    const int group = group_of(thread), lane = thread % 32, pair = lane % 4;
    const int row = thread % 128 / 32 * 16 + lane / 4;  // a thread has this one and the eighth after it
    const int own_first = first + group * OUTPUTS;
    const word own_before = base + BEFORE_AT + group * SIDE_BYTES, own_old = base + OLD_AT + group * SIDE_BYTES;
    char* const target = out + (line * WIDTH * out_channels + to + own_first) * 2;
    const auto own_row = [&](int r) { return target + (long long)r * out_channels * 2; };

    // Real parts, then imaginary ones without the first, which is always 0.
    fetch_rows<WIDTH, CHANNELS>(base + WAVES_AT, thread, MULTIPLYING, [&](int r) {
        return planes + (line * (2 * frequencies) + r + (r >= frequencies)) * (CHANNELS * 2);
    });
    commit_copies();
    fetch_rows<WIDTH, CHANNELS>(base + STATE_AT, thread, MULTIPLYING, [&](int r) {
        return map + ((line * WIDTH + r) * map_channels + state_from) * 2;
    });
    commit_copies();
    fetch_rows<WIDTH, OUTPUTS>(own_before, thread % 128, 128, [&](int r) {
        return before + ((line * WIDTH + r) * ALL_OUTPUTS + own_first) * 2;
    });
    if (adds) fetch_rows<WIDTH, OUTPUTS>(own_old, thread % 128, 128, own_row);
    commit_copies();

    // t plus what is transformed, in its place.
    wait_for_copies<1>();
    show_to_products();
    meet(1, MULTIPLYING);
    wait(matrix_there, 0);
#pragma unroll 1
    for (int piece = group; piece < PIECES; piece += 2) {
        const word waves = base + WAVES_AT + piece * PIECE_BYTES, state = base + STATE_AT + piece * PIECE_BYTES;
        float sums[PIECE / 2] = {};
        begin_products();
#pragma unroll
        for (int step = 0; step < WIDTH / 16; step++) {
            const word a = base + MATRIX_AT + step / 2 * PIECE_BYTES + step % 2 * 32;
            multiply_terms_outside<PIECE>(
                sums, terms_inside(a), terms_outside(waves + step * 16 * ROW_BYTES, PIECE_BYTES), step > 0);
        }
        commit_products();
        wait_for_products<0>();
        meet(2 + group, 128);  // all four warps have read the piece
#pragma unroll
        for (int i = 0; i < PIECE / 8; i++) {
#pragma unroll
            for (int below = 0; below < 2; below++) {
                const word at = unit_at<WIDTH>(row + 8 * below, i) + 4 * pair;
                const float2 t = two_floats(load_shared(state + at));
                store_shared(waves + at, two_halves(sums[4 * i + 2 * below] + t.x, sums[4 * i + 2 * below + 1] + t.y));
            }
        }
    }
    show_to_products();
    wait_for_copies<0>();
    meet(1, MULTIPLYING);

    float sums[OUTPUTS / 2] = {};
    wait(weights_there, 0);
    begin_products();
#pragma unroll
    for (int step = 0; step < CHANNELS / 16; step++) {
        const word a = base + WAVES_AT + step / 2 * PIECE_BYTES + step % 2 * 32;
        const word b = base + WEIGHTS_AT + step / 2 * WEIGHTS_PIECE + group * OUTPUTS * ROW_BYTES + step % 2 * 32;
        multiply_terms_inside<OUTPUTS>(sums, terms_inside(a), terms_inside(b), step > 0);
    }
    commit_products();
    wait_for_products<0>();
#pragma unroll
    for (int i = 0; i < OUTPUTS / 8; i++) {
#pragma unroll
        for (int below = 0; below < 2; below++) {
            const word at = unit_at<WIDTH>(row + 8 * below, i) + 4 * pair;
            const float2 sum = two_floats(load_shared(own_before + at));
            float2 total;
            total.x = rectified(sums[4 * i + 2 * below] + sum.x);
            total.y = rectified(sums[4 * i + 2 * below + 1] + sum.y);
            if (adds) {
                const float2 old = two_floats(load_shared(own_old + at));
                total.x += old.x;
                total.y += old.y;
            }
            store_shared(own_before + at, two_halves(total.x, total.y));
        }
    }
    meet(2 + group, 128);
    move_rows<WIDTH, OUTPUTS>(own_before, thread % 128, 128, own_row);
}
