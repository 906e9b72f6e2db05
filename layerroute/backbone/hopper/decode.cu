// The phases of a visit, and the kernel.

struct Step : Attention {
    DEVICE void query_key_value(int block, u32 tag, const bf16* embedding) {
        const int rows = share(E, QKV_ROWS, cta), row = 8 * warp + g;
        if (!rows) return;
        const size_t first = static_cast<size_t>(block) * E + cta * QKV_ROWS;
        const float bias = row < rows ? value_of(read_only(p.qkv_bias + first + row)) : 0.0f;
        uint4 x[D_EACH];
        take_hidden(W_HIDDEN, tag - 1, p.attn_norm + static_cast<size_t>(block) * D, embedding, FROM_DOWN, x);
        for (int tile = 0; 16 * tile < rows; ++tile) multiply(x, 16 * tile + 8 < rows, tile);
        stamp();
        meet(8 * warp < rows);
        if (8 * warp < rows) {
            const u64 word = word_of(bits_of(total(warp / 2, warp % 2 * 8 + g) * scale() + bias), tag);
            if (row < rows && t < COPIES) store_word(p.words + t * WORDS + W_QKV + cta * QKV_ROWS + row, word);
        }
        turn ^= 1;
        stamp();
    }

    static constexpr int BATCH = 2;  // splits that are polled together
    // Entry j of a KV head's heads 4i.., with i = 0 in the first 16 lanes and 1 in the others, over all splits.
    DEVICE void take_attended(int head, int j, u32 tag, float (&x)[4]) {
        float top[4], sum[4] = {};
#pragma unroll
        for (int k = 0; k < 4; ++k) top[k] = MINUS_INFINITY, x[k] = 0.0f;
        for (int first = 0; first < p.splits; first += BATCH) {
            uint4 part[BATCH];
            u64 lse[BATCH][4];
            u32 missing = (1u << BATCH) - 1;
            do {
#pragma unroll
                for (int n = 0; n < BATCH; ++n) {
                    if (!(missing >> n & 1)) continue;
                    const int at = least(first + n, p.splits - 1) * KV + head;
                    const u64* of = words() + W_LSE + at * 8 + lane / 16 * 4;
                    part[n] = load_wide_word(words() + W_PARTIAL + (at * H + j) * 2);
                    load_two_words(of, lse[n][0], lse[n][1]);
                    load_two_words(of + 2, lse[n][2], lse[n][3]);
                }
#pragma unroll
                for (int n = 0; n < BATCH; ++n)
                    if ((missing >> n & 1) && has_tag(part[n], tag) && has_tag(lse[n][0], tag) && has_tag(lse[n][1], tag) &&
                        has_tag(lse[n][2], tag) && has_tag(lse[n][3], tag))
                        missing &= ~(1u << n);
            } while (missing && !wait.gives_up());
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                float highest = top[k];
#pragma unroll
                for (int n = 0; n < BATCH; ++n)
                    if (first + n < p.splits) highest = fmaxf(highest, float_of(static_cast<u32>(lse[n][k])));
                const float kept = exp2_of(top[k] - highest);  // split 0 is never empty, so `highest` is finite
                sum[k] *= kept, x[k] *= kept;
#pragma unroll
                for (int n = 0; n < BATCH; ++n) {
                    if (first + n >= p.splits) continue;
                    const float weight = exp2_of(float_of(static_cast<u32>(lse[n][k])) - highest);
                    const u32 pair = lane < 16 ? pair_of(part[n], k / 2) : pair_of(part[n], 2 + k / 2);
                    sum[k] += weight;
                    x[k] += weight * (k % 2 ? high_of(pair) : low_of(pair));
                }
                top[k] = highest;
            }
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) x[k] = divided(x[k], sum[k]);
    }

    DEVICE void output(u32 tag, float& residual) {
        const int rows = share(D, HIDDEN_ROWS, cta);
        if (!rows) return;
        begin_wait(FROM_ATTENTION);
#pragma unroll
        for (int n = 0; n < PARTS_EACH; ++n) {
            const int part = warp + n * WARPS, j = lane % 16;
            if (n > 0 && part >= PARTS) continue;  // a warp without columns waits too
            float x[4];
            take_attended(part % PARTS / 4, part % 4 * 16 + j, tag, x);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int q = lane / 16 * 4 + k;
                if (q < G && part < PARTS) keep_split((n * G + q) * 16 + j, PART_LOST, x[k]);
            }
        }
        stamp();
        warp_sync();
        float c[4][4] = {};
        await_barrier(ring.full + ring.slot, ring.round & 1);
#pragma unroll
        for (int n = 0; n < PARTS_EACH; ++n) {
            const int part = warp + n * WARPS;
            if (part >= PARTS) continue;
#pragma unroll
            for (int q = 0; q < G; ++q) {
                const int column = (part / 4 * G + q) * H + part % 4 * 16;
                const uint2 w = *reinterpret_cast<const uint2*>(weights(ring.slot) + g * QH_STRIDE + column * 2 + t * 8);
                uint2 x = make_uint2(0, 0);
                if (g < 2) x = *reinterpret_cast<const uint2*>(vector() + g * PART_LOST + (n * G + q) * 32 + t * 8);
                mma(c[q % 4], w.x, 0, w.y, 0, x.x, x.y);
            }
        }
        warp_sync();
        release();
        keep(0, ((c[0][0] + c[1][0]) + (c[2][0] + c[3][0])) + ((c[0][1] + c[1][1]) + (c[2][1] + c[3][1])), 0.0f);
        stamp();
        add_hidden(W_MIDDLE, tag, residual);
    }

    DEVICE void add_hidden(int at, u32 tag, float& residual) {
        meet(warp == 0);
        if (warp == 0) {
            residual += total(0, g);
#pragma unroll
            for (int n = 0; n < HIDDEN_WORDS; ++n)
                publish_rows(at + 2 * (cta * HIDDEN_WORDS + n), residual, DATA * n, tag);
        }
        turn ^= 1;
        stamp();
    }

    DEVICE void gate_up(int block, u32 tag) {
        const int pairs = share(I, GATE_UP_COUNT, cta);
        if (!pairs) return;
        uint4 x[D_EACH];
        take_hidden(W_MIDDLE, tag, p.mlp_norm + static_cast<size_t>(block) * D, nullptr, FROM_OUTPUT, x);
        for (int tile = 0; 8 * tile < pairs; ++tile) multiply(x, true, tile);
        stamp();
        meet(warp < ACTIVE_WORDS);
        if (warp < ACTIVE_WORDS) {
            const int pair = least(DATA * warp + g, GATE_UP_COUNT - 1);
            const float by = scale(), gate = total(pair / 8, pair % 8) * by, value = total(pair / 8, 8 + pair % 8) * by;
            const float active = divided(gate, 1.0f + exp_of(-gate)) * value;
            publish_rows(W_ACTIVE + 2 * (cta * ACTIVE_WORDS + warp), active, 0, tag);
        }
        turn ^= 1;
        stamp();
    }

    DEVICE void down(u32 tag, float& residual) {
        const int rows = share(D, HIDDEN_ROWS, cta);
        if (!rows) return;
        const int low = least(32 * I_EACH * warp, I), high = least(low + 32 * I_EACH, I);
        const int first = least(low, I - 1) / GATE_UP_COUNT * ACTIVE_WORDS;  // a warp without columns waits too
        const int end = ((high - 1) / GATE_UP_COUNT + 1) * ACTIVE_WORDS;
        uint4 got[ACTIVE_POLLS] = {};
        begin_wait(FROM_GATE_UP);
        take(words() + W_ACTIVE, first, end, tag, got);
#pragma unroll
        for (int n = 0; n < ACTIVE_POLLS; ++n) {
            const int word = first + lane + 32 * n, row = word % ACTIVE_WORDS * DATA;
            const int column = word / ACTIVE_WORDS * GATE_UP_COUNT + row;
#pragma unroll
            for (int i = 0; i < DATA; ++i)
                if (row + i < GATE_UP_COUNT && column + i >= low && column + i < high)
                    reinterpret_cast<bf16*>(vector())[column + i - low] =
                        static_cast<bf16>(pair_of(got[n], i / 2) >> i % 2 * 16);
        }
        stamp();
        warp_sync();
        float c[8][4] = {};
        for (int slice = 0; slice < I_CHUNKS; slice += DOWN_CHUNKS) {
            await_barrier(ring.full + ring.slot, ring.round & 1);
            const int last = least(least(slice + DOWN_CHUNKS, I_CHUNKS), I_EACH * (warp + 1));
            for (int chunk = most(slice, I_EACH * warp); chunk < last; chunk += 4)
#pragma unroll
                for (int n = 0; n < 4; ++n) {
                    if (chunk + n >= last) continue;
                    uint4 x = make_uint4(0, 0, 0, 0);
                    if (g == 0)
                        x = *reinterpret_cast<const uint4*>(vector() + (chunk + n - I_EACH * warp) * 64 + t * 16);
                    const uint4 w = *reinterpret_cast<const uint4*>(
                        weights(ring.slot) + g * DOWN_STRIDE + (chunk + n - slice) * 64 + t * 16);
                    mma(c[2 * n], w.x, 0, w.y, 0, x.x, x.y);
                    mma(c[2 * n + 1], w.z, 0, w.w, 0, x.z, x.w);
                }
            warp_sync();
            release();
        }
        const float* k = &c[0][0];
        keep(0, ((k[0] + k[4]) + (k[8] + k[12])) + ((k[16] + k[20]) + (k[24] + k[28])), 0.0f);
        stamp();
        add_hidden(W_HIDDEN, tag, residual);
    }

    DEVICE void vocabulary(u32 tag, const bf16* embedding) {
        uint4 x[D_EACH];
        take_hidden(W_HIDDEN, tag, p.final_norm, embedding, FROM_DOWN, x);
        float by = 0.0f;
        int round = 0;
        for (int tile = cta; tile < VOCABULARY_TILES; tile += GRID, ++round) {
            multiply(x, 16 * tile + 8 < V, 0);
            meet(true);
            if (round == 0) by = scale();
            if (warp / 2 == round % (WARPS / 2)) {
                const int row = warp % 2 * 8 + g;
                const float logit = total(0, row) * by;
                if (t == 0 && 16 * tile + row < V) p.logits[16 * tile + row] = *wait.failed ? float_of(0x7fc00000u) : logit;
            }
            turn ^= 1;
        }
    }
};

KERNEL decode(const GRID_CONSTANT Params p) {
    SHARED_BYTES
    const int thread = thread_index(), warp = thread / 32, lane = thread % 32, cta = cta_index();
    u64* full = reinterpret_cast<u64*>(shared + AT_BARRIERS);
    int* program = reinterpret_cast<int*>(shared + AT_PROGRAM);
    int* failed = reinterpret_cast<int*>(shared + AT_FAILED);
    if (thread == 0) {
        for (int slot = 0; slot < SLOTS; ++slot) {
            barrier_init(full + slot, 1);
            barrier_init(full + SLOTS + slot, WARPS);
        }
        barriers_are_ready();
        *failed = 0;
    }
    for (int i = thread; i < 2 * p.visits; i += THREADS) program[i] = p.program[i];
    const int position = static_cast<int>(p.state[0]);
    const u32 base = static_cast<u32>(p.counters[0]);
    const bf16* embedding = p.embed + p.state[8 + p.state[1]] * D;
    cta_sync();
    const Ring ring{shared, full, full + SLOTS};
    if (warp == WARPS) {
        Producer producer{ring, lane};
        produce(p, producer, program, cta);
    } else {
        const Wait wait{failed, p.failure, p.delay[BETWEEN]};
        Step step{{{p, shared, ring, wait, thread, warp, lane, lane / 4, lane % 4, cta}}};
        float residual = 0.0f;  // of row `g`
        if (lane / 4 < share(D, HIDDEN_ROWS, cta)) residual = value_of(embedding[cta * HIDDEN_ROWS + lane / 4]);
        for (int visit = 0; visit < p.visits; ++visit) {
            const int block = program[2 * visit], slot = program[2 * visit + 1];
            const u32 tag = base + visit + 1;
            step.forget();
            step.query_key_value(block, tag, visit == 0 ? embedding : nullptr);
            step.forget();
            step.attention(slot, position, tag, p.rope + static_cast<size_t>(position) * H);
            step.forget();
            step.output(tag, residual);
            step.forget();
            step.gate_up(block, tag);
            step.forget();
            step.down(tag, residual);
        }
        step.vocabulary(base + p.visits, p.visits == 0 ? embedding : nullptr);
    }
    cta_sync();
    if (thread == 0 && add_one(p.counters + 1) == GRID - 1) {  // every CTA has read what changes here
        p.counters[1] = 0;
        p.counters[0] = base + p.visits;
        ++p.state[0];
        ++p.state[1];
    }
}
