"""Gates: one linear gate per block and one linear head for the kind of step, read from the prompt's states.

Shape suffixes: B batch, T tokens, L blocks, D hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from layerroute.bundle import Bundle
from layerroute.errors import RouterError
from layerroute.program import LayerProgram
from layerroute.report import StepKind
from layerroute.routers.base import Evidence, PromptEvidence, RoutingDecision

_RMS_EPSILON = 1e-6


def reduce_states(hidden_BTD: Tensor, prompt_lengths_B: Tensor | Sequence[int], evidence: Evidence) -> Tensor:
    """Reduce the states that enter a block to one state per prompt.

    Only the first `prompt_lengths_B[b]` tokens of row `b` are read: neither padding, nor answer tokens, nor other rows
    can change the result. Differentiable.

    Returns:
        Float32 states, shape [B, D]: the last prompt token's, or the mean over prompt tokens.

    Raises:
        RouterError: evidence other than "last" and "mean", or a prompt without tokens or longer than its row.
    """
    lengths_B = torch.as_tensor(prompt_lengths_B, device=hidden_BTD.device)
    num_rows, num_tokens = hidden_BTD.shape[:2]
    if lengths_B.shape != (num_rows,) or bool(((lengths_B < 1) | (lengths_B > num_tokens)).any()):
        raise RouterError(f"{num_rows} prompts need lengths of 1 to {num_tokens} tokens, not {lengths_B.tolist()}")
    return pool_states(hidden_BTD, lengths_B, evidence)


def pool_states(hidden_BTD: Tensor, lengths_B: Tensor, evidence: Evidence) -> Tensor:
    """`reduce_states` of lengths that are known to be valid: looks at no value, so a GPU need not be waited for.

    Raises:
        RouterError: evidence other than "last" and "mean".
    """
    num_rows, num_tokens = hidden_BTD.shape[:2]
    if evidence == "last":
        return hidden_BTD[torch.arange(num_rows, device=hidden_BTD.device), lengths_B - 1].float()
    if evidence == "mean":
        is_prompt_BT = torch.arange(num_tokens, device=hidden_BTD.device) < lengths_B[:, None]
        # where() and not a product: padding may hold NaN. float64, so that the length of the padding cannot be felt.
        prompt_BTD = torch.where(is_prompt_BT[..., None], hidden_BTD, 0)
        return (prompt_BTD.sum(1, dtype=torch.float64) / lengths_B[:, None]).float()
    raise RouterError(f"states cannot be reduced by {evidence!r}: use 'last' or 'mean'")


def normalise_states(states_D: Tensor) -> Tensor:
    """Divide states by their root mean square over the last dimension."""
    return states_D / (states_D.square().mean(-1, keepdim=True) + _RMS_EPSILON).sqrt()


def linear_logits(weight_D: Tensor, bias: Tensor, states_D: Tensor, normalise: bool) -> Tensor:
    """Logits of gates or of the kind head: `weight . state + bias` over the last dimension, others broadcast."""
    if normalise:
        states_D = normalise_states(states_D)
    return (weight_D * states_D).sum(-1) + bias


class GateRouter:
    """The trained gates of a bundle. A block runs if its probability exceeds one half, or if it always runs."""

    name = "gates"

    def __init__(self, bundle: Bundle) -> None:
        self._metadata = bundle.metadata
        # float64 on the CPU: a decision then does not depend on the device or on how a sum is vectorised.
        self._gates_weight_LD = bundle.gates_weight_LD.double()
        self._gates_bias_L = bundle.gates_bias_L.double()
        self._kind_weight_D = bundle.kind_weight_D.double()
        self._kind_bias = bundle.kind_bias.double()

    @property
    def evidence(self) -> Evidence:
        """What the gates were trained to read."""
        return self._metadata.evidence

    def decide(self, prompt: PromptEvidence) -> RoutingDecision:
        """Decide which blocks generated tokens visit, from the states that enter the blocks of the full-depth prompt.

        Raises:
            RouterError: the states are missing or not of the bundle's shape.
        """
        if prompt.states_LD is None or prompt.states_LD.shape != self._gates_weight_LD.shape:
            raise RouterError(f"the gates need prompt states of shape {tuple(self._gates_weight_LD.shape)}")
        states_LD = prompt.states_LD.double().cpu()
        read_LD = states_LD if self._metadata.reads == "own_block" else states_LD[-1:]
        logits_L = linear_logits(self._gates_weight_LD, self._gates_bias_L, read_LD, self._metadata.normalise)
        probabilities = torch.sigmoid(logits_L).tolist()
        for block in self._metadata.always_run:
            probabilities[block] = 1.0
        skipped = [block for block, probability in enumerate(probabilities) if not probability > 0.5]
        belief = self.tool_call_probability(states_LD[-1])
        return RoutingDecision(
            program=LayerProgram.skipping(skipped, self._metadata.num_blocks),
            router=self.name,
            reason=describe(belief, len(skipped), self._metadata.num_blocks),
            run_probabilities=tuple(probabilities),
            tool_call_probability=belief,
        )

    def run_probability(self, block: int, state_D: Tensor) -> float:
        """Probability of running `block`, from the reduced prompt state that enters it; 1 if it always runs.

        Raises:
            RouterError: gates that read the state before the last block cannot decide before the prompt has run.
        """
        if self._metadata.reads != "own_block":
            raise RouterError(
                "the gates of this bundle read the prompt's state before the last block and cannot decide block by "
                "block, as scope 'sequence' needs: use scope='generation', or train with routers.reads=own_block"
            )
        if block in self._metadata.always_run:
            return 1.0
        weight_D, bias = self._gates_weight_LD[block], self._gates_bias_L[block]
        return float(torch.sigmoid(linear_logits(weight_D, bias, state_D.double().cpu(), self._metadata.normalise)))

    def tool_call_probability(self, state_D: Tensor) -> float:
        """Belief that the step calls a tool, from the reduced prompt state that enters the last block."""
        logit = linear_logits(self._kind_weight_D, self._kind_bias, state_D.double().cpu(), self._metadata.normalise)
        return float(torch.sigmoid(logit))


def describe(tool_call_probability: float, num_skipped: int, num_blocks: int) -> str:
    """Say in a few words what gates expect and do."""
    is_call = tool_call_probability >= 0.5
    kind = StepKind.TOOL_CALL if is_call else StepKind.PLANNING
    sure = tool_call_probability if is_call else 1.0 - tool_call_probability
    return f"expects {kind.value.replace('_', ' ')} ({sure:.0%} sure), skips {num_skipped} of {num_blocks} blocks"
