// The producer warp: copies every tile of weights, in the order in which the consumers take them.

struct Producer {
    Ring ring;
    int lane, issued = 0, landing_slot = 0;
    u32 landing_round = 0;

    // Lane r copies row r of `rows`, `bytes` from `source` on, to r * stride.
    DEVICE void copy(const bf16* source, int rows, u32 bytes, int stride) {
        if (ring.round > 0) await_barrier(ring.empty + ring.slot, (ring.round - 1) & 1);
        if (issued >= IN_FLIGHT) {  // what is on its way at once is bounded: more of it slows the hand-offs down
            await_barrier(ring.full + landing_slot, landing_round & 1);
            if (++landing_slot == SLOTS) landing_slot = 0, ++landing_round;
        }
        ++issued;
        if (lane == 0) barrier_expect(ring.full + ring.slot, rows * bytes);
        warp_sync();
        if (lane < rows) bulk_copy(ring.slots + ring.slot * SLOT_BYTES + lane * stride, source, bytes, ring.full + ring.slot);
        ring.advance();
    }
};

DEVICE void produce(const Params& p, Producer& producer, const int* program, int cta) {
    const int lane = producer.lane;
    const int qkv_rows = share(E, QKV_ROWS, cta), hidden_rows = share(D, HIDDEN_ROWS, cta);
    const int pairs = share(I, GATE_UP_COUNT, cta);
    for (int visit = 0; visit < p.visits; ++visit) {
        const size_t block = program[2 * visit];
        const bf16* qkv = p.qkv + (block * E + cta * QKV_ROWS + lane) * D;
        for (int first = 0; first < qkv_rows; first += 8)
            producer.copy(qkv + static_cast<size_t>(first) * D, least(8, qkv_rows - first), 2 * D, D_STRIDE);
        if (hidden_rows)
            producer.copy(p.output + (block * D + cta * HIDDEN_ROWS + lane) * QH, hidden_rows, 2 * QH, QH_STRIDE);
        const bf16* gate = p.gate_up + (block * 2 * I + cta * GATE_UP_COUNT + lane) * D;
        for (int first = 0; first < pairs; first += 8) {
            const bf16* from = gate + static_cast<size_t>(first) * D;
            producer.copy(from, least(8, pairs - first), 2 * D, D_STRIDE);
            producer.copy(from + static_cast<size_t>(I) * D, least(8, pairs - first), 2 * D, D_STRIDE);
        }
        if (hidden_rows)
            for (int chunk = 0; chunk < I_CHUNKS; chunk += DOWN_CHUNKS)
                producer.copy(p.down + (block * D + cta * HIDDEN_ROWS + lane) * I + 32 * chunk, hidden_rows,
                              64 * least(DOWN_CHUNKS, I_CHUNKS - chunk), DOWN_STRIDE);
    }
    for (int tile = cta; tile < VOCABULARY_TILES; tile += GRID)
        for (int first = 16 * tile; first < least(16 * tile + 16, V); first += 8)
            producer.copy(p.lm_head + static_cast<size_t>(first + lane) * D, least(8, V - first), 2 * D, D_STRIDE);
    // The launch must not end while copies are under way: consumers wait for every slot, so none is.
}
