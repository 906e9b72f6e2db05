// The phases of a visit, and the kernel.

struct Step : Attention {
    DEVICE void query_key_value(int block, u32 tag, const bf16* embedding) {
        const int rows = share(E, QKV_ROWS, cta);
        if (!rows) return;
        const int row = cta * QKV_ROWS + thread;
        float bias = 0.0f;
        if (thread < rows) bias = value_of(read_only(p.qkv_bias + static_cast<size_t>(block) * E + row));
        const float scale = take_hidden(
            words() + W_HIDDEN, tag - 1, p.attn_norm + static_cast<size_t>(block) * D, embedding, FROM_DOWN);
        uint4 x[(D_CHUNKS + WARPS - 1) / WARPS];
        load_vector<D_CHUNKS>(x);
        for (int tile = 0; 16 * tile < rows; ++tile) {
            float first, second;
            multiply<D_CHUNKS, D_STRIDE, false>(x, g + 8, first, second);
            keep(tile, first, second);
        }
        consumers_sync();
        if (thread < rows)
            publish(W_QKV + row, bits_of(total(thread / 16, thread % 16) * scale + bias), tag);
        stamp();
    }

    static constexpr int BATCH = 4;  // splits that are polled together
    DEVICE void take_attended(u32 tag) {
        begin_wait(FROM_ATTENTION);
        for (int i = thread; i < QH / 4; i += CONSUMERS) {  // four entries
            const int q = 4 * i / H;
            float top = MINUS_INFINITY, sum = 0.0f, x[4] = {};
            for (int first = 0; first < p.splits; first += BATCH) {
                u64 a[BATCH] = {}, b[BATCH] = {}, lse[BATCH] = {};
                u32 missing = (1u << BATCH) - 1;
                do {
#pragma unroll
                    for (int n = 0; n < BATCH; ++n) {
                        const int split = least(first + n, p.splits - 1);
                        if (!(missing >> n & 1)) continue;
                        load_two_words(words() + W_PARTIAL + split * (QH / 2) + 2 * i, a[n], b[n]);
                        lse[n] = load_word(words() + W_LSE + split * Q + q);
                    }
#pragma unroll
                    for (int n = 0; n < BATCH; ++n)
                        if (has_tag(a[n], tag) && has_tag(b[n], tag) && has_tag(lse[n], tag)) missing &= ~(1u << n);
                } while (missing && !wait.gives_up());
                float highest = top;
#pragma unroll
                for (int n = 0; n < BATCH; ++n)
                    if (first + n < p.splits) highest = fmaxf(highest, float_of(static_cast<u32>(lse[n])));
                const float kept = exp2_of(top - highest);  // split 0 is never empty, so `highest` is finite
                sum *= kept;
#pragma unroll
                for (int k = 0; k < 4; ++k) x[k] *= kept;
#pragma unroll
                for (int n = 0; n < BATCH; ++n) {
                    if (first + n >= p.splits) continue;
                    const float weight = exp2_of(float_of(static_cast<u32>(lse[n])) - highest);
                    const u32 low = static_cast<u32>(a[n]), high = static_cast<u32>(b[n]);
                    sum += weight;
                    x[0] += weight * low_of(low), x[1] += weight * high_of(low);
                    x[2] += weight * low_of(high), x[3] += weight * high_of(high);
                }
                top = highest;
            }
            const float whole = divided(1.0f, sum);
            keep_split(2 * i, x[0] * whole, x[1] * whole);
            keep_split(2 * i + 1, x[2] * whole, x[3] * whole);
        }
        consumers_sync();
        stamp();
    }

    DEVICE void output(u32 tag, float& residual) {
        const int rows = share(D, HIDDEN_ROWS, cta);
        if (!rows) return;
        take_attended(tag);
        uint4 x[(QH_CHUNKS + WARPS - 1) / WARPS];
        load_vector<QH_CHUNKS>(x);
        float first, second;
        multiply<QH_CHUNKS, QH_STRIDE, true>(x, 0, first, second);
        keep(0, first, second);
        consumers_sync();
        if (thread < rows) {
            residual += total(0, thread);
            publish(W_MIDDLE + cta * HIDDEN_ROWS + thread, bits_of(residual), tag);
        }
        stamp();
    }

    DEVICE void gate_up(int block, u32 tag) {
        const int pairs = share(I, GATE_UP_COUNT, cta);
        if (!pairs) return;
        const float scale = take_hidden(
            words() + W_MIDDLE, tag, p.mlp_norm + static_cast<size_t>(block) * D, nullptr, FROM_OUTPUT);
        uint4 x[(D_CHUNKS + WARPS - 1) / WARPS];
        load_vector<D_CHUNKS>(x);
        for (int tile = 0; 8 * tile < pairs; ++tile) {
            float first, second;  // a last tile that is not full has its ups right behind its gates
            const int n = least(8, pairs - 8 * tile);
            multiply<D_CHUNKS, D_STRIDE, false>(x, least(g + n, 15), first, second);
            keep(tile, first, second);
        }
        consumers_sync();
        if (thread < up(pairs, 32)) {
            float active = 0.0f;
            if (thread < pairs) {
                const float gate = total(thread / 8, thread % 8) * scale, value = total(thread / 8, 8 + thread % 8) * scale;
                active = divided(gate, 1.0f + exp_of(-gate)) * value;
            }
            const float next = shuffle_xor(active, 1);
            if (thread < pairs && thread % 2 == 0)
                publish(W_ACTIVE + (cta * GATE_UP_COUNT + thread) / 2, pack_bf16(active, next), tag);
        }
        stamp();
    }

    static constexpr int ACTIVE_PAIRS = (I / 4 + CONSUMERS - 1) / CONSUMERS;
    DEVICE void down(u32 tag, float& residual) {
        const int rows = share(D, HIDDEN_ROWS, cta);
        if (!rows) return;
        u64 a[ACTIVE_PAIRS], b[ACTIVE_PAIRS];
        begin_wait(FROM_GATE_UP);
        take<ACTIVE_PAIRS>(words() + W_ACTIVE, thread, CONSUMERS, I / 4, tag, a, b);
#pragma unroll
        for (int n = 0; n < ACTIVE_PAIRS; ++n) {
            const int i = thread + n * CONSUMERS;
            if (i < I / 4)
                reinterpret_cast<uint2*>(vector())[i] = make_uint2(static_cast<u32>(a[n]), static_cast<u32>(b[n]));
        }
        consumers_sync();
        stamp();
        float c[4][4] = {};
        for (int slice = 0; slice < DOWN_SLICES; ++slice) {
            arrive_full();
#pragma unroll
            for (int n = 0; n < (DOWN_CHUNKS + WARPS - 1) / WARPS; ++n) {
                const int chunk = warp + n * WARPS;
                if (chunk < DOWN_CHUNKS && slice * DOWN_CHUNKS + chunk < I_CHUNKS) {
                    uint4 x = make_uint4(0, 0, 0, 0);
                    if (g == 0)
                        x = *reinterpret_cast<const uint4*>(
                            shared + AT_VECTOR + (slice * DOWN_CHUNKS + chunk) * 64 + t * 16);
                    const uint4 w = weights(g, DOWN_STRIDE, chunk);
                    mma(c[2 * (n & 1)], w.x, 0, w.y, 0, x.x, x.y);
                    mma(c[2 * (n & 1) + 1], w.z, 0, w.w, 0, x.z, x.w);
                }
            }
            release();
        }
        keep(0, (c[0][0] + c[1][0]) + (c[2][0] + c[3][0]), 0.0f);
        consumers_sync();
        if (thread < rows) {
            residual += total(0, thread);
            publish(W_HIDDEN + cta * HIDDEN_ROWS + thread, bits_of(residual), tag);
        }
        stamp();
    }

    DEVICE void vocabulary(u32 tag, const bf16* embedding) {
        const float scale = take_hidden(words() + W_HIDDEN, tag, p.final_norm, embedding, FROM_DOWN);
        uint4 x[(D_CHUNKS + WARPS - 1) / WARPS];
        load_vector<D_CHUNKS>(x);
        int round = 0;
        for (int tile = cta; tile < VOCABULARY_TILES; tile += GRID, ++round) {
            float first, second;
            multiply<D_CHUNKS, D_STRIDE, false>(x, g + 8, first, second);
            keep(round & 1, first, second);
            consumers_sync();
            if (warp == round % WARPS && lane < 16 && 16 * tile + lane < V) {
                const float logit = total(round & 1, lane) * scale;
                p.logits[16 * tile + lane] = *wait.failed ? float_of(0x7fc00000u) : logit;
            }
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
        float residual = 0.0f;  // of one row, in the threads that own one
        if (thread < share(D, HIDDEN_ROWS, cta)) residual = value_of(embedding[cta * HIDDEN_ROWS + thread]);
        for (int visit = 0; visit < p.visits; ++visit) {
            const int block = program[2 * visit], slot = program[2 * visit + 1];
            const u32 tag = base + visit + 1;
            step.query_key_value(block, tag, visit == 0 ? embedding : nullptr);
            step.attention(slot, position, tag, p.rope + static_cast<size_t>(position) * H);
            step.output(tag, residual);
            step.gate_up(block, tag);
            step.down(tag, residual);
        }
        step.vocabulary(base + p.visits, p.visits == 0 ? embedding : nullptr);
    }
    cta_sync();
    if (thread == 0 && add_one(p.counters + 1) == GRID - 1) {  // every CTA has read what changes here
        p.counters[1] = 0;
        p.counters[0] = base + p.visits + 1;
        ++p.state[0];
        ++p.state[1];
    }
}
