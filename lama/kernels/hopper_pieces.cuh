// What the Hopper kernels in CUDA C++ have in common: single instructions of the card, by what they do.
//
// Operands lie in pieces of 32 channels or terms: rows of 64 bytes, whose four units of 16 bytes are exchanged by the
// row's number, as the copy engine writes and wgmma reads them (SWIZZLE_64B). Two groups of four warps multiply, a
// thread of a third one starts the copies. The functions `multiply_*`, each one wgmma instruction, `hopper_pieces.py`
// writes before this text.

typedef unsigned int word;

struct alignas(64) TensorMap {
    wide words[16];
};

constexpr int PIECE = 32, ROW_BYTES = 64, THREADS = 384, MULTIPLYING = 256;

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

// What was written by threads is seen by wgmma.
__device__ __forceinline__ void show_to_products() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// An operand whose rows are its terms' (64 bytes of 32 terms), for a product's rows or columns.
__device__ __forceinline__ wide terms_inside(word address) {
    return wide(address >> 4) | (wide(1) << 16) | (wide(8 * ROW_BYTES >> 4) << 32) | (wide(2) << 62);
}

// An operand whose rows are terms, 64 bytes of 32 columns each; further columns lie `piece` bytes on.
__device__ __forceinline__ wide terms_outside(word address, int piece) {
    return wide(address >> 4) | (wide(piece >> 4) << 16) | (wide(8 * ROW_BYTES >> 4) << 32) | (wide(2) << 62);
}

// A program may have begun before the launch before it has ended (`early` in `cuda_kernel.py`): from here on it has, and
// what it wrote is there. Until then only weights are read.
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

__device__ __forceinline__ void load_shared(word address, float& first, float& second) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(first), "=f"(second) : "r"(address) : "memory");
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
// dealt out evenly at first.
__device__ __forceinline__ void give_back_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
}

__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
}

// The group of warps that a thread belongs to; the compiler sees that the threads of a warp do not part there.
__device__ __forceinline__ int group_of(int thread) {
    return __shfl_sync(0xffffffff, thread / 128, 0);
}
