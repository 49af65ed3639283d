// What both candidate launches have in common beyond `hopper_pieces.cuh`: rows between pieces and the card's memory.

// Where 16 bytes of a row lie in pieces of ROWS rows.
template <int ROWS>
__device__ __forceinline__ word unit_at(int row, int unit) {
    return unit / 4 * (ROWS * ROW_BYTES) + row * ROW_BYTES + (unit % 4 ^ row / 2 % 4) * 16;
}

// Move rows from pieces to the card's memory by `threads` threads; `place(row)` is where one begins.
template <int ROWS, int CHANNELS_OF_ROW, typename Place>
__device__ __forceinline__ void move_rows(word pieces, int thread, int threads, Place place) {
    constexpr int UNITS = CHANNELS_OF_ROW / 8;
#pragma unroll 4
    for (int n = thread; n < ROWS * UNITS; n += threads) {
        move_unit(place(n / UNITS) + n % UNITS * 16, pieces + unit_at<ROWS>(n / UNITS, n % UNITS));
    }
}

// Start to copy rows the other way; `commit_copies` and `wait_for_copies` follow.
template <int ROWS, int CHANNELS_OF_ROW, typename Place>
__device__ __forceinline__ void fetch_rows(word pieces, int thread, int threads, Place place) {
    constexpr int UNITS = CHANNELS_OF_ROW / 8;
#pragma unroll
    for (int n = thread; n < ROWS * UNITS; n += threads) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                         pieces + unit_at<ROWS>(n / UNITS, n % UNITS)),
                     "l"(place(n / UNITS) + n % UNITS * 16)
                     : "memory");
    }
}

__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int LEFT>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

__device__ __forceinline__ word load_shared(word address) {
    word value;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
    return value;
}

__device__ __forceinline__ float2 two_floats(word halves) {
    float2 both;
    asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\ncvt.f32.f16 %0, low;\ncvt.f32.f16 %1, high;\n}"
        : "=f"(both.x), "=f"(both.y)
        : "r"(halves));
    return both;
}
