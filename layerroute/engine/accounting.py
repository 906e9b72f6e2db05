"""Accounting of one step: FLOPs, bytes and visits of what the device ran, and where the milliseconds went."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from layerroute.flops import BackboneShape, decode_step_bytes, forward_flops
from layerroute.report import Timings, VisitCounts


class Meter:
    """Adds up the forward passes of one phase of a step."""

    def __init__(self, shape: BackboneShape) -> None:
        self._shape = shape
        self.tokens = 0
        self.passes = 0
        self.flops_full = 0
        self.flops_realised = 0
        self.bytes_full = 0
        self.bytes_realised = 0

    def add(self, new_tokens: int, context_start: int, num_visits: int, logit_positions: int) -> None:
        """Account for one pass of `new_tokens` tokens through `num_visits` blocks."""
        shape = self._shape
        self.tokens += new_tokens
        self.passes += 1
        self.flops_full += forward_flops(shape, shape.num_blocks, new_tokens, context_start, logit_positions)
        self.flops_realised += forward_flops(shape, num_visits, new_tokens, context_start, logit_positions)
        last = context_start + new_tokens - 1
        self.bytes_full += decode_step_bytes(shape, shape.num_blocks, last)
        self.bytes_realised += decode_step_bytes(shape, num_visits, last)


def count_visits(before_L: Sequence[int], after_L: Sequence[int], num_tokens: int) -> VisitCounts:
    """Visits between two readings of the backbone's execution counters, over `num_tokens` tokens."""
    executed_L = [after - before for before, after in zip(before_L, after_L, strict=True)]
    return VisitCounts(
        executed=sum(executed_L),
        skipped=sum(max(num_tokens - executed, 0) for executed in executed_L),
        looped=sum(max(executed - num_tokens, 0) for executed in executed_L),
    )


class Stopwatch:
    """Milliseconds by phase, on the host's monotonic clock."""

    def __init__(self) -> None:
        self._milliseconds: dict[str, float] = {}

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Add the time of the block to `phase`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, 1000.0 * (time.perf_counter() - started))

    def add(self, phase: str, milliseconds: float) -> None:
        """Add milliseconds to `phase`."""
        self._milliseconds[phase] = self._milliseconds.get(phase, 0.0) + milliseconds

    def timings(self) -> Timings:
        """All phases."""
        return Timings(**self._milliseconds)
