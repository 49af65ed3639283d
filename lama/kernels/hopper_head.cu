// The last convolution for Hopper: 7x7 from INPUTS channels to 3 colours with reflect padding, bias and sigmoid, in one
// launch. Constants in capitals that are not defined here are written before this text by `hopper_head.py`, with
// `hopper_pieces.cuh`.
//
// A program walks down the rows of a strip. Three groups of warps have 64 pixels of a row each; a thread of a fourth
// one starts the copies. One product multiplies the pixels by the weights of all 7 x 7 taps and 3 colours. A thread
// holds its sums for seven output rows at once, in a ring of seven blocks of registers. A product's registers have to
// lie in the order of its columns. So the ring stays where it is and the weights turn: their seven blocks lie in shared
// memory almost twice, and from row to row a product begins at another one. A finished block has the 7 horizontal taps
// x 3 colours of each pixel, which are added across pixels through shared memory, while the next row is multiplied.

constexpr int TAPS = 7, BORDER = TAPS / 2, COLOURS = 3;
constexpr int GROUPS = 3, GROUP_PIXELS = 64, PIXELS = GROUPS * GROUP_PIXELS;
constexpr int OUTPUTS = PIXELS - 2 * BORDER;  // of a strip's row
constexpr int MULTIPLIERS = 128 * GROUPS, ALL_THREADS = MULTIPLIERS + 128;
constexpr int PIXEL_BYTES = 2 * INPUTS, SLOT_BYTES = PIXELS * PIXEL_BYTES;
constexpr int BLOCK_COLUMNS = 24;  // 7 taps x 3 colours, filled up
constexpr int BLOCK_SUMS = BLOCK_COLUMNS / 2, SUMS = TAPS * BLOCK_SUMS;  // of a thread
constexpr int BLOCK_BYTES = BLOCK_COLUMNS * PIXEL_BYTES, WEIGHT_BYTES = (2 * TAPS - 1) * BLOCK_BYTES;
// Between columns of finished sums, in numbers: a warp's stores, 8 pixels of columns 0, 2, 4, 6, meet no bank twice, as
// 2 PITCH is 8 modulo 32. The numbers after the strip's pixels take what is not needed.
constexpr int PITCH = PIXELS + 4, NOWHERE = PIXELS;
constexpr int FINISHED_BYTES = BLOCK_COLUMNS * PITCH * 4;

// Where things lie in shared memory; slots and weights begin at multiples of the period of their swizzle.
constexpr int WEIGHTS_AT = SLOTS * SLOT_BYTES;
constexpr int FINISHED_AT = WEIGHTS_AT + WEIGHT_BYTES;
constexpr int BARRIERS_AT = FINISHED_AT + 2 * FINISHED_BYTES;
static_assert(BARRIERS_AT + 8 * (1 + 2 * SLOTS) == SHARED_BYTES, "as the host counts it");
static_assert(PIXEL_BYTES == 64 || PIXEL_BYTES == 128, "a pixel is a row of the operand");

// Rows of one strip of one image.
struct Task {
    int image, left, top, rows;
};

__device__ __forceinline__ Task task_of(int number, int height, int strips, int chunks, int chunk_rows) {
    const int chunk = number / strips % chunks, top = chunk * chunk_rows;
    return {number / strips / chunks, number % strips * OUTPUTS, top, min(chunk_rows, height - top)};
}

// PIXELS pixels of one row; those beside the map are zeros.
__device__ __forceinline__ void copy_pixels(word target, const TensorMap* map, int first, int row, word barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(target),
        "l"(map), "r"(0), "r"(first), "r"(row), "r"(barrier)
        : "memory");
}

__device__ __forceinline__ float load_number(word address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}

// Take a finished block out of the ring; the row that begins there starts from 0.
__device__ __forceinline__ void take_block(int block, float (&sums)[SUMS], float (&finished)[BLOCK_SUMS]) {
#pragma unroll
    for (int n = 0; n < BLOCK_SUMS; n++) {
        finished[n] = sums[block * BLOCK_SUMS + n];
        sums[block * BLOCK_SUMS + n] = 0.0f;
    }
}

// 1 / (1 + exp(-x)); NaN stays NaN. The reciprocal is corrected once, which leaves half a unit in the last place, but
// not where it is nearly or quite 0: there the correction would overflow. A division is longer and calls a function for
// rare cases.
__device__ __forceinline__ float sigmoid(float x) {
    const float denominator = 1.0f + expf(-x);
    float reciprocal;
    asm("rcp.approx.f32 %0, %1;" : "=f"(reciprocal) : "f"(denominator));
    const float corrected = fmaf(reciprocal, fmaf(-denominator, reciprocal, 1.0f), reciprocal);
    return denominator < 1e37f ? corrected : reciprocal;
}

// What a thread knows of the task it works on.
struct Place {
    int own[2];        // where its two pixels' sums go, in bytes
    int mirrored[2];   // where they go once more, as those of a pixel beside the map, or -1
    float* target[2];  // its next numbers of the image, or null
};

__device__ __forceinline__ Place place_of(
    const Task& task, float* out, int height, int width, int thread, int pixel, int pair) {
    Place place;
#pragma unroll
    for (int below = 0; below < 2; below++) {
        const int position = pixel + 8 * below, x = task.left - BORDER + position;
        const bool inside = x >= 0 && x < width;
        const int columns = 2 * pair * PITCH * 4;
        place.own[below] = columns + 4 * (inside ? position : NOWHERE);
        int mirror = -1;  // a map is at least 8 pixels wide: none is reflected at both sides
        if (x >= 1 && x <= BORDER) mirror = -x - (task.left - BORDER);  // negative but for the first strip
        if (x >= width - 1 - BORDER && x <= width - 2) mirror = 2 * (width - 1) - x - (task.left - BORDER);
        place.mirrored[below] = mirror >= 0 && mirror < PIXELS ? columns + 4 * mirror : -1;
    }
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const int output = thread + n * MULTIPLIERS, colour = output / OUTPUTS, x = task.left + output % OUTPUTS;
        const long long row = (long long)(task.image * COLOURS + colour) * height + task.top;
        place.target[n] = colour < COLOURS && x < width ? out + (row * width + x) : nullptr;
    }
    return place;
}

__device__ __forceinline__ void store_block(const float (&finished)[BLOCK_SUMS], int below, word address) {
#pragma unroll
    for (int i = 0; i < BLOCK_COLUMNS / 8; i++) {
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            store_shared(address + (8 * i + odd) * PITCH * 4, __float_as_uint(finished[4 * i + 2 * below + odd]));
        }
    }
}

// Add the finished sums of a row across pixels and write its numbers of the image. Two memories take turns, so that one
// meeting a row is enough: between two uses of a memory there is the meeting of the row between, to which every thread
// comes after it has read that memory.
__device__ __forceinline__ void finish_row(
    const float (&finished)[BLOCK_SUMS], Place& place, word memory, int thread, const float* bias, int width) {
#pragma unroll
    for (int below = 0; below < 2; below++) {
        store_block(finished, below, memory + place.own[below]);
        if (place.mirrored[below] >= 0) store_block(finished, below, memory + place.mirrored[below]);
    }
    meet(1, MULTIPLIERS);
#pragma unroll
    for (int n = 0; n < 2; n++) {
        if (place.target[n] == nullptr) continue;
        const int output = thread + n * MULTIPLIERS;
        const word first = memory + 4 * (output / OUTPUTS * PITCH + output % OUTPUTS);
        float total = bias[n];
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) total += load_number(first + 4 * tap * (COLOURS * PITCH + 1));
        *place.target[n] = sigmoid(total);
        place.target[n] += width;
    }
}

extern "C" __global__ void __launch_bounds__(ALL_THREADS, 1) convolve_head(
    const __grid_constant__ TensorMap pixels, const char* weights, const float* bias, float* out, int height, int width,
    int strips, int chunks, int chunk_rows, int tasks) {
    extern __shared__ __align__(1024) char memory[];
    const word base = shared_address(memory);
    const word weights_there = base + BARRIERS_AT, row_there = weights_there + 8, row_free = row_there + 8 * SLOTS;
    const int thread = threadIdx.x;

    if (thread == MULTIPLIERS) {
        prefetch_map(&pixels);
        init_barrier(weights_there, 1);
        for (int slot = 0; slot < SLOTS; slot++) {
            init_barrier(row_there + 8 * slot, 1);
            init_barrier(row_free + 8 * slot, MULTIPLIERS / 32);
        }
        show_to_products();
        expect_bytes(weights_there, WEIGHT_BYTES);
        copy_bytes(base + WEIGHTS_AT, weights, WEIGHT_BYTES, weights_there);
    }
    __syncthreads();
    int slot = 0, phase = 0;
    if (thread >= MULTIPLIERS) {
        give_back_registers<32>();
        if (thread > MULTIPLIERS) return;
        wait_for_launch_before();
#pragma unroll 1
        for (int number = blockIdx.x; number < tasks; number += gridDim.x) {
            const Task task = task_of(number, height, strips, chunks, chunk_rows);
#pragma unroll 1
            for (int y = task.top - BORDER; y < task.top + task.rows + BORDER; y++) {
                const int reflected = y < 0 ? -y : y < height ? y : 2 * (height - 1) - y;
                const word there = row_there + 8 * slot;
                wait(row_free + 8 * slot, phase ^ 1);  // a new barrier counts as past its phase 1
                expect_bytes(there, SLOT_BYTES);
                copy_pixels(
                    base + slot * SLOT_BYTES, &pixels, task.left - BORDER, task.image * height + reflected, there);
                if (++slot == SLOTS) slot = 0, phase ^= 1;
            }
        }
        return;
    }
    take_registers<160>();  // 384 x 160 + 128 x 32 are all there are

    const int group = group_of(thread), lane = thread % 32;
    const int pixel = thread / 32 * 16 + lane / 4;  // of the strip; a thread has this one and the eighth after it
    const word own_pixels = base + group * GROUP_PIXELS * PIXEL_BYTES;
    const float own_bias[2] = {
        bias[thread / OUTPUTS], bias[min((thread + MULTIPLIERS) / OUTPUTS, COLOURS - 1)]};
    int number = blockIdx.x;
    Task task = task_of(number, height, strips, chunks, chunk_rows);
    Place place = place_of(task, out, height, width, thread, pixel, lane % 4);
    float sums[SUMS], finished[BLOCK_SUMS];
#pragma unroll
    for (int n = 0; n < SUMS; n++) sums[n] = 0.0f;

    // The product of a row's pixels. At `turn` block b has output row b of seven, which sees this row at vertical tap
    // (turn - b) modulo 7; in memory the taps' blocks go down from 6 to 0 and on to 1.
    auto begin_row = [&](int turn) __attribute__((always_inline)) {
        wait(row_there + 8 * slot, phase);
        hold(sums);
        begin_products();
        const word a = own_pixels + slot * SLOT_BYTES, b = base + WEIGHTS_AT + (TAPS - 1 - turn) * BLOCK_BYTES;
#pragma unroll
        for (int bytes = 0; bytes < PIXEL_BYTES; bytes += 32) {
            multiply_terms_inside<TAPS * BLOCK_COLUMNS>(
                sums, terms_inside<PIXEL_BYTES>(a + bytes), terms_inside<PIXEL_BYTES>(b + bytes), 1);
        }
        commit_products();
    };

    // Wait for a row's product, begin the next, and finish the output row that is done meanwhile; false, without the
    // last two, at the program's last row. From one task to the next the ring just turns on: whatever is in it was put
    // there for rows that nobody stores, and a block starts from 0.
    int row = 1 - TAPS;  // the output row that is finished next; before the task's first none is
    word finished_at = base + FINISHED_AT;
    auto take_row = [&](int turn) __attribute__((always_inline)) {
        wait_for_products<0>();
        hold(sums);
        if (lane == 0) arrive(row_free + 8 * slot);
        take_block((turn + 1) % TAPS, sums, finished);
        const bool ends = row + 1 == task.rows;
        if (ends && number + gridDim.x >= tasks) return false;
        if (++slot == SLOTS) slot = 0, phase ^= 1;
        begin_row((turn + 1) % TAPS);
        if (row >= 0) {
            finish_row(finished, place, finished_at, thread, own_bias, width);
            finished_at = 2 * (base + FINISHED_AT) + FINISHED_BYTES - finished_at;  // the other one
        }
        row++;
        if (ends) {
            number += gridDim.x;
            task = task_of(number, height, strips, chunks, chunk_rows);
            place = place_of(task, out, height, width, thread, pixel, lane % 4);
            row = 1 - TAPS;
        }
        return true;
    };
    wait(weights_there, 0);
    begin_row(0);
    // Registers have no numbers that could be computed, hence seven copies.
    while (take_row(0) && take_row(1) && take_row(2) && take_row(3) && take_row(4) && take_row(5) && take_row(6)) {
    }
    finish_row(finished, place, finished_at, thread, own_bias, width);
}
