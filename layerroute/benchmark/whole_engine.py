"""An answer through the whole engine: drawn, turned into text, and handed from thread to thread, token by token."""

import threading
import time

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import Stepper
from layerroute.engine.generation import Generation
from layerroute.engine.request import GenerationRequest
from layerroute.engine.runner import Runner, Vocabulary
from layerroute.program import LayerProgram
from layerroute.report import StepReport


class WholeEngine:
    """The engine's runner on a thread of its own, as the engine has it; its reader is the caller.

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
        thread = threading.Thread(target=self._run, args=(request, generation), daemon=True)
        thread.start()
        arrivals = [time.perf_counter() for _ in generation]
        thread.join()
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
