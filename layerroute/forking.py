"""What a forked child finds: the memory of its parent, and none of the threads that would have opened its locks.

A server that loads a model and then forks its workers (gunicorn --preload, a process pool) must not wait for ever on a
lock that a thread of the parent held at that moment.
"""

import os
import threading
from collections.abc import Callable
from types import TracebackType
from weakref import WeakSet


class ForkSafeLock:
    """A re-entrant lock that a forked child finds open, whoever held it in the parent.

    It guards caches and queues whose parts are replaced whole, so that what the child finds can be used as it is.

    Args:
        in_child: called in the child, to give up what it must not share.
    """

    def __init__(self, in_child: Callable[[], None] | None = None) -> None:
        self._in_child = in_child
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _renew(self) -> None:
        if self._lock.acquire(blocking=False):  # it was open, or is held by this very thread, which goes on to open it
            self._lock.release()
        else:
            self._lock = threading.RLock()
        if self._in_child is not None:
            self._in_child()


_locks: WeakSet[ForkSafeLock] = WeakSet()


def in_forked_child(callback: Callable[[], None]) -> None:
    """Have `callback` called in every child that is forked from now on, after all locks are renewed."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback)


@in_forked_child
def _renew_locks() -> None:
    for lock in list(_locks):
        lock._renew()
