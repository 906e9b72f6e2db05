"""Engine: requests in, tokens out. One thread starts them in order, so any number of threads and tasks may share it.

    submit(request) -> Generation            (any thread)
        queue -> Runner.run: prefix cache, prefill, router, decode   (the engine's thread)
              or Runner.start, then Rows: up to max_batch_size requests decode together
            -> Generation.push / finish / fail -> the consumer

Weights load when the first request runs, or at `load()`.
"""

import atexit
import threading
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol
from weakref import WeakSet

from transformers import PreTrainedTokenizerBase

from layerroute.backbone.config import BackboneConfig, read_config, resolve_checkpoint
from layerroute.engine.config import EngineConfig
from layerroute.engine.generation import Generation
from layerroute.engine.loading import (
    check_memory,
    default_bundle,
    end_ids_of,
    load_backbone,
    resolve_device,
    resolve_dtype,
)
from layerroute.engine.request import TOOL_CALL_CLOSE, TOOL_CALL_OPEN, GenerationRequest
from layerroute.engine.runner import Runner, Vocabulary
from layerroute.engine.scheduler import Rows
from layerroute.engine.tokenizer import load_tokenizer
from layerroute.errors import ContextWindowError, GenerationCancelledError, RequestError

_Jobs = SimpleQueue[tuple[GenerationRequest, Generation, float] | None]
_CLOSED = "the engine was closed before the answer was complete: ask again, and a later request starts it anew"


class TextEngine(Protocol):
    """What a chat model needs of an engine."""

    @property
    def config(self) -> EngineConfig:
        """What it was made from."""
        ...

    @property
    def model_name(self) -> str:
        """Name of the model, for reports and metadata."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer with its chat template; loads no weights."""
        ...

    @property
    def context_window(self) -> int:
        """Most tokens of prompt and answer together; loads no weights."""
        ...

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request."""
        ...


class Engine:
    """The engine over a real backbone."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._jobs: _Jobs = SimpleQueue()
        self._lock = threading.RLock()
        self._runner: Runner | None = None
        self._thread: threading.Thread | None = None
        self._starting: Generation | None = None
        _alive.add(self)

    @property
    def model_name(self) -> str:
        """The name the model was asked for by."""
        return self.config.model

    @cached_property
    def folder(self) -> Path:
        """The checkpoint's folder."""
        return resolve_checkpoint(self.config.model)

    @cached_property
    def backbone_config(self) -> BackboneConfig:
        """Shape of the backbone, from config.json."""
        return read_config(self.folder)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer."""
        return load_tokenizer(self.folder, self.backbone_config.vocab_size)

    @cached_property
    def context_window(self) -> int:
        """Most tokens of prompt and answer together."""
        longest = self.backbone_config.max_positions
        asked = self.config.context_window
        if asked is not None and not 1 < asked <= longest:
            raise RequestError(f"context_window must lie between 2 and {longest} for this model, not {asked}")
        return asked or longest

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request.

        Raises:
            ContextWindowError: the prompt leaves no room for an answer.
            BackboneError: the model cannot be found or read.
        """
        if len(request.prompt_ids) >= self.context_window:
            raise ContextWindowError(
                f"the prompt has {len(request.prompt_ids)} tokens and the window of {self.model_name} holds "
                f"{self.context_window}, answer included: shorten the conversation or use a model with a larger window"
            )
        generation = Generation(request)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, args=(self._jobs,), name="layerroute-engine", daemon=True
                )
                self._thread.start()
            self._jobs.put((request, generation, time.perf_counter()))
        return generation

    def load(self) -> Runner:
        """Load the weights now, unless they are loaded.

        Raises:
            LayerRouteError: the model, its bundle or the device cannot be used; the message names the remedy.
        """
        with self._lock:
            if self._runner is None:
                self._runner = self._build_runner()
            return self._runner

    def _build_runner(self) -> Runner:
        device = resolve_device(self.config.device)
        dtype = resolve_dtype(self.config.dtype, device)
        bundle = default_bundle(self.config, self.folder, self.backbone_config.shape(dtype))
        backbone, stepper = load_backbone(self.folder, self.backbone_config, device, dtype, bundle)
        check_memory(backbone, self.config, self.context_window)
        ids = self.tokenizer.get_vocab()
        vocabulary = Vocabulary(
            end_ids_of(self.folder, self.tokenizer), ids.get(TOOL_CALL_OPEN), ids.get(TOOL_CALL_CLOSE)
        )
        return Runner(
            self.model_name,
            backbone,
            stepper,
            self.tokenizer,
            vocabulary,
            bundle,
            self.context_window,
            self.config.conversations,
            self.config.fast_forward,
        )

    def close(self) -> None:
        """Cancel what runs, fail what waits or shares a batch, and end the thread; a later request starts it anew."""
        with self._lock:
            thread, self._thread = self._thread, None
            jobs, self._jobs = self._jobs, SimpleQueue()
        if thread is None:
            return
        with suppress(Empty):
            while (job := jobs.get_nowait()) is not None:
                job[1].fail(GenerationCancelledError(_CLOSED))
        jobs.put(None)
        if self._starting is not None:
            self._starting.cancel()
        thread.join(timeout=10.0)

    def _work(self, jobs: _Jobs) -> None:
        rows = Rows(self.load)
        while jobs is self._jobs:  # until it is closed
            if len(rows) < self.config.max_batch_size:
                with suppress(Empty):
                    job = jobs.get(block=not len(rows))
                    if job is not None:
                        self._start(*job, jobs, rows)
            rows.advance()
        rows.fail(_CLOSED)

    def _start(
        self, request: GenerationRequest, generation: Generation, queued: float, jobs: _Jobs, rows: Rows
    ) -> None:
        """Run a request to its end, or, where requests may share a batch, up to its first token."""
        self._starting = generation
        try:
            if generation.cancelled:
                raise GenerationCancelledError("cancelled in the queue")
            queue_ms = 1000.0 * (time.perf_counter() - queued)
            self._check_open(jobs)  # it may have been closed since this request was taken from the queue
            if self.config.max_batch_size == 1:
                generation.finish(self.load().run(request, generation, queue_ms))
            else:
                running = self.load().start(request, generation, queue_ms)
                self._check_open(jobs)
                rows.add(running, generation)
        except BaseException as error:  # whatever happened, the consumer must hear of it, and the thread live on
            generation.fail(error if jobs is self._jobs else GenerationCancelledError(_CLOSED))
        self._starting = None

    def _check_open(self, jobs: _Jobs) -> None:
        if jobs is not self._jobs:
            raise GenerationCancelledError(_CLOSED)


_alive: WeakSet[Engine] = WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread inside torch while the interpreter shuts down would abort the process."""
    for engine in list(_alive):
        engine.close()


_engines: dict[EngineConfig, Engine] = {}
_engines_lock = threading.Lock()


def shared_engine(config: EngineConfig) -> Engine:
    """The engine of a configuration: equal configurations get the same one."""
    with _engines_lock:
        return _engines.setdefault(config, Engine(config))
