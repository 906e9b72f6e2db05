"""What a prompt's forward pass needs beside matrix products, in Triton: RoPE with the KV write, attention, SiLU * up.

The position of the first token, how many of the T tokens are real, and the cache's address are data on the device, so a
captured pass serves every conversation. Padding behind the real tokens is computed and neither written to the cache nor
seen by a real token.

State, int64: as `triton_kernels` names it, with the number of real tokens at STATE_CURSOR.
"""

import triton.language as tl

from layerroute.backbone.triton_kernels import (
    LOG2_E,
    STATE_CAPACITY,
    STATE_CURSOR,
    STATE_KEYS,
    STATE_POSITION,
    STATE_VALUES,
    cache_slot,
    jit,
)


@jit
def prompt_rope_kernel(
    query: tl.tensor, qkv: tl.tensor, rope: tl.tensor, visit: tl.tensor, state: tl.tensor,
    Q: tl.constexpr, KV: tl.constexpr, H: tl.constexpr, HEADS: tl.constexpr,
) -> None:  # fmt: skip
    """Rotate one token's queries, which leave scaled for exp2, and keys; put keys and values into the visit's slot."""
    token = tl.program_id(0)
    if token >= tl.load(state + STATE_CURSOR):
        return
    slot, position = tl.load(visit + 1), tl.load(state + STATE_POSITION) + token
    head = tl.arange(0, HEADS)[:, None]
    j_1R = tl.arange(0, H // 2)[None, :]
    cos_1R = tl.load(rope + position * H + j_1R)
    sin_1R = tl.load(rope + position * H + H // 2 + j_1R)
    is_value, is_query = head >= Q + KV, head < Q
    cos, sin = tl.where(is_value, 1.0, cos_1R), tl.where(is_value, 0.0, sin_1R)
    scale = tl.where(is_query, LOG2_E / H**0.5, 1.0)
    source = qkv + token * (Q + 2 * KV) * H + head * H + j_1R
    exists = head < Q + 2 * KV
    a = tl.load(source, mask=exists, other=0.0).to(tl.float32) * scale
    b = tl.load(source + H // 2, mask=exists, other=0.0).to(tl.float32) * scale
    low, high = a * cos - b * sin, b * cos + a * sin
    tl.store(query + token * Q * H + head * H + j_1R, low, mask=is_query)
    tl.store(query + token * Q * H + head * H + H // 2 + j_1R, high, mask=is_query)
    stride = tl.load(state + STATE_CAPACITY) * H
    keys = cache_slot(state, STATE_KEYS, slot, 0, query, KV, H) + position * H
    values = cache_slot(state, STATE_VALUES, slot, 0, query, KV, H) + position * H
    is_key = (head >= Q) & (head < Q + KV)
    tl.store(keys + (head - Q) * stride + j_1R, low, mask=is_key)
    tl.store(keys + (head - Q) * stride + H // 2 + j_1R, high, mask=is_key)
    tl.store(values + (head - Q - KV) * stride + j_1R, low, mask=is_value & exists)
    tl.store(values + (head - Q - KV) * stride + H // 2 + j_1R, high, mask=is_value & exists)


@jit
def _attend(
    query_MH: tl.tensor, keys: tl.tensor, values: tl.tensor, out_MH: tl.tensor, top_M: tl.tensor, sum_M: tl.tensor,
    first: tl.tensor, last: tl.tensor, end: tl.tensor, position_M: tl.tensor,
    H: tl.constexpr, BN: tl.constexpr, MASKED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Take positions `first..last` into the running softmax; where MASKED, each row only those up to its own."""
    n_N, h_H = tl.arange(0, BN), tl.arange(0, H)
    for n in range(first, last, BN):
        offset_NH = (n + n_N)[:, None] * H + h_H[None, :]
        if MASKED:
            inside_N1 = (n + n_N)[:, None] < end
            key_NH = tl.load(keys + offset_NH, mask=inside_N1, other=0.0)
            value_NH = tl.load(values + offset_NH, mask=inside_N1, other=0.0)
        else:
            key_NH, value_NH = tl.load(keys + offset_NH), tl.load(values + offset_NH)
        score_MN = tl.dot(query_MH, tl.trans(key_NH), input_precision="ieee")
        if MASKED:
            score_MN = tl.where((n + n_N)[None, :] <= position_M[:, None], score_MN, float("-inf"))
        new_top_M = tl.maximum(top_M, tl.max(score_MN, axis=1))
        weight_MN = tl.exp2(score_MN - new_top_M[:, None])
        keep_M = tl.exp2(top_M - new_top_M)
        sum_M = sum_M * keep_M + tl.sum(weight_MN, axis=1)
        out_MH = tl.dot(weight_MN.to(value_NH.dtype), value_NH, out_MH * keep_M[:, None], input_precision="ieee")
        top_M = new_top_M
    return out_MH, top_M, sum_M


@jit
def prompt_attention_kernel(
    attended: tl.tensor, query: tl.tensor, visit: tl.tensor, state: tl.tensor,
    Q: tl.constexpr, KV: tl.constexpr, H: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
) -> None:  # fmt: skip
    """Causal attention of BM tokens in one query head over everything before them; the longest tiles start first."""
    tile, head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    count = tl.load(state + STATE_CURSOR).to(tl.int32)
    first = tile * BM
    if first >= count:  # padding alone: nothing reads it
        return
    start, slot = tl.load(state + STATE_POSITION).to(tl.int32), tl.load(visit + 1)
    keys = cache_slot(state, STATE_KEYS, slot, head // (Q // KV), query, KV, H)
    values = cache_slot(state, STATE_VALUES, slot, head // (Q // KV), query, KV, H)
    token_M, h_H = first + tl.arange(0, BM), tl.arange(0, H)
    rows_MH = (token_M * Q + head)[:, None] * H + h_H[None, :]
    query_MH = tl.load(query + rows_MH, mask=token_M[:, None] < count, other=0.0)
    position_M, end = start + token_M, tl.minimum(start + first + BM, start + count)
    seen_by_all = (start + first) // BN * BN
    out_MH, sum_M = tl.zeros((BM, H), tl.float32), tl.zeros((BM,), tl.float32)
    top_M = tl.full((BM,), float("-inf"), tl.float32)
    out_MH, top_M, sum_M = _attend(
        query_MH, keys, values, out_MH, top_M, sum_M, 0, seen_by_all, end, position_M, H, BN, False
    )
    out_MH, top_M, sum_M = _attend(
        query_MH, keys, values, out_MH, top_M, sum_M, seen_by_all, end, end, position_M, H, BN, True
    )
    tl.store(attended + rows_MH, out_MH / sum_M[:, None], mask=token_M[:, None] < count)


@jit
def prompt_silu_kernel(active: tl.tensor, gate_up: tl.tensor, I: tl.constexpr, BI: tl.constexpr) -> None:  # noqa: E741
    """SiLU(gate) * up, BI entries of one token."""
    token, entry = tl.program_id(0), tl.program_id(1) * BI + tl.arange(0, BI)
    gate = tl.load(gate_up + token * 2 * I + entry, mask=entry < I, other=0.0).to(tl.float32)
    up = tl.load(gate_up + token * 2 * I + I + entry, mask=entry < I, other=0.0).to(tl.float32)
    tl.store(active + token * I + entry, gate / (1.0 + tl.exp(-gate)) * up, mask=entry < I)
