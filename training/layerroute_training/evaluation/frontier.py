"""Quality against skip: the gates shifted to skip less or more, beside static sets and random blocks at equal skip.

Shape suffixes: N steps, L blocks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil

import numpy as np
import torch

from layerroute_training.evaluation.baselines import Arena, Part, random_programs, run_of_parts
from layerroute_training.evaluation.equal_skip import Order, kind_weights
from layerroute_training.evaluation.measure import measure
from layerroute_training.evaluation.report import FrontierPoint
from layerroute_training.evaluation.statistics import FloatArray
from layerroute_training.routed_model import RoutedModel
from layerroute_training.steps import StepSet

TARGETS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Skips of tool calls that a frontier goes through."""

_WIDEST_OFFSET = 20.0
_HALVINGS = 13


@contextmanager
def shifted(model: RoutedModel, offset: float) -> Iterator[None]:
    """Add `offset` to every gate logit; afterwards the biases are what they were, to the bit."""
    before_L = model.gates_bias_L.detach().clone()
    with torch.no_grad():
        model.gates_bias_L.add_(offset)
    try:
        yield
    finally:
        with torch.no_grad():
            model.gates_bias_L.copy_(before_L)


def skip_frontier(
    dev: Arena, train: StepSet, greedy: Order, targets: Sequence[float] = TARGETS
) -> tuple[FrontierPoint, ...]:
    """Routed, static and random quality where tool calls skip about `targets` of their block visits.

    One offset on all gate logits moves the skip. It is found on `train`; on the measured steps the skip is what it then
    is. The static set, in the order `greedy`, and the random blocks have the same mean skip over both kinds there.
    A target beyond what blocks with a choice allow is left out.
    """
    return tuple(
        _point(dev, target, find_offset(dev.model, train, target), greedy)
        for target in targets
        if target * dev.routed.run_NL.shape[1] <= len(greedy)
    )


def find_offset(model: RoutedModel, train: StepSet, target: float) -> float:
    """The offset on all gate logits with which the tool calls of `train` skip closest to `target`, by bisection."""
    calls = train.select(train.is_tool_call)
    weight_N = kind_weights(train)[train.is_tool_call] * 2
    logit_NL: FloatArray | None = None
    if model.routers.scope == "generation":  # the gates read full-depth states, so no offset changes a logit
        soft_NL = measure(model, calls).soft_NL.clip(1e-12, 1 - 1e-12)
        logit_NL = np.log(soft_NL / (1 - soft_NL))

    def skip(offset: float) -> float:
        if logit_NL is not None:
            return float((weight_N * (logit_NL + offset <= 0).mean(1)).sum())
        with shifted(model, offset):
            return float((weight_N * measure(model, calls).skip).sum())

    low, high = -_WIDEST_OFFSET, _WIDEST_OFFSET
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if skip(middle) > target:  # a larger offset skips less
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda offset: abs(skip(offset) - target))


def _point(dev: Arena, target: float, offset: float, greedy: Order) -> FrontierPoint:
    with shifted(dev.model, offset):
        routed = measure(dev.model, dev.steps)
    here, L = replace(dev, routed=routed), routed.run_NL.shape[1]
    everything = np.ones(len(dev.steps), dtype=np.bool_)
    static_NL = run_of_parts([Part(everything, greedy, here.share)], dev.steps, L, dev.seed)
    return FrontierPoint(
        target=target,
        offset=offset,
        routed=here.outcome("routed", routed),
        static=here.outcome("static greedy", here.run(static_NL), skipped=greedy[: ceil(here.share * L)]),
        random=here.outcome("random", here.run(random_programs(here, here.share))),
    )
