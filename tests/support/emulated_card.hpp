// What `lama/kernels/hopper_downsampling.cu` needs of a card, for this machine's processor: every single instruction
// that the kernel uses, by the name of the function that has it there or in `hopper_pieces.cuh`. `emulated_card.py`
// puts the kernel's text after this.
//
// Threads of a program are threads here, programs run one after another. Products run when they are waited for, stores
// when memory is waited for that they read, and copies at once: memory that is used again too early shows.

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

typedef unsigned int word;
typedef unsigned long long wide;
using std::abs, std::max, std::min;

constexpr int THREADS = 384, MULTIPLYING = 256, GROUP = 128, WARP = 32;
constexpr word BASE = 1024, MEMORY_BYTES = 227 * 1024;  // addresses in shared memory do not begin at 0

struct Number {
    unsigned x;
};
static thread_local Number threadIdx, blockIdx, gridDim;

alignas(1024) static unsigned char shared[BASE + MEMORY_BYTES];
static std::atomic<long> faults;

static void fault(const char* what) {
    if (faults++ < 5) std::fprintf(stderr, "emulated card: %s\n", what);
}

class Meeting {
public:
    explicit Meeting(int threads) { pthread_barrier_init(&barrier_, nullptr, threads); }
    ~Meeting() { pthread_barrier_destroy(&barrier_); }
    void go() { pthread_barrier_wait(&barrier_); }

private:
    pthread_barrier_t barrier_;
};
static Meeting all_meet(THREADS), named_meetings[2]{Meeting(GROUP), Meeting(GROUP)};
static Meeting groups_meet[2]{Meeting(GROUP), Meeting(GROUP)};  // instructions of a whole group
static Meeting warps_meet[8]{Meeting(WARP), Meeting(WARP), Meeting(WARP), Meeting(WARP),
                             Meeting(WARP), Meeting(WARP), Meeting(WARP), Meeting(WARP)};

// Exchange bits 4 to 6 of an address with bits 7 to 9 (SWIZZLE_128B).
static word exchanged(word address) { return address ^ (address >> 7 & 7) << 4; }

static float half_at(const void* place) {
    _Float16 half;
    std::memcpy(&half, place, 2);
    return half;
}

// Barriers in shared memory.
struct Barrier {
    int threads = 0, missing = 0;
    long bytes = 0;
    unsigned phase = 0;
};
static std::mutex barriers_mutex;
static std::condition_variable a_phase_ended;
static std::map<word, Barrier> barriers;

static void change(word address, int arrivals, long bytes) {
    const std::lock_guard lock(barriers_mutex);
    Barrier& barrier = barriers.at(address);
    barrier.missing -= arrivals;
    barrier.bytes += bytes;
    if (barrier.missing < 0) fault("more arrivals than a phase has");
    if (barrier.missing == 0 && barrier.bytes == 0) {
        barrier.phase++;
        barrier.missing = barrier.threads;
        a_phase_ended.notify_all();
    }
}
inline void init_barrier(word address, int threads) {
    const std::lock_guard lock(barriers_mutex);
    if (address % 8 || address < BASE || address + 8 > BASE + MEMORY_BYTES) fault("a barrier's place");
    barriers[address] = {threads, threads, 0, 0};
}
static void wait_for_launch_before() {}  // programs run one after another
inline void expect_bytes(word address, int bytes) { change(address, 1, bytes); }
inline void arrive(word address) { change(address, 1, 0); }
inline void wait(word address, int parity) {
    std::unique_lock lock(barriers_mutex);
    const Barrier& barrier = barriers.at(address);
    a_phase_ended.wait(lock, [&] { return int(barrier.phase & 1) != parity; });
}
inline void meet(int barrier, int threads) {
    if (threads != GROUP || barrier < 1 || barrier > 2) fault("a meeting of others than a group");
    named_meetings[barrier - 1].go();
}
inline void __syncthreads() { all_meet.go(); }

// The copy engine.
struct TensorMap {
    wide start, rank, sizes[4], strides[3], box[4], row_bytes;
};
static void copy_box(const TensorMap* map, const long* first, word place, bool loads) {
    if (place % 128 || map->row_bytes != 128 || 2 * map->box[0] != 128) fault("a box's place or rows");
    long rows = 1;
    for (wide d = 1; d < map->rank; d++) rows *= map->box[d];
    if (place < BASE || place + rows * 128 > BASE + MEMORY_BYTES) fault("a box outside of shared memory");
    bool is_inside = first[0] >= 0 && first[0] + map->box[0] <= map->sizes[0];
    for (long row = 0; row < rows; row++) {
        wide offset = 2 * first[0];
        long rest = row;
        for (wide d = 1; d < map->rank; d++) {
            const long index = first[d] + rest % long(map->box[d]);
            rest /= long(map->box[d]);
            is_inside &= index >= 0 && index < long(map->sizes[d]);
            offset += index * map->strides[d - 1];
        }
        if (!is_inside) return fault("a box outside of its map");
        for (int unit = 0; unit < 8; unit++) {
            unsigned char* here = shared + exchanged(place + row * 128 + unit * 16);
            unsigned char* there = reinterpret_cast<unsigned char*>(map->start) + offset + unit * 16;
            std::memcpy(loads ? here : there, loads ? there : here, 16);
        }
    }
}
inline void copy_pixels(word target, const TensorMap* map, int phase, int pair, int row, word barrier) {
    if (std::rand() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(std::rand() % 300));
    const long first[] = {0, phase, pair, row};
    copy_box(map, first, target, true);
    change(barrier, 0, -2 * long(map->box[0] * map->box[1] * map->box[2] * map->box[3]));
}

struct Store {
    const TensorMap* map;
    long first[2];
    word source;
};
static thread_local std::vector<Store> stores;
inline void store_pixels(const TensorMap* map, int channel, int pixel, word source) {
    stores.push_back({map, {channel, pixel}, source});
}
inline void commit_stores() {}
inline void prefetch_map(const TensorMap*) {}
template <int LEFT>
inline void wait_for_sources() {
    static_assert(LEFT == 0);
    for (const Store& store : stores) copy_box(store.map, store.first, store.source, false);
    stores.clear();
}

// Products, each as its descriptor and its registers give it.
struct Product {
    float* sums;
    const word* weights;
    wide pixels;
    int adds;
};
static std::vector<Product> begun[MULTIPLYING];
static thread_local std::deque<size_t> ends;  // of groups that are not waited for yet
static thread_local size_t done;

inline void begin_products() {}
template <int COUNT>
inline void hold(float (&)[COUNT]) {}
template <int COLUMNS>
inline void multiply_registers(float* sums, const word* weights, wide pixels, int adds) {
    static_assert(COLUMNS == 64);
    begun[threadIdx.x].push_back({sums, weights, pixels, adds});
}
inline void commit_products() { ends.push_back(begun[threadIdx.x].size()); }

static void multiply(int thread, size_t n) {
    const Product product = begun[thread][n];
    float terms[2][16];  // of this thread's rows, which four lanes have among them
    for (int lane = 0; lane < 4; lane++) {
        const Product& other = begun[thread / 4 * 4 + lane][n];
        if (other.pixels != product.pixels) fault("threads do not agree on an operand");
        for (int held = 0; held < 4; held++) {
            for (int k = 0; k < 2; k++) {
                const char* place = reinterpret_cast<const char*>(other.weights + held) + 2 * k;
                terms[held % 2][held / 2 * 8 + 2 * lane + k] = half_at(place);
            }
        }
    }
    const word start = word(product.pixels & 0x3fff) << 4, stride = word(product.pixels >> 32 & 0x3fff) << 4;
    if (product.pixels >> 62 != 1 || (product.pixels >> 49 & 7) || start < BASE) fault("an operand's description");
    for (int n = 0; n < 16; n++) {
        const int column = n / 2 * 8 + thread % 4 * 2 + n % 2;
        for (int below = 0; below < 2; below++) {
            float sum = 0.0f;
            for (int k = 0; k < 16; k++) {
                const word address = start + column / 8 * stride + column % 8 * 128 + 2 * k;
                sum += terms[below][k] * half_at(shared + exchanged(address));
            }
            float& place = product.sums[n / 2 * 4 + below * 2 + n % 2];
            place = product.adds ? place + sum : sum;
        }
    }
}
template <int LEFT>
inline void wait_for_products() {
    Meeting& group = groups_meet[threadIdx.x / GROUP];
    group.go();
    for (; ends.size() > LEFT; ends.pop_front()) {
        for (; done < ends.front(); done++) multiply(threadIdx.x, done);
    }
    group.go();
}

// Threads' own.
inline void show_to_products() {}
template <int COUNT>
inline void give_back_registers() {}
template <int COUNT>
inline void take_registers() {}
inline word shared_address(const void*) { return BASE; }
inline int group_of(int thread) { return thread / GROUP; }
inline float rectified(float value) { return value < 0.0f ? 0.0f : value; }
inline word two_halves(float low, float high) {
    const _Float16 halves[] = {_Float16(low), _Float16(high)};
    word both;
    std::memcpy(&both, halves, 4);
    return both;
}
inline void load_constant(const char* source, word* four) {
    if (reinterpret_cast<size_t>(source) % 16) fault("16 bytes that are not aligned");
    std::memcpy(four, source, 16);
}
static word row_places[8][WARP];
inline void store_transposed(word address, word a, word b, word c, word d) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const word matrices[] = {a, b, c, d};
    row_places[warp][lane] = address;
    warps_meet[warp].go();
    for (int matrix = 0; matrix < 4; matrix++) {
        for (int n = 0; n < 2; n++) {  // a lane has row lane / 4, columns 2 (lane % 4) and the next
            const unsigned short half = matrices[matrix] >> 16 * n;
            std::memcpy(shared + row_places[warp][8 * matrix + lane % 4 * 2 + n] + 2 * (lane / 4), &half, 2);
        }
    }
    warps_meet[warp].go();
}

// Run all programs; returns how many faults there were.
template <typename Kernel>
long run_programs(int programs, Kernel kernel) {
    faults = 0;
    for (int program = 0; program < programs; program++) {
        std::memset(shared, 0x7e, sizeof shared);  // NaN
        barriers.clear();
        for (auto& each : begun) each.clear();
        std::vector<std::thread> threads;
        for (int thread = 0; thread < THREADS; thread++) {
            threads.emplace_back([=] {
                threadIdx.x = thread;
                blockIdx.x = program;
                gridDim.x = programs;
                kernel();
                if (!stores.empty() || !ends.empty()) fault("a program ended before what it began");
            });
        }
        for (auto& thread : threads) thread.join();
    }
    return faults;
}
