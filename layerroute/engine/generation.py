"""Generation: the handle of one running request, readable from a thread or from asyncio, cancellable from anywhere."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from queue import Empty, SimpleQueue
from weakref import WeakSet

from layerroute.engine.request import Delta, GenerationRequest, GenerationResult
from layerroute.errors import GenerationCancelledError
from layerroute.forking import in_forked_child


class Generation:
    """Deltas of one answer while they are made, and its result afterwards.

    The engine's thread writes with `push`, then `finish` or `fail`; one consumer reads, either with `for` or with
    `async for`. A consumer that stops reading early (break, exception, task cancellation) cancels the generation.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self._result: GenerationResult | None = None
        self._error: BaseException | None = None
        self._begin()
        _alive.add(self)

    def _begin(self) -> None:
        self._queue: SimpleQueue[Delta | None] = SimpleQueue()
        self._done = threading.Event()
        self._ending = threading.Lock()
        self._cancelled = threading.Event()
        self._async_waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    # The engine's side.

    @property
    def cancelled(self) -> bool:
        """Whether the consumer has lost interest; the engine looks between any two tokens."""
        return self._cancelled.is_set()

    def push(self, delta: Delta) -> None:
        """Hand a delta to the consumer."""
        self._put(delta)

    def finish(self, result: GenerationResult) -> None:
        """End with a result, unless it has ended already."""
        self._end(result, None)

    def fail(self, error: BaseException) -> None:
        """End with an error, which the consumer will see raised, unless it has ended already."""
        self._end(None, error)

    def abort(self, error: BaseException) -> None:
        """End with an error at once, from any thread; the engine, which may be in a long prefill, stops when it can.

        What the engine has made of the answer so far is never taken for a whole one.
        """
        self.fail(error)
        self.cancel()

    def _end(self, result: GenerationResult | None, error: BaseException | None) -> None:
        with self._ending:
            if self._done.is_set():
                return
            self._result, self._error = result, error
            self._done.set()
        self._put(None)

    def _put(self, item: Delta | None) -> None:
        self._queue.put(item)
        waiter = self._async_waiter
        if waiter is not None:
            loop, ready = waiter
            try:
                loop.call_soon_threadsafe(ready.set)
            except RuntimeError:  # the consumer's loop is closed: nobody will read on
                self._cancelled.set()

    # The consumer's side.

    def cancel(self) -> None:
        """Ask the engine to stop before the next token. Safe from any thread, and after the end."""
        self._cancelled.set()

    def __iter__(self) -> Iterator[Delta]:
        """Yield deltas as they appear.

        Raises:
            LayerRouteError: whatever ended the generation early.
        """
        try:
            while (delta := self._queue.get()) is not None:
                yield delta
        finally:
            self.cancel()
        self._raise_error()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Yield deltas as they appear, without blocking the event loop.

        Raises:
            LayerRouteError: whatever ended the generation early.
        """
        ready = asyncio.Event()
        self._async_waiter = (asyncio.get_running_loop(), ready)
        try:
            while True:
                ready.clear()
                try:
                    delta = self._queue.get_nowait()
                except Empty:
                    await ready.wait()
                    continue
                if delta is None:
                    break
                yield delta
        finally:
            self._async_waiter = None
            self.cancel()
        self._raise_error()

    def result(self) -> GenerationResult:
        """Wait for the end and return the whole answer, read before or not.

        Raises:
            LayerRouteError: whatever ended the generation early.
        """
        self._done.wait()
        self._raise_error()
        assert self._result is not None  # finish() or fail() set one of the two
        return self._result

    async def aresult(self) -> GenerationResult:
        """Like `result`, for asyncio: reads the deltas to the end, and cancels if the waiting task is cancelled."""
        if not self._done.is_set():
            async for _ in self:
                pass
        return self.result()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _orphan(self) -> None:
        """End in a forked child, which has no thread that would ever do so."""
        if not self._done.is_set():
            self._begin()
            self.fail(
                GenerationCancelledError(
                    "the process was forked while this answer was made, and it is made in the parent alone: ask again"
                )
            )


_alive: WeakSet[Generation] = WeakSet()


@in_forked_child
def _orphan_all() -> None:
    for generation in list(_alive):
        generation._orphan()
