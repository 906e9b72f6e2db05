"""What a run measures of itself: `metrics.jsonl`, and TensorBoard's files beside it where TensorBoard is installed.

Shape suffix: M metrics.
"""

import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from layerroute.files import replace_bytes

METRICS = "metrics.jsonl"

WARM_UP = 10
"""Updates that the throughput leaves out: in them kernels are compiled and caches filled."""


class RunLog:
    """Appends one record per line; a record holds the number of updates done and what was measured then."""

    def __init__(self, folder: Path, resumed_at: int) -> None:
        """Log into `folder`. Records after update `resumed_at` are dropped, for those updates are done again.

        So are lines that are no records: a crash or a full disk cut them short.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / METRICS
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        replace_bytes(self._path, b"".join(line for line in lines if _update_of(line) <= resumed_at))
        self._board: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_at + 1)

    def write(self, update: int, values: Mapping[str, float]) -> None:
        """Record what was measured after `update` updates; what is not finite becomes null."""
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"update": update, **known}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, update)

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def _update_of(line: bytes) -> float:
    """The update that a line is about; infinity if it is no whole record."""
    try:
        return int(json.loads(line)["update"]) if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, LookupError):
        return math.inf


class Meter:
    """Sums of metrics on the device, and counts of tokens; `drain` begins anew.

    A metric that is NaN had nothing to measure in its micro-batch, and does not enter the mean.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sum_M: Tensor | float = 0.0
        self._count_M: Tensor | float = 0.0
        self._updates = self._tokens = self._warm_tokens = 0
        self._warm_at: float | None = None

    def add(self, metrics: Mapping[str, Tensor], tokens: int) -> None:
        """Take in one micro-batch."""
        self._names = tuple(metrics)
        values_M = torch.stack([value.detach().float() for value in metrics.values()])
        self._sum_M = self._sum_M + values_M.nan_to_num()
        self._count_M = self._count_M + (~values_M.isnan()).float()
        self._tokens += tokens

    def end_update(self, device: torch.device) -> None:
        """Count an update; the clock starts after those that warm up."""
        self._updates += 1
        if self._updates == WARM_UP:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            self._warm_at, self._warm_tokens = perf_counter(), self._tokens

    def drain(self) -> tuple[tuple[str, ...], list[Tensor]]:
        """Names and means since the last time, NaN where there was nothing."""
        means_M = torch.as_tensor(self._sum_M) / torch.as_tensor(self._count_M)
        self._sum_M = self._count_M = 0.0
        return self._names, list(means_M)

    def throughput(self, processes: int) -> dict[str, float]:
        """Tokens without padding so far, and per second since the warm-up. Call it when the device has finished."""
        values = {"tokens": float(self._tokens * processes)}
        if self._warm_at is not None and self._tokens > self._warm_tokens:
            seconds = perf_counter() - self._warm_at
            values["tokens_per_second"] = (self._tokens - self._warm_tokens) * processes / seconds
        return values
