"""Decode: one token after the other under the step's program, constrained by a grammar where there is one."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from layerroute.backbone.stepper import Stepper
from layerroute.engine.accounting import Meter, Stopwatch
from layerroute.engine.detokenizer import Detokenizer
from layerroute.engine.grammar import Grammar
from layerroute.engine.prefill import Prefilled
from layerroute.engine.request import Delta, FinishReason
from layerroute.engine.sampling import Sampler


@dataclass(slots=True)
class Answer:
    """An answer in the making.

    Attributes:
        ids: generated tokens, the end token included.
        fast_forwarded: how many of them the grammar left no choice about.
        fed: how many of them went through the backbone (the last one never needs to).
    """

    ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    fast_forwarded: int = 0
    fed: int = 0
    finish: FinishReason | None = None


class Decoder:
    """Decodes one answer.

    Args:
        stepper: runs the decode steps.
        sampler: draws tokens.
        grammar: constrains them, or None.
        detokenizer: turns them into text and finds stop strings.
        end_ids: tokens that end the answer.
        max_tokens: most tokens to generate.
        emit: takes each delta as soon as it is settled.
        cancelled: asked before every token.
    """

    def __init__(
        self,
        stepper: Stepper,
        sampler: Sampler,
        grammar: Grammar | None,
        detokenizer: Detokenizer,
        end_ids: frozenset[int],
        max_tokens: int,
        emit: Callable[[Delta], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._stepper = stepper
        self._sampler = sampler
        self._grammar = grammar
        self._detokenizer = detokenizer
        self._end_ids = end_ids
        self._max_tokens = max_tokens
        self._emit = emit
        self._cancelled = cancelled

    def run(self, prompt: Prefilled, num_prompt_tokens: int, meter: Meter, watch: Stopwatch) -> Answer:
        """Decode until an end token, a stop string, the token limit, or cancellation."""
        answer = Answer()
        logits_V = prompt.logits_V
        while True:
            if self._cancelled():
                answer.finish = "cancelled"
                break
            self._next_tokens(logits_V, answer, watch)
            if answer.finish is not None:
                break
            pending = answer.ids[answer.fed :]
            start = num_prompt_tokens + answer.fed
            logits_V = self._stepper.step(pending, start, prompt.visits, prompt.conversation.cache)
            meter.add(len(pending), start, len(prompt.visits), 1)
            answer.fed = len(answer.ids)
        self._send(self._detokenizer.flush(), answer)
        return answer

    def _next_tokens(self, logits_V: Tensor, answer: Answer, watch: Stopwatch) -> None:
        """One sampled token, and those that the grammar forces after (or instead of) it."""
        if self._grammar is None:
            self._append(self._sampler.pick(logits_V, None), answer)
            return
        with watch.time("mask"):
            forced = self._grammar.forced()
        if not forced:
            with watch.time("mask"):
                mask_V = self._grammar.mask()
            token = self._sampler.pick(logits_V, mask_V)
            with watch.time("mask"):
                self._grammar.accept(token)
            self._append(token, answer)
            if answer.finish is not None:
                return
            with watch.time("mask"):
                forced = self._grammar.forced()
        for token in forced:
            if answer.finish is not None or self._cancelled():
                return
            self._grammar.accept(token)
            answer.fast_forwarded += 1
            self._append(token, answer)

    def _append(self, token: int, answer: Answer) -> None:
        answer.ids.append(token)
        self._send(self._detokenizer.add(token), answer)
        if token in self._end_ids or self._detokenizer.stopped:
            answer.finish = "stop"
        elif len(answer.ids) >= self._max_tokens:
            answer.finish = "length"

    def _send(self, deltas: list[Delta], answer: Answer) -> None:
        for delta in deltas:
            answer.text.append(delta.text)
            self._emit(delta)
