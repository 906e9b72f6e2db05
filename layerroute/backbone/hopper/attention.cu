// Attention of the query heads of one KV head over one split of the positions, on the tensor cores.

struct Attention : Consumer {
    struct Tile {  // 16 positions: of the keys columns 16t..16t+15 of positions g and g + 8; of the values columns
        uint4 key[2][2], value[4];  // 8g..8g+7 of positions 2t, 2t + 1, 2t + 8, 2t + 9
    };
    DEVICE void load_tile(Tile& tile, const bf16* keys, const bf16* values, int first, int end) {
        const uint4 zero = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int position = first + 8 * half + g;
            const uint4* from = reinterpret_cast<const uint4*>(keys + static_cast<size_t>(position) * H + 16 * t);
            tile.key[half][0] = position < end ? read_only(from) : zero;
            tile.key[half][1] = position < end ? read_only(from + 1) : zero;
        }
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            const int position = first + 2 * t + (n & 1) + 8 * (n >> 1);
            const uint4* from = reinterpret_cast<const uint4*>(values + static_cast<size_t>(position) * H + 8 * g);
            tile.value[n] = position < end ? read_only(from) : zero;
        }
    }

    DEVICE static u32 part(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

    // One step of the online softmax of head g over 16 positions.
    DEVICE void attend(const Tile& tile, const uint4 (&query)[2], int first, int end, float& top, float& sum,
                       float (&out)[8][4]) {
        float score[2][4] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int k = 0; k < 4; ++k)  // columns 16t + 4k .. 16t + 4k + 3 of every lane
                mma(score[half], part(query[k / 2], 2 * k % 4), 0, part(query[k / 2], 2 * k % 4 + 1), 0,
                    part(tile.key[half][k / 2], 2 * k % 4), part(tile.key[half][k / 2], 2 * k % 4 + 1));
        float highest = top;
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                if (first + 8 * half + 2 * t + n >= end) score[half][n] = MINUS_INFINITY;
                highest = fmaxf(highest, score[half][n]);
            }
        highest = fmaxf(highest, shuffle_xor(highest, 1));
        highest = fmaxf(highest, shuffle_xor(highest, 2));
        const float kept = exp2_of(top - highest);
        top = highest;
        float weight[2][2], weights = 0.0f;
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int n = 0; n < 2; ++n) weights += weight[half][n] = exp2_of(score[half][n] - highest);
        sum = sum * kept + weights;  // of this lane's positions; the lanes of a head are added at the end
        const u32 early = pack_bf16(weight[0][0], weight[0][1]), late = pack_bf16(weight[1][0], weight[1][1]);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            out[j][0] *= kept, out[j][1] *= kept;
            const u32 a = part(tile.value[0], j / 2), b = part(tile.value[1], j / 2);
            const u32 c = part(tile.value[2], j / 2), d = part(tile.value[3], j / 2);
            mma(out[j], early, 0, late, 0, j % 2 ? high_halves(a, b) : low_halves(a, b),
                j % 2 ? high_halves(c, d) : low_halves(c, d));
        }
    }

    static constexpr int DEPTH = 2;  // tiles that are fetched before the queries are there
    DEVICE void attention(int slot, int position, u32 tag, const float* rope) {
        const int task = GRID - 1 - cta;  // CTAs without rows of the matrices come first
        if (task >= KV * p.splits) return;
        const int head = task % KV, split = task / KV;
        const size_t offset = (static_cast<size_t>(slot) * KV + head) * p.state[4] * H;
        bf16* keys = reinterpret_cast<bf16*>(p.state[2]) + offset;
        bf16* values = reinterpret_cast<bf16*>(p.state[3]) + offset;
        const int length = up((position + p.splits) / p.splits, 16), start = split * length;  // split 0 is not empty
        const int end = least(start + length, position + 1);
        const bool has_new = start <= position && position < end;
        Tile tile[DEPTH];
        int next = start + 16 * warp;
#pragma unroll
        for (int n = 0; n < DEPTH; ++n) load_tile(tile[n], keys, values, next + n * 16 * WARPS, least(end, position));

        take_queries(head, has_new, position, tag, rope, keys, values);

        float top = MINUS_INFINITY, sum = 0.0f, out[8][4] = {};
        uint4 query[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
        if (g < G) {
            const uint4* from = reinterpret_cast<const uint4*>(shared + AT_QUERY + g * H * 2 + t * 32);
            query[0] = from[0], query[1] = from[1];
        }
        while (next < end) {
#pragma unroll
            for (int n = 0; n < DEPTH; ++n) {
                if (next < end) {
                    if (next <= position && position < next + 16) place_new(tile[n], position - next);
                    attend(tile[n], query, next, end, top, sum, out);
                }
                load_tile(tile[n], keys, values, next + DEPTH * 16 * WARPS, least(end, position));
                next += 16 * WARPS;
            }
        }
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        float* tops = reinterpret_cast<float*>(shared + AT_TOP);
        float* sums = reinterpret_cast<float*>(shared + AT_SUM);
        float* outs = reinterpret_cast<float*>(shared + AT_OUT);
        if (t == 0) tops[warp * 8 + g] = top, sums[warp * 8 + g] = sum;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            outs[(warp * 8 + g) * OUT_ROW + 16 * t + j] = out[j][0];
            outs[(warp * 8 + g) * OUT_ROW + 16 * t + 8 + j] = out[j][1];
        }
        consumers_sync(2);
        combine_warps(head, split, ceil_div(most(end - start, 1), 16), tag);
        stamp();
    }

    // Queries, scaled for exp2, to shared memory; the split of the new position also takes its key and value, there and
    // into the cache, where later steps find them.
    DEVICE void take_queries(int head, bool has_new, int position, u32 tag, const float* rope, bf16* keys, bf16* values) {
        bf16* query = reinterpret_cast<bf16*>(shared + AT_QUERY);
        bf16* new_key = reinterpret_cast<bf16*>(shared + AT_NEW);
        const u64* rows = words() + W_QKV;
        begin_wait(FROM_QKV);
        for (int i = thread; i < (has_new ? G + 1 : G) * (H / 2); i += CONSUMERS) {
            const int q = i / (H / 2), j = i % (H / 2), row = (q < G ? head * G + q : Q + head) * H + j;
            const bool takes_value = has_new && i < H / 2;
            const float cosine = read_only(rope + j), sine = read_only(rope + H / 2 + j);
            u64 a, b, c = word_of(0, tag), d = c;
            do {
                a = load_word(rows + row), b = load_word(rows + row + H / 2);
                if (takes_value) load_two_words(rows + (Q + KV + head) * H + 2 * i, c, d);
            } while (!(has_tag(a, tag) && has_tag(b, tag) && has_tag(c, tag) && has_tag(d, tag)) && !wait.gives_up());
            const float x = float_of(static_cast<u32>(a)), y = float_of(static_cast<u32>(b));
            const float factor = q < G ? 1.4426950408889634f * 0.125f : 1.0f;  // log2(e) / sqrt(H)
            const u32 pair = pack_bf16((x * cosine - y * sine) * factor, (y * cosine + x * sine) * factor);
            const bf16 low = static_cast<bf16>(pair), high = static_cast<bf16>(pair >> 16);
            bf16* to = q < G ? query + q * H : new_key;
            to[j] = low, to[H / 2 + j] = high;
            if (q == G) {
                bf16* cached = keys + static_cast<size_t>(position) * H;
                cached[j] = low, cached[H / 2 + j] = high;
            }
            if (takes_value) {
                const u32 value = pack_bf16(float_of(static_cast<u32>(c)), float_of(static_cast<u32>(d)));
                reinterpret_cast<u32*>(new_key + H)[i] = value;
                reinterpret_cast<u32*>(values + static_cast<size_t>(position) * H)[i] = value;
            }
        }
        consumers_sync(2);
        stamp();
    }

    DEVICE void place_new(Tile& tile, int place) {  // the new position in the tile that it falls in
        const uint4* from = reinterpret_cast<const uint4*>(shared + AT_NEW);
#pragma unroll
        for (int half = 0; half < 2; ++half)
            if (place == 8 * half + g) tile.key[half][0] = from[2 * t], tile.key[half][1] = from[2 * t + 1];
#pragma unroll
        for (int n = 0; n < 4; ++n)
            if (place == 2 * t + (n & 1) + 8 * (n >> 1)) tile.value[n] = from[H / 8 + g];
    }

    // Thread 4j + k adds entry j of heads 2k and 2k + 1 over the warps that had positions.
    DEVICE void combine_warps(int head, int split, int used, u32 tag) {
        const float* tops = reinterpret_cast<const float*>(shared + AT_TOP);
        const float* sums = reinterpret_cast<const float*>(shared + AT_SUM);
        const float* outs = reinterpret_cast<const float*>(shared + AT_OUT);
        const int j = thread / 4, q = 2 * t;
        float result[2];
        u32 lse[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float top = MINUS_INFINITY, sum = 0.0f, x = 0.0f;
#pragma unroll
            for (int n = 0; n < WARPS; ++n)
                if (n < used) top = fmaxf(top, tops[n * 8 + q + i]);
#pragma unroll
            for (int n = 0; n < WARPS; ++n) {
                if (n >= used) continue;
                const float weight = top == MINUS_INFINITY ? 0.0f : exp2_of(tops[n * 8 + q + i] - top);
                sum += weight * sums[n * 8 + q + i];
                x += weight * outs[(n * 8 + q + i) * OUT_ROW + j];
            }
            result[i] = sum > 0.0f ? divided(x, sum) : 0.0f;
            lse[i] = bits_of(sum > 0.0f ? top + log2_of(sum) : MINUS_INFINITY);
        }
        const u32 mine = pack_bf16(result[0], result[1]);
        u32 pair[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) pair[i] = shuffle(mine, lane / 4 * 4 + i);
        const int at = split * KV + head;
        if (t < COPIES)
            store_wide_word(p.words + t * WORDS + W_PARTIAL + (at * H + j) * 2,
                            wide_word_of(pair[0], pair[1], pair[2], pair[3], tag));
        if (j == 0)
#pragma unroll
            for (int copy = 0; copy < COPIES; ++copy)
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    store_word(p.words + copy * WORDS + W_LSE + at * 8 + q + i, word_of(lse[i], tag));
    }
};
