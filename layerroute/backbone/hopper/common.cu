// One decode step at batch 1 in one persistent kernel: one CTA on each multiprocessor, WARPS warps that multiply
// (consumers) and one that copies weights (producer).
//
// Phases of a visit, and what every phase hands to the next one through global memory:
//   hidden --[norm, query/key/value]--> qkv --[RoPE, attention over splits of the positions]--> partial, lse
//   --[combine, output, residual]--> middle --[norm, gate and up, SiLU]--> active --[down, residual]--> hidden
//
// A hand-off is its data: a word of 128 bits holds 7 numbers in bf16 and the 16-bit tag of its visit, written and read
// whole, and readers poll the words until they carry the tag they wait for. Wherever a reader may meet a word that some
// visits leave out, or needs float32, words of 64 bits hold 32 bits of data and a tag of 32. There is no barrier over the
// grid and no memory fence. A buffer needs no second copy: whoever overwrites a word has read results that need every
// reader of the old one done (each reader writes its own words after reading, the reductions in between run over all of
// them). The residual stays in float32 with the CTA that owns its rows; only what a matrix multiplies is rounded.
//
// A warp polls just the words of the columns that it multiplies, so no barrier comes before the products; the RMS scale
// is applied to the sums. Sums over warps go through shared memory in a fixed order, behind a barrier that the warps
// which do not add only arrive at. The sums have two buffers, taken in turn (`Consumer::meet`).
//
// The producer walks the same list of tiles as the consumers, a ring of slots ahead of them, whatever they wait for:
// weights of the next phases arrive during the hand-offs. A slot has at most 8 rows, each copied for itself, so that
// the rows' stride is 64 modulo 128 bytes and 16-byte reads of eight lanes (two rows) meet no bank twice.
//
// Products run on the tensor cores: A is 16 rows of weights (two slots) or 8, B holds the vector in its columns: column
// 0 the vector rounded to bf16, column 1 what the rounding lost; their sum has float32's accuracy. Warp w takes EACH
// chunks of 32 columns from chunk w * EACH on. Within a chunk lane 4g + t reads columns 8t..8t+7, for A and for B alike:
// the order in which the hardware numbers them is free.
//
// Sizes (compiled in): D hidden, Q query heads, KV heads of keys and values, I intermediate, V vocabulary, GRID CTAs.

constexpr int H = 64;                 // head_dim
constexpr int E = (Q + 2 * KV) * H;   // rows of query/key/value
constexpr int QH = Q * H;
constexpr int G = Q / KV;             // query heads of a KV head
constexpr int CONSUMERS = 32 * WARPS;
constexpr int ROW_PAD = 64;

DEVICE constexpr int stride_of(int columns) { return 2 * columns + (2 * columns % 128 == 64 ? 0 : ROW_PAD); }
DEVICE constexpr int up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }
DEVICE constexpr int most(int a, int b) { return a > b ? a : b; }
DEVICE constexpr int least(int a, int b) { return a < b ? a : b; }

DEVICE constexpr int ceil_div(int n, int by) { return (n + by - 1) / by; }

constexpr int D_STRIDE = stride_of(D), DOWN_STRIDE = stride_of(32 * DOWN_CHUNKS);
constexpr int QH_STRIDE = up(2 * QH, 128) + 32;  // read 8 bytes at a time
constexpr int D_CHUNKS = D / 32, I_CHUNKS = I / 32;
constexpr int D_EACH = ceil_div(D_CHUNKS, WARPS), I_EACH = ceil_div(I_CHUNKS, WARPS);
constexpr int PARTS = 4 * KV, PARTS_EACH = ceil_div(PARTS, WARPS);  // a part: 16 columns of each head of a KV head
constexpr int GATE_UP_TILES = ceil_div(GATE_UP_COUNT, 8), VOCABULARY_TILES = ceil_div(V, 16);

constexpr int DATA = 7;  // numbers in a wide word
constexpr int HIDDEN_WORDS = ceil_div(HIDDEN_ROWS, DATA), ACTIVE_WORDS = ceil_div(GATE_UP_COUNT, DATA);  // of a CTA
// Words that a warp polls at most: of all the CTAs that own some of so many columns.
DEVICE constexpr int polled(int columns, int owned, int words) { return ((columns + owned - 2) / owned + 1) * words; }
constexpr int HIDDEN_POLLS = ceil_div(polled(32 * D_EACH, HIDDEN_ROWS, HIDDEN_WORDS), 32);
constexpr int ACTIVE_POLLS = ceil_div(polled(32 * I_EACH, GATE_UP_COUNT, ACTIVE_WORDS), 32);

static_assert(H == 64 && G <= DATA && D % 32 == 0 && I % 32 == 0, "shape");
static_assert(WARPS == 8 && COPIES <= 4, "the four lanes of a row add two warps each, and write a copy each");
static_assert(QKV_ROWS <= 8 * WARPS && ACTIVE_WORDS <= WARPS && HIDDEN_ROWS <= 8, "a warp adds 8 rows");
static_assert(8 * D_STRIDE <= SLOT_BYTES && 8 * QH_STRIDE <= SLOT_BYTES && 8 * DOWN_STRIDE <= SLOT_BYTES, "slots");
static_assert(SLOT_BYTES % 128 == 0 && SLOTS > IN_FLIGHT && SLOTS >= 3 && IN_FLIGHT >= 1, "ring");
static_assert(GRID >= KV * MAX_SPLITS, "attention");

// Shared memory. Every warp keeps its part of the vector as bf16, then what the rounding lost.
DEVICE constexpr int lost_at(int columns) { return up(2 * columns, 128) + 64; }
constexpr int D_LOST = lost_at(32 * D_EACH), PART_LOST = lost_at(16 * G * PARTS_EACH);
constexpr int VECTOR_BYTES = up(most(most(2 * D_LOST, 2 * PART_LOST), 64 * I_EACH), 128);
constexpr int RED_TILES = most(most(ceil_div(QKV_ROWS, 16), GATE_UP_TILES), 1);
constexpr int RED_ROW = WARPS + 2;  // floats
constexpr int RED_FLOATS = RED_TILES * 16 * RED_ROW;
constexpr int OUT_ROW = H + 4;
constexpr int AT_VECTOR = SLOTS * SLOT_BYTES;
constexpr int AT_RED = AT_VECTOR + WARPS * VECTOR_BYTES;
constexpr int AT_SQUARES = AT_RED + up(2 * 4 * RED_FLOATS, 128);
constexpr int AT_QUERY = AT_SQUARES + 128;
constexpr int AT_NEW = AT_QUERY + 8 * H * 2;             // new key, new value
constexpr int AT_TOP = AT_NEW + 2 * H * 2;               // [WARPS, 8]
constexpr int AT_SUM = AT_TOP + WARPS * 8 * 4;
constexpr int AT_OUT = AT_SUM + WARPS * 8 * 4;           // [WARPS, 8, OUT_ROW]
constexpr int AT_PROGRAM = AT_OUT + WARPS * 8 * OUT_ROW * 4;
constexpr int AT_BARRIERS = AT_PROGRAM + MAX_VISITS * 8;
constexpr int AT_FAILED = AT_BARRIERS + 2 * SLOTS * 8;
constexpr int USED_BYTES = AT_FAILED + 16;
static_assert(USED_BYTES <= SHARED_LIMIT, "shared memory");

// Hand-off buffers, in words of 64 bits. Wide words: hidden and middle [GRID, HIDDEN_WORDS], active [GRID, ACTIVE_WORDS],
// partial [S, KV, H], each with one entry of all heads of the KV head. Narrow ones: qkv [E], lse [S, KV, 8].
constexpr int W_HIDDEN = 0, W_MIDDLE = W_HIDDEN + 2 * GRID * HIDDEN_WORDS, W_ACTIVE = W_MIDDLE + 2 * GRID * HIDDEN_WORDS;
constexpr int W_PARTIAL = W_ACTIVE + 2 * GRID * ACTIVE_WORDS, W_LSE = W_PARTIAL + MAX_SPLITS * KV * H * 2;
constexpr int W_QKV = W_LSE + MAX_SPLITS * KV * 8;
static_assert(W_QKV + E <= WORDS && WORDS % 2 == 0, "words");

#define MINUS_INFINITY float_of(0xff800000u)

constexpr int FROM_QKV = 0, FROM_ATTENTION = 1, FROM_OUTPUT = 2, FROM_GATE_UP = 3, FROM_DOWN = 4, BETWEEN = 5;

struct Params {
    const bf16 *embed, *attn_norm, *qkv, *qkv_bias, *output, *mlp_norm, *gate_up, *down, *final_norm, *lm_head;
    const float* rope;        // [positions, H]: cosines, then sines
    float* logits;            // [V]
    long long* state;         // position, cursor, address of keys, of values, capacity, three spare, then token ids
    const int* program;       // [visits, 2]: block and slot
    u64* words;               // [COPIES, WORDS], zero before the first launch; a CTA reads one copy
    u64* counters;            // tag before the first visit, CTAs that are done
    int* failure;             // host memory: set where a wait went on for too long
    long long* trace;         // [GRID, TRACE]: clock of each CTA at the ends of its waits and of its phases
    int visits, splits;
    int delay[6];             // cycles before the first look at each hand-off, and between two looks at any
};

DEVICE float low_of(u32 pair) { return float_of(pair << 16); }
DEVICE float high_of(u32 pair) { return float_of(pair & 0xffff0000u); }
DEVICE float value_of(bf16 x) { return float_of(static_cast<u32>(x) << 16); }
DEVICE u64 word_of(u32 data, u32 tag) { return static_cast<u64>(tag) << 32 | data; }
DEVICE uint4 wide_word_of(u32 a, u32 b, u32 c, u32 last, u32 tag) {
    return make_uint4(a, b, c, (last & 0xffff) | tag << 16);
}
DEVICE bool has_tag(const uint4& word, u32 tag) { return word.w >> 16 == (tag & 0xffff); }
DEVICE u32 pair_of(const uint4& word, int i) { return i == 0 ? word.x : i == 1 ? word.y : i == 2 ? word.z : word.w; }
DEVICE bool has_tag(u64 word, u32 tag) { return static_cast<u32>(word >> 32) == tag; }

DEVICE void spin(int cycles) {
    if (cycles <= 0) return;
    const long long start = clock_now();
    while (clock_now() - start < cycles) pause();
}

struct Wait {  // bounds a spin: a launch that lost a CTA ends, with an error, instead of hanging
    volatile int* failed;
    int* failure;
    int between;
    u32 start = 0, looks = 0;

    DEVICE bool gives_up() {
        pause();
        spin(between);
        if (*failed) return true;
        if ((++looks & 255) != 0) return false;
        const u32 clock = static_cast<u32>(clock_now());  // wraps after two seconds, SPIN_CYCLES is less
        if (start == 0) start = clock | 1;
        if (static_cast<int>(clock - start) < SPIN_CYCLES) return false;
        *failed = 1;
        store_to_host(failure, 1);
        return true;
    }
};

DEVICE void await_barrier(u64* barrier, u32 parity) {
    long long start = 0;
    for (u32 looks = 1; !barrier_try(barrier, parity); ++looks) {
        pause();
        if ((looks & 255) != 0) continue;
        if (start == 0) start = clock_now();
        if (clock_now() - start > 4 * static_cast<long long>(SPIN_CYCLES)) give_up_launch();
    }
}

struct Ring {
    char* slots;
    u64 *full, *empty;
    int slot = 0;
    u32 round = 0;

    DEVICE void advance() {
        if (++slot == SLOTS) slot = 0, ++round;
    }
};

DEVICE int share(int total, int each, int cta) {  // how many of `total` fall to a CTA
    int left = total - cta * each;
    return left < 0 ? 0 : left < each ? left : each;
}
