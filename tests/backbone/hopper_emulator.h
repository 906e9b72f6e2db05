// The decode kernel's primitives on a CPU: every thread of every CTA is a fibre, scheduled in a random order that a
// seed fixes. Warps step together where an instruction needs all lanes; bulk copies poison their target when issued and
// land at a random later time. What the kernel does with them is its own source, compiled by a C++ compiler.
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <map>
#include <random>
#include <vector>

typedef unsigned short bf16;
typedef unsigned int u32;
typedef unsigned long long u64;
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(8) uint2 { u32 x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

#define DEVICE inline
#define KERNEL void
#define GRID_CONSTANT
#define SHARED_BYTES char* shared = emulator::now->cta->shared;

namespace emulator {

[[noreturn]] inline void fail(const char* what) {
    fprintf(stderr, "emulator: %s\n", what);
    abort();
}

constexpr size_t STACK_BYTES = 32 << 10;

struct Meeting { int arrived = 0; u32 generation = 0; };
struct Warp { Meeting meeting; u32 box[32][10]; };
struct Barrier { u32 expected = 0, arrived = 0, phase = 0; long pending = 0; };
struct Copy { char* target; const char* source; u32 bytes; Barrier* barrier; };
struct Cta {
    int index;
    char* shared;
    Meeting all, consumers, pairs[WARPS / 2];
    std::vector<Warp> warps;
    std::map<u64*, Barrier> barriers;
    std::vector<Copy> copies;
};
struct Lane {
    ucontext_t context;
    Cta* cta;
    int thread;
    bool done = false, polls = false;
    Meeting* waits = nullptr;
    u32 generation = 0;
    void* stack = nullptr;

    bool runnable() const { return !done && !polls && (!waits || waits->generation != generation); }
};
inline Lane* now = nullptr;
inline ucontext_t scheduler;
inline long long ticks = 0;
inline std::mt19937 dice;

inline void leave() { swapcontext(&now->context, &scheduler); }
inline void meet(Meeting& meeting, int count) {
    now->generation = meeting.generation;
    if (++meeting.arrived == count) {
        meeting.arrived = 0, ++meeting.generation;
        return;
    }
    now->waits = &meeting;
    leave();
    now->waits = nullptr;
}
inline Warp& warp() { return now->cta->warps[now->thread / 32]; }
inline void meet_warp() { meet(warp().meeting, 32); }
inline void settle(Barrier& b) {
    if (b.arrived == b.expected && b.pending == 0) b.arrived = 0, ++b.phase;
}
inline void land(Cta& cta, size_t which) {
    const Copy copy = cta.copies[which];
    cta.copies.erase(cta.copies.begin() + which);
    memcpy(copy.target, copy.source, copy.bytes);
    copy.barrier->pending -= copy.bytes;
    settle(*copy.barrier);
}
}  // namespace emulator

DEVICE int thread_index() { return emulator::now->thread; }
DEVICE int cta_index() { return emulator::now->cta->index; }
DEVICE uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
DEVICE uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
DEVICE float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

DEVICE int unknown(int x) { return x; }

DEVICE float float_of(u32 bits) { float x; memcpy(&x, &bits, 4); return x; }
DEVICE u32 bits_of(float x) { u32 bits; memcpy(&bits, &x, 4); return bits; }
DEVICE float exp2_of(float x) { return exp2f(x); }
DEVICE float log2_of(float x) { return log2f(x); }
DEVICE float exp_of(float x) { return expf(x); }
DEVICE float divided(float x, float y) { return x / y; }
DEVICE float rsqrt_of(float x) { return 1.0f / sqrtf(x); }
DEVICE u32 round_bf16(float x) {
    const u32 bits = bits_of(x);
    if (x != x) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
DEVICE u32 pack_bf16(float low, float high) { return round_bf16(high) << 16 | round_bf16(low); }
DEVICE u32 low_halves(u32 a, u32 b) { return (a & 0xffff) | b << 16; }
DEVICE u32 high_halves(u32 a, u32 b) { return a >> 16 | (b & 0xffff0000u); }

DEVICE float shuffle_xor(float x, int mask) {
    auto& box = emulator::warp().box;
    const int lane = emulator::now->thread % 32;
    box[lane][0] = bits_of(x);
    emulator::meet_warp();
    const float result = float_of(box[lane ^ mask][0]);
    emulator::meet_warp();
    return result;
}
DEVICE void warp_sync() { emulator::meet_warp(); }
DEVICE void cta_sync() { emulator::meet(emulator::now->cta->all, THREADS); }
DEVICE void pair_sync(int pair) { emulator::meet(emulator::now->cta->pairs[pair], 64); }
DEVICE void consumers_sync() { emulator::meet(emulator::now->cta->consumers, 32 * WARPS); }

DEVICE void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    auto& box = emulator::warp().box;
    const int lane = emulator::now->thread % 32, g = lane / 4, t = lane % 4;
    const u32 mine[6] = {a0, a1, a2, a3, b0, b1};
    memcpy(box[lane], mine, sizeof mine);
    emulator::meet_warp();
    const auto half = [](u32 pair, int high) { return float_of(high ? pair & 0xffff0000u : pair << 16); };
    for (int n = 0; n < 4; ++n) {
        const int row = g + 8 * (n / 2), column = 2 * t + n % 2;
        float sum = 0.0f;
        for (int k = 0; k < 16; ++k) {
            const u32* of_a = box[row % 8 * 4 + k % 8 / 2];
            const u32* of_b = box[column * 4 + k % 8 / 2];
            sum += half(of_a[row / 8 + 2 * (k / 8)], k % 2) * half(of_b[4 + k / 8], k % 2);
        }
        c[n] += sum;
    }
    emulator::meet_warp();
}

DEVICE u32 transposed(u32 pair) {
    auto& box = emulator::warp().box;
    const int lane = emulator::now->thread % 32, g = lane / 4, t = lane % 4;
    box[lane][0] = pair;
    emulator::meet_warp();
    const auto at = [&](int row) { return box[row * 4 + g / 2][0] >> g % 2 * 16 & 0xffff; };
    const u32 result = at(2 * t) | at(2 * t + 1) << 16;
    emulator::meet_warp();
    return result;
}

template <typename T> DEVICE T read_only(const T* p) { return *p; }
DEVICE void store_word(u64* p, u64 word) { *p = word; }
DEVICE u64 load_word(const u64* p) { return *p; }
DEVICE void load_two_words(const u64* p, u64& a, u64& b) {
    if (reinterpret_cast<size_t>(p) % 16) emulator::fail("two words that are not aligned");
    a = p[0], b = p[1];
}
DEVICE void store_to_host(int* p, int value) { *p = value; }
DEVICE u64 add_one(u64* p) { return (*p)++; }

DEVICE emulator::Barrier& barrier_of(u64* p) { return emulator::now->cta->barriers[p]; }
DEVICE void barrier_init(u64* p, u32 arrivals) { barrier_of(p).expected = arrivals; }
DEVICE void barriers_are_ready() {}
DEVICE void barrier_arrive(u64* p, u32 count) {
    barrier_of(p).arrived += count;
    emulator::settle(barrier_of(p));
}
DEVICE void barrier_expect(u64* p, u32 bytes) {
    barrier_of(p).pending += bytes;
    barrier_arrive(p, 1);
}
DEVICE bool barrier_try(u64* p, u32 parity) { return (barrier_of(p).phase & 1) != parity; }
DEVICE void bulk_copy(void* target, const void* source, u32 bytes, u64* barrier) {
    char* to = static_cast<char*>(target);
    auto& cta = *emulator::now->cta;
    if (reinterpret_cast<size_t>(source) % 16 || (to - cta.shared) % 16 || bytes % 16) emulator::fail("copy not aligned");
    if (to < cta.shared || to + bytes > cta.shared + SLOTS * SLOT_BYTES) emulator::fail("copy outside the ring");
    memset(to, 0xff, bytes);
    cta.copies.push_back({to, static_cast<const char*>(source), bytes, &barrier_of(barrier)});
}
DEVICE long long clock_now() { return emulator::ticks; }
DEVICE void pause() {
    emulator::now->polls = true;
    emulator::leave();
}
DEVICE void give_up_launch() { emulator::fail("a barrier of a CTA was never reached"); }

struct Params;
void decode(const Params p);
inline const Params* emulated;

namespace emulator {

inline void run_lane() {
    extern void call_kernel();
    call_kernel();
    now->done = true;
    leave();
}

// Runs `ctas` of the grid's CTAs (fewer than GRID: the others never start).
inline void run(int ctas, u32 seed) {
    dice.seed(seed);
    std::vector<Cta> grid(ctas);
    std::vector<Lane> lanes(static_cast<size_t>(ctas) * THREADS);
    for (int i = 0; i < ctas; ++i) {
        grid[i].index = i;
        grid[i].shared = static_cast<char*>(aligned_alloc(128, (SHARED_LIMIT + 127) / 128 * 128));
        memset(grid[i].shared, 0xff, SHARED_LIMIT);
        grid[i].warps.resize(THREADS / 32);
        for (int thread = 0; thread < THREADS; ++thread) {
            Lane& lane = lanes[static_cast<size_t>(i) * THREADS + thread];
            lane.cta = &grid[i], lane.thread = thread, lane.stack = malloc(STACK_BYTES);
            getcontext(&lane.context);
            lane.context.uc_stack.ss_sp = lane.stack;
            lane.context.uc_stack.ss_size = STACK_BYTES;
            lane.context.uc_link = nullptr;
            makecontext(&lane.context, run_lane, 0);
        }
    }
    std::vector<size_t> order(lanes.size() / 32);
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    size_t late = 0;  // a warp that is left out for a while, so that the others run ahead of it
    int rounds = 0;
    for (bool any = true; any;) {
        any = false;
        if (rounds-- == 0) late = dice() % order.size(), rounds = 60;
        std::shuffle(order.begin(), order.end(), dice);
        for (const size_t warp : order) {
            ++ticks;
            Lane* first = &lanes[32 * warp];
            if (warp == late && rounds > 20) {
                any = true;
                continue;
            }
            for (int i = 0; i < 32; ++i) first[i].polls = false;
            for (bool ran = true; ran;) {
                ran = false;
                const int turn = dice() % 32;
                for (int i = 0; i < 32; ++i) {
                    Lane& lane = first[(i + turn) % 32];
                    if (!lane.runnable()) continue;
                    ran = any = true;
                    now = &lane;
                    swapcontext(&scheduler, &lane.context);
                }
            }
            for (int i = 0; i < 32; ++i) any = any || !first[i].done;
            auto& copies = first->cta->copies;
            while (!copies.empty() && dice() % 4 == 0) land(*first->cta, dice() % copies.size());
        }
    }
    for (Lane& lane : lanes) free(lane.stack);
    for (Cta& cta : grid) {
        if (!cta.copies.empty()) fail("copies under way at the end");
        free(cta.shared);
    }
}
}  // namespace emulator
