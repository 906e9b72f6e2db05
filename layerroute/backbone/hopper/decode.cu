// The phases of a visit, and the kernel.

struct Step : Attention {
    DEVICE void query_key_value(int block, u32 tag, const bf16* embedding) {
        const int rows = share(E, QKV_ROWS, cta);
        if (!rows) return;
        const int row = cta * QKV_ROWS + thread;
        float bias = 0.0f;
        if (thread < rows) bias = value_of(read_only(p.qkv_bias + static_cast<size_t>(block) * E + row));
        take_hidden(W_HIDDEN, tag - 1, p.attn_norm + static_cast<size_t>(block) * D, embedding, QKV);
        multiply_shared<D_CHUNKS, D_STRIDE, QKV_TILES>((rows + 7) / 8);
        consumers_sync();
        if (thread < rows) publish(W_QKV + row, bits_of(total(thread / 8, thread % 8) * scale() + bias), tag);
        stamp();
    }

    static constexpr int BATCH = 4;  // splits that are polled together
    DEVICE void take_attended(u32 tag) {
        turn ^= 1;
        begin_wait(OUTPUT, cta < GRID - KV * p.splits);
        for (int i = thread; i < QH / 4; i += CONSUMERS) {  // four entries
            const int q = 4 * i / H;
            float top = MINUS_INFINITY, sum = 0.0f, x[4] = {};
            for (int first = 0; first < p.splits; first += BATCH) {
                u64 a[BATCH], b[BATCH], lse[BATCH];
                bool there;
                do {
                    there = true;
#pragma unroll
                    for (int n = 0; n < BATCH; ++n) {
                        if (first + n >= p.splits) continue;
                        load_two_words(words(W_PARTIAL + (first + n) * (QH / 2) + 2 * i), a[n], b[n]);
                        lse[n] = load_word(words(W_LSE + (first + n) * Q + q));
                    }
#pragma unroll
                    for (int n = 0; n < BATCH; ++n)
                        if (first + n < p.splits) there &= has_tag(a[n], tag) && has_tag(b[n], tag) && has_tag(lse[n], tag);
                } while (!there && !wait.gives_up());
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
        multiply_shared<QH_CHUNKS, QH_STRIDE, 1>(1);
        add_hidden(W_MIDDLE, rows, tag, residual);
    }

    DEVICE void add_hidden(int first, int rows, u32 tag, float& residual) {  // what the warps have kept, to the residual
        consumers_sync();
        if (thread < rows) {
            residual += total(0, thread);
            publish(first + cta * HIDDEN_ROWS + thread, bits_of(residual), tag);
        }
        stamp();
    }

    DEVICE void gate_up(int block, u32 tag) {
        const int pairs = share(I, GATE_UP_COUNT, cta), tiles = (pairs + 3) / 4;
        if (!pairs) return;
        take_hidden(W_MIDDLE, tag, p.mlp_norm + static_cast<size_t>(block) * D, nullptr, GATE_UP);
        const int pair = warp / 2, half = warp % 2;
        uint2 x[D_HALF];
        load_half(half, x);
        float* parts = red() + pair * 32;  // what a warp has for the other's tile
        for (int tile = pair; tile < tiles; tile += WARPS) {
            float sum[2] = {};
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int n = ring.next + tile + i * (WARPS / 2);
                if (tile + i * (WARPS / 2) >= tiles) continue;
                sum[i] = multiply_half(await_slot(n), half, x);
                release(n, WARPS / 2);
            }
            if (t < 2) parts[(1 - half) * 16 + 2 * g + t] = half ? sum[0] : sum[1];
            pair_sync(pair);
            const float other = parts[half * 16 + 2 * g + (t & 1)];
            finish_gate_up(tile + half * (WARPS / 2), pairs, (half ? sum[1] : sum[0]) + other, tag);
            if (tile + WARPS < tiles) pair_sync(pair);  // the parts are written again
        }
        ring.next += tiles;
        stamp();
    }

    // Rows 0 to 3 of a tile are gates, 4 to 7 their ups.
    DEVICE void finish_gate_up(int tile, int pairs, float value, u32 tag) {
        value = (value + shuffle_xor(value, 1)) * scale();
        const float other = shuffle_xor(value, 16), active = divided(value, 1.0f + exp_of(-value)) * other;
        const float next = shuffle_xor(active, 4);
        const int first = 4 * tile + g;
        if ((g == 0 || g == 2) && first < pairs && t < COPIES)
            store_word(p.words + t * WORDS + at(W_ACTIVE + (cta * GATE_UP_COUNT + first) / 2),
                       word_of(pack_bf16(active, next), tag));
    }

    static constexpr int ACTIVE_PAIRS = (I / 4 + CONSUMERS - 1) / CONSUMERS;
    DEVICE void take_active(u32 tag) {
        u64 a[ACTIVE_PAIRS], b[ACTIVE_PAIRS];
        begin_wait(DOWN);
        take(W_ACTIVE, I / 4, tag, a, b);
        turn ^= 1;
        u32* to = vector() + place_of(2 * thread);
#pragma unroll
        for (int n = 0; n < ACTIVE_PAIRS; ++n)
            if (thread + n * CONSUMERS < I / 4) {
                to[2 * n * CONSUMERS] = static_cast<u32>(a[n]);
                to[2 * n * CONSUMERS + 2] = static_cast<u32>(b[n]);
            }
        consumers_sync();
        stamp();
    }

    DEVICE void down(u32 tag, float& residual) {
        const int rows = share(D, HIDDEN_ROWS, cta);
        if (!rows) return;
        take_active(tag);
        float sum = 0.0f;
        for (int slice = warp; slice < DOWN_SLICES; slice += WARPS) {
            constexpr int FULL = I_CHUNKS / DOWN_CHUNKS, REST = I_CHUNKS % DOWN_CHUNKS;
            const int n = ring.next + slice / 2;
            const char* of_weights = await_slot(n) + g * DOWN_STRIDE + t * 16 + slice % 2 * DOWN_CHUNKS * 64;
            const char* of_vector = vector_of_lane(0) + slice * DOWN_CHUNKS * 64;
            if (slice < FULL)
                sum += multiply_slice<DOWN_CHUNKS>(of_weights, of_vector);
            else if (slice == FULL && REST > 0)
                sum += multiply_slice<most(REST, 1)>(of_weights, of_vector);
            release(n, WARPS / 2);
        }
        ring.next += DOWN_SLICES / 2;
        keep(0, t == 0 ? sum : 0.0f);  // the vector is bf16: nothing was lost
        add_hidden(W_HIDDEN, rows, tag, residual);
    }

    DEVICE void vocabulary(u32 tag, const bf16* embedding) {
        take_hidden(W_HIDDEN, tag, p.final_norm, embedding, VOCABULARY);
        const float by = scale();
        for (int tile = warp; cta + tile * GRID < VOCABULARY_TILES; tile += WARPS) {
            const int n = ring.next + tile;
            const char* weights = await_slot(n);
            float logit = 0.0f;
#pragma unroll 1
            for (int half = 0; half < 2; ++half) {
                uint2 x[D_HALF];
                load_half(half, x);
                logit += multiply_half(weights, half, x);
            }
            release(n, WARPS);
            logit = (logit + shuffle_xor(logit, 1)) * by;
            const int row = 8 * (cta + tile * GRID) + g;
            if (t == 0 && row < V) p.logits[row] = *wait.failed ? float_of(0x7fc00000u) : logit;
        }
    }
};

KERNEL decode(const GRID_CONSTANT Params p) {
    SHARED_BYTES
    const int thread = thread_index(), warp = thread / 32, lane = thread % 32, cta = cta_index();
    u64* full = reinterpret_cast<u64*>(shared + AT_BARRIERS);
    u32* program = reinterpret_cast<u32*>(shared + AT_PROGRAM);  // blocks, and slots in the upper half
    int* failed = reinterpret_cast<int*>(shared + AT_FAILED);
    if (thread == 0) {
        for (int slot = 0; slot < SLOTS; ++slot) {
            barrier_init(full + slot, 1);
            barrier_init(full + SLOTS + slot, WARPS);
        }
        barriers_are_ready();
        *failed = 0;
    }
    for (int i = thread; i < p.visits; i += THREADS) program[i] = p.program[2 * i] | p.program[2 * i + 1] << 16;
    const int position = static_cast<int>(p.state[0]);
    const u32 base = static_cast<u32>(p.counters[0]);
    const bf16* embedding = p.embed + p.state[8 + p.state[1]] * D;
    cta_sync();
    const Ring ring{shared, full, full + SLOTS};
    if (warp == WARPS) {
        Producer producer{ring, lane};
        produce(producer, {p, program, cta, lane});
    } else {
        const Wait wait{failed, p.failure};
        Step step{{{p, shared, ring, wait, thread, warp, lane, lane / 4, lane % 4, cta}}};
        float residual = 0.0f;  // of one row, in the threads that own one
        if (thread < share(D, HIDDEN_ROWS, cta)) residual = value_of(embedding[cta * HIDDEN_ROWS + thread]);
        for (int visit = 0; visit < p.visits; ++visit) {
            const int block = program[visit] & 0xffff, slot = program[visit] >> 16;
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
        p.counters[0] = base + p.visits + 1;
        ++p.state[0];
        ++p.state[1];
    }
}
