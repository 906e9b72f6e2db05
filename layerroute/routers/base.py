"""What routers read and what they return."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from layerroute.program import LayerProgram
from layerroute.report import StepKind

Evidence = Literal["none", "last", "mean"]
"""What a router reads of the prompt's hidden states: nothing, the last token's, or the mean over prompt tokens."""


@dataclass(frozen=True, slots=True)
class PromptEvidence:
    """What is known of a prompt before the first answer token.

    Attributes:
        num_tokens: prompt length in tokens, cached ones included.
        digest: integer that depends on the prompt's token ids alone (seeds the random baseline).
        states_LD: float32 state entering each of the `L` blocks, reduced over the prompt as the router's
            `evidence` says (last token, or mean); None if the router reads no states.
    """

    num_tokens: int
    digest: int
    states_LD: Tensor | None = None


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    """The one decision of a step.

    Attributes:
        program: blocks the governed tokens visit.
        router: name of the router; `reason`: why, in words for people.
        run_probabilities: probability of running each block, or None for routers without gates.
        tool_call_probability: belief that the step will call a tool, or None.
    """

    program: LayerProgram
    router: str
    reason: str
    run_probabilities: tuple[float, ...] | None = None
    tool_call_probability: float | None = None

    @property
    def predicted_kind(self) -> StepKind | None:
        """The kind of step the router expects."""
        if self.tool_call_probability is None:
            return None
        return StepKind.TOOL_CALL if self.tool_call_probability >= 0.5 else StepKind.PLANNING


class Router(Protocol):
    """Turns evidence of a prompt into one decision, deterministically."""

    @property
    def name(self) -> str:
        """Name shown in reports."""
        ...

    @property
    def evidence(self) -> Evidence:
        """What `decide` needs in `PromptEvidence.states_LD`."""
        ...

    def decide(self, prompt: PromptEvidence) -> RoutingDecision:
        """Decide the program of a step from its prompt."""
        ...


@runtime_checkable
class BlockwiseRouter(Router, Protocol):
    """A router whose gates can be asked block by block, as `sequence` scope needs."""

    def run_probability(self, block: int, state_D: Tensor) -> float:
        """Probability of running `block`, from the reduced prompt state (float32, hidden size) that enters it."""
        ...
