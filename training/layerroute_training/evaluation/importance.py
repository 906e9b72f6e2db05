"""Orders in which to remove blocks, measured on training steps: by loss, one-shot or greedy, and by block influence.

Shape suffixes: B steps of a batch, T tokens, L blocks, D hidden.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerroute_training.evaluation.equal_skip import Order
from layerroute_training.evaluation.measure import Measures, batches_on, evaluating, measure
from layerroute_training.evaluation.statistics import FloatArray
from layerroute_training.routed_model import RoutedModel
from layerroute_training.steps import StepSet


def removable(model: RoutedModel) -> Order:
    """The blocks that may be removed: those with a choice."""
    return tuple(b for b in range(len(model.gates_bias_L)) if b not in model.routers.always_run)


def mean_loss(steps: StepSet, found: Measures) -> float:
    """Nats per answer token, the mean of the kinds that occur."""
    kinds = [kind_N for kind_N in (steps.is_tool_call, ~steps.is_tool_call) if kind_N.any()]
    return float(np.mean([found.nll_N[kind_N].sum() / found.tokens_N[kind_N].sum() for kind_N in kinds]))


def loss_without(model: RoutedModel, steps: StepSet, removed: Sequence[int]) -> float:
    """`mean_loss` with these blocks removed for all steps."""
    run_1L = np.ones((1, len(model.gates_bias_L)), dtype=np.bool_)
    run_1L[:, list(removed)] = False
    return mean_loss(steps, measure(model, steps, run_NL=run_1L))


def removal_order(model: RoutedModel, steps: StepSet, depth: int = 1) -> Order:
    """Greedy order of importance, measured on `steps` under the model's LoRA.

    Each round removes the block whose removal, on top of those removed before, raises the loss least. After `depth`
    rounds the rest follow by their loss in the last round. `depth` 1 is one-shot: each block measured alone.
    """
    removed: list[int] = []
    ranked: list[int] = list(removable(model))
    for _ in range(min(depth, len(ranked))):
        losses = {block: loss_without(model, steps, [*removed, block]) for block in ranked}
        first, *ranked = sorted(ranked, key=losses.__getitem__)
        removed.append(first)
    return (*removed, *ranked)


def influence_order(model: RoutedModel, steps: StepSet) -> Order:
    """Blocks by block influence, lowest first (ShortGPT, arXiv 2403.03853, section 3.2)."""
    influence_L = block_influence(model, steps)
    return tuple(sorted(removable(model), key=influence_L.__getitem__))


@torch.inference_mode()
def block_influence(model: RoutedModel, steps: StepSet) -> FloatArray:
    """1 - cosine of the states that enter and leave each block [L], at full depth, mean over all tokens but padding."""
    layers = model.backbone.model.layers
    device = model.gates_bias_L.device
    sums_L = torch.zeros(len(layers), dtype=torch.float64, device=device)
    is_token_BT = torch.zeros(0)

    def hook_of(block: int) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
            out_BTD = output if isinstance(output, Tensor) else output[0]
            distance_BT = 1 - F.cosine_similarity(inputs[0].float(), out_BTD.float(), dim=-1)
            sums_L[block] += torch.where(is_token_BT, distance_BT, 0.0).sum(dtype=torch.float64)

        return add

    handles = [layer.register_forward_hook(hook_of(block)) for block, layer in enumerate(layers)]
    dtype = model.backbone.dtype
    try:
        # The LoRA is float32 over a backbone that may be bfloat16, as in training.
        with evaluating(model), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            for batch in batches_on(device, steps):
                tokens_BT, lengths_B = batch["tokens_BT"], batch["lengths_B"]
                is_token_BT = torch.arange(tokens_BT.shape[1], device=device) < lengths_B[:, None]
                model.backbone.model(tokens_BT, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    result: FloatArray = (sums_L / int(steps.lengths.sum())).cpu().numpy()
    return result
