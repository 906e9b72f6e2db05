// What the phases of a consumer have in common: taking hand-offs, multiplying tiles, publishing results.

struct Consumer {
    const Params& p;
    char* shared;
    Ring ring;
    Wait wait;
    int thread, warp, lane, g, t, cta, stamps = 0;

    DEVICE u32* vector() { return reinterpret_cast<u32*>(shared + AT_VECTOR); }
    DEVICE float* red() { return reinterpret_cast<float*>(shared + AT_RED); }
    DEVICE float* squares() { return reinterpret_cast<float*>(shared + AT_SQUARES); }

    DEVICE const u64* words() { return p.words + cta % COPIES * WORDS; }
    DEVICE void publish(int at, u32 data, u32 tag) {
#pragma unroll
        for (int copy = 0; copy < COPIES; ++copy) store_word(p.words + copy * WORDS + at, word_of(data, tag));
    }

    DEVICE void begin_wait(int phase) {
        spin(p.delay[phase]);
        wait.start = wait.looks = 0;
    }

    // For measurements: a wait has ended (before a phase's products), or its results are on their way.
    DEVICE void stamp() {
        if (TRACE > 0 && thread == 0 && stamps < TRACE) p.trace[cta * TRACE + stamps++] = clock_now();
    }

    // Waits for words 2i and 2i + 1 with i = first, first + step, ... below `count`; at most N such pairs.
    template <int N>
    DEVICE void take(const u64* words, int first, int step, int count, u32 tag, u64 (&a)[N], u64 (&b)[N]) {
        u32 missing = 0;
#pragma unroll
        for (int n = 0; n < N; ++n) {
            a[n] = b[n] = 0;
            if (first + n * step < count) missing |= 1u << n;
        }
        while (missing) {
#pragma unroll
            for (int n = 0; n < N; ++n)
                if (missing >> n & 1) load_two_words(words + 2 * (first + n * step), a[n], b[n]);
#pragma unroll
            for (int n = 0; n < N; ++n)
                if (has_tag(a[n], tag) && has_tag(b[n], tag)) missing &= ~(1u << n);
            if (missing && wait.gives_up()) break;
        }
    }

    DEVICE void keep_split(int pair, float x, float y) {  // a pair of the vector, and what its rounding lost
        const u32 near = pack_bf16(x, y);
        vector()[pair] = near;
        vector()[LOST / 4 + pair] = pack_bf16(x - low_of(near), y - high_of(near));
    }

    // The normalised vector of a matrix over the hidden state, without the scale, which is returned.
    static constexpr int PAIRS = (D / 2 + CONSUMERS - 1) / CONSUMERS;
    DEVICE float take_hidden(const u64* words, u32 tag, const bf16* norm, const bf16* embedding, int phase) {
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
            take<PAIRS>(words, thread, CONSUMERS, D / 2, tag, a, b);
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
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += squares()[w];
        return rsqrt_of(sum * (1.0f / D) + EPS);
    }

    // B of the warp's chunks: column 0 the vector, column 1 what its rounding lost, the others zero.
    template <int CHUNKS> DEVICE void load_vector(uint4 (&x)[(CHUNKS + WARPS - 1) / WARPS]) {
#pragma unroll
        for (int n = 0; n < (CHUNKS + WARPS - 1) / WARPS; ++n) {
            const int chunk = warp + n * WARPS;
            x[n] = make_uint4(0, 0, 0, 0);
            if (g < 2 && chunk < CHUNKS)
                x[n] = *reinterpret_cast<const uint4*>(shared + AT_VECTOR + g * LOST + chunk * 64 + t * 16);
        }
    }

    DEVICE uint4 weights(int row, int stride, int chunk) {
        return *reinterpret_cast<const uint4*>(ring.slots + ring.slot * SLOT_BYTES + row * stride + chunk * 64 + t * 16);
    }
    DEVICE void arrive_full() { await_barrier(ring.full + ring.slot, ring.round & 1); }
    DEVICE void release() {
        warp_sync();
        if (lane == 0) barrier_arrive(ring.empty + ring.slot);
        ring.advance();
    }

    // Products of a tile's rows `g` and `second` with this warp's chunks, in lanes with t = 0.
    template <int CHUNKS, int STRIDE, bool HALF>
    DEVICE void multiply(const uint4 (&x)[(CHUNKS + WARPS - 1) / WARPS], int second, float& first_sum, float& second_sum) {
        float c[4][4] = {};
        arrive_full();
#pragma unroll
        for (int n = 0; n < (CHUNKS + WARPS - 1) / WARPS; ++n) {
            const int chunk = warp + n * WARPS;
            if (chunk < CHUNKS) {
                const uint4 a = weights(g, STRIDE, chunk);
                const uint4 b = HALF ? make_uint4(0, 0, 0, 0) : weights(second, STRIDE, chunk);
                mma(c[2 * (n & 1)], a.x, b.x, a.y, b.y, x[n].x, x[n].y);
                mma(c[2 * (n & 1) + 1], a.z, b.z, a.w, b.w, x[n].z, x[n].w);
            }
        }
        release();
        const float* k = &c[0][0];
        first_sum = ((k[0] + k[4]) + (k[8] + k[12])) + ((k[1] + k[5]) + (k[9] + k[13]));
        second_sum = ((k[2] + k[6]) + (k[10] + k[14])) + ((k[3] + k[7]) + (k[11] + k[15]));
    }

    DEVICE void keep(int tile, float first_sum, float second_sum) {
        if (t != 0) return;
        red()[(warp * RED_TILES + tile) * 16 + g] = first_sum;
        red()[(warp * RED_TILES + tile) * 16 + 8 + g] = second_sum;
    }
    DEVICE float total(int tile, int row) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += red()[(w * RED_TILES + tile) * 16 + row];
        return sum;
    }
};
