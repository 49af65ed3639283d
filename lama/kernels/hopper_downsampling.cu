// The first downsampling, for Hopper: a 3x3 convolution of 64 channels to 128 with a step of two pixels, a border
// reflected by one pixel, bias and ReLU, in one launch. Constants in capitals that are not defined here are written
// before this text by `hopper_downsampling.py`, with `hopper_pieces.cuh`.
//
// The product is transposed: its rows are output channels, its columns are 64 pixels of an output row. Two groups of
// warps multiply, for 64 output channels each, whose weights stay in registers as long as the program runs. So a step
// reads 2 KiB of shared memory, where the weights would be another 2 KiB. A group has two sets of sums: it handles one
// unit's while the next unit's products run. A thread of a third group starts the copies.
//
// Units of work are (image, strip of 64 output columns, output row), rows fastest; a program has a run of them. Input
// rows go through a ring of slots. An output row needs three, of which the next output row of the strip needs the last.

constexpr int CHANNELS = 64, OUTPUTS = 128, PIXELS = 64, GROUP_OUTPUTS = OUTPUTS / 2;
constexpr int CHUNKS = CHANNELS / 16, STEPS = 9 * CHUNKS;
constexpr int PIXEL_BYTES = 2 * CHANNELS, TILE_BYTES = PIXELS * PIXEL_BYTES;
constexpr int EXCHANGE_BYTES = 8 * PIXEL_BYTES;  // the order of a pixel's units of 16 bytes repeats after eight pixels

// Where an input row's pixels lie in its slot: the odd ones of 64 pairs, the even ones, and odd ones again, of the 64
// pairs from the pair before on. Where these were read out of the first copy, a pixel earlier, eight images of 512x512
// took 152.8 us instead of 141.
constexpr int ODD_AT = 0, EVEN_AT = TILE_BYTES, BEFORE_AT = 2 * TILE_BYTES, SLOT_BYTES = 3 * TILE_BYTES;

// Where things lie in shared memory; slots and staged results begin at multiples of 1024 bytes.
constexpr int STAGED_AT = SLOTS * SLOT_BYTES, GROUP_STAGED_BYTES = 2 * TILE_BYTES;
constexpr int BARRIERS_AT = STAGED_AT + 2 * GROUP_STAGED_BYTES;
static_assert(BARRIERS_AT + 8 * 2 * SLOTS == SHARED_BYTES, "as the host counts it");
static_assert(SLOTS >= 6, "two units that follow each other in different strips have six input rows");

// Copy the even pixels (phase 0) or the odd ones (1) of one input row, as many as the map's box has.
__device__ __forceinline__ void copy_pixels(
    word target, const TensorMap* map, int phase, int pair, int row, word barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(target),
        "l"(map), "r"(0), "r"(phase), "r"(pair), "r"(row), "r"(barrier)
        : "memory");
}

__device__ __forceinline__ void store_pixels(const TensorMap* map, int channel, int pixel, word source) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(channel),
        "r"(pixel), "r"(source)
        : "memory");
}

// What `terms_inside` gives for pixels that lie `bytes` after `address`, multiples of 16 both. Its two words are
// computed apart, so that from one step's to the next one's it is an addition of 32 bits.
__device__ __forceinline__ wide channels_of_pixels(word address, int bytes) {
    const word low = (address >> 4 | 1 << 16) + (bytes >> 4), high = EXCHANGE_BYTES >> 4 | 1 << 30;
    return wide(high) << 32 | low;
}

// Begin a unit's products; its input rows are `row`, the next and the one after it, as the program counts them. All are
// waited for at first: a wait between products would part them into groups, of which the next wait lets only one run.
__device__ __forceinline__ void multiply_unit(
    float* sums, const word (*weights)[4], word base, word rows_there, word row) {
#pragma unroll
    for (int dy = 0; dy < 3; dy++) wait(rows_there + 8 * ((row + dy) % SLOTS), (row + dy) / SLOTS & 1);
    begin_products();
#pragma unroll
    for (int dy = 0; dy < 3; dy++) {
        const word slot = base + (row + dy) % SLOTS * SLOT_BYTES;
#pragma unroll
        for (int step = 0; step < 3 * CHUNKS; step++) {
            const int dx = step / CHUNKS, at = dx == 0 ? BEFORE_AT : dx == 1 ? EVEN_AT : ODD_AT;
            multiply_registers<PIXELS>(
                sums, weights[dy * 3 * CHUNKS + step], channels_of_pixels(slot, at + step % CHUNKS * 32),
                dy + step > 0);
        }
    }
    commit_products();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) downsample(
    const __grid_constant__ TensorMap pixels, const __grid_constant__ TensorMap one_pixel,
    const __grid_constant__ TensorMap further_pixels, const __grid_constant__ TensorMap results, const char* weights,
    const float* bias, int units, int strips, int out_height) {
    extern __shared__ __align__(1024) char memory[];
    const word base = shared_address(memory);
    const word rows_there = base + BARRIERS_AT, rows_free = rows_there + 8 * SLOTS;
    const int thread = threadIdx.x, program = blockIdx.x, programs = gridDim.x;
    const int first_unit = units / programs * program + min(program, units % programs);
    const int end_unit = first_unit + units / programs + (program < units % programs);

    if (thread == MULTIPLYING) {
        prefetch_map(&pixels);
        prefetch_map(&one_pixel);
        prefetch_map(&further_pixels);
        prefetch_map(&results);
        for (int slot = 0; slot < SLOTS; slot++) {
            init_barrier(rows_there + 8 * slot, 1);
            init_barrier(rows_free + 8 * slot, MULTIPLYING / 32);
        }
        show_to_products();
    }
    __syncthreads();
    if (thread >= MULTIPLYING) {
        give_back_registers<24>();
        if (thread > MULTIPLYING) return;
        // Rows are counted as they are copied: three for a unit that begins a run or a strip, two for the others.
        word row = 0;
        wait_for_launch_before();
        for (int unit = first_unit; unit < end_unit; unit++) {
            const int y = unit % out_height, strip = unit / out_height;
            const int image_row = strip / strips * (2 * out_height), pair = strip % strips * PIXELS;
            const bool begins = unit == first_unit || y == 0;
            for (int input_y = begins ? 2 * y - 1 : 2 * y; input_y <= 2 * y + 1; input_y++, row++) {
                const int input_row = image_row + abs(input_y);  // row -1 is row 1
                const word slot = row % SLOTS, target = base + slot * SLOT_BYTES, there = rows_there + 8 * slot;
                if (row >= SLOTS) wait(rows_free + 8 * slot, (row / SLOTS - 1) & 1);
                expect_bytes(there, SLOT_BYTES);
                copy_pixels(target + EVEN_AT, &pixels, 0, pair, input_row, there);
                copy_pixels(target + ODD_AT, &pixels, 1, pair, input_row, there);
                // Column -1 is column 1, the odd one of the first pair.
                copy_pixels(target + BEFORE_AT, &one_pixel, 1, max(pair - 1, 0), input_row, there);
                copy_pixels(target + BEFORE_AT + PIXEL_BYTES, &further_pixels, 1, pair, input_row, there);
            }
        }
        return;
    }
    // Weights and two sets of sums are 208 registers of a thread. With 232 in all the compiler would wait after every
    // product.
    take_registers<240>();

    const int group = group_of(thread), lane = thread % 32, warp = thread % 128 / 32;
    const int channel = group * GROUP_OUTPUTS + warp * 16 + lane / 4;  // a thread has this one and the eighth after it
    const float shift = bias[channel], further_shift = bias[channel + 8];
    const bool stores = thread % 128 == 0;
    word own_weights[STEPS][4];
    const char* const first_weights = weights + (group * STEPS * 128 + thread % 128) * 16;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        load_constant(first_weights + step * 128 * 16, own_weights[step]);
    }
    // Of every 16 pixels by 16 channels of a warp four matrices are staged: the first eight pixels' channels, then the
    // others'. A lane says where one pixel's eight channels go.
    const word staged = base + STAGED_AT + group * GROUP_STAGED_BYTES;
    const word own_staged = staged + lane / 16 * EXCHANGE_BYTES + lane % 8 * PIXEL_BYTES
        + ((warp * 2 + lane / 8 % 2) ^ lane % 8) * 16;

    // The unit whose sums are handled next, its output row, and its first input row as the program counts them.
    int unit = first_unit, y = first_unit % out_height;
    word row = 0;
    const auto rows_to_next = [&]() -> word { return y == out_height - 1 ? 3 : 2; };
    const auto multiply_next = [&](float* sums) {
        multiply_unit(sums, own_weights, base, rows_there, row + rows_to_next());
    };
    const auto handle = [&](float (&sums)[PIXELS / 2], int turn) {
        hold(sums);
        if (lane == 0) {
            for (word n = 0; n < rows_to_next(); n++) arrive(rows_free + 8 * ((row + n) % SLOTS));
        }
#pragma unroll
        for (int i = 0; i < PIXELS / 8; i += 2) {
            word halves[4];
#pragma unroll
            for (int n = 0; n < 4; n++) {  // eight pixels of eight channels and of the further ones, then the next
                const float* two = sums + 4 * i + 2 * n;
                const float added = n % 2 ? further_shift : shift;
                halves[n] = two_halves(rectified(two[0] + added), rectified(two[1] + added));
            }
            store_transposed(
                own_staged + turn * TILE_BYTES + i * EXCHANGE_BYTES, halves[0], halves[1], halves[2], halves[3]);
        }
        show_to_products();
        // When the group has met, the store before this one has read its memory, to which the next unit goes.
        if (stores) wait_for_sources<0>();
        meet(1 + group, 128);
        if (stores) {
            const int strip = unit / out_height;
            const int pixel = ((strip / strips * out_height + y) * strips + strip % strips) * PIXELS;
            store_pixels(&results, group * GROUP_OUTPUTS, pixel, staged + turn * TILE_BYTES);
            commit_stores();
        }
        row += rows_to_next();
        y = y == out_height - 1 ? 0 : y + 1;
        unit++;
    };

    float sums[PIXELS / 2], next_sums[PIXELS / 2];
    multiply_unit(sums, own_weights, base, rows_there, row);
#pragma unroll 1
    while (unit + 2 < end_unit) {
        multiply_next(next_sums);
        wait_for_products<1>();
        handle(sums, 0);
        multiply_next(sums);
        wait_for_products<1>();
        handle(next_sums, 1);
    }
    if (unit + 1 < end_unit) {
        multiply_next(next_sums);
        wait_for_products<1>();
        handle(sums, 0);
        wait_for_products<0>();
        handle(next_sums, 1);
    } else {
        wait_for_products<0>();
        handle(sums, 0);
    }
    if (stores) wait_for_sources<0>();
}
