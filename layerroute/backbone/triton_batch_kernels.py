"""Kernels of a decode step for up to 32 rows that share a layer program, six for each visit of a block, in Triton.

As at batch 1 (`triton_kernels`) the program, tokens, positions and caches are data on the device, and with programmatic
dependent launch a kernel fetches its first weights before it waits. What differs is the arithmetic: a tile of weights
is multiplied with all rows at once on the tensor cores.

Rows never meet: a row is one line of the tile that `tl.dot` multiplies, and lines do not mix. A product of length K is
cut into C chunks of BK columns; each warp sums its chunk in order, and chunks are added in a fixed tree. Nothing in
this order depends on how many rows there are or what they hold, so a row's numbers do not either. Padding rows point
at a cache of capacity 0, whose every position is one scratch row.

The residual stream is float32. Whoever writes it also writes what the next matrix reads: the stream times the gain of
the next norm, in the weights' type, and the squares of what was written, summed over each group of columns. A reader
adds up the squares and scales its products, so no kernel reads the whole float32 stream and none exists for the norm.

State, int64 [rows, 8]: as `triton_kernels` names it, with the row's next token at STATE_CURSOR. A program has one row
more than visits: its block is L, the final norm. Norm gains are [L + 1, D] for that reason.

Shapes: B rows padded to 16 or 32, D hidden size, E rows of the fused projection, Q query heads, KV heads of keys and
values, H head_dim, I intermediate size, V vocabulary, S splits of the positions, N rows of a weight tile, P groups of
columns that the squares are summed over, padded. `first` is the first weight row of a tile.
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
)


@jit
def _weights(
    matrix: tl.tensor, row_N: tl.tensor, height: tl.constexpr, start: tl.tensor, width: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Rows of a matrix from column `start` on, [C, N, BK]; zeros beyond its edges."""
    row = row_N[None, :, None]
    column = start + tl.arange(0, C)[:, None, None] * BK + tl.arange(0, BK)[None, None, :]
    return tl.load(matrix + row * width + column, mask=(row < height) & (column < width), other=0.0)


@jit
def _products(
    source: tl.tensor, matrix: tl.tensor, tile: tl.tensor, row_N: tl.tensor, height: tl.constexpr, K: tl.constexpr,
    B: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Every row of `source` [B, K] times rows of a matrix, whose first columns `tile` holds: [B, N] in float32."""
    row = tl.arange(0, B)[None, :, None]
    total = tl.zeros((C, B, tile.shape[1]), tl.float32)
    following = _weights(matrix, row_N, height, C * BK, K, C, BK)
    for start in range(0, K, C * BK):
        after = _weights(matrix, row_N, height, start + 2 * C * BK, K, C, BK)
        column = start + tl.arange(0, C)[:, None, None] * BK + tl.arange(0, BK)[None, None, :]
        x = tl.load(source + row * K + column, mask=column < K, other=0.0)
        total = tl.dot(x, tl.permute(tile, (0, 2, 1)), total, input_precision="ieee")
        tile, following = following, after
    return tl.sum(total, axis=0)


@jit
def _scale(squares: tl.tensor, B: tl.constexpr, P: tl.constexpr, D: tl.constexpr, EPS: tl.constexpr) -> tl.tensor:
    """One over the root mean square of every row of the residual stream, [B]."""
    squares_BP = tl.load(squares + tl.arange(0, B)[:, None] * P + tl.arange(0, P)[None, :])
    return tl.rsqrt(tl.sum(squares_BP, axis=1) / D + EPS)


@jit
def _halves(x_BN: tl.tensor) -> tl.tensor:
    """The left and the right half of the columns."""
    B: tl.constexpr = x_BN.shape[0]
    R: tl.constexpr = x_BN.shape[1] // 2
    return tl.split(tl.permute(tl.reshape(x_BN, (B, 2, R)), (0, 2, 1)))


@jit
def batch_embed_kernel(
    hidden: tl.tensor, scaled: tl.tensor, squares: tl.tensor, embedding: tl.tensor, gains: tl.tensor,
    program: tl.tensor, state: tl.tensor,
    D: tl.constexpr, N: tl.constexpr, P: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Residual stream of one row = embedding of its token. First of a step, it has nothing to wait for."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0)
    token = tl.load(state + row * STATE_TOKENS + STATE_CURSOR)
    group = tl.arange(0, P)[:, None]
    column = group * N + tl.arange(0, N)[None, :]
    value = tl.load(embedding + token * D + column, mask=column < D, other=0.0).to(tl.float32)
    gain = tl.load(gains + tl.load(program) * D + column, mask=column < D, other=0.0).to(tl.float32)
    tl.store(hidden + row * D + column, value, mask=column < D)
    tl.store(scaled + row * D + column, value * gain, mask=column < D)
    tl.store(squares + row * P + tl.arange(0, P), tl.sum(value * value, axis=1))


@jit
def batch_qkv_kernel(
    query: tl.tensor, scaled: tl.tensor, squares: tl.tensor, weight: tl.tensor, bias: tl.tensor, rope: tl.tensor,
    visit: tl.tensor, state: tl.tensor,
    EPS: tl.constexpr, D: tl.constexpr, Q: tl.constexpr, KV: tl.constexpr, H: tl.constexpr, P: tl.constexpr,
    B: tl.constexpr, N: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Query/key/value projection, bias, RoPE at each row's position; keys and values go to the visit's slot.

    A tile is N / 2 pairs of rows that RoPE mixes: row j and row j + H/2 of one head. Queries leave scaled for exp2.
    """
    R: tl.constexpr = N // 2
    pair = tl.program_id(0) * R
    head, first = pair // (H // 2), pair % (H // 2)
    n_N = tl.arange(0, N)
    row_N = head * H + first + n_N % R + n_N // R * (H // 2)
    block, slot = tl.load(visit), tl.load(visit + 1)
    rows: tl.constexpr = (Q + 2 * KV) * H
    matrix = weight + block * rows * D
    tile = _weights(matrix, row_N, rows, 0, D, C, BK)
    bias_N = tl.load(bias + block * rows + row_N).to(tl.float32)
    row_B = tl.arange(0, B)
    position_B = tl.load(state + row_B * STATE_TOKENS + STATE_POSITION)
    angle_BR = position_B[:, None] * H + first + tl.arange(0, R)[None, :]
    cos_BR, sin_BR = tl.load(rope + angle_BR), tl.load(rope + angle_BR + H // 2)
    if head < Q:
        cos_BR, sin_BR = cos_BR * (LOG2_E / H**0.5), sin_BR * (LOG2_E / H**0.5)
        target_B = query + (row_B * Q + head) * H
    else:
        kv_head = (head - Q) % KV
        field = tl.where(head < Q + KV, STATE_KEYS, STATE_VALUES)
        capacity_B = tl.load(state + row_B * STATE_TOKENS + STATE_CAPACITY)
        base_B = tl.load(state + row_B * STATE_TOKENS + field).to(tl.pointer_type(query.dtype.element_ty))
        target_B = base_B + ((slot * KV + kv_head) * capacity_B + position_B) * H
    if head >= Q + KV:
        cos_BR, sin_BR = tl.full((B, R), 1.0, tl.float32), tl.zeros((B, R), tl.float32)
    hand_over(PDL)
    scale_B = _scale(squares, B, P, D, EPS)
    a_BR, b_BR = _halves(_products(scaled, matrix, tile, row_N, rows, D, B, C, BK) * scale_B[:, None] + bias_N[None, :])
    target_BR = target_B[:, None] + first + tl.arange(0, R)[None, :]
    tl.store(target_BR, a_BR * cos_BR - b_BR * sin_BR)
    tl.store(target_BR + H // 2, b_BR * cos_BR + a_BR * sin_BR)


@jit
def batch_combine_kernel(
    attended: tl.tensor, partial: tl.tensor, lse: tl.tensor,
    Q: tl.constexpr, H: tl.constexpr, S: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Put the splits of one row's query head together."""
    hand_over(PDL)
    head, row = tl.program_id(0), tl.program_id(1)
    s_S, h_H = tl.arange(0, S), tl.arange(0, H)
    lse_S = tl.load(lse + (row * Q + head) * S + s_S)
    share_S = tl.exp2(lse_S - tl.max(lse_S, axis=0))
    partial_SH = tl.load(partial + ((row * S + s_S[:, None]) * Q + head) * H + h_H[None, :]).to(tl.float32)
    attended_H = tl.sum(partial_SH * share_S[:, None], axis=0) / tl.sum(share_S, axis=0)
    tl.store(attended + (row * Q + head) * H + h_H, attended_H)


@jit
def batch_residual_kernel(
    hidden: tl.tensor, scaled: tl.tensor, squares: tl.tensor, source: tl.tensor, weight: tl.tensor, gains: tl.tensor,
    visit: tl.tensor, gain_of: tl.tensor,
    D: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
    B: tl.constexpr, N: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Add a projection of `source` [B, K] to the residual stream: the attention's output, or the MLP's.

    `gain_of` points at the block whose norm reads the stream next: this visit's, or the next one's.
    """
    row_N = tl.program_id(0) * N + tl.arange(0, N)
    matrix = weight + tl.load(visit) * D * K
    tile = _weights(matrix, row_N, D, 0, K, C, BK)
    inside_1N = row_N[None, :] < D
    gain_N = tl.load(gains + tl.load(gain_of) * D + row_N, mask=row_N < D, other=0.0).to(tl.float32)
    row_B = tl.arange(0, B)
    where_BN = row_B[:, None] * D + row_N[None, :]
    hand_over(PDL)
    old_BN = tl.load(hidden + where_BN, mask=inside_1N, other=0.0)
    new_BN = old_BN + _products(source, matrix, tile, row_N, D, K, B, C, BK)
    tl.store(hidden + where_BN, new_BN, mask=inside_1N)
    tl.store(scaled + where_BN, new_BN * gain_N[None, :], mask=inside_1N)
    tl.store(squares + row_B * P + tl.program_id(0), tl.sum(new_BN * new_BN, axis=1))


@jit
def batch_gate_up_kernel(
    active: tl.tensor, scaled: tl.tensor, squares: tl.tensor, weight: tl.tensor, visit: tl.tensor,
    EPS: tl.constexpr, D: tl.constexpr, I: tl.constexpr, P: tl.constexpr,  # noqa: E741
    B: tl.constexpr, N: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Gate and up projection, SiLU(gate) * up. A tile is N / 2 rows of the gate and the same rows of the up matrix."""
    R: tl.constexpr = N // 2
    n_N = tl.arange(0, N)
    entry_R = tl.program_id(0) * R + tl.arange(0, R)
    # Beyond the last entry a gate row would be an up row; that is computed and not stored.
    row_N = tl.program_id(0) * R + n_N % R + n_N // R * I
    matrix = weight + tl.load(visit) * 2 * I * D
    tile = _weights(matrix, row_N, 2 * I, 0, D, C, BK)
    hand_over(PDL)
    scale_B = _scale(squares, B, P, D, EPS)
    gate_BR, up_BR = _halves(_products(scaled, matrix, tile, row_N, 2 * I, D, B, C, BK) * scale_B[:, None])
    active_BR = gate_BR / (1.0 + tl.exp(-gate_BR)) * up_BR
    tl.store(active + tl.arange(0, B)[:, None] * I + entry_R[None, :], active_BR, mask=entry_R[None, :] < I)


@jit
def batch_lm_head_kernel(
    logits: tl.tensor, scaled: tl.tensor, squares: tl.tensor, weight: tl.tensor,
    ROWS: tl.constexpr, EPS: tl.constexpr, D: tl.constexpr, V: tl.constexpr, P: tl.constexpr,
    B: tl.constexpr, N: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, PROGRAMS: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Vocabulary matrix for the first ROWS rows; each program makes every PROGRAMS-th group of N logits."""
    row_N = tl.program_id(0) * N + tl.arange(0, N)
    row_B = tl.arange(0, B)
    tile = _weights(weight, row_N, V, 0, D, C, BK)
    if PDL:
        tl.extra.cuda.gdc_wait()
    scale_B = _scale(squares, B, P, D, EPS)
    for _ in range(tl.program_id(0) * N, V, PROGRAMS * N):
        # The next group is on its way while this one is multiplied.
        next_row_N = row_N + PROGRAMS * N
        next_tile = _weights(weight, next_row_N, V, 0, D, C, BK)
        logits_BN = _products(scaled, weight, tile, row_N, V, D, B, C, BK) * scale_B[:, None]
        inside_BN = (row_B[:, None] < ROWS) & (row_N[None, :] < V)
        tl.store(logits + row_B[:, None] * V + row_N[None, :], logits_BN, mask=inside_BN)
        row_N, tile = next_row_N, next_tile
