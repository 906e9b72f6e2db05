from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from layerroute_training.evaluation.length_control import (
    differential,
    length_control,
    matched_differential,
    swapped_differential,
)
from layerroute_training.evaluation.statistics import (
    ClusterBootstrap,
    auc,
    brier,
    calibration_error,
    correlation,
    interval,
    partial_correlation,
    sign_test,
    spread,
)

samples = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@given(samples, st.floats(0.1, 9.0))
@settings(max_examples=20)
def test_bootstrap_of_a_constant_loss_is_exact(random, loss):
    tokens = random.integers(1, 50, size=40)
    bootstrap = ClusterBootstrap(random.integers(12, size=40), resamples=50)
    found = interval(bootstrap.ratio(loss * tokens, tokens))
    assert [found.value, found.low, found.high] == pytest.approx([loss] * 3, rel=1e-12)


def test_resamples_draw_whole_conversations():
    # Two conversations: a resample holds the first 0, 1 or 2 times, and always all of its steps.
    sums = ClusterBootstrap(np.array([7, 7, 7, 3]), resamples=400).sums(np.array([1.0, 1.0, 1.0, 100.0]))
    assert sums[0] == 103.0
    assert set(sums[1:]) == {6.0, 103.0, 200.0}


def test_steps_of_one_conversation_carry_less_evidence_than_as_many_conversations():
    values = np.repeat(np.random.default_rng(0).normal(size=30), 10)
    ones = np.ones(300)
    widths = []
    for clusters in (np.repeat(np.arange(30), 10), np.arange(300)):
        found = interval(ClusterBootstrap(clusters).ratio(values, ones))
        widths.append(found.high - found.low)
    assert widths[0] == pytest.approx(widths[1] * 10**0.5, rel=0.2)


def test_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        found = interval(ClusterBootstrap(np.arange(80), 300, trial).ratio(random.normal(size=80), np.ones(80)))
        covered += found.low <= 0.0 <= found.high
    assert 175 <= covered <= 198


def test_undefined_resamples_are_left_out_and_an_undefined_sample_is_refused():
    bootstrap = ClusterBootstrap(np.arange(2), resamples=100)
    found = interval(bootstrap.ratio(np.array([3.0, 0.0]), np.array([1.0, 0.0])))
    assert (found.low, found.high) == (3.0, 3.0)
    with pytest.raises(ValueError, match="undefined"):
        interval(bootstrap.ratio(np.ones(2), np.zeros(2)))


@pytest.mark.parametrize("coins", range(1, 11))
def test_sign_test_is_the_enumeration_of_all_coins(coins):
    outcomes = [abs(sum(tosses)) for tosses in product((-1, 1), repeat=coins)]
    for positive in range(coins + 1):
        as_uneven = sum(outcome >= abs(2 * positive - coins) for outcome in outcomes)
        differences = [0.3] * positive + [-0.1] * (coins - positive) + [0.0]
        assert sign_test(differences) == pytest.approx(as_uneven / 2**coins)


def test_spread_is_mean_and_range():
    found = spread([3.0, -1.0, 4.0])
    assert (found.mean, found.low, found.high) == (2.0, -1.0, 4.0)


@given(samples)
def test_auc_is_the_share_of_pairs_in_order(random):
    score, positive = random.integers(5, size=30) / 4, random.random(30) < 0.4
    assume(positive.any() and not positive.all())
    pairs = [(p > n) + 0.5 * (p == n) for p, n in product(score[positive], score[~positive])]
    assert auc(score, positive) == pytest.approx(np.mean(pairs))
    assert auc(score, np.ones(30, dtype=bool)) is None


def test_calibration_of_known_beliefs():
    belief = np.array([0.0, 0.95, 0.95, 1.0, 0.25, 0.25])
    truth = np.array([False, True, False, True, False, True])
    assert brier(belief, truth) == pytest.approx((0.05**2 + 0.95**2 + 0.25**2 + 0.75**2) / 6)
    # Bins: {0} right; {.95, .95, 1} believed 2.9, two true; {.25, .25} believed .5, one true.
    assert calibration_error(belief, truth) == pytest.approx((0.9 + 0.5) / 6)


@given(samples)
def test_partial_correlation_is_that_of_regression_residuals(random):
    x, y, a, b = random.normal(size=(4, 50))
    x, y = x + 2 * a - b, y + a + (x > 0)
    design = np.stack([np.ones(50), a, b], axis=1)
    rest_x, rest_y = (v - design @ np.linalg.pinv(design) @ v for v in (x, y))
    assert partial_correlation(x, y, (a, b)) == pytest.approx(np.corrcoef(rest_x, rest_y)[0, 1])
    assert correlation(x, y > 0) == pytest.approx(np.corrcoef(x, y > 0)[0, 1])


def test_correlation_with_what_does_not_vary_is_undefined():
    x = np.arange(10.0)
    assert correlation(x, np.full(10, True)) is None
    assert partial_correlation(x, np.random.default_rng(0).normal(size=10), (3 * x + 1,)) is None


def made_steps(random, skip_of, overlap=0.7):
    """1,000 steps: tool calls have longer prompts; `skip_of(is_tool_call, length)` says what they skip."""
    calls = random.random(1000) < 0.5
    length = np.exp(random.normal(size=1000) + calls * (1 - overlap) * 5) * 100
    return skip_of(calls, length), random.integers(1, 40, size=1000).astype(float), calls, length


def test_a_router_that_reads_only_the_length_shows_no_matched_differential():
    random = np.random.default_rng(2)
    skip, weight, calls, length = made_steps(random, lambda calls, length: np.clip(length / 2000, 0, 0.5))
    bootstrap = ClusterBootstrap(np.arange(1000))
    assert differential(skip, weight, calls, ~calls, bootstrap).low > 0.05
    assert abs(matched_differential(skip, weight, calls, length, bootstrap).differential.value) < 0.05
    swapped = swapped_differential(skip, weight, calls, length, bootstrap)
    assert swapped.long_tool_calls.low > 0.0 > swapped.short_tool_calls.high


def test_a_router_that_knows_the_kind_shows_it_at_every_length():
    random = np.random.default_rng(3)
    skip, weight, calls, length = made_steps(random, lambda calls, length: 0.05 + 0.25 * calls)
    bootstrap = ClusterBootstrap(random.integers(200, size=1000))
    found = length_control(skip, weight, calls, length, weight, bootstrap)
    for matched in (found.by_prompt, found.by_answer):
        interval_ = matched.differential
        assert [interval_.value, interval_.low, interval_.high] == pytest.approx([0.25] * 3)
        assert sum(octile.tool_calls + octile.plannings for octile in matched.octiles) == 1000
    assert found.swapped_prompt.short_tool_calls.value == pytest.approx(0.25)
    assert found.correlation == pytest.approx(1.0)
    assert found.partial_correlation == pytest.approx(1.0)


def test_matched_differential_by_hand():
    # Octiles of 1..16 hold two steps each: only the first two hold both kinds, one step of each.
    length = np.arange(1, 17)
    calls = np.array([1, 0, 0, 1] + [1] * 6 + [0] * 6, dtype=bool)
    skip = np.where(calls, 0.5, 0.2)
    skip[1] = 0.4
    found = matched_differential(skip, np.ones(16), calls, length, ClusterBootstrap(np.arange(16)))
    assert found.differential.value == pytest.approx((0.1 + 0.3) / 2)
    assert found.octiles[2].skip_planning is None


def test_cells_weigh_as_much_as_their_rarer_kind():
    # Two lengths: 4 tool calls against 1 planning step, and 2 against 3.
    length = np.repeat([10, 20], 5)
    calls = np.array([1, 1, 1, 1, 0, 1, 1, 0, 0, 0], dtype=bool)
    skip = np.where(calls, np.repeat([0.5, 0.4], 5), 0.1)
    found = matched_differential(skip, np.ones(10), calls, length, ClusterBootstrap(np.arange(10)))
    assert found.differential.value == pytest.approx((1 * 0.4 + 2 * 0.3) / 3)


def test_kinds_that_never_share_an_octile_have_no_matched_differential():
    calls = np.arange(16) >= 8
    found = length_control(
        calls * 0.3, np.ones(16), calls, np.arange(16), np.arange(16), ClusterBootstrap(np.arange(16))
    )
    assert found.by_prompt is None
    assert found.swapped_prompt.short_tool_calls is None
    assert found.swapped_prompt.long_tool_calls.value == pytest.approx(0.3)
