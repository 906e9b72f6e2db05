"""Engine: requests in, tokens out. One thread starts them in order, so any number of threads and tasks may share it.

    submit(request) -> Generation            (any thread)
        Worker -> Runner.run: prefix cache, prefill, router, decode   (the engine's thread)
               or Runner.start, then Rows: up to max_batch_size requests decode together
            -> Generation.push / finish / fail -> the consumer

Weights load when the first request runs, or at `load()`. A forked child starts with an idle engine: weights that its
parent had loaded on the CPU are shared, those on a GPU cannot be used there.
"""

import atexit
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakSet

from transformers import PreTrainedTokenizerBase

from layerroute.backbone.config import BackboneConfig, read_config, resolve_checkpoint
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import Stepper
from layerroute.bundle import Bundle
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
from layerroute.engine.tokenizer import load_tokenizer
from layerroute.engine.worker import Worker
from layerroute.errors import ContextWindowError, RequestError
from layerroute.forking import ForkSafeLock, in_forked_child

_Part = TypeVar("_Part")


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
        self._lock = ForkSafeLock()
        self._loading = ForkSafeLock()  # apart from the other: whoever submits need not wait for the weights
        self._parts: dict[str, Any] = {}
        self._worker: Worker | None = None
        self._weights: tuple[Backbone, Stepper, Bundle | None] | None = None
        self._runner: Runner | None = None
        _alive.add(self)

    @property
    def model_name(self) -> str:
        """The name the model was asked for by."""
        return self.config.model

    @property
    def folder(self) -> Path:
        """The checkpoint's folder."""
        return self._made("folder", lambda: resolve_checkpoint(self.config.model))

    @property
    def backbone_config(self) -> BackboneConfig:
        """Shape of the backbone, from config.json."""
        return self._made("backbone_config", lambda: read_config(self.folder))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer."""
        return self._made("tokenizer", lambda: load_tokenizer(self.folder, self.backbone_config.vocab_size))

    @property
    def context_window(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._made("context_window", self._find_context_window)

    def _find_context_window(self) -> int:
        longest = self.backbone_config.max_positions
        asked = self.config.context_window
        if asked is not None and not 1 < asked <= longest:
            raise RequestError(f"context_window must lie between 2 and {longest} for this model, not {asked}")
        return asked or longest

    def _made(self, name: str, make: Callable[[], _Part]) -> _Part:
        """A part of the engine, made once, when it is first needed."""
        if name not in self._parts:
            with self._loading:
                if name not in self._parts:
                    self._parts[name] = make()
        return cast(_Part, self._parts[name])

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
            if self._worker is None or not self._worker.submit(generation):
                self._worker = Worker(self.load, self.config.max_batch_size, before=self._worker)
                self._worker.submit(generation)
        return generation

    def load(self) -> Runner:
        """Load the weights now, unless they are loaded.

        Raises:
            LayerRouteError: the model, its bundle or the device cannot be used; the message names the remedy.
        """
        with self._loading:
            if self._runner is None:
                self._runner = self._build_runner()
            return self._runner

    def _build_runner(self) -> Runner:
        backbone, stepper, bundle = self._weights = self._weights or self._load_weights()
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

    def _load_weights(self) -> tuple[Backbone, Stepper, Bundle | None]:
        device = resolve_device(self.config.device)
        dtype = resolve_dtype(self.config.dtype, device)
        bundle = default_bundle(self.config, self.folder, self.backbone_config.shape(dtype))
        backbone, stepper = load_backbone(self.folder, self.backbone_config, device, dtype, bundle)
        check_memory(backbone, self.config, self.context_window)
        return backbone, stepper, bundle

    def close(self) -> None:
        """End what runs and waits with an `EngineClosedError`, and end the thread; a later request starts it anew."""
        with self._lock:
            worker = self._worker
            if worker is not None:
                worker.close()
        if worker is not None:
            worker.join(10.0)

    def _start_afresh(self) -> None:
        """Forget, in a forked child, the thread and what it may have left half done; weights on the CPU are shared."""
        self._worker, runner, self._runner = None, self._runner, None
        if runner is not None and runner.backbone.device.type != "cpu":
            self._weights, self._parent_runner = None, runner  # its memory is not this process's to free


_alive: WeakSet[Engine] = WeakSet()


@in_forked_child
def _start_all_afresh() -> None:
    for engine in list(_alive):
        engine._start_afresh()


@atexit.register
def _close_all() -> None:
    """A thread inside torch while the interpreter shuts down would abort the process."""
    for engine in list(_alive):
        engine.close()


_engines: dict[EngineConfig, Engine] = {}
_engines_lock = ForkSafeLock()


def shared_engine(config: EngineConfig) -> Engine:
    """The engine of a configuration: equal configurations get the same one."""
    with _engines_lock:
        return _engines.setdefault(config, Engine(config))
