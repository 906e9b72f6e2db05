"""The backend seam for several rows: one decode step of rows that share a layer program."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from layerroute.backbone.kv_cache import KVCache, Visit, visits_of
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import MAX_DIFFERENCE, EagerStepper, Stepper
from layerroute.errors import RequestError
from layerroute.program import LayerProgram

MAX_ROWS = 32


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation's next token, its position, and the cache that holds all earlier positions."""

    token: int
    position: int
    cache: KVCache


class BatchStepper(Protocol):
    """Runs decode steps of up to MAX_ROWS rows. A row's logits do not depend on the other rows or on their number.

    Attributes:
        name, reason: which backend this is, and why it was chosen.
        shares_weights: whether a step reads the weights once for all its rows, so that a further row costs little.
    """

    name: str
    reason: str
    shares_weights: bool

    def step(self, rows: Sequence[Row], visits: tuple[Visit, ...]) -> Tensor:
        """Feed one token of every row; return the logits [B, V], valid until the next step.

        No two rows may share a cache.
        """
        ...


class RowByRow:
    """One row after the other on a backend for single rows, whose numbers it therefore gives: any device."""

    shares_weights = False

    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper
        self.name = stepper.name
        self.reason = f"one row after the other: {stepper.reason}"

    def step(self, rows: Sequence[Row], visits: tuple[Visit, ...]) -> Tensor:
        """One step of the single-row backend for each row."""
        check_rows(rows)
        return torch.stack([self._stepper.step([row.token], row.position, visits, row.cache).clone() for row in rows])


def select_batch_stepper(backbone: Backbone, single: Stepper) -> BatchStepper:
    """Kernels for several rows where they can serve and pass a trial, else `single` one row after the other."""
    from layerroute.backbone import triton_batch

    executed = list(backbone.executed_L)
    try:
        why_not = triton_batch.why_not(backbone.config, backbone.dtype, backbone.device)
        if why_not is None:
            stepper = triton_batch.TritonBatchStepper(backbone)
            difference, bound = _trial(backbone, stepper), MAX_DIFFERENCE[backbone.dtype]
            if difference <= bound:
                return stepper
            left = f"failed their trial: logits differ from the eager ones by {difference:.1e}, more than {bound:.0e}"
        else:
            left = f"cannot serve: {why_not}"
    except Exception as error:  # a compiler, driver or launch error of any kind: single rows can still serve
        left = f"failed their trial: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    finally:
        backbone.executed_L[:] = executed  # a trial is no work that a report may count
    fallback = RowByRow(single)
    fallback.reason += f"; the kernels for several rows {left}"
    return fallback


@torch.inference_mode()
def _trial(backbone: Backbone, stepper: BatchStepper) -> float:
    """Largest relative difference of a row's logits from the eager ones, over two steps of three rows.

    The second step replays what the first compiled and captured.
    """
    num_blocks = backbone.config.num_blocks
    visits = visits_of(LayerProgram.identity(num_blocks), "generation")
    eager = EagerStepper(backbone, "the reference")
    starts = (8, 3, 5)
    theirs, ours = ([backbone.new_cache(num_blocks, 16) for _ in starts] for _ in range(2))
    for start, *caches in zip(starts, theirs, ours, strict=True):
        for cache in caches:
            eager.step(range(1, start + 1), 0, visits, cache)
    differences = []
    for offset in (0, 1):
        fast, slow = (
            [Row(11 + i + offset, start + offset, caches[i]) for i, start in enumerate(starts)]
            for caches in (theirs, ours)
        )
        logits_BV = stepper.step(fast, visits).double()
        expected_BV = RowByRow(eager).step(slow, visits).double()
        differences.append((logits_BV - expected_BV).norm(dim=1) / expected_BV.norm(dim=1))
    return float(torch.cat(differences).max())  # not a number if any is


def group_by_program(programs: Sequence[Hashable]) -> list[list[int]]:
    """Indices of rows that can step together: equal programs, at most MAX_ROWS of them; order is kept in a group.

    A program is its visits, or whatever is equal where they are, and may be quicker to compare.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, program in enumerate(programs):
        groups.setdefault(program, []).append(index)
    return [rows[i : i + MAX_ROWS] for rows in groups.values() for i in range(0, len(rows), MAX_ROWS)]


def check_rows(rows: Sequence[Row]) -> None:
    """Refuse a batch that no step can serve.

    Raises:
        RequestError: no rows, too many, or two over one cache.
    """
    if not 1 <= len(rows) <= MAX_ROWS:
        raise RequestError(f"a batch holds 1 to {MAX_ROWS} rows, not {len(rows)}: split it")
    if len({row.cache.keys_SKTH.data_ptr() for row in rows}) < len(rows):
        raise RequestError("two rows of a batch share a KV cache: give every row a cache of its own")
