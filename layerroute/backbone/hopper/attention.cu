// Attention of the query heads of one KV head over one split of the positions, on the tensor cores.

struct Attention : Consumer {
    struct Tile {  // 16 positions: of the keys columns 16t..16t+15 of positions g and g + 8; of the values columns
        uint4 key[2][2], value[4];  // 8g..8g+7 of positions 2t, 2t + 1, 2t + 8, 2t + 9
    };
    // Of positions from `first` on; where there is none before `end`, its last: such positions do not count.
    DEVICE void load_tile(Tile& tile, const bf16* keys, const bf16* values, int first, int end) {
        if (first >= end) {
            tile = {};
            return;
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int position = least(first + 8 * half + g, end - 1);
            const uint4* from = reinterpret_cast<const uint4*>(keys + static_cast<size_t>(position) * H + 16 * t);
            tile.key[half][0] = read_only(from), tile.key[half][1] = read_only(from + 1);
        }
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            const int position = least(first + 2 * t + (n & 1) + 8 * (n >> 1), end - 1);
            tile.value[n] = read_only(reinterpret_cast<const uint4*>(values + static_cast<size_t>(position) * H + 8 * g));
        }
    }

    DEVICE static u32 part(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

    static constexpr int ROUND = 16 * WARPS;  // positions from a warp's first tile to its second
    // One step of the online softmax over two tiles. Lane 4g + t has the scores of heads 2t and 2t + 1 at positions g and
    // g + 8 of each, and of these heads columns 8g + 2j and 8g + 2j + 1 of the result in out[j]: entries 0 and 2 are of the
    // first head. What of K and V stands in the rows of A, the order of columns: both are free.
    DEVICE void attend(const Tile (&tile)[2], const uint4 (&query)[2], int first, int end, float (&top)[2], float (&sum)[2],
                       float (&out)[4][4]) {
        float score[2][2][4] = {}, weight[2][2][2];  // of a tile: positions g and g + 8, then heads
#pragma unroll
        for (int k = 0; k < 4; ++k)  // columns 16t + 4k .. 16t + 4k + 3 of every lane
#pragma unroll
            for (int n = 0; n < 2; ++n)
                mma(score[n][k / 2], part(tile[n].key[0][k / 2], 2 * k % 4), part(tile[n].key[1][k / 2], 2 * k % 4),
                    part(tile[n].key[0][k / 2], 2 * k % 4 + 1), part(tile[n].key[1][k / 2], 2 * k % 4 + 1),
                    part(query[k / 2], 2 * k % 4), part(query[k / 2], 2 * k % 4 + 1));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float highest = top[i];
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                const int tile_of = n / 2, late = n % 2;
                float& x = weight[tile_of][late][i];
                x = score[tile_of][0][2 * late + i] + score[tile_of][1][2 * late + i];
                if (first + tile_of * ROUND + 8 * late + g >= end) x = MINUS_INFINITY;
                highest = fmaxf(highest, x);
            }
#pragma unroll
            for (int mask = 4; mask < 32; mask *= 2) highest = fmaxf(highest, shuffle_xor(highest, mask));
            const float kept = exp2_of(top[i] - highest);
            top[i] = highest, sum[i] *= kept;  // of this lane's positions; the lanes are added at the end
#pragma unroll
            for (int n = 0; n < 4; ++n) sum[i] += weight[n / 2][n % 2][i] = exp2_of(weight[n / 2][n % 2][i] - highest);
#pragma unroll
            for (int j = 0; j < 4; ++j) out[j][i] *= kept, out[j][2 + i] *= kept;
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            const u32 early = transposed(pack_bf16(weight[n][0][0], weight[n][0][1]));
            const u32 late = transposed(pack_bf16(weight[n][1][0], weight[n][1][1]));
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const u32 a = part(tile[n].value[0], j), b = part(tile[n].value[1], j);
                const u32 c = part(tile[n].value[2], j), d = part(tile[n].value[3], j);
                mma(out[j], low_halves(a, b), high_halves(a, b), low_halves(c, d), high_halves(c, d), early, late);
            }
        }
    }

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
        Tile tile[2];  // fetched before the queries are there
        int next = start + 16 * warp;
        load_tile(tile[0], keys, values, next, least(end, position));
        load_tile(tile[1], keys, values, next + ROUND, least(end, position));

        take_queries(head, has_new, position, tag, rope, keys, values);

        float top[2] = {MINUS_INFINITY, MINUS_INFINITY}, sum[2] = {}, out[4][4] = {};
        uint4 query[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
        if (g < G) {
            const uint4* from = reinterpret_cast<const uint4*>(shared + AT_QUERY + g * H * 2 + t * 32);
            query[0] = from[0], query[1] = from[1];
        }
#pragma unroll 1
        while (next < end) {
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                const int first = next + n * ROUND;
                if (first <= position && position < first + 16 && position < end) place_new(tile[n], position - first);
            }
            attend(tile, query, next, end, top, sum, out);
            next += 2 * ROUND;
            if (next >= end) break;
            load_tile(tile[0], keys, values, next, least(end, position));
            load_tile(tile[1], keys, values, next + ROUND, least(end, position));
        }
        float* tops = reinterpret_cast<float*>(shared + AT_TOP);
        float* sums = reinterpret_cast<float*>(shared + AT_SUM);
        float* outs = reinterpret_cast<float*>(shared + AT_OUT);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int row = warp * 8 + 2 * t + i;
#pragma unroll
            for (int mask = 4; mask < 32; mask *= 2) sum[i] += shuffle_xor(sum[i], mask);
            if (g == 0) tops[row] = top[i], sums[row] = sum[i];
            if (2 * t + i >= G) continue;
            float4* to = reinterpret_cast<float4*>(outs + (warp * G + 2 * t + i) * OUT_ROW + 8 * g);
            to[0] = make_float4(out[0][i], out[0][2 + i], out[1][i], out[1][2 + i]);
            to[1] = make_float4(out[2][i], out[2][2 + i], out[3][i], out[3][2 + i]);
        }
        consumers_sync();
        combine_warps(head, split, tag);
        consumers_sync();  // the next vector goes where the warps' results were
        stamp();
    }

    // Queries, scaled for exp2, to shared memory; the split of the new position also takes its key and value, there and
    // into the cache, where later steps find them.
    DEVICE void take_queries(int head, bool has_new, int position, u32 tag, const float* rope, bf16* keys, bf16* values) {
        bf16* query = reinterpret_cast<bf16*>(shared + AT_QUERY);
        bf16* new_key = reinterpret_cast<bf16*>(shared + AT_NEW);
        begin_wait(ATTENTION);
        for (int i = thread; i < (has_new ? G + 1 : G) * (H / 2); i += CONSUMERS) {
            const int q = i / (H / 2), j = i % (H / 2), row = (q < G ? head * G + q : Q + head) * H + j;
            const bool takes_value = has_new && i < H / 2;
            const float cosine = read_only(rope + j), sine = read_only(rope + H / 2 + j);
            u64 a, b, c = word_of(0, tag), d = c;
            do {
                a = load_word(words(W_QKV + row)), b = load_word(words(W_QKV + row + H / 2));
                if (takes_value) load_two_words(words(W_QKV + (Q + KV + head) * H + 2 * i), c, d);
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
        consumers_sync();
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

    DEVICE void combine_warps(int head, int split, u32 tag) {
        const float* tops = reinterpret_cast<const float*>(shared + AT_TOP);
        const float* sums = reinterpret_cast<const float*>(shared + AT_SUM);
        const float* outs = reinterpret_cast<const float*>(shared + AT_OUT);
        for (int i = thread; i < G * H / 2; i += CONSUMERS) {
            const int q = i / (H / 2), pair = i % (H / 2);
            float top = MINUS_INFINITY, sum = 0.0f, x = 0.0f, y = 0.0f;
#pragma unroll
            for (int n = 0; n < WARPS; ++n) top = fmaxf(top, tops[n * 8 + q]);
#pragma unroll
            for (int n = 0; n < WARPS; ++n) {
                const float weight = top == MINUS_INFINITY ? 0.0f : exp2_of(tops[n * 8 + q] - top);
                sum += weight * sums[n * 8 + q];
                const float2 part = *reinterpret_cast<const float2*>(outs + (n * G + q) * OUT_ROW + 2 * pair);
                x += weight * part.x, y += weight * part.y;
            }
            const float whole = sum > 0.0f ? divided(1.0f, sum) : 0.0f;
            const int at = (head * G + q) * (H / 2) + pair;
            publish(W_PARTIAL + split * (QH / 2) + at, pack_bf16(x * whole, y * whole), tag);
            if (pair == 0) {
                const float lse = sum > 0.0f ? top + log2_of(sum) : MINUS_INFINITY;
                publish(W_LSE + split * Q + head * G + q, bits_of(lse), tag);
            }
        }
    }
};
