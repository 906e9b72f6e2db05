"""Other ways to skip as much: static sets, random blocks, prompt length, sets by kind, or by group of data and kind.

All are compared at the routed model's mean skip (`equal_skip` defines it). What a baseline has to know, which blocks or
which threshold, it learns on training steps, never on those measured; only how much it skips follows the routed model.

Shape suffixes: N steps, L blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from layerroute.report import StepKind
from layerroute_training.evaluation.equal_skip import (
    Order,
    kind_weights,
    programs,
    random_ranks,
    ranks,
    step_hashes,
)
from layerroute_training.evaluation.importance import influence_order, mean_loss, removable, removal_order
from layerroute_training.evaluation.measure import Measures, measure
from layerroute_training.evaluation.report import KindOutcome, Outcome
from layerroute_training.evaluation.statistics import BoolArray, ClusterBootstrap, interval
from layerroute_training.routed_model import RoutedModel
from layerroute_training.steps import StepSet

STATIC_BUNDLE = "static with its own LoRA"
"""Name of the baseline that runs under a bundle of its own."""

LENGTH_CUTS = 8
"""The length-only baseline tries the borders between this many equal parts of the prompt lengths."""


@dataclass(frozen=True)
class StaticBundle:
    """A model trained for one static program (objective `static`), and the order in which its blocks are removed."""

    name: str
    model: RoutedModel
    skipped: Order


@dataclass(frozen=True)
class Arena:
    """Steps of both kinds on which ways of skipping are compared.

    Attributes:
        model: the routed model. steps: what is measured. routed, full: measures of it under its gates, at full depth.
        bootstrap: over the conversations of the steps. seed: of hashes and random blocks.
    """

    model: RoutedModel
    steps: StepSet
    routed: Measures
    full: Measures
    bootstrap: ClusterBootstrap
    seed: int

    def run(self, run_NL: BoolArray) -> Measures:
        """Measures under these programs."""
        return measure(self.model, self.steps, run_NL=run_NL)

    def outcome(
        self, name: str, found: Measures, *, skipped: Order | None = None, bundle: str | None = None
    ) -> Outcome:
        """Report measures of the same steps beside the routed ones."""
        weight_N = kind_weights(self.steps)
        kinds: dict[StepKind, KindOutcome] = {}
        mean_R = behind_R = np.zeros(1)
        for kind, kind_N in (
            (StepKind.TOOL_CALL, self.steps.is_tool_call),
            (StepKind.PLANNING, ~self.steps.is_tool_call),
        ):
            nll_R, full_R, routed_R = (
                self.bootstrap.ratio(of.nll_N * kind_N, of.tokens_N * kind_N) for of in (found, self.full, self.routed)
            )
            skip = float((weight_N * found.skip)[kind_N].sum() * 2)
            kinds[kind] = KindOutcome(skip=skip, nll=interval(nll_R), rise=interval(nll_R - full_R))
            mean_R, behind_R = mean_R + nll_R / 2, behind_R + (nll_R - routed_R) / 2
        return Outcome(
            name=name,
            tool_call=kinds[StepKind.TOOL_CALL],
            planning=kinds[StepKind.PLANNING],
            mean_skip=float((weight_N * found.skip).sum()),
            mean_nll=interval(mean_R),
            behind=None if found is self.routed else interval(behind_R),
            skipped=skipped,
            bundle=bundle,
        )

    @property
    def share(self) -> float:
        """The routed model's mean skip, which every baseline is brought to."""
        return float((kind_weights(self.steps) * self.routed.skip).sum())

    def skip_of(self, kind_N: BoolArray) -> float:
        """The routed model's skip over some of the steps."""
        weight_N = kind_weights(self.steps) * kind_N
        return float((weight_N * self.routed.skip).sum() / weight_N.sum())


@dataclass(frozen=True)
class Part:
    """Steps that share an order of removal and a skip."""

    of_N: BoolArray
    order: Order
    share: float


def compare_baselines(
    dev: Arena,
    train: StepSet,
    greedy: Order,
    static: StaticBundle | None = None,
    programs: dict[str, BoolArray] | None = None,
) -> tuple[Outcome, ...]:
    """The routed model and every baseline at its mean skip.

    Args:
        dev: what is measured.
        train: training steps that the baselines learn from.
        greedy: order of removal for all steps (`removal_order` on `train`), which the length-only baseline uses too.
        static: a model of its own for the static program.
        programs: takes the programs [N, L] of every baseline by name, for who wants to run them otherwise.

    Raises:
        ConfigError: a kind is absent, or the routed model skips more than blocks with a choice allow.
    """
    model, L = dev.model, dev.routed.run_NL.shape[1]
    everything = np.ones(len(dev.steps), dtype=np.bool_)
    sets = {
        "static one-shot": removal_order(model, train, 1),
        "static greedy": greedy,
        "block influence": influence_order(model, train),
    }
    outcomes = [dev.outcome("routed", dev.routed)]
    runs = {} if programs is None else programs
    for name, order in sets.items():
        runs[name] = run_of_parts([Part(everything, order, dev.share)], dev.steps, L, dev.seed)
        outcomes.append(dev.outcome(name, dev.run(runs[name]), skipped=order[: ceil(dev.share * L)]))
    if static is not None:
        runs[STATIC_BUNDLE] = run_of_parts([Part(everything, static.skipped, dev.share)], dev.steps, L, dev.seed)
        found = measure(static.model, dev.steps, run_NL=runs[STATIC_BUNDLE])
        skipped = static.skipped[: ceil(dev.share * L)]
        outcomes.append(dev.outcome(STATIC_BUNDLE, found, skipped=skipped, bundle=static.name))
    others = {
        "random": random_programs(dev, dev.share),
        "length only": length_programs(dev, train, greedy),
        **kind_programs(dev, train),
        **group_programs(dev, train),
    }
    runs |= others
    return (*outcomes, *(dev.outcome(name, dev.run(run_NL)) for name, run_NL in others.items()))


def run_of_parts(parts: Sequence[Part], steps: StepSet, num_blocks: int, seed: int) -> BoolArray:
    """Programs [N, L] of steps in parts; steps of no part run every block."""
    weight_N, hash_N = kind_weights(steps), step_hashes(steps, seed)
    run_NL = np.ones((len(steps), num_blocks), dtype=np.bool_)
    for part in parts:
        rank_1L = ranks(part.order, num_blocks)
        run_NL[part.of_N] = programs(rank_1L, part.share, weight_N[part.of_N], hash_N[part.of_N])
    return run_NL


def random_programs(dev: Arena, share: float) -> BoolArray:
    """Programs [N, L] of random blocks for every step."""
    rank_NL = random_ranks(removable(dev.model), dev.routed.run_NL.shape[1], len(dev.steps), dev.seed)
    return programs(rank_NL, share, kind_weights(dev.steps), step_hashes(dev.steps, dev.seed))


def length_programs(dev: Arena, train: StepSet, order: Order) -> BoolArray:
    """Programs [N, L] that skip a static set where the prompt is long (or short) and nothing elsewhere.

    Threshold and side are those with the lowest loss on `train` at the routed model's mean skip.
    """
    L = dev.routed.run_NL.shape[1]
    cuts = np.unique(np.quantile(train.prompt_lengths, np.arange(1, LENGTH_CUTS) / LENGTH_CUTS))
    rules = [(float(cut), longer) for cut in cuts for longer in (True, False)]
    rules = [(-1.0, True), *rules]  # all steps: a rule that can always skip enough

    def run_of(rule: tuple[float, bool], steps: StepSet) -> BoolArray | None:
        """None where the rule's side holds too little weight to skip that much."""
        cut, longer = rule
        side_N = (steps.prompt_lengths > cut) == longer
        weight = kind_weights(steps)[side_N].sum()
        if dev.share * L > len(order) * weight:
            return None
        part = Part(side_N, order, dev.share / weight if weight else 0.0)
        return run_of_parts([part], steps, L, dev.seed)

    fits = {rule: run_NL for rule in rules if (run_NL := run_of(rule, train)) is not None}
    losses = {rule: mean_loss(train, measure(dev.model, train, run_NL=run_NL)) for rule, run_NL in fits.items()}
    # A side that was large enough in training may be too small here: then the next best rule.
    runs = (run_of(rule, dev.steps) for rule in sorted(losses, key=losses.__getitem__))
    return next(run_NL for run_NL in runs if run_NL is not None)


def kind_programs(dev: Arena, train: StepSet) -> dict[str, BoolArray]:
    """Programs [N, L] of one static set per kind with the routed model's skip of that kind.

    The oracle goes by the true kind. The other goes by the kind that the router predicts, and scales both skips so that
    the mean skip is the routed model's; if its predictions leave no such skips, both become that mean skip.
    """
    L, calls_N = dev.routed.run_NL.shape[1], dev.steps.is_tool_call
    shares = {kind: dev.skip_of(calls_N == kind) for kind in (True, False)}
    orders = {kind: _order_for(dev, train, train.is_tool_call == kind, share) for kind, share in shares.items()}
    predicted_N = dev.routed.kind_probability_N >= 0.5
    realised = float((kind_weights(dev.steps) * np.where(predicted_N, shares[True], shares[False])).sum())
    scaled = {kind: share * dev.share / realised if realised else dev.share for kind, share in shares.items()}
    if any(scaled[kind] * L > len(orders[kind]) for kind in scaled):
        scaled = dict.fromkeys(scaled, dev.share)
    return {
        name: run_of_parts(
            [Part(of_N == kind, orders[kind], skips[kind]) for kind in (True, False)], dev.steps, L, dev.seed
        )
        for name, of_N, skips in (
            ("true kind", calls_N, shares),
            ("predicted kind", predicted_N, scaled),
        )
    }


def group_programs(dev: Arena, train: StepSet) -> dict[str, BoolArray]:
    """Programs [N, L] of one static set per group and true kind, with the routed model's skip of those steps.

    This oracle knows what nothing outside the data knows, and so shows what gates do beyond telling groups and kinds
    apart. Empty where the steps are of one group: then it is the oracle by kind. A group without training steps of a
    kind takes that kind's order.
    """
    steps = dev.steps
    if len(np.unique(steps.group)) < 2:
        return {}
    weight_N, parts = kind_weights(steps), []
    for index, name in enumerate(steps.groups):
        of_group_N = np.array(train.groups)[train.group] == name  # by name: the two sets may number groups otherwise
        for kind in (True, False):
            of_N = (steps.group == index) & (steps.is_tool_call == kind)
            if not weight_N[of_N].any():
                continue
            of_kind_N = train.is_tool_call == kind
            of_both_N = of_kind_N & of_group_N
            share = dev.skip_of(of_N)
            order = _order_for(dev, train, of_both_N if of_both_N.any() else of_kind_N, share)
            parts.append(Part(of_N, order, share))
    return {"true group and kind": run_of_parts(parts, steps, dev.routed.run_NL.shape[1], dev.seed)}


def _order_for(dev: Arena, train: StepSet, of_N: BoolArray, share: float) -> Order:
    """Greedy order of removal on some of the training steps, as deep as a skip of `share` goes."""
    return removal_order(dev.model, train.select(of_N), max(1, ceil(share * dev.routed.run_NL.shape[1])))
