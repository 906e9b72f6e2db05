"""Programs that skip an exact share of block visits, and the weights that share is counted with.

The skip of a way of skipping is that of generated-token visits, averaged over the two kinds of steps with equal weight.
Where a baseline has to skip 4.3 blocks, steps that hold 30 % of the weight, chosen by a seeded hash of their content,
skip five blocks and the others four.

Shape suffixes: N steps, L blocks.
"""

import hashlib
from math import floor

import numpy as np
from numpy.typing import NDArray

from layerroute_training.errors import ConfigError
from layerroute_training.evaluation.measure import generated_tokens
from layerroute_training.evaluation.statistics import BoolArray, FloatArray
from layerroute_training.steps import StepSet

Order = tuple[int, ...]
"""Blocks, the one to remove first at the front. Blocks that always run are not in it."""


def kind_weights(steps: StepSet) -> FloatArray:
    """Weights [N] by generated tokens; those of each kind sum to one half.

    Raises:
        ConfigError: a kind is absent, or has no generated tokens.
    """
    generated_N = generated_tokens(steps)
    totals = {calls: int(generated_N[steps.is_tool_call == calls].sum()) for calls in (True, False)}
    if not all(totals.values()):
        raise ConfigError("baselines compare both kinds of steps, and one is absent: give data with both, or leave out")
    weights_N: FloatArray = generated_N / np.where(steps.is_tool_call, totals[True], totals[False]) / 2
    return weights_N


def step_hashes(steps: StepSet, seed: int) -> FloatArray:
    """A number in [0, 1) per step that its tokens and the seed decide, whatever the order of the steps."""
    key = seed.to_bytes(8, "little", signed=True)
    spans = zip(steps.start.tolist(), steps.answer.tolist(), steps.end.tolist(), strict=True)
    digests = [
        hashlib.blake2b(
            steps.tokens[start:end].tobytes() + (answer - start).to_bytes(4, "little"), digest_size=8, key=key
        ).digest()
        for start, answer, end in spans
    ]
    # 53 bits are what a float64 holds exactly.
    return np.array([int.from_bytes(digest, "little") >> 11 for digest in digests], dtype=np.float64) / 2.0**53


def ranks(order: Order, num_blocks: int) -> NDArray[np.int64]:
    """Place [1, L] of each block in a removal order; `num_blocks` for blocks outside of it."""
    rank_1L = np.full((1, num_blocks), num_blocks)
    rank_1L[0, list(order)] = np.arange(len(order))
    return rank_1L


def programs(rank_NL: NDArray[np.int64], share: float, weight_N: FloatArray, hash_N: FloatArray) -> BoolArray:
    """Programs [N, L] that skip the blocks of lowest rank, so many that the weighted mean skip is `share`.

    Steps differ by one block at most: those with the lowest hashes skip the one more.

    Args:
        rank_NL: as `ranks` gives it, one row for all or one per step.
        share: skip asked for, 0..1.
        weight_N: weights of the steps; hash_N: as `step_hashes` gives them.

    Raises:
        ConfigError: fewer blocks may be removed than `share` asks for.
    """
    num_blocks = rank_NL.shape[1]
    depth = share * num_blocks
    if depth > (rank_NL < num_blocks).sum(1).min() + 1e-9:
        raise ConfigError(
            f"skipping {share:.1%} needs {depth:.1f} of {num_blocks} blocks, and fewer may be removed: "
            "give an order of more blocks, or let fewer always run"
        )
    order_N = np.argsort(hash_N, kind="stable")
    total = weight_N.sum()
    before_N = np.cumsum(weight_N[order_N]) - weight_N[order_N] / 2
    one_more_N = np.zeros(len(hash_N), dtype=np.bool_)
    one_more_N[order_N] = before_N < (depth - floor(depth)) * total
    count_N = floor(depth) + one_more_N
    run_NL: BoolArray = rank_NL >= count_N[:, None]
    return run_NL


def random_ranks(order: Order, num_blocks: int, num_steps: int, seed: int) -> NDArray[np.int64]:
    """The blocks of `order` in another random order for each step [N, L]."""
    rank_NL = np.full((num_steps, num_blocks), num_blocks)
    keys = np.random.default_rng([seed, 1]).random((num_steps, len(order)))
    rank_NL[:, list(order)] = keys.argsort(1).argsort(1)
    return rank_NL


def choose(steps: StepSet, limit: int | None, seed: int) -> NDArray[np.int64]:
    """Indices of at most `limit` steps of each group and kind, those with the lowest hashes, in their old order."""
    hash_N = step_hashes(steps, seed)
    stratum_N = steps.group.astype(np.int64) * 2 + steps.is_tool_call
    chosen = [np.flatnonzero(stratum_N == stratum) for stratum in np.unique(stratum_N)]
    chosen = [indices[np.argsort(hash_N[indices], kind="stable")][:limit] for indices in chosen]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))
