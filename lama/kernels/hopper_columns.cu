// The spectral path between its row transforms, for Hopper: column transform, 1x1 convolution with bias and ReLU, and
// inverse column transform of a column of the spectrum, in one launch. Constants in capitals that are not defined
// here are written before this text by `hopper_columns.py`, with `hopper_pieces.cuh`.
//
// Two groups of warps multiply, a thread of a third one starts the copies. Where GROUPS_OF_ROWS is 2 both groups have
// all columns of a product and each has 64 of its rows. With HEIGHT 128 a program has one column of the spectrum: one
// group has its real parts in the transforms, the other one its imaginary parts, and each has half of the frequencies
// in the 1x1 convolution. With HEIGHT 64 each group has a column of the spectrum. Where GROUPS_OF_ROWS is 1 both groups
// have the same 64 rows, and each has its own channels.

constexpr int GROUP_CHANNELS = 96, PIECES_OF_GROUP = GROUP_CHANNELS / PIECE;
constexpr int HALF = HEIGHT / 2;
constexpr int GROUPS_OF_CHANNELS = CHANNELS / GROUP_CHANNELS;
constexpr int POSITIONS = 64 * GROUPS_OF_ROWS;  // rows of the 1x1 convolution
constexpr int COLUMNS = POSITIONS / HEIGHT;     // of the spectrum, in one program
constexpr int INPUT_PIECE = 2 * POSITIONS * ROW_BYTES, SPECTRUM_PIECE = POSITIONS * ROW_BYTES;
constexpr int GROUP_BYTES = PIECES_OF_GROUP * INPUT_PIECE;
constexpr int PARITY_BYTES = HEIGHT * ROW_BYTES, PART_BYTES = HALF * ROW_BYTES;
constexpr int COLUMN_BYTES = 2 * HEIGHT * ROW_BYTES;
constexpr int MATRIX_BYTES = 2 * 64 * ROW_BYTES, MATRICES = HEIGHT == 128 ? 4 : 2;
constexpr int GROUPS_SIDE_BY_SIDE = 2 / GROUPS_OF_ROWS;
constexpr int RESULT_PIECES = (OUTPUTS + PIECE - 1) / PIECE, RESULT_BYTES = RESULT_PIECES * INPUT_PIECE;
constexpr int STEPS = 2 * CHANNELS / PIECE;
constexpr int STEP_BYTES = GROUPS_SIDE_BY_SIDE * 2 * OUTPUTS * ROW_BYTES;
constexpr int BLOCK_BYTES = 2 * GROUP_CHANNELS * ROW_BYTES;  // of the weights: a step of 96 outputs, both parts
constexpr int PARTS = OUTPUTS == GROUP_CHANNELS ? 1 : 2, PART_OF_STEP_BYTES = 2 * OUTPUTS * ROW_BYTES / PARTS;
constexpr int OUTPUTS_OF_PROGRAM = OUTPUTS * GROUPS_SIDE_BY_SIDE;
constexpr int PROGRAMS_OF_COLUMN = CHANNELS / OUTPUTS_OF_PROGRAM;

// Where things lie in shared memory; pieces begin at multiples of 512 bytes.
constexpr int INPUT_AT = 0;  // later the spectrum's place, then that of its product with the weights
constexpr int INPUT_BYTES = GROUPS_OF_CHANNELS * GROUP_BYTES, RESULTS_BYTES = GROUPS_SIDE_BY_SIDE * RESULT_BYTES;
constexpr int MATRICES_AT = INPUT_AT + (INPUT_BYTES > RESULTS_BYTES ? INPUT_BYTES : RESULTS_BYTES);
constexpr int WEIGHTS_AT = MATRICES_AT + MATRICES * MATRIX_BYTES;
constexpr int SHIFTS = 2 * OUTPUTS_OF_PROGRAM, SHIFTS_AT = WEIGHTS_AT + SLOTS * STEP_BYTES;
constexpr int BARRIERS_AT = SHIFTS_AT + 4 * SHIFTS;
static_assert(BARRIERS_AT + 8 * (1 + GROUPS_OF_CHANNELS + 2 * SLOTS) == SHARED_BYTES, "as the host counts it");

// A piece of one column: its rows are [parity][part][HALF].
__device__ __forceinline__ void copy_piece(
    word target, const TensorMap* map, int channel, int row, int column, word barrier) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3, %4, %4, %5}], [%6];" ::"r"(target),
        "l"(map), "r"(channel), "r"(row), "r"(0), "r"(column), "r"(barrier)
        : "memory");
}

// Load two neighbouring numbers from shared memory.
__device__ __forceinline__ void load_two(word address, float& first, float& second) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(first), "=f"(second) : "r"(address) : "memory");
}

// The row that a group computes as its product's row r, HEIGHT 128.
__device__ __forceinline__ int row_of(int r, int group) {
    return group == 0 ? r : (HEIGHT - r) % HEIGHT;
}

// Begin the products of a column transform: the sums over even and over odd terms, 64 rows by N columns each. `terms`
// holds [parity][part][HALF] rows. Both directions are the same but for the order of the parts: the inverse is given
// imaginary parts first and gives them first. With HEIGHT 128 the second group of warps, which gives the second part,
// computes row -r where the first computes r: cos y - sin x is cos y + sin x there, so that both add the same matrices.
template <int N>
__device__ __forceinline__ void transform(float* even, float* odd, word matrices, word terms, int piece, int group) {
    begin_products();
#pragma unroll
    for (int step = 0; step < 4; step++) {
        const word matrix = matrices + step / 2 * (64 * ROW_BYTES) + step % 2 * 32;
        const word rows = terms + step * 16 * ROW_BYTES;
        if constexpr (HEIGHT == 128) {
            const word own = rows + group * PART_BYTES, other = rows + (1 - group) * PART_BYTES;
            multiply_terms_outside<N>(even, terms_inside(matrix), terms_outside(own, piece), step > 0);
            multiply_terms_outside<N>(
                odd, terms_inside(matrix + MATRIX_BYTES), terms_outside(own + PARITY_BYTES, piece), step > 0);
            multiply_terms_outside<N>(even, terms_inside(matrix + 2 * MATRIX_BYTES), terms_outside(other, piece), 1);
            multiply_terms_outside<N>(
                odd, terms_inside(matrix + 3 * MATRIX_BYTES), terms_outside(other + PARITY_BYTES, piece), 1);
        } else {
            multiply_terms_outside<N>(even, terms_inside(matrix), terms_outside(rows, piece), step > 0);
            multiply_terms_outside<N>(
                odd, terms_inside(matrix + MATRIX_BYTES), terms_outside(rows + PARITY_BYTES, piece), step > 0);
        }
    }
    commit_products();
}

// Start the copies of a step's weights.
__device__ __forceinline__ void copy_step(word base, const char* weights, int program, int step, word step_there) {
    const word target = base + WEIGHTS_AT + step % SLOTS * STEP_BYTES, there = step_there + 8 * (step % SLOTS);
    expect_bytes(there, STEP_BYTES);
    for (int side = 0; side < GROUPS_SIDE_BY_SIDE; side++) {
        const int first = (program * GROUPS_SIDE_BY_SIDE + side) * OUTPUTS;
        const char* block = weights + (first / GROUP_CHANNELS * STEPS + step) * BLOCK_BYTES;
        for (int part = 0; part < PARTS; part++) {
            copy_bytes(
                target + (side * PARTS + part) * PART_OF_STEP_BYTES,
                block + (part * GROUP_CHANNELS + first % GROUP_CHANNELS) * ROW_BYTES, PART_OF_STEP_BYTES, there);
        }
    }
}

// Start the copies that find free memory.
__device__ __forceinline__ void copy_first_steps(word base, const char* weights, int program, word step_there) {
    for (int step = 0; step < SLOTS && step < STEPS; step++) copy_step(base, weights, program, step, step_there);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) convolve_columns(
    const __grid_constant__ TensorMap planes, const char* matrices, const char* weights, const float* bias, char* out,
    float gain, float forward_gain, int frequencies, int all_columns, int early) {
    extern __shared__ __align__(1024) char memory[];
    const word base = shared_address(memory);
    const word matrices_there = base + BARRIERS_AT, input_there = matrices_there + 8;  // one of each group of channels
    const word step_there = input_there + 8 * GROUPS_OF_CHANNELS, step_free = step_there + 8 * SLOTS;
    const int thread = threadIdx.x, program = blockIdx.x % PROGRAMS_OF_COLUMN;
    const int first_column = blockIdx.x / PROGRAMS_OF_COLUMN * COLUMNS;

    // The warp that starts copies does not wait for the others: its thread has made the barriers itself.
    if (thread == MULTIPLYING) {
        prefetch_map(&planes);
        init_barrier(matrices_there, 1);
        for (int group = 0; group < GROUPS_OF_CHANNELS; group++) init_barrier(input_there + 8 * group, 1);
        for (int slot = 0; slot < SLOTS; slot++) {
            init_barrier(step_there + 8 * slot, 1);
            init_barrier(step_free + 8 * slot, MULTIPLYING / 32);
        }
        show_to_products();
        expect_bytes(matrices_there, MATRICES * MATRIX_BYTES);
        copy_bytes(base + MATRICES_AT, matrices, MATRICES * MATRIX_BYTES, matrices_there);
        // A launch that has begun early has time for its weights; another one wants its input first.
        if (early) {
            copy_first_steps(base, weights, program, step_there);
            wait_for_launch_before();
        }
        for (int channels = 0; channels < GROUPS_OF_CHANNELS; channels++) {
            const word there = input_there + 8 * channels;
            expect_bytes(there, GROUP_BYTES);
            for (int n = 0; n < COLUMNS; n++) {
                const int column = min(first_column + n, all_columns - 1);  // of the columns of all images
                const int row = column / frequencies * HALF, frequency = column % frequencies;
                for (int piece = channels * PIECES_OF_GROUP; piece < (channels + 1) * PIECES_OF_GROUP; piece++) {
                    const word target = base + INPUT_AT + piece * INPUT_PIECE + n * COLUMN_BYTES;
                    copy_piece(target, &planes, piece * PIECE, row, frequency, there);
                }
            }
        }
        if (!early) copy_first_steps(base, weights, program, step_there);
    }
    __syncthreads();
    if (thread >= MULTIPLYING) {
        give_back_registers<40>();
        if (thread > MULTIPLYING) return;
        for (int step = SLOTS; step < STEPS; step++) {
            wait(step_free + 8 * (step % SLOTS), (step / SLOTS - 1) & 1);
            copy_step(base, weights, program, step, step_there);
        }
        return;
    }
    take_registers<232>();

    const int group = group_of(thread);
    const int lane = thread % 32, pair = lane % 4;
    const int row = thread % 128 / 32 * 16 + lane / 4;  // of the 64; a thread has this one and the eighth after it
    const int own_rows = GROUPS_OF_ROWS == 2 ? 64 * group : 0;
    const word own_column = COLUMNS == 2 ? group * COLUMN_BYTES : 0;

    for (int n = thread; n < SHIFTS; n += MULTIPLYING) {
        const int part = n / OUTPUTS_OF_PROGRAM, channel = program * OUTPUTS_OF_PROGRAM + n % OUTPUTS_OF_PROGRAM;
        store_shared(base + SHIFTS_AT + 4 * n, __float_as_uint(gain * bias[part * CHANNELS + channel]));
    }

    // The column transform, whose result takes its input's place.
    wait(matrices_there, 0);
    constexpr int TURNS = GROUPS_OF_ROWS == 2 ? GROUPS_OF_CHANNELS : 1;
#pragma unroll 1
    for (int turn = 0; turn < TURNS; turn++) {
        const int channels = GROUPS_OF_ROWS == 2 ? turn : group;
        const bool taken = channels < GROUPS_OF_CHANNELS;
        float even[GROUP_CHANNELS / 2], odd[GROUP_CHANNELS / 2];
        const word place = base + INPUT_AT + channels * GROUP_BYTES;
        if (taken) {
            wait(input_there + 8 * channels, 0);
            transform<GROUP_CHANNELS>(even, odd, base + MATRICES_AT, place + own_column, INPUT_PIECE, group);
            wait_for_products<0>();
        }
        meet(1, MULTIPLYING);
        if (taken) {
#pragma unroll
            for (int i = 0; i < GROUP_CHANNELS / 8; i++) {
#pragma unroll
                for (int below = 0; below < 2; below++) {
                    const int r = row + 8 * below;
                    const int part = HEIGHT == 128 ? group : r / HALF;
                    const int position = HEIGHT == 128 ? row_of(r, group) : own_rows + r % HALF;
                    const int further = HEIGHT == 128 ? (position + HALF) % HEIGHT : position + HALF;
                    const word piece = place + (part * PIECES_OF_GROUP + i / 4) * SPECTRUM_PIECE + 4 * pair;
                    const int unit = i % 4 ^ position / 2 % 4;  // of the other row too: HALF / 2 is a multiple of 4
                    const int n = 4 * i + 2 * below;
                    const float e0 = even[n] * forward_gain, e1 = even[n + 1] * forward_gain;
                    const float o0 = odd[n] * forward_gain, o1 = odd[n + 1] * forward_gain;
                    store_shared(piece + position * ROW_BYTES + unit * 16, two_halves(e0 + o0, e1 + o1));
                    store_shared(piece + further * ROW_BYTES + unit * 16, two_halves(e0 - o0, e1 - o1));
                }
            }
            show_to_products();
        }
    }
    meet(1, MULTIPLYING);

    const word result = base + INPUT_AT + (GROUPS_OF_ROWS == 1 ? group * RESULT_BYTES : 0);
    // The 1x1 convolution: real parts of OUTPUTS channels, then their imaginary parts.
    const int first_output = (program * GROUPS_SIDE_BY_SIDE + (GROUPS_OF_ROWS == 1 ? group : 0)) * OUTPUTS;
    {
        float sums[OUTPUTS];
#pragma unroll 1
        for (int step = 0; step < STEPS; step++) {
            const int slot = step % SLOTS;
            wait(step_there + 8 * slot, step / SLOTS & 1);
            const word a = base + INPUT_AT + step * SPECTRUM_PIECE + own_rows * ROW_BYTES;
            const word b = base + WEIGHTS_AT + slot * STEP_BYTES
                + (GROUPS_OF_ROWS == 1 ? group * 2 * OUTPUTS * ROW_BYTES : 0);
            begin_products();
            multiply_terms_inside<2 * OUTPUTS>(sums, terms_inside(a), terms_inside(b), step > 0);
            multiply_terms_inside<2 * OUTPUTS>(sums, terms_inside(a + 32), terms_inside(b + 32), 1);
            commit_products();
            wait_for_products<1>();
            if (step > 0 && lane == 0) arrive(step_free + 8 * ((step - 1) % SLOTS));
        }
        wait_for_products<0>();
        meet(1, MULTIPLYING);  // the spectrum has been read: results take its place
#pragma unroll
        for (int i = 0; i < OUTPUTS / 4; i++) {
            const int part = i / (OUTPUTS / 8), channel = i % (OUTPUTS / 8) * 8;
            float s0, s1;
            const int shift = part * OUTPUTS_OF_PROGRAM + first_output % OUTPUTS_OF_PROGRAM + channel + 2 * pair;
            load_two(base + SHIFTS_AT + 4 * shift, s0, s1);
#pragma unroll
            for (int below = 0; below < 2; below++) {
                const int frequency = (HEIGHT == 128 ? own_rows : 0) + row + 8 * below;
                const int at = frequency / 2 + (1 - part) * HALF + frequency % 2 * HEIGHT;
                const int unit = channel % PIECE / 8 ^ at / 2 % 4;
                store_shared(
                    result + own_column + channel / PIECE * INPUT_PIECE + at * ROW_BYTES + unit * 16 + 4 * pair,
                    two_halves(rectified(sums[4 * i + 2 * below] + s0), rectified(sums[4 * i + 2 * below + 1] + s1)));
            }
        }
    }
    show_to_products();
    meet(1, MULTIPLYING);

    // The inverse column transform.
    float even[OUTPUTS / 2], odd[OUTPUTS / 2];
    transform<OUTPUTS>(even, odd, base + MATRICES_AT, result + own_column, INPUT_PIECE, group);
    wait_for_products<0>();
    // Its result goes through the memory of what it transformed, rows [part][HEIGHT], so that it leaves in long pieces.
    const int threads = GROUPS_OF_ROWS == 1 ? 128 : MULTIPLYING, meeting = GROUPS_OF_ROWS == 1 ? 2 + group : 1;
    meet(meeting, threads);
#pragma unroll
    for (int below = 0; below < 2; below++) {
        const int r = row + 8 * below;
        const int part = 1 - (HEIGHT == 128 ? group : r / HALF);
        const int y = HEIGHT == 128 ? row_of(r, group) : r % HALF, further = (y + HALF) % HEIGHT;
        const word rows = result + own_column + part * HEIGHT * ROW_BYTES + 4 * pair;
#pragma unroll
        for (int i = 0; i < OUTPUTS / 8; i++) {
            const word piece = rows + i / 4 * INPUT_PIECE + (i % 4 ^ y / 2 % 4) * 16;
            const float e0 = even[4 * i + 2 * below], e1 = even[4 * i + 2 * below + 1];
            const float o0 = odd[4 * i + 2 * below], o1 = odd[4 * i + 2 * below + 1];
            store_shared(piece + y * ROW_BYTES, two_halves(e0 + o0, e1 + o1));
            store_shared(piece + further * ROW_BYTES, two_halves(e0 - o0, e1 - o1));
        }
    }
    meet(meeting, threads);
    constexpr int UNITS = OUTPUTS / 8;
#pragma unroll 4
    for (int n = thread % threads; n < 2 * POSITIONS * UNITS; n += threads) {
        const int at = n / UNITS, unit = n % UNITS;
        const int column = first_column + at / (2 * HEIGHT), part = at / HEIGHT % 2, y = at % HEIGHT;
        if (column >= all_columns) break;
        const long long line = ((long long)(column / frequencies) * HEIGHT + y) * 2 + part;
        move_unit(
            out + ((line * frequencies + column % frequencies) * CHANNELS + first_output + unit * 8) * 2,
            result + unit / 4 * INPUT_PIECE + at * ROW_BYTES + (unit % 4 ^ at / 2 % 4) * 16);
    }
}
