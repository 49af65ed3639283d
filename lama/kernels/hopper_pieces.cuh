// What the Hopper kernels in CUDA C++ have in common: single instructions of the card, by what they do.
//
// Operands in shared memory have rows of 64 or 128 bytes. They are swizzled: the units of 16 bytes in a row change places
// by the row's number, as the copy engine writes and wgmma reads them (SWIZZLE_64B, SWIZZLE_128B). The stem's are not.
// Four warps, here called a group, compute a product. Each kernel says how many groups it has, and which thread starts
// its copies. Before this text `hopper_pieces.py` writes the types `word` and `wide`, of 32 and of 64 bits, and the
// functions `multiply_*`, each of which is one wgmma instruction.

struct alignas(64) TensorMap {
    wide words[16];
};

// Of operands that are divided into pieces of 32 channels or terms: a piece has rows of 64 bytes.
constexpr int PIECE = 32, ROW_BYTES = 64;
// Of kernels where two groups of warps multiply and a thread of a third one starts the copies.
constexpr int THREADS = 384, MULTIPLYING = 256;

__device__ __forceinline__ word shared_address(const void* pointer) {
    return static_cast<word>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void init_barrier(word barrier, int count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void prefetch_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void expect_bytes(word barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void arrive(word barrier) {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void wait(word barrier, int phase) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(barrier),
        "r"(phase)
        : "memory");
}

__device__ __forceinline__ void copy_bytes(word target, const void* source, int bytes, word barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
        "l"(source), "r"(bytes), "r"(barrier)
        : "memory");
}

__device__ __forceinline__ void meet(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

__device__ __forceinline__ void begin_products() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void commit_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int LEFT>
__device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// Keep the compiler from moving what reads or writes sums across this. It takes them for written where a product
// begins, and does not know when products are done.
template <int COUNT>
__device__ __forceinline__ void hold(float (&sums)[COUNT]) {
#pragma unroll
    for (int n = 0; n < COUNT; n++) asm volatile("" : "+f"(sums[n])::"memory");
}

// Make what this thread has written to shared memory, and its new barriers, visible to wgmma and the copy engine.
__device__ __forceinline__ void show_to_products() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Describe an operand for wgmma: a row of BYTES for each of the product's rows or columns, which holds their terms. A
// product takes 16 terms, 32 bytes of each row from `address` on.
template <int BYTES = ROW_BYTES>
__device__ __forceinline__ wide terms_inside(word address) {
    static_assert(BYTES == 64 || BYTES == 128, "as the copy engine exchanges units");
    constexpr wide EXCHANGE = BYTES == 64 ? 2 : 1;
    return wide(address >> 4) | (wide(1) << 16) | (wide(8 * BYTES >> 4) << 32) | (EXCHANGE << 62);
}

// Describe an operand with a row for each term, 64 bytes for 32 columns; further columns lie `piece` bytes on.
__device__ __forceinline__ wide terms_outside(word address, int piece) {
    return wide(address >> 4) | (wide(piece >> 4) << 16) | (wide(8 * ROW_BYTES >> 4) << 32) | (wide(2) << 62);
}

// A program may have begun before the launch before it has ended (`early` in `cuda_kernel.py`): from here on it has,
// and what it wrote is there. Until then only weights and biases are read.
__device__ __forceinline__ void wait_for_launch_before() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Programs of the next launch may begin where there is room, once all of this one's have come here.
__device__ __forceinline__ void let_next_launch_begin() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

__device__ __forceinline__ word two_halves(float low, float high) {
    word both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ void store_shared(word address, word value) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

// Load 16 bytes that nothing changes. As the compiler does not know this, it keeps them and does not load them again.
__device__ __forceinline__ void load_constant(const char* source, word* four) {
    asm volatile("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(four[0]), "=r"(four[1]), "=r"(four[2]), "=r"(four[3])
                 : "l"(source));
}

// Store four matrices of 8 x 8 halves, which lie in registers as sums do. Each column of a matrix becomes 16 bytes:
// lane n says where column n % 8 of matrix n / 8 goes.
__device__ __forceinline__ void store_transposed(word address, word a, word b, word c, word d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a),
                 "r"(b), "r"(c), "r"(d)
                 : "memory");
}

// Make a group of the copy engine's stores that this thread has started since its last group.
__device__ __forceinline__ void commit_stores() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Wait until all of this thread's groups of stores but the last LEFT have read shared memory.
template <int LEFT>
__device__ __forceinline__ void wait_for_sources() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(LEFT) : "memory");
}

// Move 16 bytes from shared memory to the card's.
__device__ __forceinline__ void move_unit(char* target, word source) {
    word a, b, c, d;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
                 : "r"(source)
                 : "memory");
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(target), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

__device__ __forceinline__ float rectified(float value) {
    return value < 0.0f ? 0.0f : value;  // NaN stays NaN, as in PyTorch
}

// A program has a multiprocessor for itself, where others would only slow it down: it takes all registers, which are
// dealt out evenly at first. Threads that only start copies keep COUNT, those that multiply go up to COUNT.
template <int COUNT>
__device__ __forceinline__ void give_back_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// The group of warps that a thread belongs to; the compiler sees that the threads of a warp do not part there.
__device__ __forceinline__ int group_of(int thread) {
    return __shfl_sync(0xffffffff, thread / 128, 0);
}
