"""Kernels of a decode step at batch 1, five for each visit of a block, in Triton. A batch shares the attention.

Which block a visit runs, which KV slot it uses, the token, its position and the cache's address are all read from
device memory, so the same launches serve every layer program of their length. Matrix kernels stream rows of weights:
each lane reads 16 bytes at a time, a row stays within as few warps as its length allows, and sums are taken in a fixed
order. The residual stream and all sums are float32.

With programmatic dependent launch (PDL) a kernel starts while the one before it still runs, and fetches its weights
meanwhile. Before `gdc_wait` it may read only what no kernel of this step writes: weights, tables, the program, the
position, and KV of earlier positions. Every kernel waits, so what comes after the wait sees all earlier kernels done.

State, int64: STATE_POSITION, STATE_CURSOR (how many of the tokens have been fed), STATE_KEYS and STATE_VALUES (address
of the cache's first element), STATE_CAPACITY (positions of a cache slot), then token ids from STATE_TOKENS on.
A program row holds a visit's block and slot. The attention of a batch finds row r's state STATE_TOKENS * r further on.

Shapes: D hidden size, Q query heads, KV heads of keys and values, G query heads per KV head, H head_dim, I intermediate
size, V vocabulary, S splits of the positions. A tile holds R rows of C chunks of BK columns, as [C * R, BK]: line
c * R + r is chunk c of row r. Warps take lines in turn, so a warp gets all chunks of its rows and sums them by itself.
A tile [C, R, BK] would leave it to the version of Triton whether warps divide rows or chunks (3.6 divides chunks, and
then every sum goes through shared memory).
"""

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

jit: Callable[[Callable[..., Any]], Any] = triton.jit

STATE_POSITION = tl.constexpr(0)
STATE_CURSOR = tl.constexpr(1)
STATE_KEYS = tl.constexpr(2)
STATE_VALUES = tl.constexpr(3)
STATE_CAPACITY = tl.constexpr(4)
STATE_TOKENS = tl.constexpr(8)
LOG2_E = tl.constexpr(1.4426950408889634)


@jit
def hand_over(PDL: tl.constexpr) -> None:
    """Let the next kernel start, then wait for the one before."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@jit
def wait_and_hand_over(PDL: tl.constexpr) -> None:
    """Wait for the kernel before, then let the next one start.

    The down projection is faster in this order. Behind it come small kernels that let each other start at once; they
    would take places on multiprocessors while it still needs them.
    """
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@jit
def _columns(start: tl.tensor, R: tl.constexpr, C: tl.constexpr, BK: tl.constexpr) -> tl.tensor:
    """Column numbers of a tile from column `start` on, [C * R, BK]."""
    return start + (tl.arange(0, C * R) // R * BK)[:, None] + tl.arange(0, BK)[None, :]


@jit
def _tile(
    base: tl.tensor, first: tl.tensor, height: tl.constexpr, columns: tl.tensor, width: tl.constexpr, R: tl.constexpr
) -> tl.tensor:
    """R rows from row `first` on of a matrix of `height` rows and `width` columns; zeros beyond its edges."""
    rows = (first + tl.arange(0, columns.shape[0]) % R)[:, None]
    inside = (rows < height) & (columns < width)
    return tl.load(base + rows * width + columns, mask=inside, other=0.0)


@jit
def _vector(base: tl.tensor, columns: tl.tensor, width: tl.constexpr) -> tl.tensor:
    """A vector in float32 in the layout of a tile: every lane loads what it multiplies, no exchange between warps."""
    return tl.load(base + columns, mask=columns < width, other=0.0).to(tl.float32)


@jit
def _over_chunks(products: tl.tensor, R: tl.constexpr) -> tl.tensor:
    """Sum a tile over its chunks, [R, BK]."""
    return tl.sum(tl.reshape(products, (products.shape[0] // R, R, products.shape[1])), axis=0)


@jit
def _dot(tile: tl.tensor, vector: tl.tensor, R: tl.constexpr) -> tl.tensor:
    """Products of R rows with a vector, [R]."""
    return tl.sum(_over_chunks(tile.to(tl.float32) * vector, R), axis=1)


@jit
def _rms(x: tl.tensor, width: tl.constexpr, EPS: tl.constexpr, R: tl.constexpr) -> tl.tensor:
    """One over the root mean square of a vector of `width`, [R]."""
    return tl.rsqrt(tl.sum(_over_chunks(x * x, R), axis=1) / width + EPS)


@jit
def cache_slot(
    state: tl.tensor, field: tl.constexpr, slot: tl.tensor, head: tl.tensor, like: tl.tensor, KV: tl.constexpr,
    H: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Pointer to position 0 of a KV head in a slot of the keys or values; elements are those of `like`."""
    base = tl.load(state + field).to(tl.pointer_type(like.dtype.element_ty))
    return tl.multiple_of(base, 16) + (slot * KV + head) * tl.load(state + STATE_CAPACITY) * H


@jit
def embed_kernel(
    hidden: tl.tensor, embedding: tl.tensor, state: tl.tensor, D: tl.constexpr, DP: tl.constexpr, PDL: tl.constexpr
) -> None:
    """Residual stream = embedding of the token at the cursor. First of a step, it has nothing to wait for."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    token = tl.load(state + STATE_TOKENS + tl.load(state + STATE_CURSOR))
    columns = tl.arange(0, DP)
    row = tl.load(embedding + token * D + columns, mask=columns < D, other=0.0)
    tl.store(hidden + columns, row.to(tl.float32), mask=columns < D)


@jit
def qkv_kernel(
    query: tl.tensor, hidden: tl.tensor, norm: tl.tensor, weight: tl.tensor, bias: tl.tensor, rope: tl.tensor,
    visit: tl.tensor, state: tl.tensor,
    EPS: tl.constexpr, D: tl.constexpr, Q: tl.constexpr, KV: tl.constexpr, H: tl.constexpr,
    R: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """RMSNorm, query/key/value projection, bias, RoPE; keys and values go to the visit's slot.

    A program makes R pairs of rows that RoPE mixes: row j and row j + H/2 of one head. Queries leave scaled for exp2.
    """
    pair = tl.program_id(0) * R
    head, first = pair // (H // 2), pair % (H // 2)
    j_R = first + tl.arange(0, R)
    rows_R = head * H + j_R
    block, slot = tl.load(visit), tl.load(visit + 1)
    columns = _columns(0, R, C, BK)
    rows: tl.constexpr = (Q + 2 * KV) * H
    weight += block * rows * D
    low_row = head * H + first
    low, high = _tile(weight, low_row, rows, columns, D, R), _tile(weight, low_row + H // 2, rows, columns, D, R)
    gain = _vector(norm + block * D, columns, D)
    bias += block * rows
    low_bias_R, high_bias_R = tl.load(bias + rows_R).to(tl.float32), tl.load(bias + rows_R + H // 2).to(tl.float32)
    position = tl.load(state + STATE_POSITION)
    cos_R, sin_R = tl.load(rope + position * H + j_R), tl.load(rope + position * H + H // 2 + j_R)
    if head < Q:
        target = query + head * H
        cos_R, sin_R = cos_R * (LOG2_E / H**0.5), sin_R * (LOG2_E / H**0.5)
    elif head < Q + KV:
        target = cache_slot(state, STATE_KEYS, slot, head - Q, query, KV, H) + position * H
    else:
        target = cache_slot(state, STATE_VALUES, slot, head - Q - KV, query, KV, H) + position * H
        cos_R, sin_R = tl.full((R,), 1.0, tl.float32), tl.zeros((R,), tl.float32)
    hand_over(PDL)
    x = _vector(hidden, columns, D)
    scale_R = _rms(x, D, EPS, R)
    x *= gain
    a_R = _dot(low, x, R) * scale_R + low_bias_R
    b_R = _dot(high, x, R) * scale_R + high_bias_R
    rotated_R2 = tl.join(a_R * cos_R - b_R * sin_R, b_R * cos_R + a_R * sin_R)
    tl.store(target + j_R[:, None] + tl.arange(0, 2)[None, :] * (H // 2), rotated_R2)


@jit
def attention_kernel(
    partial: tl.tensor, lse: tl.tensor, query: tl.tensor, visit: tl.tensor, state: tl.tensor,
    Q: tl.constexpr, KV: tl.constexpr, H: tl.constexpr, GP: tl.constexpr, S: tl.constexpr, BN: tl.constexpr,
    PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Attention of the query heads of one KV head over one split of the earlier positions.

    Split 0 also takes the new position, so it is never empty. An empty split leaves zeros with a weight of zero. Writes
    the attended values `partial` [S, Q, H] and `lse` [Q, S], the log2 of the sum of weights that they stand for; each
    for every row of a batch, along the grid's last axis.
    """
    G: tl.constexpr = Q // KV
    head, split, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    state += row * STATE_TOKENS
    query += row * Q * H
    partial += row * S * Q * H
    lse += row * Q * S
    slot, position = tl.load(visit + 1), tl.load(state + STATE_POSITION).to(tl.int32)
    keys = cache_slot(state, STATE_KEYS, slot, head, query, KV, H)
    values = cache_slot(state, STATE_VALUES, slot, head, query, KV, H)
    length = tl.cdiv(position, S)
    start = split * length
    end = tl.minimum(start + length, position)
    n_N, h_H = tl.arange(0, BN), tl.arange(0, H)
    offset_NH = (start + n_N)[:, None] * H + h_H[None, :]
    inside_N1 = (start + n_N)[:, None] < end
    key_NH = tl.load(keys + offset_NH, mask=inside_N1, other=0.0)
    value_NH = tl.load(values + offset_NH, mask=inside_N1, other=0.0)
    hand_over(PDL)
    g_G = tl.arange(0, GP)
    rows_GH = (head * G + g_G)[:, None] * H + h_H[None, :]
    query_GH = tl.load(query + rows_GH, mask=g_G[:, None] < G, other=0.0)
    new_key_H = tl.load(keys + position * H + h_H).to(tl.float32)
    new_value_H = tl.load(values + position * H + h_H).to(tl.float32)
    has_new = split == 0
    new_score_G = tl.sum(query_GH.to(tl.float32) * new_key_H[None, :], axis=1)
    top_G = tl.where(has_new, new_score_G, float("-inf"))
    sum_G = tl.where(has_new, 1.0, 0.0) + tl.zeros_like(new_score_G)
    out_GH = tl.where(has_new, new_value_H[None, :], 0.0) + tl.zeros((GP, H), tl.float32)
    for n in range(start, end, BN):
        score_GN = tl.dot(query_GH, tl.trans(key_NH), input_precision="ieee")
        score_GN = tl.where((n + n_N)[None, :] < end, score_GN, float("-inf"))
        inside_N1 = (n + BN + n_N)[:, None] < end
        offset_NH += BN * H
        key_NH = tl.load(keys + offset_NH, mask=inside_N1, other=0.0)
        new_top_G = tl.maximum(top_G, tl.max(score_GN, axis=1))
        weight_GN = tl.exp2(score_GN - new_top_G[:, None])
        keep_G = tl.exp2(top_G - new_top_G)
        sum_G = sum_G * keep_G + tl.sum(weight_GN, axis=1)
        out_GH = out_GH * keep_G[:, None]
        out_GH += tl.dot(weight_GN.to(value_NH.dtype), value_NH, input_precision="ieee")
        value_NH = tl.load(values + offset_NH, mask=inside_N1, other=0.0)
        top_G = new_top_G
    out_GH /= tl.where(sum_G > 0, sum_G, 1.0)[:, None]
    tl.store(partial + split * Q * H + rows_GH, out_GH, mask=g_G[:, None] < G)
    tl.store(lse + (head * G + g_G) * S + split, top_G + tl.log2(sum_G), mask=g_G < G)


@jit
def output_kernel(
    hidden: tl.tensor, partial: tl.tensor, lse: tl.tensor, weight: tl.tensor, visit: tl.tensor,
    D: tl.constexpr, Q: tl.constexpr, QP: tl.constexpr, H: tl.constexpr, S: tl.constexpr, SB: tl.constexpr,
    R: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Combine the splits, project R rows of the output, add to the residual stream. A tile is [R, QP * H] here."""
    first = tl.program_id(0) * R
    rows_R = first + tl.arange(0, R)
    q_Q, s_S, column = tl.arange(0, QP), tl.arange(0, S), tl.arange(0, QP * H)
    tile = _tile(weight + tl.load(visit) * D * Q * H, first, D, _columns(0, R, 1, QP * H), Q * H, R)
    hand_over(PDL)
    residual_R = tl.load(hidden + rows_R, mask=rows_R < D, other=0.0)
    lse_SQ = tl.load(lse + q_Q[None, :] * S + s_S[:, None], mask=q_Q[None, :] < Q, other=0.0)
    top_Q = tl.max(lse_SQ, axis=0)
    sum_Q = tl.sum(tl.exp2(lse_SQ - top_Q[None, :]), axis=0)
    attended = tl.zeros((QP * H,), tl.float32)
    for start in tl.static_range(0, S, SB):
        s_B = start + tl.arange(0, SB)
        if SB < S:
            lse_SQ = tl.load(lse + q_Q[None, :] * S + s_B[:, None], mask=q_Q[None, :] < Q, other=0.0)
        share_BQ = tl.exp2(lse_SQ - top_Q[None, :]) / sum_Q[None, :]
        share = tl.reshape(tl.broadcast_to(share_BQ[:, :, None], (SB, QP, H)), (SB, QP * H))
        offset = s_B[:, None] * Q * H + column[None, :]
        attended += tl.sum(
            tl.load(partial + offset, mask=column[None, :] < Q * H, other=0.0).to(tl.float32) * share, axis=0
        )
    tl.store(hidden + rows_R, residual_R + tl.sum(tile.to(tl.float32) * attended[None, :], axis=1), mask=rows_R < D)


@jit
def gate_up_kernel(
    active: tl.tensor, hidden: tl.tensor, norm: tl.tensor, weight: tl.tensor, visit: tl.tensor,
    EPS: tl.constexpr, D: tl.constexpr, I: tl.constexpr,  # noqa: E741
    R: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, PROGRAMS: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """RMSNorm, gate and up projection, SiLU(gate) * up; each program makes every PROGRAMS-th group of R entries."""
    block = tl.load(visit)
    gates = weight + block * 2 * I * D
    ups = gates + I * D
    columns = _columns(0, R, C, BK)
    first = tl.program_id(0) * R
    gate, up = _tile(gates, first, I, columns, D, R), _tile(ups, first, I, columns, D, R)
    gain = _vector(norm + block * D, columns, D)
    hand_over(PDL)
    x = _vector(hidden, columns, D)
    scale_R = _rms(x, D, EPS, R)
    x *= gain
    for row in range(first, I, PROGRAMS * R):
        # The next group is on its way while this one is multiplied.
        following = row + PROGRAMS * R
        next_gate, next_up = _tile(gates, following, I, columns, D, R), _tile(ups, following, I, columns, D, R)
        gate_R, up_R = _dot(gate, x, R) * scale_R, _dot(up, x, R) * scale_R
        rows_R = row + tl.arange(0, R)
        tl.store(active + rows_R, gate_R / (1.0 + tl.exp(-gate_R)) * up_R, mask=rows_R < I)
        gate, up = next_gate, next_up


@jit
def down_kernel(
    hidden: tl.tensor, active: tl.tensor, weight: tl.tensor, visit: tl.tensor,
    D: tl.constexpr, I: tl.constexpr,  # noqa: E741
    R: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Down projection of R rows, added to the residual stream."""
    first = tl.program_id(0) * R
    rows_R = first + tl.arange(0, R)
    weight += tl.load(visit) * D * I
    columns = _columns(0, R, C, BK)
    tile = _tile(weight, first, D, columns, I, R)
    next_tile = _tile(weight, first, D, columns + C * BK, I, R)
    wait_and_hand_over(PDL)
    residual_R = tl.load(hidden + rows_R, mask=rows_R < D, other=0.0)
    x = _vector(active, columns, I)
    total = tl.zeros((R, BK), tl.float32)
    for start in range(0, I, C * BK):
        next_x = _vector(active, columns + start + C * BK, I)
        after = _tile(weight, first, D, columns + start + 2 * C * BK, I, R)
        total += _over_chunks(tile.to(tl.float32) * x, R)
        tile, next_tile, x = next_tile, after, next_x
    tl.store(hidden + rows_R, residual_R + tl.sum(total, axis=1), mask=rows_R < D)


@jit
def lm_head_kernel(
    logits: tl.tensor, hidden: tl.tensor, norm: tl.tensor, weight: tl.tensor, state: tl.tensor,
    EPS: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
    R: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, PROGRAMS: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Final norm and vocabulary matrix, 2R logits at a time; then the position and the cursor move on by one."""
    columns = _columns(0, R, C, BK)
    first = tl.program_id(0) * 2 * R
    low, high = _tile(weight, first, V, columns, D, R), _tile(weight, first + R, V, columns, D, R)
    gain = _vector(norm, columns, D)
    if PDL:
        tl.extra.cuda.gdc_wait()
    x = _vector(hidden, columns, D)
    scale_R = _rms(x, D, EPS, R)
    x *= gain
    for row in range(first, V, PROGRAMS * 2 * R):
        following = row + PROGRAMS * 2 * R
        next_low, next_high = _tile(weight, following, V, columns, D, R), _tile(weight, following + R, V, columns, D, R)
        rows_R2 = row + tl.arange(0, R)[:, None] + tl.arange(0, 2)[None, :] * R
        logits_R2 = tl.join(_dot(low, x, R) * scale_R, _dot(high, x, R) * scale_R)
        tl.store(logits + rows_R2, logits_R2, mask=rows_R2 < V)
        low, high = next_low, next_high
    if tl.program_id(0) == 0:  # no kernel of this step is left to read them: all were done at the wait
        tl.store(state + STATE_POSITION, tl.load(state + STATE_POSITION) + 1)
        tl.store(state + STATE_CURSOR, tl.load(state + STATE_CURSOR) + 1)
