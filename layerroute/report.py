"""What a step did: StepReport, and its sums over a run.

Counts are of what the device executed (realised), not of what a router wished for (nominal).
"""

from collections.abc import Iterable
from enum import StrEnum
from functools import reduce
from operator import add
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Scope = Literal["generation", "sequence"]

Count = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""A number of 64 bits: what a foreign ledger says can always be divided and shown."""


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

    executed: Count = 0
    skipped: Count = 0
    looped: Count = 0

    def __add__(self, other: "VisitCounts") -> "VisitCounts":
        """Sum of two counts."""
        return VisitCounts.model_construct(  # not validated: two numbers of 64 bits may sum to more
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
    num_blocks: Count
    program: str
    nominal_program: str
    visits_per_block: tuple[Count, ...]
    run_probabilities: tuple[float, ...] | None = None
    prefill: VisitCounts
    decode: VisitCounts
    prompt_tokens: Count
    cached_tokens: Count
    generated_tokens: Count
    fast_forwarded_tokens: Count
    decode_steps: Count
    flops_full: Count
    flops_realised: Count
    bytes_full: Count
    bytes_realised: Count
    milliseconds: Timings
    finish_reason: Literal["stop", "length", "tool_calls", "cancelled"]

    @property
    def skip_share(self) -> float:
        """Share of the blocks that the program leaves out, 0..1."""
        return self.visits_per_block.count(0) / len(self.visits_per_block) if self.visits_per_block else 0.0

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


class RunSums:
    """Sums over the steps of a run, taken in one at a time: a run of any length takes the same memory."""

    def __init__(self, steps: Iterable[StepReport] = ()) -> None:
        self._by_kind: dict[StepKind, tuple[Any, ...]] = {}
        self._conditions: dict[str, dict[str, None]] = {name: {} for name in _CONDITIONS}
        for step in steps:
            self.add(step)

    def add(self, step: StepReport) -> None:
        """Take in one step."""
        self._by_kind[step.kind] = _plus(self._by_kind.get(step.kind, _NOTHING), _summands(step))
        for name, seen in self._conditions.items():
            if len(seen) < _MOST_CONDITIONS:
                seen[getattr(step, name)] = None

    @property
    def conditions(self) -> dict[str, tuple[str, ...]]:
        """What the steps ran on and under, by field of `StepReport`: each value once, the first few of very many."""
        return {name: tuple(seen) for name, seen in self._conditions.items()}

    def summary(self) -> RunSummary:
        """Return the sums so far."""
        by_kind = {kind: self._by_kind[kind] for kind in StepKind if kind in self._by_kind}
        return RunSummary(
            by_kind=tuple(_summary(kind, sums) for kind, sums in by_kind.items()),
            total=_summary(None, reduce(_plus, by_kind.values(), _NOTHING)),
        )


def summarise(steps: Iterable[StepReport]) -> RunSummary:
    """Sum step reports by observed kind."""
    return RunSums(steps).summary()


_CONDITIONS = ("model", "device", "dtype", "backend", "router", "scope")
_MOST_CONDITIONS = 8

_SUMMED = (
    *("steps", "predicted", "predicted_right", "prompt_tokens", "cached_tokens", "generated_tokens"),
    *("fast_forwarded_tokens", "flops_full", "flops_realised", "prefill_ms", "decode_ms", "prefill", "decode"),
)
_NOTHING = (0,) * 9 + (0.0, 0.0, VisitCounts(), VisitCounts())


def _summands(step: StepReport) -> tuple[Any, ...]:
    """What a step adds to each of `_SUMMED`."""
    return (
        1,
        int(step.predicted_kind is not None),
        int(step.predicted_kind == step.kind),
        step.prompt_tokens,
        step.cached_tokens,
        step.generated_tokens,
        step.fast_forwarded_tokens,
        step.flops_full,
        step.flops_realised,
        step.milliseconds.prefill,
        step.milliseconds.decode,
        step.prefill,
        step.decode,
    )


def _plus(sums: tuple[Any, ...], summands: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(map(add, sums, summands))


def _summary(kind: StepKind | None, sums: tuple[Any, ...]) -> KindSummary:
    return KindSummary(kind=kind, **dict(zip(_SUMMED, sums, strict=True)))
