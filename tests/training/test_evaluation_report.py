"""An evaluation of known programs reports the known numbers, and its report survives JSON."""

import numpy as np
import pytest
import torch
from made_steps import BLOCKS, made_model, made_steps
from pydantic import ValidationError

from layerroute.report import StepKind
from layerroute_training.errors import ConfigError, CorpusError
from layerroute_training.evaluation.evaluate import evaluate, seeds_summary
from layerroute_training.evaluation.measure import measure, shape_of, step_flops
from layerroute_training.evaluation.report import EvaluationReport, Interval
from layerroute_training.evaluation.statistics import sign_test
from layerroute_training.steps import StepSet


def fixed_gates(model, skipped):
    """Gates that skip these blocks for every step."""
    with torch.no_grad():
        model.gates_weight_LD.zero_()
        model.gates_bias_L.fill_(0.7)
        model.gates_bias_L[list(skipped)] = -0.7
    return model


def edges(interval):
    return [interval.value, interval.low, interval.high]


@pytest.fixture(scope="module")
def report():
    """Everything at once."""
    return evaluate(
        made_model(),
        made_steps(150),
        made_steps(40, seed=9),
        baselines=True,
        frontier=True,
        published=True,
        greedy_depth=2,
        targets=(0.3,),
        bundle="made",
        backbone="random",
    )


def test_a_report_survives_json(report):
    assert EvaluationReport.model_validate_json(report.model_dump_json()) == report
    assert list(report.groups) == ["corpora", "generated", "all"]
    assert len(report.baselines) == 9
    assert len(report.frontier) == 1
    assert report.conditions.bundle == "made"


def test_a_report_is_frozen_and_refuses_what_it_does_not_know(report):
    with pytest.raises(ValidationError):
        report.frontier = ()
    with pytest.raises(ValidationError, match="surprise"):
        EvaluationReport.model_validate(report.model_dump() | {"surprise": 1})


def test_groups_and_kinds_add_up(report):
    steps = made_steps(150)
    both = report.all.both
    assert both.steps == report.all.tool_call.steps + report.all.planning.steps == 150
    assert both.tokens == steps.answer_lengths.sum()
    assert both.conversations == 75
    assert report.groups["corpora"].tool_call.steps == ((steps.group == 0) & steps.is_tool_call).sum()
    assert sum(report.conditions.available.values()) == 150
    difference = report.all.tool_call.skip.value - report.all.planning.skip.value
    assert report.all.differential.value == pytest.approx(difference)
    assert report.all.kind(StepKind.PLANNING) is report.all.planning


def test_losses_are_token_weighted_and_perplexity_is_their_exponential(report):
    steps, model = made_steps(150), made_model()
    calls = steps.is_tool_call
    routed, bare = measure(model, steps), measure(model, steps, bare=True)
    full = measure(model, steps, run_NL=np.ones((1, BLOCKS), dtype=bool))
    found, tokens = report.all.tool_call, steps.answer_lengths[calls].sum()
    losses = [one.nll_N[calls].sum() / tokens for one in (routed, full, bare)]
    assert [found.routed.nll.value, found.full.nll.value, found.bare.nll.value] == pytest.approx(losses)
    assert found.routed.perplexity.value == pytest.approx(np.exp(losses[0]))
    assert found.rise.value == pytest.approx(losses[0] - losses[1])
    assert found.rise_relative.value == pytest.approx(losses[0] / losses[1] - 1)
    assert found.gain_over_bare.value == pytest.approx(losses[2] - losses[0])
    # Paired: the interval of the rise is narrower than that of either loss.
    assert found.rise.high - found.rise.low < found.routed.nll.high - found.routed.nll.low
    generated = (steps.answer_lengths - 1) * calls
    run_rates = (routed.run_NL * generated[:, None]).sum(0) / generated.sum()
    assert found.run_rate_per_block == pytest.approx(run_rates)
    assert found.skip.value == pytest.approx(1 - run_rates.mean())


def test_gates_that_skip_nothing_rise_by_exactly_nothing():
    report = evaluate(fixed_gates(made_model(), ()), made_steps(60))
    for kind in (report.all.tool_call, report.all.planning):
        assert edges(kind.rise) == edges(kind.rise_relative) == [0.0, 0.0, 0.0]
        assert edges(kind.skip) == [0.0, 0.0, 0.0]
        assert edges(kind.flops) == [1.0, 1.0, 1.0]
    assert edges(report.all.differential) == [0.0, 0.0, 0.0]
    assert report.all.length_control.correlation is None


@pytest.mark.parametrize("scope", ["generation", "sequence"])
def test_constant_programs_have_the_skip_and_flops_that_arithmetic_gives(scope):
    steps = made_steps(60)
    model = fixed_gates(made_model(scope), (2, 5))
    found = evaluate(model, steps).all.both
    assert edges(found.skip) == pytest.approx([2 / 6] * 3)
    generated, prompt = (steps.answer_lengths - 1).sum(), steps.prompt_lengths.sum()
    of_all = generated / (generated + prompt) if scope == "generation" else 1.0
    assert found.skip_all.value == pytest.approx(2 / 6 * of_all)
    visits = np.full(60, 4)
    realised = [step_flops(shape_of(model), steps, count, scope).sum() for count in (visits, visits + 2)]
    assert found.flops.value == pytest.approx(realised[0] / realised[1])
    assert found.flops.value > 1 - found.skip_all.value  # the LM head is never skipped
    assert found.run_rate_per_block == pytest.approx((1, 1, 0, 1, 1, 0))


def test_answers_of_one_token_have_nothing_to_skip():
    found = evaluate(fixed_gates(made_model(), (1,)), made_steps(20, answers=(1, 2))).all
    assert edges(found.both.skip) == [0.0, 0.0, 0.0]
    assert found.both.flops.value == 1.0
    assert found.differential is None


def test_beliefs_that_are_right_are_reported_so():
    model, steps = made_model(), made_steps(40, calls=True)
    with torch.no_grad():
        model.kind_weight_D.zero_()
        model.kind_bias.fill_(3.0)
    mixed = StepSet.concat([steps, made_steps(40, seed=1, calls=False)])
    found = evaluate(model, mixed).all.prediction
    assert (found.accuracy, found.accuracy_tool_call, found.accuracy_planning, found.auc) == (0.5, 1.0, 0.0, 0.5)
    belief = 1 / (1 + np.exp(-3.0))
    assert found.ece == pytest.approx(belief - 0.5)
    assert found.brier == pytest.approx(((1 - belief) ** 2 + belief**2) / 2)


def test_the_limit_keeps_as_many_of_each_group_and_kind():
    found = evaluate(made_model(), made_steps(150), limit=10)
    assert found.groups["generated"].planning.steps == 10
    assert found.all.both.steps == 40
    assert sum(found.conditions.available.values()) == 150
    again = evaluate(made_model(), made_steps(150), limit=10)
    assert again == found
    assert evaluate(made_model(), made_steps(150), limit=10, seed=1).conditions.data != found.conditions.data


def test_one_kind_alone_has_no_differential_and_no_baselines():
    steps = made_steps(20, calls=False)
    found = evaluate(made_model(), steps).all
    assert found.tool_call is None
    assert (found.differential, found.prediction, found.length_control) == (None, None, None)
    with pytest.raises(ConfigError, match="both kinds"):
        evaluate(made_model(), steps, made_steps(20), baselines=True, greedy_depth=1)


def test_what_is_missing_is_named():
    with pytest.raises(CorpusError, match="no steps"):
        evaluate(made_model(), made_steps(4).select([]))
    with pytest.raises(CorpusError, match="training steps"):
        evaluate(made_model(), made_steps(10), frontier=True)


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("layerroute_training.evaluation.evaluate.measure", lambda *_, **__: 1 / 0)
    with pytest.raises(CorpusError, match="training steps"):
        evaluate(made_model(), made_steps(10), frontier=True)
    with pytest.raises(ConfigError, match="both kinds"):
        evaluate(made_model(), made_steps(20, calls=False), made_steps(20), baselines=True)


def test_the_published_formula_gains_where_nothing_changed(report):
    for found in report.published:
        assert found.unchanged > 0
        assert found.paper_change < -1.0
        assert found.change == 0.0
    routed = report.all.tool_call.routed.perplexity.value
    assert report.published[0].routed == pytest.approx(routed)


def with_differential(report, value, low):
    matched = report.all.length_control.by_prompt.model_copy(
        update={"differential": Interval(value=value, low=low, high=value + 0.1)}
    )
    control = report.all.length_control.model_copy(update={"by_prompt": matched})
    differential = Interval(value=value, low=value - 0.1, high=value + 0.1)
    group = report.all.model_copy(update={"length_control": control, "differential": differential})
    return report.model_copy(update={"groups": {"all": group}})


def test_seeds_are_summed_up_by_mean_range_and_signs(report):
    values = {7: (0.25, 0.2), 1: (-0.05, -0.2), 3: (0.1, -0.01), 4: (0.3, 0.1)}
    found = seeds_summary({seed: with_differential(report, *value) for seed, value in values.items()})
    assert [result.seed for result in found.seeds] == [1, 3, 4, 7]
    assert (found.positive, found.matched_excludes_zero) == (3, 2)
    assert found.sign_test == sign_test([1, 1, 1, -1])
    assert (found.differential.low, found.differential.high) == (-0.05, 0.3)
    assert found.differential.mean == pytest.approx(0.15)
    assert found.rise_planning.mean == pytest.approx(report.all.planning.rise_relative.value)
    with pytest.raises(CorpusError, match="no reports"):
        seeds_summary({})


def test_a_report_without_both_kinds_is_no_seed_of_a_summary():
    with pytest.raises(CorpusError, match="seed 3 lacks"):
        seeds_summary({3: evaluate(made_model(), made_steps(10, calls=True))})
