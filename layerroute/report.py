"""What a step did: StepReport, its sums over a run, and the run ledger (JSON lines).

Counts are of what the device executed (realised), not of what a router wished for (nominal).
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

Scope = Literal["generation", "sequence"]


class StepKind(StrEnum):
    """What an agent step is: a call of a tool, or text (planning, reasoning, answering)."""

    TOOL_CALL = "tool_call"
    PLANNING = "planning"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VisitCounts(_Frozen):
    """Block visits summed over tokens: `executed + skipped == tokens * num_blocks + looped`.

    Attributes:
        executed: visits that ran.
        skipped: blocks left out, once per token that left them out.
        looped: visits beyond the first of a block, once per token (they are part of `executed`).
    """

    executed: int = 0
    skipped: int = 0
    looped: int = 0

    def __add__(self, other: "VisitCounts") -> "VisitCounts":
        """Sum of two counts."""
        return VisitCounts(
            executed=self.executed + other.executed,
            skipped=self.skipped + other.skipped,
            looped=self.looped + other.looped,
        )

    @property
    def skip_share(self) -> float:
        """Share of the full-depth visits that were skipped, 0..1."""
        full = self.executed - self.looped + self.skipped
        return self.skipped / full if full else 0.0


class Timings(_Frozen):
    """Milliseconds of one step, as they passed. `mask` (grammar masks on the CPU) is part of `decode`.

    `decode` of a row in a batch holds the time that other rows took meanwhile.
    """

    queue: float = 0.0
    prefill: float = 0.0
    routing: float = 0.0
    decode: float = 0.0
    mask: float = 0.0


class StepReport(_Frozen):
    """Account of one step (one assistant turn).

    Attributes:
        model: name of the backbone; `router`: name of the router that decided; `reason`: why, in words.
        kind: observed kind, read off the answer; predicted_kind: what the router believed before the first token.
        tool_call_probability: the router's belief, 0..1, or None if it has none.
        program: realised program, text form; nominal_program: what the router asked for.
        visits_per_block: realised visits of each block per token of the scope (0 skipped, 1 run, 2+ looped).
        run_probabilities: the router's probability per block, or None.
        prefill, decode: visits of prompt tokens and of generated tokens. The last generated token of a step is
            never fed back, so `decode` counts the tokens that were.
        prompt_tokens: all prompt tokens; cached_tokens: those whose KV was reused (the rest was computed).
        generated_tokens: all answer tokens; fast_forwarded_tokens: those the grammar left no choice about.
        decode_steps: forward passes after the prefill.
        flops_full, flops_realised: FLOPs of the computed tokens at full depth and as run, LM head included.
        bytes_full, bytes_realised: bytes of weights and KV read by the decode steps at full depth and as run; of
            weights that several rows of a batch read together, this row's part.
        milliseconds: where the time went.
        finish_reason: "stop" (end token or stop string), "length", "tool_calls" or "cancelled".
    """

    model: str
    device: str
    dtype: str
    backend: str
    router: str
    reason: str
    scope: Scope
    kind: StepKind
    predicted_kind: StepKind | None = None
    tool_call_probability: float | None = None
    num_blocks: int
    program: str
    nominal_program: str
    visits_per_block: tuple[int, ...]
    run_probabilities: tuple[float, ...] | None = None
    prefill: VisitCounts
    decode: VisitCounts
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    fast_forwarded_tokens: int
    decode_steps: int
    flops_full: int
    flops_realised: int
    bytes_full: int
    bytes_realised: int
    milliseconds: Timings
    finish_reason: Literal["stop", "length", "tool_calls", "cancelled"]

    @property
    def flops_saved(self) -> float:
        """Share of the full-depth FLOPs that this step did not spend; negative if looping spent more."""
        return 1.0 - self.flops_realised / self.flops_full if self.flops_full else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens over decode time; the first token belongs to the prefill."""
        tokens = self.generated_tokens - 1
        return 1000.0 * tokens / self.milliseconds.decode if tokens > 0 and self.milliseconds.decode > 0 else 0.0

    @property
    def ms_per_token(self) -> float:
        """Decode milliseconds per generated token after the first."""
        tokens = self.generated_tokens - 1
        return self.milliseconds.decode / tokens if tokens > 0 else 0.0


class KindSummary(_Frozen):
    """Sums over the steps of one kind (or of all, with `kind=None`)."""

    kind: StepKind | None
    steps: int
    predicted_right: int
    predicted: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    fast_forwarded_tokens: int
    prefill: VisitCounts
    decode: VisitCounts
    flops_full: int
    flops_realised: int
    prefill_ms: float
    decode_ms: float

    @property
    def flops_saved(self) -> float:
        """Share of the full-depth FLOPs that these steps did not spend."""
        return 1.0 - self.flops_realised / self.flops_full if self.flops_full else 0.0


class RunSummary(_Frozen):
    """The steps of a run summed by observed kind, and all together."""

    by_kind: tuple[KindSummary, ...]
    total: KindSummary


def _sum_steps(kind: StepKind | None, steps: list[StepReport]) -> KindSummary:
    judged = [step for step in steps if step.predicted_kind is not None]
    return KindSummary(
        kind=kind,
        steps=len(steps),
        predicted=len(judged),
        predicted_right=sum(step.predicted_kind == step.kind for step in judged),
        prompt_tokens=sum(step.prompt_tokens for step in steps),
        cached_tokens=sum(step.cached_tokens for step in steps),
        generated_tokens=sum(step.generated_tokens for step in steps),
        fast_forwarded_tokens=sum(step.fast_forwarded_tokens for step in steps),
        prefill=sum((step.prefill for step in steps), VisitCounts()),
        decode=sum((step.decode for step in steps), VisitCounts()),
        flops_full=sum(step.flops_full for step in steps),
        flops_realised=sum(step.flops_realised for step in steps),
        prefill_ms=sum(step.milliseconds.prefill for step in steps),
        decode_ms=sum(step.milliseconds.decode for step in steps),
    )


def summarise(steps: Iterable[StepReport]) -> RunSummary:
    """Sum step reports by observed kind."""
    steps = list(steps)
    groups = ((kind, [step for step in steps if step.kind == kind]) for kind in StepKind)
    return RunSummary(
        by_kind=tuple(_sum_steps(kind, group) for kind, group in groups if group),
        total=_sum_steps(None, steps),
    )
