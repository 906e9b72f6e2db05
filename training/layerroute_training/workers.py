"""Work that several processes share, with the results in the order of the tasks.

A worker that dies ends the work with an error and no wait for ever. When the work ends early, by an error or by Ctrl-C,
so do the workers; and one whose parent is gone ends itself.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing import active_children, get_context, parent_process
from typing import Any, TypeVar

from layerroute_training.errors import WorkerError

AHEAD = 3
"""Tasks for each process that are handed out before the first result is taken."""

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """How many cores this process may use; those that `torchrun` starts on one machine share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def in_order(
    make: Callable[..., Callable[[T], R]], arguments: tuple[Any, ...], tasks: Iterable[T], processes: int
) -> Iterator[Iterator[R]]:
    """Results of `make(*arguments)` for every task, in order. Leave the context, and nothing works any more.

    Args:
        make: a function or class of a module. Each process calls it once, before its first task.
        arguments: of `make`; they are pickled, as tasks and results are.
        tasks: taken when they are needed.
        processes: 1 does the work here.

    Raises:
        WorkerError: a worker process was ended from outside.
        Exception: whatever the work raised.
    """
    if processes == 1:
        yield map(make(*arguments), tasks)
        return
    others = set(active_children())
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _start, (make, arguments))
    try:
        yield _results(pool, tasks, processes * AHEAD)
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process was ended from outside, perhaps because memory ran out: use fewer processes "
            "(--processes), or free memory"
        ) from error
    except BaseException:
        for worker in set(active_children()) - others:
            worker.terminate()  # nobody waits for its results any more
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _results(pool: ProcessPoolExecutor, tasks: Iterable[T], ahead: int) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    for task in tasks:
        with _interrupts_held():
            waiting.append(pool.submit(_run, task))  # the first call starts the processes
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started meanwhile: only the one that started them is to hear of it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_job: tuple[Callable[..., Callable[[Any], Any]], tuple[Any, ...]]
"""What makes this worker's work."""


def _start(make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
    global _job
    _job = make, arguments
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the other cores have workers of their own
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@cache
def _work() -> Callable[[Any], Any]:
    make, arguments = _job
    return make(*arguments)  # here and not at the start, whose errors would have no message


def _run(task: Any) -> Any:
    return _work()(task)
