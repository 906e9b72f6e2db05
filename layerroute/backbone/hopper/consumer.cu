// What the phases of a consumer have in common: taking hand-offs, multiplying tiles, adding over warps, publishing.

struct Consumer {
    const Params& p;
    char* shared;
    Ring ring;
    Wait wait;
    int thread, warp, lane, g, t, cta, turn = 0, stamps = 0;

    // Before each phase: nothing that it works out from these is kept in registers through the others.
    DEVICE void forget() {
        thread = unknown(thread), cta = unknown(cta);
        warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
    }

    DEVICE char* vector() { return shared + AT_VECTOR + warp * VECTOR_BYTES; }
    DEVICE float* red() { return reinterpret_cast<float*>(shared + AT_RED) + turn * RED_FLOATS; }
    DEVICE float* squares() { return reinterpret_cast<float*>(shared + AT_SQUARES) + turn * WARPS; }

    DEVICE const u64* words() { return p.words + cta % COPIES * WORDS; }

    DEVICE void begin_wait(int phase) {
        spin(p.delay[phase]);
        wait.start = wait.looks = 0;
    }

    // For measurements: a wait has ended, its products are done, or the phase's results are on their way.
    DEVICE void stamp() {
        if (TRACE > 0 && thread == 0 && stamps < TRACE) p.trace[cta * TRACE + stamps++] = clock_now();
    }

    // Waits for the words first + lane + 32n, n < N, below `end`.
    template <int N> DEVICE void take(const u64* words, int first, int end, u32 tag, uint4 (&got)[N]) {
        u32 missing = 0;
#pragma unroll
        for (int n = 0; n < N; ++n)
            if (first + lane + 32 * n < end) missing |= 1u << n;
        while (missing) {
#pragma unroll
            for (int n = 0; n < N; ++n)
                if (missing >> n & 1) got[n] = load_wide_word(words + 2 * (first + lane + 32 * n));
#pragma unroll
            for (int n = 0; n < N; ++n)
                if ((missing >> n & 1) && has_tag(got[n], tag)) missing &= ~(1u << n);
            if (missing && wait.gives_up()) break;
        }
    }

    DEVICE void keep_split(int column, int lost, float x) {  // an entry of the vector, and what its rounding lost
        const u32 near = pack_bf16(x, 0.0f);
        bf16* to = reinterpret_cast<bf16*>(vector()) + column;
        to[0] = static_cast<bf16>(near);
        to[lost / 2] = static_cast<bf16>(pack_bf16(x - low_of(near), 0.0f));
    }

    // B of the warp's chunks of a normalised vector, without the scale; the warp's sum of squares to shared memory.
    DEVICE void take_hidden(int at, u32 tag, const bf16* norm, const bf16* embedding, int phase, uint4 (&x)[D_EACH]) {
        const int low = 32 * D_EACH * warp, high = least(low + 32 * D_EACH, D);
        float square = 0.0f;
        if (embedding) {
            for (int column = low + lane; column < high; column += 32) {
                const float value = value_of(read_only(embedding + column));
                square += value * value;
                keep_split(column - low, D_LOST, value * value_of(read_only(norm + column)));
            }
        } else {
            const int first = least(low, D - 1) / HIDDEN_ROWS * HIDDEN_WORDS;  // a warp without columns waits too
            const int end = ((high - 1) / HIDDEN_ROWS + 1) * HIDDEN_WORDS;
            uint4 got[HIDDEN_POLLS] = {};
            bf16 gain[HIDDEN_POLLS][DATA];
#pragma unroll
            for (int n = 0; n < HIDDEN_POLLS; ++n)
#pragma unroll
                for (int i = 0; i < DATA; ++i) {
                    const int column = hidden_column(first + lane + 32 * n, i, low, high);
                    gain[n][i] = column < 0 ? 0 : read_only(norm + column);
                }
            begin_wait(phase);
            take(p.words + cta % COPIES * WORDS + at, first, end, tag, got);
#pragma unroll
            for (int n = 0; n < HIDDEN_POLLS; ++n)
#pragma unroll
                for (int i = 0; i < DATA; ++i) {
                    const int column = hidden_column(first + lane + 32 * n, i, low, high);
                    const u32 pair = pair_of(got[n], i / 2);
                    const float value = i % 2 ? high_of(pair) : low_of(pair);
                    if (column < 0) continue;
                    square += value * value;
                    keep_split(column - low, D_LOST, value * value_of(gain[n][i]));
                }
        }
        stamp();
        warp_sync();
#pragma unroll
        for (int n = 0; n < D_EACH; ++n) {
            x[n] = make_uint4(0, 0, 0, 0);
            if (g < 2) x[n] = *reinterpret_cast<const uint4*>(vector() + g * D_LOST + n * 64 + t * 16);
        }
#pragma unroll
        for (int mask = 16; mask > 0; mask /= 2) square += shuffle_xor(square, mask);
        if (lane == 0) squares()[warp] = square;
    }
    // Column of entry i of a word of hidden or middle; -1 if it has none from `low` to `high`.
    DEVICE static int hidden_column(int word, int i, int low, int high) {
        const int row = word % HIDDEN_WORDS * DATA + i, column = word / HIDDEN_WORDS * HIDDEN_ROWS + row;
        return row < HIDDEN_ROWS && column >= low && column < high ? column : -1;
    }

    DEVICE float scale() {  // once all warps have met
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += squares()[w];
        return rsqrt_of(sum * (1.0f / D) + EPS);
    }

    DEVICE const char* weights(int slot) { return ring.slots + slot * SLOT_BYTES; }
    DEVICE void release() {
        if (lane == 0) barrier_arrive(ring.empty + ring.slot);
        ring.advance();
    }

    // Products of a tile of one slot or two with this warp's chunks: rows g and g + 8, in lanes with t = 0.
    DEVICE void multiply(const uint4 (&x)[D_EACH], bool two, int tile) {
        float c[4][4] = {};
        const Ring first = ring;
        Ring second = ring;
        second.advance();
        await_barrier(first.full + first.slot, first.round & 1);
        if (two) await_barrier(second.full + second.slot, second.round & 1);
        const char *upper = weights(first.slot), *lower = weights(two ? second.slot : first.slot);
#pragma unroll
        for (int n = 0; n < D_EACH; ++n) {
            const int chunk = warp * D_EACH + n;
            if (chunk < D_CHUNKS) {
                const uint4 a = *reinterpret_cast<const uint4*>(upper + g * D_STRIDE + chunk * 64 + t * 16);
                const uint4 b = *reinterpret_cast<const uint4*>(lower + g * D_STRIDE + chunk * 64 + t * 16);
                mma(c[2 * (n & 1)], a.x, b.x, a.y, b.y, x[n].x, x[n].y);
                mma(c[2 * (n & 1) + 1], a.z, b.z, a.w, b.w, x[n].z, x[n].w);
            }
        }
        warp_sync();
        release();
        if (two) release();
        const float* k = &c[0][0];
        keep(tile, ((k[0] + k[4]) + (k[8] + k[12])) + ((k[1] + k[5]) + (k[9] + k[13])),
             ((k[2] + k[6]) + (k[10] + k[14])) + ((k[3] + k[7]) + (k[11] + k[15])));
    }

    DEVICE void keep(int tile, float upper, float lower) {
        if (t != 0) return;
        red()[(tile * 16 + g) * RED_ROW + warp] = upper;
        red()[(tile * 16 + 8 + g) * RED_ROW + warp] = lower;
    }

    // All warps have kept their products; only those that add them wait for it. The next products go to the other
    // buffer. This one is used again after a hand-off that needed another which needed what is added here, and every warp
    // waits for some word of each: none comes round before the addition.
    DEVICE void meet(bool adds) {
        if (adds)
            consumers_sync(turn);
        else
            consumers_arrive(turn);
    }
    // Sum of a row over all warps, in the four lanes that ask for it.
    DEVICE float total(int tile, int row) {
        const float* from = red() + (tile * 16 + row) * RED_ROW + 2 * t;
        float sum = from[0] + from[1];
        sum += shuffle_xor(sum, 1);
        return sum + shuffle_xor(sum, 2);
    }

    // A wide word of the entries `first`.. that lanes 4i hold in x, to all copies.
    DEVICE void publish_rows(int at, float x, int first, u32 tag) {
        u32 pair[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float low = float_of(shuffle(bits_of(x), 4 * least(first + 2 * i, 7)));
            const float high = float_of(shuffle(bits_of(x), 4 * least(first + 2 * i + 1, 7)));
            pair[i] = pack_bf16(low, high);
        }
        if (lane < COPIES)
            store_wide_word(p.words + lane * WORDS + at, wide_word_of(pair[0], pair[1], pair[2], pair[3], tag));
    }
};
