"""Reports of groups and kinds from three measurements of the same steps: routed, full depth and bare backbone.

Shape suffixes: N steps, R resamples and, before them, the sample itself.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerroute.flops import BackboneShape
from layerroute.report import Scope
from layerroute_training.evaluation.length_control import differential, length_control
from layerroute_training.evaluation.measure import Measures, generated_tokens, step_flops
from layerroute_training.evaluation.report import GroupReport, Interval, KindPrediction, KindReport, Loss
from layerroute_training.evaluation.statistics import (
    BoolArray,
    ClusterBootstrap,
    FloatArray,
    auc,
    brier,
    calibration_error,
    interval,
)
from layerroute_training.steps import StepSet


@dataclass(frozen=True)
class Passes:
    """Three measurements of the same steps.

    Attributes:
        routed: under the gates. full: the same LoRA at full depth. bare: the backbone alone at full depth.
        shape, scope: what FLOPs and prompt visits depend on.
    """

    steps: StepSet
    routed: Measures
    full: Measures
    bare: Measures
    shape: BackboneShape
    scope: Scope

    def select(self, of_N: BoolArray) -> "Passes":
        """Some of the steps."""
        return replace(
            self,
            steps=self.steps.select(of_N),
            routed=self.routed.select(of_N),
            full=self.full.select(of_N),
            bare=self.bare.select(of_N),
        )


def group_report(passes: Passes, seed: int) -> GroupReport:
    """All numbers of a set of steps, with intervals over its conversations."""
    steps, routed = passes.steps, passes.routed
    calls_N, generated_N = steps.is_tool_call, generated_tokens(steps).astype(np.float64)
    bootstrap = ClusterBootstrap(steps.conversation, seed=seed)
    report = GroupReport(
        tool_call=kind_report(passes, calls_N, bootstrap) if calls_N.any() else None,
        planning=kind_report(passes, ~calls_N, bootstrap) if not calls_N.all() else None,
        both=kind_report(passes, np.ones_like(calls_N), bootstrap),
        differential=differential(routed.skip, generated_N, calls_N, ~calls_N, bootstrap),
        prediction=None,
        length_control=None,
    )
    if not calls_N.any() or calls_N.all():
        return report
    lengths = (steps.prompt_lengths, steps.answer_lengths)
    control = length_control(routed.skip, generated_N, calls_N, *lengths, bootstrap)
    prediction = kind_prediction(routed.kind_probability_N, calls_N)
    return report.model_copy(update={"prediction": prediction, "length_control": control})


def kind_report(passes: Passes, of_N: BoolArray, bootstrap: ClusterBootstrap) -> KindReport:
    """The numbers of the steps `of_N`, at least one; `bootstrap` is over all steps of `passes`."""
    steps, routed = passes.steps, passes.routed
    generated_N, L = generated_tokens(steps) * of_N, passes.shape.num_blocks
    prompt_skip_N = routed.skip * (passes.scope == "sequence")
    visits_N = routed.run_NL.sum(1)
    realised_N = step_flops(passes.shape, steps, visits_N, passes.scope)
    full_N = step_flops(passes.shape, steps, np.full_like(visits_N, L), passes.scope)

    def share(numerator_N: NDArray[Any], denominator_N: NDArray[Any]) -> Interval:
        """Of two sums; zero where there is nothing to share, as in answers of one token."""
        samples_R = bootstrap.ratio(numerator_N * of_N, denominator_N * of_N)
        return interval(samples_R if np.isfinite(samples_R[0]) else np.zeros(1))

    nll_of = [
        bootstrap.ratio(found.nll_N * of_N, found.tokens_N * of_N) for found in (routed, passes.full, passes.bare)
    ]
    routed_R, full_R, bare_R = nll_of
    all_skipped_N = prompt_skip_N * steps.prompt_lengths + routed.skip * generated_N
    return KindReport(
        steps=int(of_N.sum()),
        tokens=int(routed.tokens_N[of_N].sum()),
        conversations=len(np.unique(steps.conversation[of_N])),
        skip=share(routed.skip * generated_N, generated_N),
        skip_all=share(all_skipped_N, steps.prompt_lengths + generated_N),
        flops=share(realised_N, full_N),
        routed=_loss(routed_R),
        full=_loss(full_R),
        bare=_loss(bare_R),
        rise=interval(routed_R - full_R),
        rise_relative=interval(routed_R / full_R - 1),
        gain_over_bare=interval(bare_R - routed_R),
        run_rate_per_block=_run_rates(routed.run_NL, generated_N),
    )


def kind_prediction(belief_N: FloatArray, calls_N: BoolArray) -> KindPrediction | None:
    """How well the kind is foreseen; None without both kinds."""
    area = auc(belief_N, calls_N)
    if area is None:
        return None
    right_N = (belief_N >= 0.5) == calls_N
    return KindPrediction(
        accuracy=float(right_N.mean()),
        accuracy_tool_call=float(right_N[calls_N].mean()),
        accuracy_planning=float(right_N[~calls_N].mean()),
        auc=area,
        ece=calibration_error(belief_N, calls_N),
        brier=brier(belief_N, calls_N),
    )


def _loss(nll_R: FloatArray) -> Loss:
    nll = interval(nll_R)
    # The exponential keeps order, so the ends of the interval move with the value.
    ends = {name: float(np.exp(value)) for name, value in nll.model_dump().items()}
    return Loss(nll=nll, perplexity=Interval(**ends))


def _run_rates(run_NL: BoolArray, generated_N: NDArray[Any]) -> tuple[float, ...]:
    if not generated_N.any():
        return (1.0,) * int(run_NL.shape[1])
    rates: list[float] = np.average(run_NL, axis=0, weights=generated_N).tolist()
    return tuple(rates)
