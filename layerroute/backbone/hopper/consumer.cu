// What the phases of a consumer have in common: taking hand-offs, multiplying tiles, publishing results.

struct Consumer {
    const Params& p;
    char* shared;
    Ring ring;
    Wait wait;
    int thread, warp, lane, g, t, cta, turn = 0, stamps = 0;

    // Before each phase: nothing that it works out from these is kept in registers through the others.
    DEVICE void forget() {
        thread = unknown(thread) & 1023, cta = unknown(cta) & 1023;
        warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
    }

    DEVICE u32* vector() { return reinterpret_cast<u32*>(shared + AT_VECTOR + turn * VECTOR_BYTES); }
    DEVICE float* red() { return reinterpret_cast<float*>(shared + AT_RED); }
    DEVICE float* squares() { return reinterpret_cast<float*>(shared + AT_SQUARES); }

    DEVICE const u64* words(int word) { return p.words + cta % COPIES * WORDS + at(word); }
    DEVICE void publish(int word, u32 data, u32 tag) {
#pragma unroll
        for (int copy = 0; copy < COPIES; ++copy) store_word(p.words + copy * WORDS + at(word), word_of(data, tag));
    }

    DEVICE void begin_wait(int phase, bool delayed = true) {
        if (delayed) spin(p.delay[phase]);
        wait.looks = 0;
    }

    // For measurements: a wait has ended (before a phase's products), or its results are on their way.
    DEVICE void stamp() {
        if (TRACE > 0 && thread == 0 && stamps < TRACE) p.trace[cta * TRACE + stamps++] = clock_now();
    }

    // Waits for words 2i and 2i + 1 from `first` on, i = thread, thread + CONSUMERS, ... below `count`: at most N pairs.
    template <int N> DEVICE void take(int first, int count, u32 tag, u64 (&a)[N], u64 (&b)[N]) {
        const u64* from = words(first + 2 * thread);
        bool there;
        do {
            there = true;
#pragma unroll
            for (int n = 0; n < N; ++n)
                if (thread + n * CONSUMERS < count) load_two_words(from + at(2 * n * CONSUMERS), a[n], b[n]);
#pragma unroll
            for (int n = 0; n < N; ++n)
                if (thread + n * CONSUMERS < count) there &= has_tag(a[n], tag) && has_tag(b[n], tag);
        } while (!there && !wait.gives_up());
    }

    // Of eight columns pairs 0 and 2 lie together, and 1 and 3: a product takes them so.
    DEVICE static int place_of(int pair) { return (pair & ~3) | (pair & 1) << 1 | (pair >> 1 & 1); }
    DEVICE void keep_split(int pair, float x, float y) {  // a pair of the vector, and what its rounding lost
        const u32 near = pack_bf16(x, y);
        vector()[place_of(pair)] = near;
        vector()[LOST / 4 + place_of(pair)] = pack_bf16(x - low_of(near), y - high_of(near));
    }

    // The normalised vector of a matrix over the hidden state, without the scale.
    static constexpr int PAIRS = (D / 2 + CONSUMERS - 1) / CONSUMERS;
    DEVICE void take_hidden(int first, u32 tag, const bf16* norm, const bf16* embedding, int phase) {
        turn ^= 1;
        u32 gain[PAIRS];
        u64 a[PAIRS], b[PAIRS];
#pragma unroll
        for (int n = 0; n < PAIRS; ++n) {
            const int i = thread + n * CONSUMERS;
            gain[n] = i < D / 2 ? read_only(reinterpret_cast<const u32*>(norm) + i) : 0;
        }
        if (embedding) {
#pragma unroll
            for (int n = 0; n < PAIRS; ++n) {
                const int i = thread + n * CONSUMERS;
                const u32 pair = i < D / 2 ? read_only(reinterpret_cast<const u32*>(embedding) + i) : 0;
                a[n] = bits_of(low_of(pair)), b[n] = bits_of(high_of(pair));
            }
        } else {
            begin_wait(phase);
            take(first, D / 2, tag, a, b);
        }
        float square = 0.0f;
#pragma unroll
        for (int n = 0; n < PAIRS; ++n) {
            const int i = thread + n * CONSUMERS;
            const float x = float_of(static_cast<u32>(a[n])), y = float_of(static_cast<u32>(b[n]));
            if (i < D / 2) {
                square += x * x + y * y;
                keep_split(i, x * low_of(gain[n]), y * high_of(gain[n]));
            }
        }
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) square += shuffle_xor(square, mask);
        if (lane == 0) squares()[warp] = square;
        consumers_sync();
        stamp();
    }
    DEVICE float scale() {  // of the vector taken last; once all warps have met
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += squares()[w];
        return rsqrt_of(sum * (1.0f / D) + EPS);
    }

    DEVICE const char* await_slot(u32 n) {
        const u32 slot = Ring::slot(n);
        await_barrier(ring.full + slot, Ring::parity(n));
        return ring.slots + slot * SLOT_BYTES;
    }
    DEVICE void release(u32 n, int shares) {
        warp_sync();
        if (lane == 0) barrier_arrive(ring.empty + Ring::slot(n), shares);
    }

    // c += row g of weights times a vector. `sum_of` c is the result over t = 0, and t = 1 if something was lost.
    template <int N> DEVICE static void multiply(const uint4 (&w)[N], const uint2 (&x)[N], float (&c)[4][4]) {
#pragma unroll
        for (int n = 0; n < N; ++n) mma(c[n & 3], w[n].x, w[n].y, w[n].z, w[n].w, x[n].x, x[n].y);
    }
    DEVICE static float sum_of(const float (&c)[4][4]) {
        return ((c[0][0] + c[1][0]) + (c[2][0] + c[3][0])) + ((c[0][3] + c[1][3]) + (c[2][3] + c[3][3]));
    }
    DEVICE const char* vector_of_lane(int lost) {
        return reinterpret_cast<const char*>(vector()) + (g >> 1 & 1) * lost + t * 16 + (g & 1) * 8;
    }

    // What a lane multiplies of CHUNKS chunks: of the vector (columns 4 to 7 of B stay empty), and of row g of the weights.
    template <int CHUNKS> DEVICE void load_vector(const char* of_vector, uint2 (&x)[CHUNKS]) {
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i) {
            x[i] = make_uint2(0, 0);
            if (g < 4) x[i] = *reinterpret_cast<const uint2*>(of_vector + i * 64);
        }
    }
    template <int CHUNKS> DEVICE float multiply_row(const char* of_weights, const uint2 (&x)[CHUNKS]) {
        uint4 w[CHUNKS];
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i) w[i] = *reinterpret_cast<const uint4*>(of_weights + i * 64);
        float c[4][4] = {};
        multiply(w, x, c);
        return sum_of(c);
    }

    // One half or the other of the chunks of a matrix over the hidden state; of an odd number the one in the middle is in
    // both, once with a vector of zeros.
    DEVICE void load_half(int half, uint2 (&x)[D_HALF]) {
        load_vector(vector_of_lane(LOST) + half * (D_CHUNKS - D_HALF) * 64, x);
        if (D_CHUNKS % 2 && half) x[0] = make_uint2(0, 0);
    }
    DEVICE float multiply_half(const char* weights, int half, const uint2 (&x)[D_HALF]) {
        return multiply_row(weights + g * D_STRIDE + t * 16 + half * (D_CHUNKS - D_HALF) * 64, x);
    }
    template <int CHUNKS> DEVICE float multiply_slice(const char* of_weights, const char* of_vector) {
        uint2 x[CHUNKS];
        load_vector(of_vector, x);
        return multiply_row(of_weights, x);
    }

    // Slots that all warps share, each with its chunks of the vector; `total` adds what they keep. Where a warp has fewer
    // chunks than others, the last one stands in, with a vector of zeros.
    template <int CHUNKS, int STRIDE, int TILES> DEVICE void multiply_shared(int count) {
        constexpr int EACH = (CHUNKS + WARPS - 1) / WARPS;
        const char* of_vector = vector_of_lane(LOST);
        uint2 x[EACH];
#pragma unroll
        for (int n = 0; n < EACH; ++n) {
            x[n] = *reinterpret_cast<const uint2*>(of_vector + least(warp + n * WARPS, CHUNKS - 1) * 64);
            if (warp + n * WARPS >= CHUNKS) x[n] = make_uint2(0, 0);
        }
        uint4 w[TILES][EACH];
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            const char* of_weights = await_slot(ring.next + least(tile, count - 1)) + g * STRIDE + t * 16;
#pragma unroll
            for (int n = 0; n < EACH; ++n)
                w[tile][n] = *reinterpret_cast<const uint4*>(of_weights + least(warp + n * WARPS, CHUNKS - 1) * 64);
        }
        for (int tile = 0; tile < count; ++tile) release(ring.next++, 1);
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            float c[4][4] = {};
            multiply(w[tile], x, c);
            keep(tile, sum_of(c));
        }
    }

    DEVICE void keep(int tile, float sum) {
        if (t < 2) red()[((tile * WARPS + warp) * 8 + g) * 2 + t] = sum;
    }
    DEVICE float total(int tile, int row) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const float2 part = *reinterpret_cast<const float2*>(red() + ((tile * WARPS + w) * 8 + row) * 2);
            sum += part.x + part.y;
        }
        return sum;
    }
};
