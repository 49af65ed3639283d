// The first 7x7 convolution, 4 to OUTPUTS channels with bias and ReLU, for Hopper. Constants in capitals that are not
// defined here are written before this text by `hopper_stem.py`, with `hopper_pieces.cuh`.
//
// The product is transposed: its 64 rows are outputs, its columns are the 64 pairs of pixels in 128 pixels of a line,
// and its terms are 7 lines x 8 pixels x 4 channels, which for a pair are 64 bytes of each line as it lies in memory.
// The next pair's begin 16 bytes on, so that wgmma reads overlapping columns where the line is and nothing is laid out
// anew. The weights stay in registers. With 64 outputs a group of warps computes the even or the odd pixels of a line
// (PARITIES 2); with 32 the rows are the outputs of the even pixel, then those of the odd one (PARITIES 1).
//
// All groups of warps multiply; the first thread of the first one starts the copies of lines as well.
//
// A program walks down columns of 128 pixels with a share of all lines of the map. The lines that it reads are counted
// on from column to column, each with six more than are written: line n of this stream lies in slot n % LINES.

constexpr int GROUPS = 4, STEM_THREADS = 128 * GROUPS, WARPS = STEM_THREADS / 32;
constexpr int PARITIES = OUTPUTS / 32, LINES_AT_ONCE = GROUPS / PARITIES;
constexpr int TAPS = 7, FURTHER = TAPS - 1;
constexpr int STEPS = 2 * TAPS;  // of 16 terms: 4 pixels of a line
constexpr int PIXELS = 128, PAIRS = PIXELS / 2, PIXEL_BYTES = 8;
constexpr int LINE_BYTES = (PIXELS + FURTHER) * PIXEL_BYTES;  // the last pair's window ends with it
constexpr int UNIT_BYTES = 16, RESULT_ROW_BYTES = 128, RESULT_BYTES = PAIRS * RESULT_ROW_BYTES;
// In a turn each group has a line, or each two groups have one. No group is this many turns ahead of another: it would
// need lines whose slots still have lines that the other one needs.
constexpr int TURNS = LINES / LINES_AT_ONCE;
// Where no slot is free, the thread that starts copies waits for the other groups until they are at most this many
// turns behind it, or longer if lines of its own turn are still missing.
constexpr int TURNS_BEHIND = 8 / LINES_AT_ONCE;
// Lines that a turn reads, at most: a column ends within it no more than once.
constexpr int TURN_LINES = LINES_AT_ONCE - 1 + FURTHER + TAPS;
static_assert((LINES & LINES - 1) == 0 && (BUFFERS & BUFFERS - 1) == 0 && BUFFERS >= 2);
static_assert(TURN_LINES + TURNS_BEHIND * LINES_AT_ONCE <= LINES);

// Where things lie in shared memory. Results begin at multiples of 1024 bytes.
constexpr int RESULTS_AT = 0, LINES_AT = RESULTS_AT + GROUPS * BUFFERS * RESULT_BYTES;
constexpr int BARRIERS_AT = LINES_AT + LINES * LINE_BYTES;
constexpr int STREAM_AT = BARRIERS_AT + 8 * (LINES + TURNS), STREAM_BYTES = 40;
static_assert(LINE_BYTES % UNIT_BYTES == 0 && BARRIERS_AT % 8 == 0);
static_assert(STREAM_AT + STREAM_BYTES == SHARED_BYTES, "as the host counts it");

// Describe pairs of pixels, from a unit of 16 bytes in shared memory on, as the product's columns; they are not
// swizzled here. A unit holds half of a step's terms of one pair. The next unit holds the other half, and at the same
// time the first half of the next pair, so that eight pairs take 128 bytes.
__device__ __forceinline__ wide pairs_at(word unit) {
    return wide(unit) | (wide(UNIT_BYTES >> 4) << 16) | (wide(8 * UNIT_BYTES >> 4) << 32);
}

// ReLU of two numbers as halves; NaN stays NaN.
__device__ __forceinline__ word two_rectified(float low, float high) {
    word both;
    asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ void store_pairs(const TensorMap* map, int parity, int pair, word source) {
    asm volatile(
        "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map), "r"(0),
        "r"(parity), "r"(pair), "r"(source)
        : "memory");
}

// A line of the map, on the way down one column of 128 pixels after the other.
struct Place {
    int column, y;  // `column` of those of its image
    int row;        // of all images
    word first;     // of the lines of the stream that it needs

    __device__ __forceinline__ Place(int line, int share, int height, int columns) {
        const int strip = line / height;
        column = strip % columns;
        y = line % height;
        row = strip / columns * height + y;
        first = line - share + FURTHER * (strip - share / height);
    }

    // Go to the next turn's line; a map has at least as many lines as a turn.
    __device__ __forceinline__ void go_on(int height, int columns) {
        first += LINES_AT_ONCE;
        row += LINES_AT_ONCE;
        y += LINES_AT_ONCE;
        if (y >= height) {
            y -= height;
            first += FURTHER;
            if (++column == columns) {
                column = 0;
            } else {
                row -= height;
            }
        }
    }
};

// What the thread that starts copies knows of them. It is kept in shared memory between turns: in registers it would
// take those of all threads.
struct Stream {
    const char* source;
    word next, end;    // lines of the stream
    int rest, column;  // lines that its column has from `next` on; which of its image's columns it is
    word turns;        // that all groups are known to have done
    word used;         // the lines of the stream that no later turn needs end here
    int y;             // of the first line of the turn after those
};
static_assert(sizeof(Stream) == STREAM_BYTES);

// Start the copies of the lines that a turn needs, and of as many more as there are free slots for.
__device__ __forceinline__ void copy_lines(
    Stream& stream, word turn, word first, word base, word line_there, word turn_done, int height, int columns) {
    const int line_pitch = (columns * PIXELS + FURTHER + 2) * PIXEL_BYTES;
#pragma unroll 1
    while (stream.next < stream.end) {
        const bool is_short = stream.next < first + TURN_LINES;
        const bool is_full = stream.next >= stream.used + LINES;
        if (is_full && !is_short && stream.turns + TURNS_BEHIND >= turn) break;
        if (is_full) {
            wait(turn_done + 8 * (stream.turns % TURNS), stream.turns / TURNS & 1);
            stream.turns++;
            stream.used += LINES_AT_ONCE;
            stream.y += LINES_AT_ONCE;
            if (stream.y >= height) {
                stream.y -= height;
                stream.used += FURTHER;
            }
            continue;
        }
        const word slot = stream.next % LINES;
        expect_bytes(line_there + 8 * slot, LINE_BYTES);
        copy_bytes(base + LINES_AT + slot * LINE_BYTES, stream.source, LINE_BYTES, line_there + 8 * slot);
        stream.next++;
        stream.source += line_pitch;
        if (--stream.rest == 0) {
            stream.rest = height + FURTHER;
            if (++stream.column == columns) {  // the next image's first column
                stream.column = 0;
                stream.source -= (columns - 1) * PIXELS * PIXEL_BYTES;
            } else {
                stream.source -= (long long)stream.rest * line_pitch - PIXELS * PIXEL_BYTES;
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(STEM_THREADS, 1) convolve_stem(
    const __grid_constant__ TensorMap out, const char* padded, const char* weights, const float* bias, int height,
    int columns, int lines) {
    extern __shared__ __align__(1024) char memory[];
    const word base = shared_address(memory);
    const word line_there = base + BARRIERS_AT, turn_done = line_there + 8 * LINES;
    const int thread = threadIdx.x, lane = thread % 32;
    const int group = group_of(thread), warp = thread % 128 / 32;
    const int parity = group % PARITIES;

    if (thread == 0) {
        let_next_launch_begin();
        prefetch_map(&out);
#pragma unroll 1
        for (int n = 0; n < LINES + TURNS; n++) init_barrier(line_there + 8 * n, n < LINES ? 1 : WARPS);
        show_to_products();
    }
    __syncthreads();

    const int share = int((long long)lines * blockIdx.x / gridDim.x);
    const int share_end = int((long long)lines * (blockIdx.x + 1) / gridDim.x);
    Stream& kept = *reinterpret_cast<Stream*>(memory + STREAM_AT);
    if (thread == 0) {
        Stream stream;
        const Place start(share, share, height, columns), last(share_end - 1, share, height, columns);
        const long long line = (long long)(start.row / height) * (height + FURTHER) + start.y;
        stream.source = padded
            + (line * (columns * PIXELS + FURTHER + 2) + start.column * PIXELS) * PIXEL_BYTES;
        stream.next = 0;
        stream.end = last.first + TAPS;
        stream.rest = height + FURTHER - start.y;
        stream.column = start.column;
        stream.turns = 0;
        stream.used = 0;
        stream.y = start.y;
        wait_for_launch_before();
        copy_lines(stream, 0, 0, base, line_there, turn_done, height, columns);
        kept = stream;
    }
    __syncwarp();

    word taps[4 * STEPS];
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        load_constant(weights + ((parity * STEPS + step) * 128 + thread % 128) * UNIT_BYTES, taps + 4 * step);
    }
    const float upper = bias[16 * warp + lane / 4], lower = bias[16 * warp + lane / 4 + 8];

    // Of the four matrices that a warp stores at once two are 8 outputs each of 8 pairs, two of the next 8 pairs.
    const word own_results = base + RESULTS_AT + group * BUFFERS * RESULT_BYTES;
    const word own_row = own_results + (lane / 16 * 8 + lane % 8) * RESULT_ROW_BYTES
        + ((2 * warp + lane / 8 % 2) ^ (lane % 8)) * UNIT_BYTES;
    const bool is_storing = thread % 128 == 32;  // not in the warp that starts the copies of lines

    const word first_unit = (base + LINES_AT) / UNIT_BYTES;
    int line = share + group / PARITIES;
    Place place(line, share, height, columns);
    word seen = 0;  // the lines of the stream that this thread has waited for end here
#pragma unroll 1
    for (word turn = 0; line < share_end; turn++) {
        if (thread == 0 && turn > 0) {
            Stream stream = kept;
            copy_lines(stream, turn, place.first, base, line_there, turn_done, height, columns);
            kept = stream;
        }
        __syncwarp();
        seen = max(seen, place.first);  // lines that were passed over may have given their slots to others
#pragma unroll 1
        for (; seen < place.first + TAPS; seen++) wait(line_there + 8 * (seen % LINES), seen / LINES & 1);

        float sums[PAIRS / 2];
#pragma unroll
        for (int i = 0; i < PAIRS / 2; i++) sums[i] = i % 4 < 2 ? upper : lower;
        hold(sums);
        begin_products();
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
            const word unit = first_unit + (place.first + tap) % LINES * (LINE_BYTES / UNIT_BYTES);
            multiply_registers<PAIRS>(sums, taps + 8 * tap, pairs_at(unit), 1);
            multiply_registers<PAIRS>(sums, taps + 8 * tap + 4, pairs_at(unit + 2), 1);
        }
        commit_products();
        wait_for_products<0>();
        hold(sums);
        if (lane == 0) arrive(turn_done + 8 * (turn % TURNS));

        const word buffer = turn % BUFFERS * RESULT_BYTES;
#pragma unroll
        for (int i = 0; i < PAIRS / 8; i += 2) {
            const float* two = sums + 4 * i;
            store_transposed(
                own_row + buffer + i * 8 * RESULT_ROW_BYTES, two_rectified(two[0], two[1]),
                two_rectified(two[2], two[3]), two_rectified(two[4], two[5]), two_rectified(two[6], two[7]));
        }
        show_to_products();
        // After the meeting all know that the next turn's buffer has been read.
        if (is_storing) wait_for_sources<BUFFERS - 2>();
        meet(1 + group, 128);
        if (is_storing) {
            store_pairs(&out, parity, (place.row * columns + place.column) * PAIRS, own_results + buffer);
            commit_stores();
        }
        __syncwarp();
        line += LINES_AT_ONCE;
        place.go_on(height, columns);
    }
    if (is_storing) wait_for_sources<0>();  // a program's shared memory is there only until its end
}
