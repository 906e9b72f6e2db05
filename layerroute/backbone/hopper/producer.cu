// The producer warp: copies every slot of weights, in the order in which the consumers take them.

struct Matrix {  // what a lane copies of a CTA's part of a matrix
    const bf16* source;
    int slots, step;           // numbers from a slot to the next
    int rows, each;            // rows that are left, and of a slot
    int passed;                // rows that are behind with each slot
    u32 bytes, last_bytes;     // of a row, and of a row in the last slot
    int stride;
};

DEVICE Matrix matrix_of(const Params& p, int phase, size_t block, int cta, int lane) {
    const int hidden = share(D, HIDDEN_ROWS, cta), pairs = share(I, GATE_UP_COUNT, cta), qkv = share(E, QKV_ROWS, cta);
    if (phase == QKV)
        return {p.qkv + (block * E + cta * QKV_ROWS + lane) * D, (qkv + 7) / 8, 8 * D, qkv, 8, 8, 2 * D, 2 * D,
                D_STRIDE};
    if (phase == OUTPUT)
        return {p.output + (block * D + cta * HIDDEN_ROWS + lane) * QH, hidden > 0, 0, hidden, 8, 0, 2 * QH, 2 * QH,
                QH_STRIDE};
    if (phase == GATE_UP)  // gates go to rows 0 to 3, the ups that belong to them to rows 4 to 7
        return {p.gate_up + ((block * 2 + lane / 4) * I + cta * GATE_UP_COUNT + lane % 4) * D, (pairs + 3) / 4, 4 * D, pairs,
                4, 4, 2 * D, 2 * D, D_STRIDE};
    if (phase == DOWN)
        return {p.down + (block * D + cta * HIDDEN_ROWS + lane) * I, hidden > 0 ? DOWN_SLICES / 2 : 0, 64 * DOWN_CHUNKS,
                hidden, 8, 0, 128 * DOWN_CHUNKS, 64 * (I_CHUNKS - (DOWN_SLICES - 2) * DOWN_CHUNKS), DOWN_STRIDE};
    return {p.lm_head + static_cast<size_t>(8 * cta + lane) * D, (VOCABULARY_TILES - cta + GRID - 1) / GRID, 8 * GRID * D,
            V - 8 * cta, 8, 8 * GRID, 2 * D, 2 * D, D_STRIDE};
}

// A place in the list of all slots of a step.
struct Cursor {
    const Params& p;
    const u32* program;
    int cta, lane, next_phase = 0, phase = 0;
    Matrix m = {};

    DEVICE bool settle() {  // false at the end of the list
        while (m.slots == 0) {
            if (next_phase > 4 * p.visits) return false;
            const int visit = next_phase / 4;
            phase = visit == p.visits ? VOCABULARY : next_phase % 4;
            m = matrix_of(p, phase, program[visit] & 0xffff, cta, lane);
            ++next_phase;
        }
        return true;
    }
    DEVICE void pass() { --m.slots, m.source += m.step, m.rows -= m.passed; }
    DEVICE int rows() { return least(m.each, m.rows) * (phase == GATE_UP ? 2 : 1); }
    DEVICE bool has_row() { return (phase == GATE_UP && lane < 8 ? lane % 4 : lane) < least(m.each, m.rows); }
    DEVICE u32 bytes() { return m.slots > 1 ? m.bytes : m.last_bytes; }
};

struct Producer {
    Ring ring;
    int lane;

    DEVICE void copy(Cursor& from) {
        const u32 in_flight = from.phase == VOCABULARY ? IN_FLIGHT + 1 : IN_FLIGHT;  // nobody waits for hand-offs
        const u32 n = ring.next++, slot = Ring::slot(n), landing = n - in_flight;
        if (n >= SLOTS) await_barrier(ring.empty + slot, Ring::parity(n - SLOTS));
        // What is on its way at once is bounded: more of it slows the hand-offs down.
        if (n >= in_flight) await_barrier(ring.full + Ring::slot(landing), Ring::parity(landing));
        if (lane == 0) barrier_expect(ring.full + slot, from.rows() * from.bytes());
        warp_sync();
        if (from.has_row())
            bulk_copy(ring.slots + slot * SLOT_BYTES + lane * from.m.stride, from.m.source, from.bytes(), ring.full + slot);
    }
};

DEVICE void produce(Producer& producer, Cursor cursor) {
    for (; cursor.settle(); cursor.pass()) producer.copy(cursor);
    // The launch must not end while copies are under way: consumers wait for every slot, so none is.
}
