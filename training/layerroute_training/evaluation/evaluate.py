"""Evaluation of a routed model on steps: everything but what it writes freely (`free_running` has that)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from layerroute import __version__
from layerroute.parts import Parts
from layerroute.report import StepKind
from layerroute_training.errors import CorpusError
from layerroute_training.evaluation.artefact import published_report
from layerroute_training.evaluation.baselines import Arena, StaticBundle, compare_baselines
from layerroute_training.evaluation.equal_skip import Order, choose, kind_weights
from layerroute_training.evaluation.frontier import TARGETS, skip_frontier
from layerroute_training.evaluation.importance import removal_order
from layerroute_training.evaluation.kinds import Passes, group_report
from layerroute_training.evaluation.measure import measure, shape_of
from layerroute_training.evaluation.report import (
    ALL,
    KINDS,
    Conditions,
    EvaluationReport,
    SeedResult,
    SeedsSummary,
)
from layerroute_training.evaluation.statistics import BoolArray, ClusterBootstrap, sign_test, spread
from layerroute_training.routed_model import RoutedModel
from layerroute_training.steps import StepSet

LIMIT = 1_500
"""Steps of each group and kind that are measured."""
SAMPLE = 50
"""Training steps of each group and kind that baselines and offsets are fitted on."""
GREEDY_DEPTH = 8
"""Blocks that are removed one by one, with everything measured again after each."""


def evaluate(
    model: RoutedModel,
    dev: StepSet,
    train: StepSet | None = None,
    *,
    baselines: bool = False,
    frontier: bool = False,
    published: bool = False,
    seed: int = 0,
    limit: int | None = LIMIT,
    sample: int = SAMPLE,
    greedy_depth: int = GREEDY_DEPTH,
    targets: Sequence[float] = TARGETS,
    static: StaticBundle | None = None,
    programs: dict[str, BoolArray] | None = None,
    parts: Parts | None = None,
    bundle: str = "",
    backbone: str = "",
    split: str = "dev",
) -> EvaluationReport:
    """Measure a model, on the device that it is on.

    What is measured besides stands alone: a part that fails, or that Ctrl-C ends, is named in the report.

    Args:
        model: a trained model. dev: steps to measure. train: steps that baselines and frontier are fitted on.
        baselines, frontier: whether to measure these too; both want `train` and steps of both kinds.
        published: whether to compare with the paper's perplexity formula.
        seed: of the choice of steps, the bootstrap and the baselines.
        limit: most steps per group and kind; sample: likewise of `train`.
        greedy_depth: rounds of the greedy static set. targets: of the frontier, skips of tool calls.
        static: a model trained for one static program, as one more baseline.
        programs: takes the programs of every baseline (see `compare_baselines`).
        parts: takes what is measured besides as its parts.
        bundle, backbone, split: names for the report.

    Raises:
        CorpusError: no steps to measure, or none to fit baselines on.
        ConfigError: baselines or a frontier on steps of one kind.
    """
    if not len(dev):
        raise CorpusError("there are no steps to evaluate: give data with assistant turns")
    steps = dev.select(choose(dev, limit, seed))
    if baselines or frontier:
        _check_comparable(steps, train)
    parts = parts or Parts()
    full_1L = np.ones((1, len(model.gates_bias_L)), dtype=np.bool_)
    passes = Passes(
        steps,
        measure(model, steps),
        measure(model, steps, run_NL=full_1L),
        measure(model, steps, bare=True),
        shape_of(model),
        model.routers.scope,
    )
    groups = {
        **{
            name: group_report(passes.select(steps.group == index), seed)
            for index, name in enumerate(steps.groups)
            if (steps.group == index).any()
        },
        ALL: group_report(passes, seed),
    }
    report = EvaluationReport(
        conditions=Conditions(
            bundle=bundle,
            backbone=backbone,
            scope=model.routers.scope,
            split=split,
            data=steps.digest(),
            available=_available(dev),
            limit=limit,
            seed=seed,
            device=str(model.gates_bias_L.device),
            dtype=str(model.backbone.dtype).removeprefix("torch."),
            package_version=__version__,
        ),
        groups=groups,
    )
    found: dict[str, Any] = {}
    if published:
        found["published"] = parts.attempt("published perplexities", lambda: published_report(model, passes))
    if (baselines or frontier) and train is not None:
        fit = train.select(choose(train, sample, seed))
        arena = Arena(model, steps, passes.routed, passes.full, ClusterBootstrap(steps.conversation, seed=seed), seed)
        greedy: Order | None = parts.attempt("order of removal", lambda: removal_order(model, fit, greedy_depth))
        if greedy is not None and baselines:
            compare = partial(compare_baselines, arena, fit, greedy, static, programs)
            found["baselines"] = parts.attempt("baselines", compare)
        if greedy is not None and frontier:
            found["frontier"] = parts.attempt("frontier", partial(skip_frontier, arena, fit, greedy, targets))
    measured = {name: value for name, value in found.items() if value is not None}
    return report.model_copy(update={**measured, "failed": dict(parts.failed)})


def _check_comparable(steps: StepSet, train: StepSet | None) -> None:
    """Refuse, before minutes of work, what baselines and the frontier cannot be measured on."""
    if train is None or not len(train):
        raise CorpusError("baselines and the frontier are fitted on training steps: give some, or leave both out")
    kind_weights(steps)


def seeds_summary(reports: Mapping[int, EvaluationReport]) -> SeedsSummary:
    """What reports of several training seeds of one recipe say together, over the steps of all groups.

    Raises:
        CorpusError: no report, one without both kinds of steps, or reports on different steps.
    """
    results = tuple(_seed_result(seed, report) for seed, report in sorted(reports.items()))
    if not results:
        raise CorpusError("there are no reports to summarise: train at least one seed")
    (data, *others) = {report.conditions.data for report in reports.values()}
    if others:
        raise CorpusError("the seeds were measured on different steps: train them all with the same --steps")
    matched = [result.matched.value for result in results if result.matched is not None]
    return SeedsSummary(
        seeds=results,
        data=data,
        positive=sum(result.differential.value > 0 for result in results),
        matched_excludes_zero=sum(result.matched is not None and result.matched.low > 0 for result in results),
        sign_test=sign_test([result.differential.value for result in results]),
        differential=spread([result.differential.value for result in results]),
        matched=spread(matched) if matched else None,
        skip_tool_call=spread([result.skip_tool_call for result in results]),
        skip_planning=spread([result.skip_planning for result in results]),
        rise_tool_call=spread([result.rise_tool_call for result in results]),
        rise_planning=spread([result.rise_planning for result in results]),
        below_bare_tool_call=sum(result.gain_tool_call > 0 for result in results),
        below_bare_planning=sum(result.gain_planning > 0 for result in results),
    )


def _seed_result(seed: int, report: EvaluationReport) -> SeedResult:
    group = report.all
    if group.tool_call is None or group.planning is None or group.differential is None:
        raise CorpusError(f"the report of seed {seed} lacks a kind of step: evaluate on data with both kinds")
    control = group.length_control
    return SeedResult(
        seed=seed,
        differential=group.differential,
        matched=control.by_prompt.differential if control and control.by_prompt else None,
        skip_tool_call=group.tool_call.skip.value,
        skip_planning=group.planning.skip.value,
        rise_tool_call=group.tool_call.rise_relative.value,
        rise_planning=group.planning.rise_relative.value,
        gain_tool_call=group.tool_call.gain_over_bare.value,
        gain_planning=group.planning.gain_over_bare.value,
    )


def _available(dev: StepSet) -> dict[str, int]:
    counts = {}
    for index, group in enumerate(dev.groups):
        for kind in KINDS:
            of_N = (dev.group == index) & (dev.is_tool_call == (kind is StepKind.TOOL_CALL))
            if of_N.any():
                counts[f"{group}/{kind.value}"] = int(of_N.sum())
    return counts
