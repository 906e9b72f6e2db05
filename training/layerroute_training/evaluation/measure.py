"""Teacher-forced measurements of steps: losses, programs, beliefs, and the FLOPs they stand for.

Shape suffixes: N steps, B steps of a batch, L blocks, A scored tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerroute.flops import BackboneShape, forward_flops
from layerroute.report import Scope
from layerroute_training.batching import collate, evaluation_batches
from layerroute_training.evaluation.statistics import BoolArray, FloatArray
from layerroute_training.routed_model import RoutedModel
from layerroute_training.scoring import scored_tokens
from layerroute_training.steps import StepSet

BATCH_TOKENS = {"cuda": 1 << 17, "cpu": 1 << 13}
"""Tokens of a batch: on a GPU many, so that it and not Python sets the pace; on a CPU few, with less padding."""
_FORWARD = ("tokens_BT", "prompt_lengths_B", "lengths_B", "scored_at_A")


@dataclass(frozen=True)
class Measures:
    """What was measured of each step, in the order of the steps.

    Attributes:
        nll_N: sum over the answer's tokens, nats; tokens_N: how many these are, `<|im_end|>` included.
        run_NL: the blocks that its program runs; soft_NL: the gates' probabilities of running.
        kind_probability_N: belief that the step calls a tool.
    """

    nll_N: FloatArray
    tokens_N: NDArray[np.int64]
    run_NL: BoolArray
    soft_NL: FloatArray
    kind_probability_N: FloatArray

    @property
    def skip(self) -> FloatArray:
        """Share of the blocks that each step's program skips."""
        share_N: FloatArray = 1.0 - self.run_NL.mean(1)
        return share_N

    def select(self, of_N: BoolArray) -> "Measures":
        """The measures of some of the steps."""
        return Measures(
            self.nll_N[of_N], self.tokens_N[of_N], self.run_NL[of_N], self.soft_NL[of_N], self.kind_probability_N[of_N]
        )


@torch.inference_mode()
def measure(
    model: RoutedModel,
    steps: StepSet,
    *,
    run_NL: BoolArray | None = None,
    bare: bool = False,
    batch_tokens: int | None = None,
) -> Measures:
    """Score the answers of all steps, teacher-forced, without gate noise or drop-out.

    Args:
        model: on the device to run on.
        steps: what to measure.
        run_NL: programs to run, one per step (or one row for all), in place of the gates' own.
        bare: measure the backbone alone at full depth: no LoRA, no gates.
        batch_tokens: most tokens of a batch, padding included; None for `BATCH_TOKENS`.
    """
    if bare:
        with model.bare():
            full_L = np.ones((1, len(model.gates_bias_L)), dtype=np.bool_)
            return measure(model, steps, run_NL=full_L, batch_tokens=batch_tokens)
    device = model.gates_bias_L.device
    run_of_step = None
    if run_NL is not None:
        run_of_step = torch.from_numpy(np.broadcast_to(run_NL, (len(steps), run_NL.shape[-1])).copy()).to(device)
    parts: list[tuple[Tensor, ...]] = []
    with evaluating(model):
        for batch in batches_on(device, steps, batch_tokens):
            run_BL = None if run_of_step is None else run_of_step[batch["index_B"]]
            out = model(**{name: batch[name] for name in _FORWARD}, run_BL=run_BL)
            nll_B = torch.zeros(len(out.run_BL), dtype=torch.float64, device=device)
            nll_B.index_add_(0, out.step_A, out.nll_A.double())
            belief_B = torch.sigmoid(out.kind_logit_B.double())
            parts.append((batch["index_B"], nll_B, out.run_BL > 0.5, out.soft_BL.double(), belief_B))
    # One wait for the device at the very end, and not one per batch.
    index_N, *columns = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    place_N = np.argsort(index_N)
    nll_N, run, soft_NL, belief_N = (column[place_N] for column in columns)
    return Measures(nll_N, steps.answer_lengths, run, soft_NL, belief_N)


def batches_on(device: torch.device, steps: StepSet, batch_tokens: int | None = None) -> Iterator[dict[str, Tensor]]:
    """All steps in batches of like length, collated and sent to the device without waiting for it."""
    for indices in evaluation_batches(steps, batch_tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])):
        batch = collate(steps, indices)
        lengths = (batch["prompt_lengths_B"], batch["lengths_B"])
        batch["scored_at_A"] = scored_tokens(*lengths, batch["tokens_BT"].shape[1])
        if device.type == "cuda":
            batch = {name: values.pin_memory() for name, values in batch.items()}
        yield {name: values.to(device, non_blocking=True) for name, values in batch.items()}


@contextmanager
def evaluating(model: RoutedModel) -> Iterator[None]:
    """Evaluation mode for a while: no drop-out, gates that read the prompt alone, and nothing compiled.

    An evaluation has many shapes and few batches of each: compiling would take longer than all of it.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.train(was_training)


def shape_of(model: RoutedModel) -> BackboneShape:
    """The sizes that FLOPs depend on."""
    config: Any = model.backbone.config
    weight = model.backbone.model.embed_tokens.weight
    return BackboneShape(
        vocab_size=weight.shape[0],
        hidden_size=weight.shape[1],
        intermediate_size=config.intermediate_size,
        num_blocks=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or weight.shape[1] // config.num_attention_heads,
        bytes_per_weight=weight.element_size(),
    )


def generated_tokens(steps: StepSet) -> NDArray[np.int64]:
    """Answer tokens [N] that a model is fed back, all but the last: the tokens whose visits a program governs."""
    return steps.answer_lengths - 1


def step_flops(shape: BackboneShape, steps: StepSet, visits_N: NDArray[Any], scope: Scope) -> FloatArray:
    """FLOPs [N] of each step as the engine would run it: one prefill of the prompt, then one pass per generated token.

    The same accounting as the engine's `Meter`, without a prefix cache: logits once for the prefill and once per pass.

    Args:
        shape: of the backbone.
        steps: for their lengths.
        visits_N: blocks that each step's program visits; the prompt visits all of them in `generation` scope.
        scope: tokens that the program governs.
    """
    lengths = zip(steps.prompt_lengths.tolist(), generated_tokens(steps).tolist(), visits_N.tolist(), strict=True)
    flops = []
    for prompt, generated, visits in lengths:
        prefill = forward_flops(shape, shape.num_blocks if scope == "generation" else visits, prompt, 0, 1)
        # A pass over one token costs a constant and a multiple of what precedes it, so ends of the range give the sum.
        ends = [forward_flops(shape, visits, 1, context, 1) for context in (prompt, prompt + generated - 1)]
        flops.append(prefill + generated * sum(ends) / 2)
    return np.array(flops, dtype=np.float64)
