"""Kernels of a decode step for up to 32 rows that share a layer program, seven for each visit of a block, in Triton.

As at batch 1 (`triton_kernels`) the program, tokens, positions and caches are data on the device. What differs is the
arithmetic: a tile of N weight rows is multiplied with all rows at once on the tensor cores, weights on the left, so
that N can be the 64 that Hopper's instructions take. Tiles lie in shared memory, where those find them, and several are
under way at once: no operand passes through registers.

Rows never meet: a row is one column of what `tl.dot` makes, and columns do not mix. Every sum has a fixed order: within
a program columns of weights ascend; where several programs share a product, each leaves its part in memory, and
`batch_add_kernel` adds the parts in turn. Nothing in this order depends on how many rows there are or what they hold,
so a row's numbers do not either. Padding rows point at a cache of capacity 0, whose every position is one scratch row.

The residual stream is float32. Whoever writes it also writes its norm, in the weights' type, for the next matrix.

State, int64 [rows, 8]: as `triton_kernels` names it, with the row's next token at STATE_CURSOR. A program has one row
more than visits: its block is L, the final norm. Norm gains are [L + 1, D] for that reason.

Shapes: B rows padded to 16 or 32, D hidden size, E rows of the fused projection, Q query heads, KV heads of keys and
values, H head_dim, I intermediate size, V vocabulary, S splits of the positions, K columns of a matrix, BK of a tile.
"""

import triton.language as tl

from layerroute.backbone.triton_kernels import (
    LOG2_E,
    STATE_CAPACITY,
    STATE_CURSOR,
    STATE_KEYS,
    STATE_POSITION,
    STATE_TOKENS,
    STATE_VALUES,
    hand_over,
    jit,
    wait_and_hand_over,
)


@jit
def _tile(matrix: tl.tensor, row_N: tl.tensor, height: tl.constexpr, column_K: tl.tensor, K: tl.constexpr) -> tl.tensor:
    """Rows and columns of a matrix, zeros beyond its edges."""
    inside = (row_N[:, None] < height) & (column_K[None, :] < K)
    return tl.load(matrix + row_N[:, None] * K + column_K[None, :], mask=inside, other=0.0)


@jit
def _products(
    matrix: tl.tensor, row_N: tl.tensor, height: tl.constexpr, source: tl.tensor, first: tl.tensor, last: tl.tensor,
    K: tl.constexpr, B: tl.constexpr, BK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Rows of a matrix times every row of `source` [B, K], over columns `first..last`: [N, B] in float32."""
    total_NB = tl.zeros((row_N.shape[0], B), tl.float32)
    for start in range(first, last, BK):
        column_K = start + tl.arange(0, BK)
        weight_NK = _tile(matrix, row_N, height, column_K, K)
        x_BK = _tile(source, tl.arange(0, B), B, column_K, K)
        total_NB = tl.dot(weight_NK, tl.trans(x_BK), total_NB, input_precision="ieee")
    return total_NB


@jit
def _pair_and_half(N: tl.constexpr) -> tl.tensor:
    """Which pair each row of a tile belongs to, and which half of the pair it is.

    A lane holds rows r and r + 8 of what the tensor cores make: pairs in this order never leave their lane.
    """
    G: tl.constexpr = 8 if N >= 16 else N // 2
    n_N = tl.arange(0, N)
    return n_N // (2 * G) * G + n_N % G, n_N // G % 2


@jit
def _halves(x_NB: tl.tensor) -> tl.tensor:
    """The first and the second rows of all pairs, [N / 2, B] each."""
    N: tl.constexpr = x_NB.shape[0]
    B: tl.constexpr = x_NB.shape[1]
    G: tl.constexpr = 8 if N >= 16 else N // 2
    first, second = tl.split(tl.permute(tl.reshape(x_NB, (N // (2 * G), 2, G, B)), (0, 2, 3, 1)))
    return tl.reshape(first, (N // 2, B)), tl.reshape(second, (N // 2, B))


@jit
def _store_norm(
    x: tl.tensor, value_D: tl.tensor, gain_D: tl.tensor, column_D: tl.tensor, D: tl.constexpr, EPS: tl.constexpr
) -> None:
    scale = tl.rsqrt(tl.sum(value_D * value_D, axis=0) / D + EPS)
    tl.store(x + column_D, value_D * scale * gain_D, mask=column_D < D)


@jit
def batch_embed_kernel(
    x: tl.tensor, hidden: tl.tensor, embedding: tl.tensor, gains: tl.tensor, program: tl.tensor, state: tl.tensor,
    EPS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Residual stream of one row = embedding of its token. First of a step, it has nothing to wait for."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    row, column_D = tl.program_id(0), tl.arange(0, DP)
    inside_D = column_D < D
    token = tl.load(state + row * STATE_TOKENS + STATE_CURSOR)
    value_D = tl.load(embedding + token * D + column_D, mask=inside_D, other=0.0).to(tl.float32)
    gain_D = tl.load(gains + tl.load(program) * D + column_D, mask=inside_D, other=0.0).to(tl.float32)
    tl.store(hidden + row * D + column_D, value_D, mask=inside_D)
    _store_norm(x + row * D, value_D, gain_D, column_D, D, EPS)


@jit
def batch_qkv_kernel(
    query: tl.tensor, x: tl.tensor, weight: tl.tensor, bias: tl.tensor, rope: tl.tensor, visit: tl.tensor,
    state: tl.tensor,
    D: tl.constexpr, Q: tl.constexpr, KV: tl.constexpr, H: tl.constexpr,
    B: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Query/key/value projection, bias, RoPE at each row's position; keys and values go to the visit's slot.

    A tile is N / 2 pairs of rows that RoPE mixes: row j and row j + H/2 of one head. Queries leave scaled for exp2.
    """
    R: tl.constexpr = N // 2
    pair = tl.program_id(0) * R
    head, first = pair // (H // 2), pair % (H // 2)
    pair_N, half_N = _pair_and_half(N)
    row_N = head * H + first + pair_N + half_N * (H // 2)
    block, slot = tl.load(visit), tl.load(visit + 1)
    rows: tl.constexpr = (Q + 2 * KV) * H
    matrix = weight + block * rows * D
    j_R, row_B = first + tl.arange(0, R), tl.arange(0, B)
    bias += block * rows + head * H
    low_bias_R, high_bias_R = tl.load(bias + j_R).to(tl.float32), tl.load(bias + H // 2 + j_R).to(tl.float32)
    position_B = tl.load(state + row_B * STATE_TOKENS + STATE_POSITION)
    angle_RB = position_B[None, :] * H + j_R[:, None]
    cos_RB, sin_RB = tl.load(rope + angle_RB), tl.load(rope + angle_RB + H // 2)
    if head < Q:
        cos_RB, sin_RB = cos_RB * (LOG2_E / H**0.5), sin_RB * (LOG2_E / H**0.5)
        target_B = query + (row_B * Q + head) * H
    else:
        kv_head = (head - Q) % KV
        field = tl.where(head < Q + KV, STATE_KEYS, STATE_VALUES)
        capacity_B = tl.load(state + row_B * STATE_TOKENS + STATE_CAPACITY)
        base_B = tl.load(state + row_B * STATE_TOKENS + field).to(tl.pointer_type(query.dtype.element_ty))
        target_B = base_B + ((slot * KV + kv_head) * capacity_B + position_B) * H
    if head >= Q + KV:
        cos_RB, sin_RB = tl.full((R, B), 1.0, tl.float32), tl.zeros((R, B), tl.float32)
    hand_over(PDL)
    a_RB, b_RB = _halves(_products(matrix, row_N, rows, x, 0, D, D, B, BK))
    a_RB, b_RB = a_RB + low_bias_R[:, None], b_RB + high_bias_R[:, None]
    target_RB = target_B[None, :] + j_R[:, None]
    tl.store(target_RB, a_RB * cos_RB - b_RB * sin_RB)
    tl.store(target_RB + H // 2, b_RB * cos_RB + a_RB * sin_RB)


@jit
def batch_output_kernel(
    parts: tl.tensor, partial: tl.tensor, lse: tl.tensor, weight: tl.tensor, visit: tl.tensor,
    D: tl.constexpr, Q: tl.constexpr, H: tl.constexpr, S: tl.constexpr,
    B: tl.constexpr, N: tl.constexpr, HEADS: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Put the splits of HEADS query heads together and project them: one part of the attention's output."""
    row_N, head = tl.program_id(0) * N + tl.arange(0, N), tl.program_id(1) * HEADS
    matrix = weight + tl.load(visit) * D * Q * H
    weight_NK = _tile(matrix, row_N, D, head * H + tl.arange(0, HEADS * H), Q * H)
    hand_over(PDL)
    row_B11 = tl.arange(0, B)[:, None, None]
    head_1G1 = head + tl.arange(0, HEADS)[None, :, None]
    h_11H = tl.arange(0, H)[None, None, :]
    lse_BG1 = lse + (row_B11 * Q + head_1G1) * S
    top_BG1 = tl.load(lse_BG1)
    for s in tl.static_range(1, S):
        top_BG1 = tl.maximum(top_BG1, tl.load(lse_BG1 + s))
    sum_BG1 = tl.zeros((B, HEADS, 1), tl.float32)
    attended_BGH = tl.zeros((B, HEADS, H), tl.float32)
    for s in tl.static_range(S):
        share_BG1 = tl.exp2(tl.load(lse_BG1 + s) - top_BG1)
        sum_BG1 += share_BG1
        attended_BGH += tl.load(partial + ((row_B11 * S + s) * Q + head_1G1) * H + h_11H).to(tl.float32) * share_BG1
    x_BK = tl.reshape(attended_BGH / sum_BG1, (B, HEADS * H)).to(weight_NK.dtype)
    part_NB = tl.dot(weight_NK, tl.trans(x_BK), input_precision="ieee")
    where_NB = (tl.program_id(1) * B + tl.arange(0, B)[None, :]) * D + row_N[:, None]
    tl.store(parts + where_NB, part_NB, mask=row_N[:, None] < D)


@jit
def batch_gate_up_kernel(
    active: tl.tensor, x: tl.tensor, weight: tl.tensor, visit: tl.tensor,
    D: tl.constexpr, I: tl.constexpr,  # noqa: E741
    B: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Gate and up projection, SiLU(gate) * up. A tile is N / 2 rows of the gate and the same rows of the up matrix."""
    R: tl.constexpr = N // 2
    pair_N, half_N = _pair_and_half(N)
    # Beyond the last entry a gate row would be an up row; that is computed and not stored.
    row_N = tl.program_id(0) * R + pair_N + half_N * I
    matrix = weight + tl.load(visit) * 2 * I * D
    hand_over(PDL)
    gate_RB, up_RB = _halves(_products(matrix, row_N, 2 * I, x, 0, D, D, B, BK))
    active_RB = gate_RB / (1.0 + tl.exp(-gate_RB)) * up_RB
    entry_R = tl.program_id(0) * R + tl.arange(0, R)
    tl.store(active + tl.arange(0, B)[None, :] * I + entry_R[:, None], active_RB, mask=entry_R[:, None] < I)


@jit
def batch_down_kernel(
    parts: tl.tensor, active: tl.tensor, weight: tl.tensor, visit: tl.tensor,
    D: tl.constexpr, I: tl.constexpr, LENGTH: tl.constexpr,  # noqa: E741
    B: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """One part of the down projection: that of LENGTH columns."""
    row_N, first = tl.program_id(0) * N + tl.arange(0, N), tl.program_id(1) * LENGTH
    matrix = weight + tl.load(visit) * D * I
    wait_and_hand_over(PDL)
    part_NB = _products(matrix, row_N, D, active, first, tl.minimum(first + LENGTH, I), I, B, BK)
    where_NB = (tl.program_id(1) * B + tl.arange(0, B)[None, :]) * D + row_N[:, None]
    tl.store(parts + where_NB, part_NB, mask=row_N[:, None] < D)


@jit
def batch_add_kernel(
    x: tl.tensor, hidden: tl.tensor, parts: tl.tensor, gains: tl.tensor, gain_of: tl.tensor,
    EPS: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, B: tl.constexpr, PARTS: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Add the parts of a projection to one row of the residual stream; its norm is `x`.

    `gain_of` points at the block whose norm it is: this visit's, or the next one's.
    """
    row, column_D = tl.program_id(0), tl.arange(0, DP)
    inside_D = column_D < D
    gain_D = tl.load(gains + tl.load(gain_of) * D + column_D, mask=inside_D, other=0.0).to(tl.float32)
    hand_over(PDL)
    value_D = tl.load(hidden + row * D + column_D, mask=inside_D, other=0.0)
    for part in tl.static_range(PARTS):
        value_D += tl.load(parts + (part * B + row) * D + column_D, mask=inside_D, other=0.0)
    tl.store(hidden + row * D + column_D, value_D, mask=inside_D)
    _store_norm(x + row * D, value_D, gain_D, column_D, D, EPS)


@jit
def batch_lm_head_kernel(
    logits: tl.tensor, x: tl.tensor, weight: tl.tensor,
    ROWS: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
    B: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """N logits of the first ROWS rows."""
    row_N, row_B = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, B)
    if PDL:
        tl.extra.cuda.gdc_wait()
    logits_NB = _products(weight, row_N, V, x, 0, D, D, B, BK)
    inside_NB = (row_B[None, :] < ROWS) & (row_N[:, None] < V)
    tl.store(logits + row_B[None, :] * V + row_N[:, None], logits_NB, mask=inside_NB)
