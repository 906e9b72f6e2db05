"""Answers through the whole engine: drawn, turned into text, and handed from thread to thread, piece by piece."""

import json
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import Stepper
from layerroute.benchmark.words import tokenizer_for
from layerroute.engine.config import EngineConfig
from layerroute.engine.generation import Generation
from layerroute.engine.request import GenerationRequest, OutputConstraint, Sampling
from layerroute.engine.runner import Runner, Vocabulary
from layerroute.program import LayerProgram
from layerroute.report import StepReport

_GREEDY = Sampling()

Read = Callable[[Callable[[], None]], object]
"""Has one answer made, reads it to its end, and says when each piece of it has arrived."""


class WholeEngine:
    """The engine's runner, as a `TextEngine` whose readers are on another thread, as the engine has them.

    It is the runner that stays with the caller, whose thread the bare steps beside it run on, too: a second thread that
    computes would have OpenMP's threads a second time, and on few cores both would be several times slower.

    Args:
        backbone: the model; stepper: how its decode steps run.
        capacity: most tokens of prompt and answer together.
    """

    def __init__(self, backbone: Backbone, stepper: Stepper, capacity: int) -> None:
        self.config, self.model_name, self.context_window = EngineConfig(), "benchmark", capacity
        self.tokenizer = tokenizer_for(backbone.config.vocab_size)
        no_ends = Vocabulary(frozenset(), None, None)  # so that every answer has the length asked for
        self._runner = Runner(self.model_name, backbone, stepper, self.tokenizer, no_ends, None, capacity, 1)
        self._asked: SimpleQueue[Generation | None] = SimpleQueue()

    @property
    def knows_chat(self) -> bool:
        """Whether the vocabulary is large enough for a language with chat and grammars."""
        return self.tokenizer.chat_template is not None

    def submit(self, request: GenerationRequest) -> Generation:
        """Leave a request to the thread that is in `answer`."""
        generation = Generation(request)
        self._asked.put(generation)
        return generation

    def answer(self, read: Read) -> tuple[list[float], StepReport]:
        """One answer, read on a thread of its own: when each piece arrived there (seconds), and the report."""
        arrivals: list[float] = []
        errors: list[BaseException] = []

        def consume() -> None:
            try:
                read(lambda: arrivals.append(time.perf_counter()))
            except BaseException as error:
                errors.append(error)
            self._asked.put(None)

        reader = threading.Thread(target=consume, daemon=True)
        reader.start()
        generation = self._asked.get()
        if generation is not None:
            self._run(generation)
            reader.join()
            self._asked.get()
        if errors:
            raise errors[0]
        assert generation is not None  # whoever reads an answer has asked for it
        return arrivals, generation.result().report

    def _run(self, generation: Generation) -> None:
        try:
            generation.finish(self._runner.run(generation.request, generation, queue_ms=0.0))
        except BaseException as error:  # the reader waits for it
            generation.fail(error)

    def deltas(
        self,
        ids: tuple[int, ...],
        program: LayerProgram,
        num_tokens: int,
        sampling: Sampling = _GREEDY,
        constraint: OutputConstraint | None = None,
    ) -> Read:
        """Reads the engine's own deltas of an answer under a program."""
        request = GenerationRequest(ids, num_tokens, sampling, program=str(program), constraint=constraint)

        def read(arrived: Callable[[], None]) -> None:
            for _ in self.submit(request):
                arrived()

        return read


def masked_everywhere(num_tokens: int) -> OutputConstraint:
    """A constraint that masks every token, forces none, and lets no answer end before `num_tokens`: a long string."""
    return OutputConstraint(response_schema=json.dumps({"type": "string", "minLength": 32 * num_tokens}))
