// One decode step at batch 1 in one persistent kernel: one CTA on each multiprocessor, WARPS warps that multiply
// (consumers) and one that copies weights (producer).
//
// Phases of a visit, and what every phase hands to the next one through global memory:
//   hidden --[norm, query/key/value]--> qkv --[RoPE, attention over splits of the positions]--> partial, lse
//   --[combine, output, residual]--> middle --[norm, gate and up, SiLU]--> active --[down, residual]--> hidden
//
// A hand-off is its data: a word of 64 bits holds 32 bits of data and the 32-bit number (tag) of its visit, and readers
// poll the words until they carry the tag they wait for. There is no barrier over the grid and no memory fence. A
// buffer needs no second copy: whoever overwrites a word has read results that need every reader of the old one done
// (each reader writes its own words after reading, the reductions in between run over all of them).
//
// The producer walks the same list of slots as the consumers, a ring of them ahead, whatever they wait for: weights of the
// next phases arrive during the hand-offs. A slot has at most 8 rows, each copied for itself, so that the rows' stride is
// 64 modulo 128 bytes and 16-byte reads of eight lanes (two rows) meet no bank twice.
//
// Products run on the tensor cores. A chunk is 32 columns of the matrix. Within a chunk lane 4g + t reads columns
// 8t..8t+7 of row g, which are pairs 0 to 3, and one product takes them all: as row g of A pairs 0 and 2, as row g + 8
// pairs 1 and 3. B holds the vector's pairs 0 and 2 in column 0, and 1 and 3 in column 1; what its rounding to bf16 lost is
// in columns 2 and 3, so that the sum has float32's accuracy. Of C the even columns count in the upper half, the odd
// ones in the lower.
//
// Latency is what costs time, in the hand-offs and in the products alike: a multiprocessor has three warps on a scheduler.
// So a warp loads many chunks at once, without a branch in between, and there are few synchronisations:
//   query/key/value, output  every warp takes some chunks of each slot; the sums over warps go through shared memory
//   gate and up              two warps take a slot, each one half of the chunks; they exchange what they have
//   down                     a slot holds the columns of two warps; the sums as above
//   vocabulary               a slot belongs to one warp
// All sums have a fixed order.
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

constexpr int D_STRIDE = stride_of(D), QH_STRIDE = stride_of(QH), DOWN_STRIDE = stride_of(64 * DOWN_CHUNKS);
constexpr int D_CHUNKS = D / 32, QH_CHUNKS = QH / 32, I_CHUNKS = I / 32;
constexpr int QKV_TILES = (QKV_ROWS + 7) / 8, VOCABULARY_TILES = (V + 7) / 8;
constexpr int DOWN_SLICES = up((I_CHUNKS + DOWN_CHUNKS - 1) / DOWN_CHUNKS, 2);  // two in a slot
constexpr int D_HALF = (D_CHUNKS + 1) / 2;

static_assert(H == 64 && G <= 8 && D % 32 == 0 && I % 32 == 0, "shape");
static_assert(QKV_ROWS <= CONSUMERS && GATE_UP_COUNT % 2 == 0 && COPIES <= 2, "threads that publish");
static_assert(HIDDEN_ROWS <= 8, "output and down fill one tile");
static_assert(8 * most(D_STRIDE, QH_STRIDE) <= SLOT_BYTES && HIDDEN_ROWS * DOWN_STRIDE <= SLOT_BYTES, "slots");
static_assert(SLOT_BYTES % 128 == 0 && SLOTS > WARPS + IN_FLIGHT && WARPS % 2 == 0 && IN_FLIGHT >= 1, "ring");
static_assert(GRID >= KV * MAX_SPLITS, "attention");

// Shared memory. The vector is kept as bf16, then (except for the down projection's) what the rounding lost. There are two,
// taken in turn: a warp may still multiply by the last one.
constexpr int LOST = up(2 * most(D, QH), 128) + 64;
constexpr int VECTOR_BYTES = up(most(2 * LOST, 2 * I), 128);
constexpr int OUT_ROW = H + 4;  // floats
constexpr int AT_VECTOR = SLOTS * SLOT_BYTES;
constexpr int AT_OUT = AT_VECTOR;                        // [WARPS, G, OUT_ROW], while no vector is needed
constexpr int AT_RED = AT_VECTOR + most(2 * VECTOR_BYTES, WARPS * G * OUT_ROW * 4);  // [QKV_TILES, WARPS, 8, 2]
constexpr int AT_SQUARES = AT_RED + QKV_TILES * WARPS * 8 * 2 * 4;
constexpr int AT_QUERY = AT_SQUARES + 128;
constexpr int AT_NEW = AT_QUERY + 8 * H * 2;             // new key, new value
constexpr int AT_TOP = AT_NEW + 2 * H * 2;               // [WARPS, 8]
constexpr int AT_SUM = AT_TOP + WARPS * 8 * 4;
constexpr int AT_PROGRAM = AT_SUM + WARPS * 8 * 4;
constexpr int AT_BARRIERS = AT_PROGRAM + MAX_VISITS * 4;
constexpr int AT_FAILED = AT_BARRIERS + 2 * SLOTS * 8;
constexpr int USED_BYTES = AT_FAILED + 16;
static_assert(USED_BYTES <= SHARED_LIMIT, "shared memory");

// Hand-off buffers, in words.
constexpr int W_HIDDEN = 0, W_MIDDLE = W_HIDDEN + D, W_QKV = W_MIDDLE + D, W_ACTIVE = W_QKV + E;
constexpr int W_LSE = W_ACTIVE + I / 2, W_PARTIAL = W_LSE + MAX_SPLITS * Q;  // lse [S, Q], partial [S, Q * H / 2]
static_assert(W_PARTIAL + MAX_SPLITS * QH / 2 <= WORDS / SPREAD && W_PARTIAL % 4 == 0, "words");
static_assert(W_QKV % 4 == 0 && W_ACTIVE % 4 == 0 && W_LSE % 4 == 0, "four words are kept together");

#define MINUS_INFINITY float_of(0xff800000u)

constexpr int QKV = 0, OUTPUT = 1, GATE_UP = 2, DOWN = 3, VOCABULARY = 4, ATTENTION = 5;  // phases; the last copies nothing

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
    int delay[6];             // cycles before the first look at what a phase takes
};

// Four words, which are read together, lie SPREAD times as far apart as they are long: all CTAs read the same words, and
// a slice of the L2 cache serves one at a time.
DEVICE constexpr int at(int word) { return word / 4 * 4 * SPREAD + word % 4; }

DEVICE float low_of(u32 pair) { return float_of(pair << 16); }
DEVICE float high_of(u32 pair) { return float_of(pair & 0xffff0000u); }
DEVICE float value_of(bf16 x) { return float_of(static_cast<u32>(x) << 16); }
DEVICE u64 word_of(u32 data, u32 tag) { return static_cast<u64>(tag) << 32 | data; }
DEVICE bool has_tag(u64 word, u32 tag) { return static_cast<u32>(word >> 32) == tag; }

DEVICE void spin(int cycles) {
    if (cycles <= 0) return;
    const long long start = clock_now();
    while (clock_now() - start < cycles) pause();
}

struct Wait {  // bounds a spin: a launch that lost a CTA ends, with an error, instead of hanging
    volatile int* failed;
    int* failure;
    int looks = 0;

    DEVICE bool gives_up() {
        pause();
        if (*failed) return true;
        if (++looks < SPIN_LOOKS) return false;
        *failed = 1;
        store_to_host(failure, 1);
        return true;
    }
};

DEVICE void await_barrier(u64* barrier, u32 parity) {
    for (int looks = 0; !barrier_try(barrier, parity); pause())
        if (++looks == 1 << 26) give_up_launch();
}

struct Ring {
    char* slots;
    u64 *full, *empty;
    u32 next = 0;  // slots that were filled, or taken, so far

    DEVICE static u32 slot(u32 n) { return n % SLOTS; }
    DEVICE static u32 parity(u32 n) { return n / SLOTS & 1; }
};

DEVICE int share(int total, int each, int cta) {  // how many of `total` fall to a CTA
    int left = total - cta * each;
    return left < 0 ? 0 : left < each ? left : each;
}
