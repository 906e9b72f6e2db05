"""An answer through the whole engine: drawn, turned into text, and handed from thread to thread, token by token."""

import threading
import time
from contextlib import suppress

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import Stepper
from layerroute.engine.generation import Generation
from layerroute.engine.request import GenerationRequest
from layerroute.engine.runner import Runner, Vocabulary
from layerroute.errors import LayerRouteError
from layerroute.program import LayerProgram
from layerroute.report import StepReport


class WholeEngine:
    """The engine's runner, and its reader on another thread, as the engine has them.

    It is the runner that stays with the caller, whose thread the bare steps beside it run on, too: a second thread that
    computes would have OpenMP's threads a second time, and on few cores both would be several times slower.

    Args:
        backbone: the model; stepper: how its decode steps run.
        capacity: most tokens of prompt and answer together.
    """

    def __init__(self, backbone: Backbone, stepper: Stepper, capacity: int) -> None:
        no_ends = Vocabulary(frozenset(), None, None)  # so that every answer has the length asked for
        words = number_words(backbone.config.vocab_size)
        self._runner = Runner("benchmark", backbone, stepper, words, no_ends, None, capacity, 1)

    def answer(self, ids: tuple[int, ...], program: LayerProgram, num_tokens: int) -> tuple[list[float], StepReport]:
        """A greedy answer under a program: when the text of each token reached the reader (seconds), and the report."""
        request = GenerationRequest(ids, num_tokens, program=str(program))
        generation = Generation(request)
        arrivals: list[float] = []

        def read() -> None:
            with suppress(LayerRouteError):  # `result` raises it again
                arrivals.extend(time.perf_counter() for _ in generation)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        self._run(request, generation)
        reader.join()
        return arrivals, generation.result().report

    def _run(self, request: GenerationRequest, generation: Generation) -> None:
        try:
            generation.finish(self._runner.run(request, generation, queue_ms=0.0))
        except BaseException as error:  # the reader waits for it
            generation.fail(error)


def number_words(vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer with one short word for every id, for checkpoints and shapes that come without one."""
    words = {f"Ġ{token}": token for token in range(vocab_size)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words)))
