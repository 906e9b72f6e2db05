"""Worker: the thread that runs an engine's requests, in order or as rows of one batch, until it is closed.

An engine has one worker at a time. One that is started while another still ends waits for it, so that two of them never
share a runner and its caches.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from layerroute.engine.generation import Generation
from layerroute.engine.runner import Runner
from layerroute.engine.scheduler import Rows
from layerroute.errors import EngineClosedError, GenerationCancelledError
from layerroute.forking import ForkSafeLock


class Worker:
    """Runs the requests of one engine on a thread of its own.

    Args:
        load: gives the runner, with its weights.
        max_rows: most requests that decode together; 1 runs one to its end before the next.
        before: the worker before this one, which may not have ended yet.
    """

    def __init__(self, load: Callable[[], Runner], max_rows: int, before: "Worker | None" = None) -> None:
        self._load = load
        self._max_rows = max_rows
        self._before = before
        self._jobs: SimpleQueue[tuple[Generation, float] | None] = SimpleQueue()
        self._starting: Generation | None = None  # running alone, or on the way to its first token
        self._closed = False
        self._lock = ForkSafeLock()
        self._thread = threading.Thread(target=self._work, name="layerroute-engine", daemon=True)
        self._thread.start()

    def submit(self, generation: Generation) -> bool:
        """Queue a request; False if this worker is closed."""
        with self._lock:
            if self._closed:
                return False
            self._jobs.put((generation, time.perf_counter()))
        return True

    def close(self) -> None:
        """Take no more requests, and end all that wait or run with an `EngineClosedError`, without waiting for that."""
        with self._lock:
            self._closed = True
            starting = self._starting
        with suppress(Empty):
            while (job := self._jobs.get_nowait()) is not None:
                job[0].fail(EngineClosedError())
        self._jobs.put(None)  # it may be waiting for a request
        if starting is not None:
            starting.abort(EngineClosedError())

    def join(self, seconds: float | None = None) -> None:
        """Wait until the thread has ended; returns at once on that thread itself."""
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _work(self) -> None:
        if self._before is not None:
            self._before.join()
            self._before = None
        rows = Rows(self._load)
        try:
            self._serve(rows)
        except BaseException as error:  # a bug: its readers hear of it, and the next request starts a new worker
            bug = error
            rows.fail(lambda: bug)
            raise
        finally:
            self.close()
            rows.fail(EngineClosedError)

    def _serve(self, rows: Rows) -> None:
        while not self._closed:
            if len(rows) < self._max_rows:
                with suppress(Empty):
                    job = self._jobs.get(block=not len(rows))
                    if job is not None:
                        self._start(*job, rows)
            rows.advance()

    def _start(self, generation: Generation, queued: float, rows: Rows) -> None:
        """Run a request to its end, or, where requests may share a batch, up to its first token."""
        with self._lock:
            self._starting = generation
        try:
            if generation.cancelled:
                raise GenerationCancelledError("cancelled in the queue")
            queue_ms = 1000.0 * (time.perf_counter() - queued)
            if self._closed:  # since this request was taken from the queue
                raise EngineClosedError
            if self._max_rows == 1:
                generation.finish(self._load().run(generation.request, generation, queue_ms))
            else:
                rows.add(self._load().start(generation.request, generation, queue_ms), generation)
        except BaseException as error:  # whatever happened, the reader must hear of it, and the thread live on
            generation.fail(error)
        finally:
            with self._lock:
                self._starting = None
