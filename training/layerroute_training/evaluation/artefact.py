"""The published perplexity and ours on the same steps: what the paper's formula calls a gain.

Shape suffixes: N steps.
"""

import numpy as np
import torch

from layerroute.report import StepKind
from layerroute_training.evaluation.kinds import Passes
from layerroute_training.evaluation.measure import batches_on, evaluating
from layerroute_training.evaluation.report import PublishedPerplexity
from layerroute_training.evaluation.statistics import BoolArray, FloatArray
from layerroute_training.published import published_perplexity
from layerroute_training.routed_model import RoutedModel


def published_report(model: RoutedModel, passes: Passes) -> tuple[PublishedPerplexity, ...]:
    """Compare the formulas, for each kind that occurs. `passes` are measures of the same model."""
    indices, fulls, routeds = [], [], []
    with evaluating(model), torch.inference_mode():
        for batch in batches_on(model.gates_bias_L.device, passes.steps):
            found = published_perplexity(model, batch["tokens_BT"], batch["prompt_lengths_B"], batch["lengths_B"])
            indices.append(batch["index_B"])
            fulls.append(found.full_B.double())
            routeds.append(found.gated_B.double())
    place_N = torch.cat(indices).cpu().numpy().argsort()
    paper_full_N, paper_routed_N = (torch.cat(column).cpu().numpy()[place_N] for column in (fulls, routeds))
    calls_N = passes.steps.is_tool_call
    return tuple(
        _of_kind(kind, of_N, passes, paper_full_N, paper_routed_N)
        for kind, of_N in ((StepKind.TOOL_CALL, calls_N), (StepKind.PLANNING, ~calls_N))
        if of_N.any()
    )


def _of_kind(
    kind: StepKind, of_N: BoolArray, passes: Passes, paper_full_N: FloatArray, paper_routed_N: FloatArray
) -> PublishedPerplexity:
    routed, full = passes.routed, passes.full
    tokens = routed.tokens_N[of_N].sum()
    unchanged_N = of_N & routed.run_NL.all(1)
    paper_change_N = paper_routed_N - paper_full_N
    change_N = np.exp(routed.nll_N / routed.tokens_N) - np.exp(full.nll_N / full.tokens_N)
    return PublishedPerplexity(
        kind=kind,
        paper_full=float(paper_full_N[of_N].mean()),
        paper_routed=float(paper_routed_N[of_N].mean()),
        full=float(np.exp(full.nll_N[of_N].sum() / tokens)),
        routed=float(np.exp(routed.nll_N[of_N].sum() / tokens)),
        unchanged=int(unchanged_N.sum()),
        paper_change=float(paper_change_N[unchanged_N].mean()) if unchanged_N.any() else None,
        change=float(change_N[unchanged_N].mean()) if unchanged_N.any() else None,
    )
