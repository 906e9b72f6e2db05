"""Is the differential about the kind of step, or only about its length? Comparisons between steps of like length.

Skip is of generated-token visits, weighted by those tokens, as everywhere. Shape suffixes: N steps, O octiles,
R resamples and, before them, the sample itself.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerroute_training.evaluation.report import (
    Interval,
    LengthControl,
    MatchedDifferential,
    Octile,
    SwappedDifferential,
)
from layerroute_training.evaluation.statistics import (
    BoolArray,
    ClusterBootstrap,
    FloatArray,
    correlation,
    divide,
    interval,
    partial_correlation,
)

OCTILES = 8


def length_control(
    skip_N: FloatArray,
    weight_N: FloatArray,
    is_tool_call_N: BoolArray,
    prompt_length_N: NDArray[Any],
    answer_length_N: NDArray[Any],
    bootstrap: ClusterBootstrap,
) -> LengthControl:
    """Compare the kinds at like length.

    Args:
        skip_N: share of its block visits that a step's generated tokens skip.
        weight_N: generated tokens of a step.
        is_tool_call_N: observed kind. prompt_length_N, answer_length_N: in tokens.
        bootstrap: over the conversations of the same steps.
    """
    lengths = (np.log(np.maximum(prompt_length_N, 1)), np.log(np.maximum(answer_length_N, 1)))
    matched = [
        matched_differential(skip_N, weight_N, is_tool_call_N, length_N, bootstrap)
        for length_N in (prompt_length_N, answer_length_N)
    ]
    swapped = [
        swapped_differential(skip_N, weight_N, is_tool_call_N, length_N, bootstrap)
        for length_N in (prompt_length_N, answer_length_N)
    ]
    return LengthControl(
        by_prompt=matched[0],
        by_answer=matched[1],
        swapped_prompt=swapped[0],
        swapped_answer=swapped[1],
        correlation=correlation(skip_N, is_tool_call_N),
        partial_correlation=partial_correlation(skip_N, is_tool_call_N, lengths),
    )


def differential(
    skip_N: FloatArray, weight_N: FloatArray, of_N: BoolArray, minus_N: BoolArray, bootstrap: ClusterBootstrap
) -> Interval | None:
    """Token-weighted skip of the steps `of_N` minus that of `minus_N`; None where one of the two has no weight."""
    skipped_N = skip_N * weight_N
    sides = [bootstrap.ratio(skipped_N * side_N, weight_N * side_N) for side_N in (of_N, minus_N)]
    samples_R = sides[0] - sides[1]
    return interval(samples_R) if np.isfinite(samples_R[0]) else None


def matched_differential(
    skip_N: FloatArray,
    weight_N: FloatArray,
    is_tool_call_N: BoolArray,
    length_N: NDArray[Any],
    bootstrap: ClusterBootstrap,
) -> MatchedDifferential | None:
    """The differential between steps of like length.

    The octiles of the lengths of both kinds together cut the steps into eight cells. In each cell with steps of both
    kinds, the differential is the skip of its tool calls minus that of its planning steps. The result is the mean of
    these over such cells, each weighted by the number of steps of its rarer kind: a cell where one kind hardly occurs
    compares little. Resamples keep the edges and redo the rest.

    Returns:
        None if no cell has both kinds.
    """
    edges = np.quantile(length_N, np.linspace(0.0, 1.0, OCTILES + 1))
    octile_N = np.searchsorted(edges[1:-1], length_N, side="right")
    cell_NO = octile_N[:, None] == np.arange(OCTILES)
    skips, counts = [], []
    for kind_N in (is_tool_call_N, ~is_tool_call_N):
        in_cell_NO = cell_NO & kind_N[:, None] & (weight_N > 0)[:, None]
        tokens_NO = in_cell_NO * weight_N[:, None]
        skips.append(divide(bootstrap.sums(tokens_NO * skip_N[:, None]), bootstrap.sums(tokens_NO)))
        counts.append(bootstrap.sums(in_cell_NO))
    rarer_RO = np.minimum(*counts)
    gap_RO = np.where(rarer_RO > 0, skips[0] - skips[1], 0.0)
    samples_R = divide((gap_RO * rarer_RO).sum(1), rarer_RO.sum(1))
    if not np.isfinite(samples_R[0]):
        return None
    octiles = tuple(
        Octile(
            low=float(edges[o]),
            high=float(edges[o + 1]),
            tool_calls=int(counts[0][0, o]),
            plannings=int(counts[1][0, o]),
            skip_tool_call=_known(skips[0][0, o]),
            skip_planning=_known(skips[1][0, o]),
        )
        for o in range(OCTILES)
    )
    return MatchedDifferential(differential=interval(samples_R), octiles=octiles)


def swapped_differential(
    skip_N: FloatArray,
    weight_N: FloatArray,
    is_tool_call_N: BoolArray,
    length_N: NDArray[Any],
    bootstrap: ClusterBootstrap,
) -> SwappedDifferential:
    """The differential of long tool calls against short planning steps, and of short against long.

    Long is above the median length of all steps. A router that only read the length would have one sign in one of
    them and the other sign in the other.
    """
    long_N = length_N > np.median(length_N)
    return SwappedDifferential(
        long_tool_calls=differential(skip_N, weight_N, is_tool_call_N & long_N, ~is_tool_call_N & ~long_N, bootstrap),
        short_tool_calls=differential(skip_N, weight_N, is_tool_call_N & ~long_N, ~is_tool_call_N & long_N, bootstrap),
    )


def _known(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None
