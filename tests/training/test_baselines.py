"""Baselines skip exactly as much as the routed model, and learn from training steps alone."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_steps import BLOCKS, made_model, made_steps, without_effect

from layerroute_training.errors import ConfigError
from layerroute_training.evaluation.baselines import (
    Arena,
    StaticBundle,
    compare_baselines,
    group_programs,
    kind_programs,
    length_programs,
)
from layerroute_training.evaluation.equal_skip import (
    choose,
    kind_weights,
    programs,
    random_ranks,
    ranks,
    step_hashes,
)
from layerroute_training.evaluation.frontier import find_offset, shifted, skip_frontier
from layerroute_training.evaluation.importance import block_influence, influence_order, loss_without, removal_order
from layerroute_training.evaluation.measure import measure
from layerroute_training.evaluation.statistics import ClusterBootstrap

FULL = np.ones((1, BLOCKS), dtype=bool)
seeds = st.integers(0, 2**31)


def arena_of(model, steps):
    routed, full = measure(model, steps), measure(model, steps, run_NL=FULL)
    return Arena(model, steps, routed, full, ClusterBootstrap(steps.conversation, 100), seed=0)


@pytest.fixture(scope="module")
def dev():
    return arena_of(made_model(), made_steps(200))


@pytest.fixture(scope="module")
def train():
    return made_steps(40, seed=9)


@given(seeds, st.floats(0, 5 / 6))
def test_programs_skip_the_front_of_the_order_by_the_share_asked_for(seed, share):
    random = np.random.default_rng(seed)
    weight, order = random.random(50), tuple(random.permutation(6)[:5].tolist())
    run = programs(ranks(order, 6), share, weight, random.random(50))
    skip = (weight * (1 - run.mean(1))).sum() / weight.sum()
    assert abs(skip - share) <= weight.max() / weight.sum() / 6
    counts = (~run).sum(1)
    assert counts.max() - counts.min() <= 1
    for row, count in zip(run, counts, strict=True):
        assert set(np.flatnonzero(~row).tolist()) == set(order[:count])


def test_random_programs_draw_anew_for_each_step_and_leave_other_blocks_alone():
    run = programs(random_ranks((1, 2, 3, 4, 5), 6, 400, 0), 2 / 6, np.ones(400), np.arange(400) / 400)
    assert run[:, 0].all()
    np.testing.assert_allclose((~run[:, 1:]).mean(0), 0.4, atol=0.08)
    assert ((~run).sum(1) == 2).all()


def test_a_share_beyond_the_order_is_refused():
    with pytest.raises(ConfigError, match=r"3\.0 of 6 blocks"):
        programs(ranks((4, 5), 6), 0.5, np.ones(4), np.zeros(4))


def test_hashes_belong_to_the_content_of_a_step():
    steps = made_steps(100)
    order = np.random.default_rng(0).permutation(100)
    assert (step_hashes(steps.select(order), 3) == step_hashes(steps, 3)[order]).all()
    assert (step_hashes(steps, 3) != step_hashes(steps, 4)).all()
    assert abs(step_hashes(steps, 3).mean() - 0.5) < 0.1
    moved = replace(steps, answer=steps.answer - 1)  # the same tokens, cut elsewhere
    assert (step_hashes(moved, 3) != step_hashes(steps, 3)).all()


def test_choice_takes_the_same_steps_of_every_group_and_kind():
    steps = made_steps(200)
    few, more = choose(steps, 10, seed=1), choose(steps, 20, seed=1)
    assert set(few) < set(more)
    chosen = steps.select(few)
    assert np.unique(chosen.group * 2 + chosen.is_tool_call, return_counts=True)[1].tolist() == [10] * 4
    assert choose(steps, None, seed=1).tolist() == list(range(200))


def test_kinds_weigh_the_same_whatever_their_tokens():
    steps = made_steps(50)
    weights = kind_weights(steps)
    assert weights[steps.is_tool_call].sum() == pytest.approx(0.5)
    assert weights.sum() == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="both kinds"):
        kind_weights(made_steps(5, calls=True))


def test_greedy_order_removes_what_costs_least_given_what_is_gone(train):
    model = made_model(always_run=(0, 4))
    first, second, *rest = removal_order(model, train, depth=2)
    alone = {block: loss_without(model, train, [block]) for block in (1, 2, 3, 5)}
    assert first == min(alone, key=alone.get)
    after = {block: loss_without(model, train, [first, block]) for block in alone if block != first}
    assert [second, *rest] == sorted(after, key=after.get)
    assert list(removal_order(model, train, depth=1)) == sorted(alone, key=alone.get)


def test_importance_weighs_both_kinds_the_same_and_measures_under_the_lora(train):
    model = made_model()
    expected = []
    for kind in (True, False):
        found = measure(model, train.select(train.is_tool_call == kind), run_NL=np.arange(BLOCKS)[None] != 3)
        expected.append(found.nll_N.sum() / found.tokens_N.sum())
    assert loss_without(model, train, [3]) == pytest.approx(np.mean(expected))


def test_a_block_without_effect_costs_nothing_and_has_no_influence(train):
    model = made_model()
    without_effect(model, 3)
    assert loss_without(model, train, [3]) == pytest.approx(loss_without(model, train, []), abs=1e-6)
    influence = block_influence(model, train)
    assert influence[3] == pytest.approx(0.0, abs=1e-6)
    assert influence_order(model, train)[0] == 3
    assert 0 not in influence_order(model, train)


def test_block_influence_is_the_mean_distance_of_states_in_and_out(train):
    model = made_model().eval()
    with torch.inference_mode():
        total, tokens = np.zeros(BLOCKS), 0
        for index in range(10):
            ids = torch.from_numpy(train.tokens[train.start[index] : train.end[index]].astype(np.int64))[None]
            states = model.backbone.model(ids, output_hidden_states=True).hidden_states
            for block in range(BLOCKS - 1):  # transformers norms the last state
                similar = torch.cosine_similarity(states[block], states[block + 1], dim=-1)
                total[block] += float((1 - similar).sum())
            tokens += ids.shape[1]
    model = made_model()  # transformers leaves hooks of its own in the other
    found = block_influence(model, train.select(np.arange(10)))
    np.testing.assert_allclose(found[:-1], total[:-1] / tokens, rtol=1e-4)
    assert not any(layer._forward_hooks for layer in model.backbone.model.layers)


def test_all_baselines_skip_what_the_routed_model_skips(dev, train):
    other = StaticBundle("other", made_model(seed=5), (5, 4, 3, 2, 1))
    routed, *baselines = compare_baselines(dev, train, (1, 2, 3, 4, 5), other)
    assert routed.name == "routed"
    assert routed.behind is None
    assert [baseline.name for baseline in baselines] == [
        "static one-shot",
        "static greedy",
        "block influence",
        "static with its own LoRA",
        "random",
        "length only",
        "true kind",
        "predicted kind",
        "true group and kind",
    ]
    for baseline in baselines:
        assert baseline.mean_skip == pytest.approx(routed.mean_skip, abs=0.002), baseline.name
        assert (baseline.tool_call.skip + baseline.planning.skip) / 2 == pytest.approx(baseline.mean_skip)
        behind = baseline.mean_nll.value - routed.mean_nll.value
        assert baseline.behind.value == pytest.approx(behind)
    for oracle in (one for one in baselines if one.name.startswith("true")):
        for kind in ("tool_call", "planning"):
            assert getattr(oracle, kind).skip == pytest.approx(getattr(routed, kind).skip, abs=0.002)
    greedy, own = baselines[1], baselines[3]
    assert greedy.skipped == (1, 2)[: len(greedy.skipped)]
    assert (own.bundle, own.skipped[0]) == ("other", 5)


def test_nothing_is_learnt_from_the_steps_that_are_measured(dev, train):
    """Other answers of the same lengths, other losses: the programs stay."""
    tokens = dev.steps.tokens.copy()
    for answer, end in zip(dev.steps.answer, dev.steps.end, strict=True):
        tokens[answer:end] = 7
    steps = replace(dev.steps, tokens=tokens)
    changed = replace(dev, steps=steps, full=measure(dev.model, steps, run_NL=FULL))
    skipped = [
        set(np.flatnonzero(~one.all(0))) for one in (length_programs(at, train, (1, 2)) for at in (dev, changed))
    ]
    assert skipped[0] == skipped[1]
    sets = [
        {
            name: set(np.flatnonzero(~run.all(0)))
            for name, run in (kind_programs(at, train) | group_programs(at, train)).items()
        }
        for at in (dev, changed)
    ]
    assert sets[0] == sets[1]


def test_length_only_sees_the_prompts_length_and_nothing_else(dev, train):
    skips = (~length_programs(dev, train, (3, 2, 1, 4, 5))).any(1)
    lengths = dev.steps.prompt_lengths
    assert 0 < skips.sum() < len(skips)
    assert lengths[skips].min() > lengths[~skips].max() or lengths[skips].max() < lengths[~skips].min()


def test_predicted_kinds_choose_between_the_sets_of_the_true_kinds(dev, train):
    right = replace(dev, routed=replace(dev.routed, kind_probability_N=dev.steps.is_tool_call.astype(float)))
    found = kind_programs(right, train)
    assert (found["predicted kind"] == found["true kind"]).all()
    blind = replace(dev, routed=replace(dev.routed, kind_probability_N=np.zeros(200)))
    skip = 1 - kind_programs(blind, train)["predicted kind"].mean(1)
    assert float((kind_weights(dev.steps) * skip).sum()) == pytest.approx(dev.share, abs=0.002)


def test_each_group_and_kind_has_a_set_and_skip_of_its_own(dev, train):
    tokens, steps, weight = train.tokens.copy(), dev.steps, kind_weights(dev.steps)
    for answer, end, group in zip(train.answer, train.end, train.group, strict=True):
        tokens[answer:end] = 7 * group + 2  # what is good to skip differs from group to group
    train = replace(train, tokens=tokens)
    (run,) = group_programs(dev, train).values()
    sets = {}
    for group in (0, 1):
        for kind in (True, False):
            cell = (steps.group == group) & (steps.is_tool_call == kind)
            skip, expected = (weight * (1 - run.mean(1)))[cell].sum() / weight[cell].sum(), dev.skip_of(cell)
            assert skip == pytest.approx(expected, abs=0.01)
            fit = train.select((train.group == group) & (train.is_tool_call == kind))
            order = removal_order(dev.model, fit, ceil(expected * BLOCKS))
            sets[group, kind] = set(np.flatnonzero(~run[cell].all(0)))
            assert sets[group, kind] == set(order[: (~run[cell]).sum(1).max()])
    assert len({frozenset(one) for one in sets.values()}) > 1


def test_steps_of_one_group_have_no_oracle_by_group(dev, train):
    one = replace(dev, steps=replace(dev.steps, group=np.zeros_like(dev.steps.group)))
    assert group_programs(one, train) == {}


def test_a_group_that_training_lacks_takes_the_sets_of_the_kinds(dev, train):
    (of_both,) = group_programs(dev, train).values()
    (unknown,) = group_programs(dev, replace(train, groups=("corpora", "another"))).values()
    first = dev.steps.group == 0
    assert (unknown[first] == of_both[first]).all()
    calls = dev.steps.is_tool_call & ~first
    order = removal_order(dev.model, train.select(train.is_tool_call), ceil(dev.skip_of(calls) * BLOCKS))
    assert set(np.flatnonzero(~unknown[calls].all(0))) == set(order[: (~unknown[calls]).sum(1).max()])


@pytest.mark.parametrize("scope", ["generation", "sequence"])
def test_an_offset_moves_the_skip_of_tool_calls_to_its_target(scope):
    model, train = made_model(scope), made_steps(120, seed=9)
    biases = model.gates_bias_L.detach().clone()
    with shifted(model, find_offset(model, train, 0.4)):
        found = measure(model, train)
    calls = train.is_tool_call
    weight = (train.answer_lengths - 1)[calls]
    assert (found.skip[calls] * weight).sum() / weight.sum() == pytest.approx(0.4, abs=0.03)
    assert torch.equal(model.gates_bias_L, biases)


def test_biases_come_back_after_an_error():
    model = made_model()
    before = model.gates_bias_L.detach().clone()
    with pytest.raises(RuntimeError), shifted(model, 0.1):
        raise RuntimeError
    assert torch.equal(model.gates_bias_L, before)


def test_frontier_compares_at_the_skip_that_each_offset_gives(dev, train):
    points = skip_frontier(dev, train, (1, 2, 3, 4, 5), targets=(0.1, 0.5, 0.95))
    assert [point.target for point in points] == [0.1, 0.5]  # one block in six always runs
    assert points[0].routed.mean_skip < points[1].routed.mean_skip
    assert points[0].offset > points[1].offset
    for point in points:
        assert point.static.mean_skip == pytest.approx(point.routed.mean_skip, abs=0.002)
        assert point.random.mean_skip == pytest.approx(point.routed.mean_skip, abs=0.002)
        difference = point.static.mean_nll.value - point.routed.mean_nll.value
        assert point.static.behind.value == pytest.approx(difference)
