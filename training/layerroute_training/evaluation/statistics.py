"""Statistics of an evaluation in plain numpy: cluster bootstrap, sign test, AUC, calibration, partial correlation.

Shape suffixes: N steps, K clusters (conversations), R resamples and, before them, the sample itself, C columns.
"""

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerroute_training.evaluation.report import Interval, Spread

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

RESAMPLES = 1_000
CALIBRATION_BINS = 10


class ClusterBootstrap:
    """Sums over steps, of the sample and of resamples that draw whole conversations with replacement.

    Steps of a conversation share their prompt's text, so that steps are no independent draws, but conversations are.
    Every statistic of one bootstrap sees the same resamples: differences and ratios of its sums are paired.
    """

    def __init__(self, cluster_N: NDArray[Any], resamples: int = RESAMPLES, seed: int = 0) -> None:
        """Draw `resamples` times as many conversations as `cluster_N` names, with replacement."""
        _, self._cluster_N = np.unique(cluster_N, return_inverse=True)
        self.num_clusters = K = int(self._cluster_N.max(initial=-1)) + 1
        drawn_RK = np.random.default_rng(seed).integers(max(K, 1), size=(resamples, K))
        drawn_RK += np.arange(resamples)[:, None] * K
        times_RK = np.bincount(drawn_RK.ravel(), minlength=resamples * K).reshape(resamples, K)
        self._times_RK: FloatArray = np.concatenate([np.ones((1, K)), times_RK])

    def sums(self, values_NC: NDArray[Any]) -> FloatArray:
        """Sums of the columns: row 0 of the sample, the other rows of the resamples. [N] gives [R], [N, C] [R, C]."""
        columns_NC = np.asarray(values_NC, dtype=np.float64).reshape(len(self._cluster_N), -1)
        sums_KC = np.stack(
            [np.bincount(self._cluster_N, column_N, self.num_clusters) for column_N in columns_NC.T], axis=1
        )
        sums_RC: FloatArray = self._times_RK @ sums_KC
        return sums_RC.reshape(len(sums_RC), *np.shape(values_NC)[1:])

    def ratio(self, numerator_N: NDArray[Any], denominator_N: NDArray[Any]) -> FloatArray:
        """Ratios of two sums [R], such as nats over tokens; NaN where the denominator is zero."""
        return divide(self.sums(numerator_N), self.sums(denominator_N))


def divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Quotients, NaN where the denominator is zero."""
    quotients: FloatArray = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=quotients, where=denominator != 0)
    return quotients


def interval(samples_R: FloatArray) -> Interval:
    """The sample's value with the 2.5 % and 97.5 % quantiles of its resamples.

    Resamples in which the statistic is undefined (they drew no conversation of a kind, say) are left out.

    Raises:
        ValueError: the statistic is undefined for the sample itself.
    """
    value, resampled_R = float(samples_R[0]), samples_R[1:]
    if not np.isfinite(value):
        raise ValueError("the statistic is undefined for this sample: report nothing for it")
    finite_R = resampled_R[np.isfinite(resampled_R)]
    low, high = np.quantile(finite_R, [0.025, 0.975]) if len(finite_R) else (value, value)
    return Interval(value=value, low=float(low), high=float(high))


def sign_test(differences: Sequence[float]) -> float:
    """Two-sided exact p that as uneven a number of positive values arises by fair coins; zeros are left out."""
    positive = sum(value > 0 for value in differences)
    n = positive + sum(value < 0 for value in differences)
    tail = sum(comb(n, k) for k in range(min(positive, n - positive) + 1))
    return float(min(1.0, 2 * tail / 2**n))


def spread(values: Sequence[float]) -> Spread:
    """Mean and range over seeds."""
    return Spread(mean=float(np.mean(values)), low=min(values), high=max(values))


def auc(score_N: FloatArray, positive_N: BoolArray) -> float | None:
    """Chance that a positive scores above a negative, ties count half (Mann-Whitney U). None if either is absent."""
    positive, negative = score_N[positive_N], np.sort(score_N[~positive_N])
    if not len(positive) or not len(negative):
        return None
    below = np.searchsorted(negative, positive, side="left") + np.searchsorted(negative, positive, side="right")
    return float(below.mean() / 2 / len(negative))


def calibration_error(probability_N: FloatArray, positive_N: BoolArray, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: mean gap of belief and truth over bins of equal width, weighted by their steps."""
    bin_N = np.minimum((probability_N * bins).astype(np.int64), bins - 1)
    gap = np.bincount(bin_N, probability_N - positive_N, bins)
    return float(np.abs(gap).sum() / len(probability_N))


def brier(probability_N: FloatArray, positive_N: BoolArray) -> float:
    """Mean squared error of the belief."""
    return float(np.square(probability_N - positive_N).mean())


def correlation(first_N: NDArray[Any], second_N: NDArray[Any]) -> float | None:
    """Pearson's correlation; point-biserial if one of the two is true or false. None if either is constant."""
    return partial_correlation(first_N, second_N, ())


def partial_correlation(first_N: NDArray[Any], second_N: NDArray[Any], given: Sequence[NDArray[Any]]) -> float | None:
    """Pearson's correlation of what least squares on `given` leaves of both. None if it leaves nothing of either."""
    N = len(first_N)
    design_NC = np.stack([np.ones(N), *(np.asarray(column, dtype=np.float64) for column in given)], axis=1)
    both_N2 = np.stack([first_N, second_N], axis=1).astype(np.float64)
    solution, *_ = np.linalg.lstsq(design_NC, both_N2, rcond=None)
    rest_N2 = both_N2 - design_NC @ solution
    rest_2 = np.linalg.norm(rest_N2, axis=0)
    # What rounding leaves of a column that the others explain in full is no evidence.
    if (rest_2 <= 1e-9 * np.linalg.norm(both_N2, axis=0)).any():
        return None
    return float(np.clip(rest_N2[:, 0] @ rest_N2[:, 1] / rest_2.prod(), -1.0, 1.0))
