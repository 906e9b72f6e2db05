"""Accounting of one step: FLOPs, bytes and visits of what the device ran, and where the milliseconds went."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

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
        self._executed_L = np.zeros(shape.num_blocks, dtype=np.int64)

    def add(self, new_tokens: int, context_start: int, num_visits: int, logit_positions: int, sharing: int = 1) -> None:
        """Account for one pass of `new_tokens` tokens through `num_visits` blocks.

        `sharing` rows read the weights together, so each of them accounts for a part.
        """
        shape = self._shape
        self.tokens += new_tokens
        self.passes += 1
        self.flops_full += forward_flops(shape, shape.num_blocks, new_tokens, context_start, logit_positions)
        self.flops_realised += forward_flops(shape, num_visits, new_tokens, context_start, logit_positions)
        last = context_start + new_tokens - 1
        self.bytes_full += decode_step_bytes(shape, shape.num_blocks, last, sharing)
        self.bytes_realised += decode_step_bytes(shape, num_visits, last, sharing)

    def executed(self, tokens_L: np.ndarray) -> None:
        """Account for what the device ran: tokens through each block, [L]."""
        self._executed_L += tokens_L

    def visits(self) -> VisitCounts:
        """Visits that the device ran, over the tokens of all passes."""
        executed_L = self._executed_L
        return VisitCounts(
            executed=int(executed_L.sum()),
            skipped=int((self.tokens - executed_L).clip(min=0).sum()),
            looped=int((executed_L - self.tokens).clip(min=0).sum()),
        )


@contextmanager
def executions(counters_L: Sequence[int]) -> Iterator[np.ndarray]:
    """How many tokens go through each block meanwhile, [L]: by the backbone's counters, filled in at the end."""
    before_L, tokens_L = np.array(counters_L), np.zeros(len(counters_L), dtype=np.int64)
    yield tokens_L
    tokens_L += np.array(counters_L) - before_L


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
