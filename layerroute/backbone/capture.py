"""Recording of CUDA graphs."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor


def capture(launch: Callable[[], None], pool: Any, restored: Sequence[Tensor] = ()) -> torch.cuda.CUDAGraph:
    """Launch once, so that all kernels are compiled and loaded, then record the same launches on the current device.

    Other threads may use the GPU meanwhile: only what this thread does is checked.

    Args:
        launch: depends on nothing of the host that changes between replays.
        pool: what the graph allocates from. A pool whose graphs are all gone takes no other.
        restored: what the launch changes and the first replay must find as it was.
    """
    saved = [tensor.clone() for tensor in restored]
    launch()
    for tensor, value in zip(restored, saved, strict=True):
        tensor.copy_(value)
    graph = torch.cuda.CUDAGraph()
    stream = _stream(torch.cuda.current_device())
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        launch()
    return graph


@cache
def _stream(device: int) -> torch.cuda.Stream:
    """One for each device: torch's own one, shared by all captures, is of the device that captured first."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
