"""What the device can do: bytes that a copy moves, and FLOPs of a large matrix product, per second."""

import statistics
import time
from collections.abc import Callable

import torch

COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Far more than any cache of the device holds."""
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns: enough work for every multiprocessor, many times over."""
_GROUPS, _RUNS = 5, 4


def copy_bandwidth(device: torch.device) -> float:
    """Gigabytes per second, read and written, of copies within the device's memory; median of five times four."""
    size = COPY_BYTES[device.type]
    if device.type == "cuda":
        size = min(size, torch.cuda.mem_get_info(device)[0] // 4)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source), device) / 1e9


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Teraflops per second of a product of square matrices of a dtype; median of five times four.

    Their numbers are random: zeros draw less power, and a GPU that is short of it would run faster on them.
    """
    size = MATRIX_SIZE[device.type]
    left, right, product = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(3))
    return 2 * size**3 / _seconds(lambda: torch.mm(left, right, out=product), device) / 1e12


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one run, after a group of runs to warm up."""
    seconds = []
    for _ in range(1 + _GROUPS):
        wait(device)
        started = time.perf_counter()
        for _ in range(_RUNS):
            run()
        wait(device)
        seconds.append((time.perf_counter() - started) / _RUNS)
    return statistics.median(seconds[1:])


def wait(device: torch.device) -> None:
    """Return when the device has done all work that was given to it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
