"""Kernels that draw the next token from the logits, in Triton: the end of a decode loop that stays on the device.

`draw_kernel` finds the best token of each group of BN under the mask, the filters and the noise; `pick_kernel` the
best of all, which it puts where the next step reads its token, and into a ring in the host's own memory.
Noise is Gumbel noise from Philox, keyed by the seed and counted by position and token: a draw depends on nothing else.
Ties go to the smallest token.

Filters keep the likeliest tokens: top-k those of the first k places, then top-p the fewest whose probability reaches p,
each with all tokens that tie with the last one. The last one is found without a sort, by its distance below the best
token: a whole number of 2**-26 nats, found digit by digit. `peak_kernel` finds the best; each `narrow_kernel` picks the
digit that the histogram before it decides, and adds up a histogram of the next digit over the tokens that share all
digits so far, of their number for top-k and of their probability for top-p. Probabilities are added up as integers, so
that a seed gives the same draws in whatever order the device does so. Tokens FAR below the best are left out: noise
could not lift them to it.

`draws`, int64: DRAWS_SEED, DRAWS_COUNT (how many were made), DRAWS_ENDED (whether an end token was among them).
`rule`, float32: one over the temperature, whether there is noise. `bits`, int32: bit t % 32 of word t // 32 allows t.
`histograms`, int64: BINS for each narrowing. `found`, int64, after each narrowing: FOUND_LIMIT (largest distance that
was not filtered out), FOUND_LOW (least distance with the digits so far), FOUND_TARGET (what of the sum is still to be
reached among those).
"""

import triton.language as tl

from layerroute.backbone.triton_kernels import STATE_CURSOR, STATE_POSITION, STATE_TOKENS, hand_over, jit

DRAWS_SEED = tl.constexpr(0)
DRAWS_COUNT = tl.constexpr(1)
DRAWS_ENDED = tl.constexpr(2)
NOT_A_NUMBER = tl.constexpr(-1)
AFTER_THE_END = tl.constexpr(-2)
FOUND_LIMIT = tl.constexpr(0)
FOUND_LOW = tl.constexpr(1)
FOUND_TARGET = tl.constexpr(2)
FOUND_FIELDS = tl.constexpr(4)
BINS = tl.constexpr(2048)
_LATER_BINS = tl.constexpr(1024)
_LINES = tl.constexpr(128)
DIGITS = (20, 10, 0)
"""Lowest bits of the three digits of a distance, which has 31 bits."""
_FIRST_DIGIT = tl.constexpr(20)
_UNIT = tl.constexpr(float(2**26))
_FAR = tl.constexpr(2**31 - 1)
_FAR_NATS = tl.constexpr(32.0)
_MASS = tl.constexpr(float(2**40))


@jit
def _gumbel(seed: tl.tensor, position: tl.tensor, token_N: tl.tensor) -> tl.tensor:
    """Gumbel noise of every token, from -3.2 to 23.1; its large values, which decide, have the finest steps."""
    uniform_N = tl.maximum(tl.rand(seed, (position << 32) + token_N.to(tl.int64)), 1e-10)
    # -log(1 - u), from its series where 1 - u would round.
    series_N = uniform_N * (1.0 + uniform_N * (0.5 + uniform_N * (1.0 / 3.0)))
    exponential_N = tl.where(uniform_N < 0.01, series_N, -tl.log(tl.maximum(1.0 - uniform_N, 1e-10)))
    return -tl.log(exponential_N)


@jit
def _allowed(logits: tl.tensor, bits: tl.tensor, token_N: tl.tensor, V: tl.constexpr) -> tl.tensor:
    """Logits of a group, -inf where the mask forbids a token."""
    inside_N = token_N < V
    word_N = tl.load(bits + token_N // 32, mask=inside_N, other=0)
    logit_N = tl.load(logits + token_N, mask=inside_N, other=0.0)
    return tl.where(inside_N & ((word_N >> (token_N % 32)) & 1 != 0), logit_N, float("-inf"))


@jit
def _nats_below(
    logit_N: tl.tensor, rule: tl.tensor, best: tl.tensor, GROUPS: tl.constexpr, GP: tl.constexpr
) -> tl.tensor:  # fmt: skip
    """How far the logits over the temperature lie below the best of all groups."""
    group_G = tl.arange(0, GP)
    top = tl.max(tl.load(best + group_G, mask=group_G < GROUPS, other=float("-inf")), axis=0)
    return (top - logit_N) * tl.load(rule)


@jit
def _distance(nats_N: tl.tensor) -> tl.tensor:
    """Whole units; what is no number is far."""
    return tl.where(nats_N < _FAR_NATS, (tl.minimum(nats_N, _FAR_NATS - 1e-5) * _UNIT).to(tl.int32), _FAR)


@jit
def _place(digit: tl.tensor, SHIFT: tl.constexpr) -> tl.tensor:
    """Where a bin lies. Neighbouring first digits, which whole crowds of tokens have, are in different cache lines."""
    return digit % _LINES * (BINS // _LINES) + digit // _LINES if SHIFT == _FIRST_DIGIT else digit


@jit
def _until(histogram: tl.tensor, SHIFT: tl.constexpr) -> tl.tensor:
    """Sums over each bin and all bins of smaller digits."""
    if SHIFT == _FIRST_DIGIT:
        by_line = tl.reshape(tl.load(histogram + tl.arange(0, BINS)), (_LINES, BINS // _LINES))
        weight_B = tl.reshape(tl.trans(by_line), (BINS,))
    else:
        weight_B = tl.load(histogram + tl.arange(0, _LATER_BINS))
    return tl.cumsum(weight_B, axis=0)


@jit
def _narrowed(
    histogram: tl.tensor, found: tl.tensor, top_k: tl.tensor, top_p: tl.tensor, SHIFT: tl.constexpr,
    BY_MASS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Limit, low and target after the digit at bit SHIFT, by its histogram and what was found before it."""
    limit, low = tl.load(found + FOUND_LIMIT), tl.load(found + FOUND_LOW)
    until_B = _until(histogram, SHIFT)
    if SHIFT == _FIRST_DIGIT:
        total = tl.max(until_B, axis=0)
        if BY_MASS:
            target = tl.maximum((total.to(tl.float64) * tl.load(top_p)).to(tl.int64), 1)
        else:
            target = tl.minimum(tl.load(top_k), total)
    else:
        target = tl.load(found + FOUND_TARGET)
    below_B = until_B < target
    low += tl.sum(below_B.to(tl.int64), axis=0) << SHIFT
    target -= tl.max(tl.where(below_B, until_B, 0), axis=0)
    if SHIFT == 0:
        limit, low = low, low * 0
    return limit, low, target


@jit
def peak_kernel(
    best: tl.tensor, histograms: tl.tensor, found: tl.tensor, logits: tl.tensor, bits: tl.tensor,
    V: tl.constexpr, BN: tl.constexpr, ZEROS: tl.constexpr, TOTAL: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Largest logit of each group; the first narrowing finds all TOTAL bins empty and nothing filtered out."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    group = tl.program_id(0)
    bin_Z = group * ZEROS + tl.arange(0, ZEROS)
    tl.store(histograms + bin_Z, tl.zeros([ZEROS], dtype=tl.int64), mask=bin_Z < TOTAL)
    logit_N = _allowed(logits, bits, group * BN + tl.arange(0, BN), V)
    tl.store(best + group, tl.max(logit_N, axis=0))
    if group == 0:
        tl.store(found + FOUND_LIMIT, _FAR - 1)
        tl.store(found + FOUND_LOW, 0)


@jit
def narrow_kernel(
    histograms: tl.tensor, found: tl.tensor, best: tl.tensor, logits: tl.tensor, bits: tl.tensor, rule: tl.tensor,
    top_k: tl.tensor, top_p: tl.tensor, V: tl.constexpr, BN: tl.constexpr, GROUPS: tl.constexpr, GP: tl.constexpr,
    NUMBER: tl.constexpr, SHIFT: tl.constexpr, BY_MASS: tl.constexpr, SHIFT_BEFORE: tl.constexpr,
    BY_MASS_BEFORE: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Find the digit before, at bit SHIFT_BEFORE, and sum up the one at bit SHIFT. NUMBER counts from 0."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    group = tl.program_id(0)
    logit_N = _allowed(logits, bits, group * BN + tl.arange(0, BN), V)
    if PDL:
        tl.extra.cuda.gdc_wait()
    if NUMBER == 0:
        limit, low = tl.load(found + FOUND_LIMIT), tl.load(found + FOUND_LOW)
    else:
        limit, low, target = _narrowed(
            histograms + (NUMBER - 1) * BINS, found + (NUMBER - 1) * FOUND_FIELDS, top_k, top_p,
            SHIFT_BEFORE, BY_MASS_BEFORE,
        )  # fmt: skip
        if group == 0:  # in a place of its own: other programs may still read what was found before
            tl.store(found + NUMBER * FOUND_FIELDS + FOUND_LIMIT, limit)
            tl.store(found + NUMBER * FOUND_FIELDS + FOUND_LOW, low)
            tl.store(found + NUMBER * FOUND_FIELDS + FOUND_TARGET, target)
    nats_N = _nats_below(logit_N, rule, best, GROUPS, GP)
    distance_N = _distance(nats_N)
    digit_N = (distance_N - low) >> SHIFT
    weight_N = (tl.exp(-nats_N) * _MASS).to(tl.int64) if BY_MASS else tl.full([BN], 1, dtype=tl.int64)
    bins = BINS if SHIFT == _FIRST_DIGIT else _LATER_BINS
    shares_N = (distance_N <= limit) & (digit_N >= 0) & (digit_N < bins)
    tl.atomic_add(histograms + NUMBER * BINS + _place(digit_N, SHIFT), weight_N, mask=shares_N, sem="relaxed")


@jit
def draw_kernel(
    best: tl.tensor, index: tl.tensor, peaks: tl.tensor, histograms: tl.tensor, found: tl.tensor, logits: tl.tensor,
    bits: tl.tensor, rule: tl.tensor, top_k: tl.tensor, top_p: tl.tensor, draws: tl.tensor, state: tl.tensor,
    V: tl.constexpr, BN: tl.constexpr, GROUPS: tl.constexpr, GP: tl.constexpr, NARROWINGS: tl.constexpr,
    BY_MASS_BEFORE: tl.constexpr, PDL: tl.constexpr,
) -> None:  # fmt: skip
    """Best score of each group of BN tokens and whose it is; infinity if a logit is not a number."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    group = tl.program_id(0)
    token_N = group * BN + tl.arange(0, BN)
    logit_N = _allowed(logits, bits, token_N, V)
    invalid = tl.sum(((logit_N != logit_N) | (logit_N == float("inf"))).to(tl.int32), axis=0)
    score_N = logit_N * tl.load(rule)
    if tl.load(rule + 1) > 0:
        score_N += _gumbel(tl.load(draws + DRAWS_SEED), tl.load(state + STATE_POSITION), token_N)
    if NARROWINGS > 0:
        if PDL:
            tl.extra.cuda.gdc_wait()
        limit, _, _ = _narrowed(
            histograms + (NARROWINGS - 1) * BINS, found + (NARROWINGS - 1) * FOUND_FIELDS, top_k, top_p,
            0, BY_MASS_BEFORE,
        )  # fmt: skip
        if group == 0:
            tl.store(found + NARROWINGS * FOUND_FIELDS + FOUND_LIMIT, limit)
        distance_N = _distance(_nats_below(logit_N, rule, peaks, GROUPS, GP))
        score_N = tl.where(distance_N <= limit, score_N, float("-inf"))
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
