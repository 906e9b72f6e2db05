"""The paper's perplexity, as its script computes it: to show what it measures, never to report quality.

Its model returns the cross-entropy plus the penalty on the mean soft gate, and the script exponentiates that. Its
"full" pass opens the gates by biases of +10 (mean gate 1.00), its gated pass has a mean gate of about 0.7: a "gain" of
0.3 nats on steps where both ran the very same blocks (arXiv 2606.01838 and its published code).

Shape suffixes: B steps of a batch, A scored tokens, L blocks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from layerroute_training.routed_model import RoutedModel, RoutedOutput

OPEN_BIAS = 10.0


@dataclass(frozen=True)
class PublishedPerplexity:
    """Perplexities by the paper's formula, one per step [B], and the share of blocks that the gated pass skipped."""

    full_B: Tensor
    gated_B: Tensor
    skip_B: Tensor

    def change(self) -> float:
        """The paper's number: mean over steps of the gated minus the full perplexity."""
        return float((self.gated_B - self.full_B).mean())


@torch.no_grad()
def published_perplexity(
    model: RoutedModel, tokens_BT: Tensor, prompt_lengths_B: Tensor, lengths_B: Tensor, penalty: float = 1.0
) -> PublishedPerplexity:
    """Measure a batch as the paper's script does: all tokens count, prompt and template included.

    Args:
        model: in evaluation mode.
        tokens_BT, prompt_lengths_B, lengths_B: as `RoutedModel.forward` takes them.
        penalty: weight of the mean soft gate in the loss.
    """
    gated = model(tokens_BT, prompt_lengths_B, lengths_B, every_token=True)
    with opened_gates(model):
        full = model(tokens_BT, prompt_lengths_B, lengths_B, every_token=True)
    skip_B = 1.0 - gated.run_BL.mean(1)
    return PublishedPerplexity(_exponentiated(full, penalty), _exponentiated(gated, penalty), skip_B)


@contextmanager
def opened_gates(model: RoutedModel) -> Iterator[None]:
    """Set every gate's bias to +10, and put the exact biases back afterwards."""
    biases_L = model.gates_bias_L.detach().clone()
    with torch.no_grad():
        model.gates_bias_L.fill_(OPEN_BIAS)
    try:
        yield
    finally:
        with torch.no_grad():
            model.gates_bias_L.copy_(biases_L)


def _exponentiated(output: RoutedOutput, penalty: float) -> Tensor:
    """exp(mean cross-entropy of the step + penalty x mean soft gate), per step."""
    zeros_B = torch.zeros(len(output.run_BL), device=output.nll_A.device)
    tokens_B = zeros_B.index_add(0, output.step_A, torch.ones_like(output.nll_A))
    nll_B = zeros_B.index_add(0, output.step_A, output.nll_A) / tokens_B
    return torch.exp(nll_B + penalty * output.soft_BL.mean(1))
