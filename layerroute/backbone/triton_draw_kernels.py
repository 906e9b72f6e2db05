"""Kernels that draw the next token from the logits, in Triton: the end of a decode loop that stays on the device.

`draw_kernel` finds the best token of each group of BN under the mask, the threshold and the noise; `pick_kernel` the
best of all, which it puts where the next step reads its token, and into a ring that the host reads behind the device.
Noise is Gumbel noise from Philox, keyed by the seed and counted by position and token: a draw depends on nothing else.
Ties go to the smallest token.

`draws`, int64: DRAWS_SEED, DRAWS_COUNT (how many were made), DRAWS_ENDED (whether an end token was among them).
`rule`, float32: one over the temperature, whether there is noise. `bits`, int32: bit t % 32 of word t // 32 allows t.
"""

import triton.language as tl

from layerroute.backbone.triton_kernels import STATE_CURSOR, STATE_POSITION, STATE_TOKENS, hand_over, jit

DRAWS_SEED = tl.constexpr(0)
DRAWS_COUNT = tl.constexpr(1)
DRAWS_ENDED = tl.constexpr(2)
NOT_A_NUMBER = tl.constexpr(-1)
AFTER_THE_END = tl.constexpr(-2)


@jit
def _gumbel(seed: tl.tensor, position: tl.tensor, token_N: tl.tensor) -> tl.tensor:
    """Gumbel noise of every token at a position; its large values, which decide, have the finest steps."""
    uniform_N = tl.maximum(tl.rand(seed, (position << 32) + token_N.to(tl.int64)), 1e-10)
    # -log(1 - u), from its series where 1 - u would round.
    series_N = uniform_N * (1.0 + uniform_N * (0.5 + uniform_N * (1.0 / 3.0)))
    exponential_N = tl.where(uniform_N < 0.01, series_N, -tl.log(tl.maximum(1.0 - uniform_N, 1e-10)))
    return -tl.log(exponential_N)


@jit
def draw_kernel(
    best: tl.tensor, index: tl.tensor, logits: tl.tensor, bits: tl.tensor, rule: tl.tensor, threshold: tl.tensor,
    draws: tl.tensor, state: tl.tensor, V: tl.constexpr, BN: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Best score of each group of BN tokens and whose it is; infinity if a logit is not a number."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    group = tl.program_id(0)
    token_N = group * BN + tl.arange(0, BN)
    inside_N = token_N < V
    word_N = tl.load(bits + token_N // 32, mask=inside_N, other=0)
    logit_N = tl.load(logits + token_N, mask=inside_N, other=0.0)
    logit_N = tl.where(inside_N & ((word_N >> (token_N % 32)) & 1 != 0), logit_N, float("-inf"))
    invalid = tl.sum(((logit_N != logit_N) | (logit_N == float("inf"))).to(tl.int32), axis=0)
    score_N = logit_N * tl.load(rule)
    score_N = tl.where(score_N >= tl.load(threshold), score_N, float("-inf"))
    if tl.load(rule + 1) > 0:
        score_N += _gumbel(tl.load(draws + DRAWS_SEED), tl.load(state + STATE_POSITION), token_N)
    tl.store(best + group, tl.where(invalid > 0, float("inf"), tl.max(score_N, axis=0)))
    tl.store(index + group, group * BN + tl.argmax(score_N, axis=0))


@jit
def pick_kernel(
    ring: tl.tensor, draws: tl.tensor, state: tl.tensor, best: tl.tensor, index: tl.tensor, ends: tl.tensor,
    GROUPS: tl.constexpr, GP: tl.constexpr, RING: tl.constexpr, ENDS: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """The best of all groups: into the ring, and to where the next step reads. After an end token nothing is drawn."""
    ended, count = tl.load(draws + DRAWS_ENDED), tl.load(draws + DRAWS_COUNT)
    ends_E = tl.load(ends + tl.arange(0, ENDS))
    hand_over(PDL)
    group_G = tl.arange(0, GP)
    best_G = tl.load(best + group_G, mask=group_G < GROUPS, other=float("-inf"))
    top = tl.max(best_G, axis=0)
    token = tl.load(index + tl.argmax(best_G, axis=0)).to(tl.int64)
    token = tl.where((top > float("-inf")) & (top < float("inf")), token, NOT_A_NUMBER)
    is_end = tl.sum((ends_E == token).to(tl.int32), axis=0) > 0
    token = tl.where(ended != 0, AFTER_THE_END, token)
    tl.store(ring + count % RING, token)
    tl.store(draws + DRAWS_COUNT, count + 1)
    tl.store(draws + DRAWS_ENDED, tl.where(is_end | (token < 0), 1, ended))
    tl.store(state + STATE_TOKENS, tl.maximum(token, 0))  # what runs after the end must still read a row of a matrix
    tl.store(state + STATE_CURSOR, 0)
