"""Objectives: constraints are met, cells do not pay for each other, and static programs have the skip they promise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerroute_training.config import (
    ConstrainedObjective,
    GroupConstraints,
    PaperObjective,
    QualityBound,
    SkipTarget,
    StaticObjective,
)
from layerroute_training.errors import ConfigError, CorpusError
from layerroute_training.objectives import make_objective, static_programs
from layerroute_training.routed_model import RoutedOutput

GROUPS = ("corpora", "generated")
BOTH = np.array([True, False])
CALLS = torch.tensor([False, True, False, True])
GROUP = torch.tensor([0, 0, 1, 1])
CELLS = ("corpora/planning", "corpora/tool_call", "generated/planning", "generated/tool_call")


def output(skip_B, nll_B, tokens_B, num_blocks=4):
    """A pass in which each step skips a share of its blocks, with one loss for all tokens of a step."""
    step_A = torch.repeat_interleave(torch.arange(len(tokens_B)), torch.tensor(tokens_B))
    run_BL = (1 - skip_B)[:, None].expand(-1, num_blocks)
    return RoutedOutput(nll_B[step_A], step_A, run_BL, run_BL, torch.zeros(len(tokens_B)))


def settle(objective, cost, updates, full_nll=1.0, rate=0.03, batches=1):
    """Skips [B] of four steps, one per cell, whose losses rise by `cost(skip)`, after gradient descent."""
    logits_B = torch.full((4,), -2.0, requires_grad=True)
    optimizer = torch.optim.Adam([logits_B], lr=rate)
    for _ in range(updates):
        for _ in range(batches):
            skip_B = torch.sigmoid(logits_B)
            out = output(skip_B, full_nll * (1 + cost(skip_B)), [3, 2, 1, 4])
            loss, _ = objective.loss(out, CALLS, GROUP, torch.full_like(out.nll_A, full_nll))
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.end_update()
    return torch.sigmoid(logits_B.detach())


def test_skip_targets_are_met_in_every_cell():
    objective = make_objective(
        ConstrainedObjective(tool_call=SkipTarget(skip=0.31), planning=SkipTarget(skip=0.05)), GROUPS, BOTH, 4
    )
    skip_B = settle(objective, lambda skip_B: skip_B.square(), 500)
    assert torch.allclose(skip_B, torch.tensor([0.05, 0.31, 0.05, 0.31]), atol=0.01)
    assert objective.multiplier_C.max() < 0, "what costs has to be paid for"


@pytest.mark.parametrize("full_nll", [0.5, 2.0])
def test_a_quality_bound_is_used_up_and_not_exceeded(full_nll):
    """With a loss that rises by skip^2 / 2, a rise of 2 % allows a skip of 20 %, and 0.5 % one of 10 %."""
    objective = make_objective(
        ConstrainedObjective(tool_call=QualityBound(rise=0.02), planning=QualityBound(rise=0.005)), GROUPS, BOTH, 4
    )
    assert objective.needs_full_depth
    skip_B = settle(objective, lambda skip_B: 0.5 * skip_B.square(), 900, full_nll)
    assert torch.allclose(skip_B, torch.tensor([0.1, 0.2, 0.1, 0.2]), atol=0.01)
    assert objective.multiplier_C.min() >= 0


def test_a_bound_that_nothing_violates_skips_all_and_one_that_everything_violates_nothing():
    config = ConstrainedObjective(tool_call=QualityBound(rise=0.02), planning=QualityBound(rise=0.02))
    free = settle(make_objective(config, GROUPS, BOTH, 4), lambda skip_B: 0 * skip_B, 400)
    assert free.min() > 0.9
    dear = settle(make_objective(config, GROUPS, BOTH, 4), lambda skip_B: skip_B + 0.5, 400)
    assert dear.max() < 0.02


def test_one_bad_batch_does_not_throw_a_multiplier_far():
    config = ConstrainedObjective(tool_call=QualityBound(rise=0.02), planning=QualityBound(rise=0.02))
    objective = make_objective(config, GROUPS, BOTH, 4)
    objective.multiplier_C.fill_(10.0)
    out = output(torch.zeros(4), torch.tensor([9.0, 0.1, 1.0, 1.02]), [1, 1, 1, 1])
    objective.loss(out, CALLS, GROUP, torch.ones(4))
    objective.end_update()
    assert torch.allclose(objective.multiplier_C, 10 + config.multiplier_rate * torch.tensor([-1.0, 1.0, 1.0, 0.0]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("bound", [True, False])
def test_a_loss_that_is_not_finite_leaves_its_multiplier_alone(bad, bound):
    """The others move; the next update moves the spared one again."""
    config = ConstrainedObjective(tool_call=QualityBound(rise=0.02) if bound else SkipTarget(skip=0.25))
    objective = make_objective(config, GROUPS, BOTH, 4)
    objective.multiplier_C.fill_(2.0)
    for nll, skip in ((bad, bad), (1.0, 0.0)):
        before = objective.multiplier_C.clone()
        out = output(torch.tensor([0.0, skip, 0.0, 0.0]), torch.tensor([1.0, nll, 1.0, 1.0]), [1, 1, 1, 1])
        objective.loss(out, CALLS, GROUP, torch.ones(4))
        objective.end_update()
        assert objective.multiplier_C.isfinite().all()
        moved = (objective.multiplier_C != before).tolist()
        assert moved == [True, nll == 1.0, True, True]


def test_multipliers_see_the_steps_of_all_processes(monkeypatch):
    """Two processes, one with a tool call at a skip of 0.75 and one with three at 0.25."""
    config = ConstrainedObjective(tool_call=SkipTarget(skip=0.25), planning=SkipTarget(skip=0.0), multiplier_rate=0.5)
    here, there = (make_objective(config, GROUPS, BOTH, 4) for _ in range(2))
    here.loss(output(torch.tensor([0.0, 0.75, 0.0, 0.0]), torch.ones(4), [1, 1, 0, 0]), CALLS, GROUP)
    there.loss(output(torch.tensor([0.0, 0.25, 0.0, 0.0]), torch.ones(4), [1, 3, 0, 0]), CALLS, GROUP)
    theirs = {name: buffer.clone() for name, buffer in there.named_buffers()}
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.add_(theirs["_sums_4C"]))
    here.end_update()
    assert torch.allclose(here.multiplier_C, torch.tensor([0.0, 0.5 * 0.125, 0.0, 0.0]))


def test_a_group_can_be_asked_for_something_else():
    config = ConstrainedObjective(
        tool_call=SkipTarget(skip=0.31),
        planning=SkipTarget(skip=0.05),
        groups={"generated": GroupConstraints(planning=SkipTarget(skip=0.2))},
    )
    skip_B = settle(make_objective(config, GROUPS, BOTH, 4), lambda skip_B: skip_B.square(), 500)
    assert torch.allclose(skip_B, torch.tensor([0.05, 0.31, 0.2, 0.31]), atol=0.01)


def test_constraints_for_a_group_that_is_not_there_are_refused():
    config = ConstrainedObjective(groups={"corpus": GroupConstraints(planning=SkipTarget(skip=0.2))})
    with pytest.raises(ConfigError, match="no group 'corpus', only corpora, generated"):
        make_objective(config, GROUPS, BOTH, 4)


def test_targets_and_bounds_mix():
    config = ConstrainedObjective(tool_call=QualityBound(rise=0.02), planning=SkipTarget(skip=0.05))
    skip_B = settle(make_objective(config, GROUPS, BOTH, 4), lambda skip_B: 0.5 * skip_B.square(), 900)
    assert torch.allclose(skip_B, torch.tensor([0.05, 0.2, 0.05, 0.2]), atol=0.01)


def test_multipliers_move_once_per_update_by_the_mean_over_its_batches():
    config = ConstrainedObjective(tool_call=SkipTarget(skip=0.25), planning=SkipTarget(skip=0.0), multiplier_rate=0.5)
    objective = make_objective(config, GROUPS, BOTH, 4)
    ones = torch.ones(4)
    objective.loss(output(torch.tensor([0.0, 0.75, 0.5, 0.0]), ones, [1, 1, 1, 0]), CALLS, GROUP)
    objective.loss(output(torch.tensor([0.0, 0.25, 0.5, 0.0]), ones, [1, 3, 1, 0]), CALLS, GROUP)
    assert objective.multiplier_C.abs().sum() == 0
    objective.end_update()
    # The tool calls of the corpora have one token at 0.75 and three at 0.25; those of the generated group none at all.
    assert torch.allclose(objective.multiplier_C, torch.tensor([0.0, 0.5 * 0.125, 0.25, 0.0]))
    before = objective.multiplier_C.clone()
    objective.end_update()
    assert torch.equal(objective.multiplier_C, before), "an update without tokens leaves every multiplier alone"


def test_a_cell_without_tokens_costs_nothing_and_is_not_logged_as_zero():
    config = ConstrainedObjective(planning=SkipTarget(skip=0.05), kind_weight=0.0)
    objective = make_objective(config, GROUPS, BOTH, 4)
    loss, metrics = objective.loss(output(torch.tensor([0.05] * 4), torch.ones(4), [1, 0, 0, 0]), CALLS, GROUP)
    assert loss == pytest.approx(1.0)
    assert metrics["nll/corpora/planning"] == 1.0
    assert metrics["skip/corpora/planning"] == pytest.approx(0.05)
    assert all(metrics[f"{name}/{cell}"].isnan() for name in ("nll", "skip") for cell in CELLS[1:])
    assert set(metrics) == {f"{name}/{cell}" for name in ("nll", "skip", "multiplier") for cell in CELLS} | {"kind_nll"}


def test_the_kind_head_learns_the_observed_kind():
    objective = make_objective(ConstrainedObjective(kind_weight=2.0), GROUPS, BOTH, 4)
    logit_B = torch.zeros(4, requires_grad=True)
    out = output(torch.zeros(4), torch.zeros(4), [1, 1, 1, 1])
    out = RoutedOutput(out.nll_A, out.step_A, out.run_BL, out.soft_BL, logit_B)
    loss, _ = objective.loss(out, CALLS, GROUP)
    loss.backward()
    assert torch.allclose(logit_B.grad, 2.0 * torch.where(CALLS, -0.5, 0.5) / 4)


def test_multipliers_survive_a_checkpoint():
    config = ConstrainedObjective()
    objective = make_objective(config, GROUPS, BOTH, 4)
    settle(objective, lambda skip_B: skip_B, 5)
    resumed = make_objective(config, GROUPS, BOTH, 4)
    resumed.load_state_dict(objective.state_dict())
    assert torch.equal(resumed.multiplier_C, objective.multiplier_C)
    assert objective.multiplier_C.abs().sum() > 0


@pytest.mark.parametrize(("kinds", "words"), [([True] * 3, "planning steps to"), ([False] * 3, "tool-call steps to")])
def test_one_kind_only_is_refused_where_kinds_are_compared(kinds, words):
    with pytest.raises(CorpusError, match=words):
        make_objective(ConstrainedObjective(), GROUPS, np.array(kinds), 4)
    assert make_objective(PaperObjective(), GROUPS, np.array(kinds), 4).every_token


def test_the_papers_loss_is_cross_entropy_plus_the_mean_soft_gate():
    objective = make_objective(PaperObjective(penalty=0.7), GROUPS, BOTH, 4)
    out = output(torch.tensor([0.0, 0.25, 0.5, 1.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]), [4, 3, 2, 1])
    loss, metrics = objective.loss(out, CALLS, GROUP)
    assert loss == pytest.approx(20 / 10 + 0.7 * (1 + 0.75 + 0.5 + 0) / 4)
    assert metrics["nll/generated/tool_call"] == 4.0
    assert not objective.state_dict()


@given(
    num_blocks=st.integers(2, 30),
    skip=st.floats(0.0, 0.6),
    seed=st.integers(0, 100),
)
def test_static_programs_skip_what_was_asked(num_blocks, skip, seed):
    order = np.random.default_rng(seed).permutation(num_blocks).tolist()
    run_BL = static_programs(order, skip, torch.arange(2000), num_blocks)
    assert (1 - run_BL).mean() == pytest.approx(skip, abs=0.01)
    numbers_B = (1 - run_BL).sum(1)
    assert numbers_B.max() - numbers_B.min() <= 1
    for run_L, number in zip(run_BL[:20], numbers_B.int().tolist(), strict=False):
        assert set(np.flatnonzero(run_L == 0)) == set(order[:number])
    some = torch.tensor([3, 1999, 7])
    assert torch.equal(static_programs(order, skip, some, num_blocks), run_BL[some]), "a step always gets its program"


@pytest.mark.parametrize(("skipped", "skip"), [((1, 2), 0.6), ((1, 1, 2), 0.5), ((1, 4), 0.5)])
def test_a_static_list_that_cannot_give_the_skip_is_refused(skipped, skip):
    with pytest.raises(ConfigError, match=r"different blocks of 0 to 3"):
        make_objective(StaticObjective(skipped=skipped, skip=skip), GROUPS, BOTH, 4)


def test_the_static_loss_weighs_cells_as_the_constrained_one():
    objective = make_objective(StaticObjective(skipped=(1, 2), skip=0.4), GROUPS, np.array([True]), 4)
    loss, _ = objective.loss(output(torch.zeros(4), torch.tensor([1.0, 2.0, 3.0, 4.0]), [9, 1, 1, 0]), CALLS, GROUP)
    assert loss == 6.0
    assert objective.programs(torch.arange(3)).shape == (3, 4)
