"""Routing quality on dev turns: what is skipped, what it costs, and whether the kind of step is foreseen.

Everything is per generated token of the answers under hard gates, teacher-forced. Shape suffixes: U turns, L blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerroute_training.embedded.batches import Documents, Rows
from layerroute_training.embedded.fit_routers import (
    GENERATED,
    RoutedPass,
    RouterConfig,
    Routers,
    routed_nll,
    routed_weights,
    turn_spans,
)
from layerroute_training.embedded.network import Network
from layerroute_training.embedded.pretrain import packed_batches
from layerroute_training.embedded.runtime import Runtime

FloatArray = NDArray[np.float64]
KINDS = {"tool_call": True, "planning": False}
RESAMPLES = 1_000


@dataclass(frozen=True)
class TurnScores:
    """Measurements of every turn; losses are sums over the turn's answer tokens in nats.

    Attributes:
        tokens_U: answer tokens; routed_U, full_U, bare_U: loss under the router, under the same LoRA at full depth,
            and of the backbone alone; run_UL: which blocks the answer took; belief_U: logit of "calls a tool".
    """

    tokens_U: FloatArray
    routed_U: FloatArray
    full_U: FloatArray
    bare_U: FloatArray
    run_UL: FloatArray
    belief_U: FloatArray
    calls_U: NDArray[np.bool_]
    group_U: NDArray[np.int64]


@torch.no_grad()
def score_turns(network: Network, routers: Routers, runtime: Runtime, batches: Sequence[Rows]) -> TurnScores:
    """Measure every turn of the batches."""
    routed_by, bare_by = routed_weights(network, routers, runtime), network.weights(runtime.dtype)
    parts: list[list[Tensor]] = []
    for rows in batches:
        routed = RoutedPass(routers, rows, runtime.dtype, None)
        everything = runtime.everything(rows.start_BT)
        losses_A = [
            routed_nll(network, routed_by, runtime, rows, routed),
            routed_nll(network, routed_by, runtime, rows, everything),
            routed_nll(network, bare_by, runtime, rows, everything),
        ]
        ones_A = torch.ones_like(losses_A[0])
        sums_U = [
            torch.zeros(len(rows.calls_U), dtype=torch.float64, device=runtime.device).index_add(
                0, rows.turn_of_answer, values_A.double()
            )
            for values_A in (ones_A, *losses_A)
        ]
        parts.append([*sums_U, routed.decisions().double(), routed.kind_logit_U.double(), rows.calls_U, rows.group_U])
    return TurnScores(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))


def evaluate_routing(
    network: Network,
    routers: Routers,
    runtime: Runtime,
    dev: Sequence[Documents],
    config: RouterConfig,
    most_turns: int = 1_500,
) -> dict[str, Any]:
    """Tables by place (`corpora`, `generated`, `all`) and kind.

    At most `most_turns` turns of each group and kind are drawn, seeded. Intervals are 95 % bootstrap over turns.
    """
    random = np.random.default_rng([config.seed, 5])
    spans = []
    for group in range(len(dev)):
        for calls in KINDS.values():
            fitting = [s for s in turn_spans(dev, group, calls, config) if s.end - s.start <= runtime.row_tokens]
            picked = random.permutation(len(fitting))[:most_turns].tolist()
            spans += [fitting[index] for index in picked]
    scores = score_turns(network, routers, runtime, packed_batches(spans, dev, runtime))
    is_corpus = np.array([group.name != GENERATED for group in dev])[scores.group_U]
    places = {"corpora": is_corpus, "generated": ~is_corpus, "all": np.ones_like(is_corpus)}
    return {
        place: {
            **{
                kind: _table(scores, here & (scores.calls_U == calls), random)
                for kind, calls in KINDS.items()
                if (here & (scores.calls_U == calls)).any()
            },
            "kind_auc": _auc(scores.belief_U[here], scores.calls_U[here]),
        }
        for place, here in places.items()
        if here.any()
    }


def targets_met(result: dict[str, Any]) -> dict[str, bool]:
    """Whether the quality targets hold over all dev turns."""
    tool_call, planning = result["all"]["tool_call"], result["all"]["planning"]
    return {
        "tool_call_skip": tool_call["skip"]["value"] >= 0.25,
        "planning_skip": planning["skip"]["value"] <= 0.10,
        "tool_call_rise": tool_call["nll_rise"]["value"] <= 0.05,
        "planning_rise": planning["nll_rise"]["value"] <= 0.02,
    }


def _table(scores: TurnScores, chosen: NDArray[np.bool_], random: np.random.Generator) -> dict[str, Any]:
    tokens = scores.tokens_U[chosen]
    skip = (1.0 - scores.run_UL[chosen].mean(1)) * tokens
    routed, full, bare = scores.routed_U[chosen], scores.full_U[chosen], scores.bare_U[chosen]
    columns = np.stack([tokens, skip, routed, full, bare, routed - full], axis=1)
    draws = random.integers(len(tokens), size=(RESAMPLES, len(tokens)))
    resampled = np.stack([columns[draw].sum(0) for draw in draws])
    names = ("skip", "nll_routed", "nll_full", "nll_bare", "nll_rise")
    totals = columns.sum(0)
    estimates = {
        name: {
            "value": float(totals[i] / totals[0]),
            "interval": np.quantile(resampled[:, i] / resampled[:, 0], [0.025, 0.975]).tolist(),
        }
        for i, name in enumerate(names, start=1)
    }
    foreseen = (scores.belief_U[chosen] >= 0) == scores.calls_U[chosen]
    return {
        "turns": int(chosen.sum()),
        "tokens": int(tokens.sum()),
        **estimates,
        "kind_accuracy": float(foreseen.mean()),
        "run_rate_per_block": ((scores.run_UL[chosen] * tokens[:, None]).sum(0) / tokens.sum()).tolist(),
    }


def _auc(belief_U: FloatArray, calls_U: NDArray[np.bool_]) -> float | None:
    """Chance that a turn with a call is believed more than one without; ties count half. None if a kind is absent."""
    positive, negative = belief_U[calls_U], np.sort(belief_U[~calls_U])
    if not len(positive) or not len(negative):
        return None
    below = np.searchsorted(negative, positive, side="left") + np.searchsorted(negative, positive, side="right")
    return float(below.mean() / 2 / len(negative))
