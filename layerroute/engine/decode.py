"""Decode: one token after the other under the step's program, constrained by a grammar where there is one."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from layerroute.engine.accounting import Meter, Stopwatch
from layerroute.engine.detokenizer import Detokenizer
from layerroute.engine.grammar import Grammar
from layerroute.engine.request import Delta, FinishReason
from layerroute.engine.token_loop import TokenLoop


@dataclass(slots=True)
class Answer:
    """An answer in the making.

    Attributes:
        ids: generated tokens, the end token included.
        fast_forwarded: how many of them the grammar left no choice about.
        fed: how many of them went through the backbone (the last one never needs to).
        drawn: how many have been drawn or forced, those included that are not read yet.
    """

    ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    fast_forwarded: int = 0
    fed: int = 0
    drawn: int = 0
    finish: FinishReason | None = None


class Decoder:
    """Decodes one answer.

    Args:
        loop: draws tokens and feeds them.
        grammar: constrains them, or None.
        detokenizer: turns them into text and finds stop strings.
        end_ids: tokens that end the answer.
        max_tokens: most tokens to generate.
        emit: takes each delta as soon as it is settled.
        cancelled: asked before every token.
    """

    def __init__(
        self,
        loop: TokenLoop,
        grammar: Grammar | None,
        detokenizer: Detokenizer,
        end_ids: frozenset[int],
        max_tokens: int,
        emit: Callable[[Delta], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._grammar = grammar
        self._detokenizer = detokenizer
        self._end_ids = end_ids
        self._max_tokens = max_tokens
        self._emit = emit
        self._cancelled = cancelled

    def run(self, num_prompt_tokens: int, num_visits: int, meter: Meter, watch: Stopwatch) -> Answer:
        """Decode until an end token, a stop string, the token limit, or cancellation.

        Without a grammar the loop may draw ahead of what is read here; with one, a token's successor can only be drawn
        once its mask is known, but the token's own step runs while the mask is worked out.
        """
        answer = Answer()
        ahead = 0 if self._grammar is not None else self._loop.ahead
        while True:
            mask_V = self._constrain(answer, watch)
            if answer.finish is None and self._cancelled():
                answer.finish = "cancelled"
            if answer.finish is not None:
                break
            if len(answer.ids) > answer.fed:
                meter.add(len(answer.ids) - answer.fed, num_prompt_tokens + answer.fed, num_visits, 1)
                answer.fed = len(answer.ids)
            while answer.drawn < min(len(answer.ids) + ahead + 1, self._max_tokens):
                self._loop.sample(mask_V)
                answer.drawn += 1
                if answer.drawn < self._max_tokens:  # the last token never needs to be fed
                    self._loop.step()
            token = self._loop.take()
            if self._grammar is not None:
                with watch.time("mask"):
                    self._grammar.accept(token)
            self._append(token, answer)
        self._send(self._detokenizer.flush(), answer)
        return answer

    def _constrain(self, answer: Answer, watch: Stopwatch) -> Tensor | None:
        """Take the tokens that the grammar leaves no choice about, then give the mask of the next one."""
        if self._grammar is None or answer.finish is not None:
            return None
        with watch.time("mask"):
            forced = self._grammar.forced()
        start = len(answer.ids)
        for token in forced:
            if answer.finish is not None or self._cancelled():
                return None
            self._grammar.accept(token)
            answer.fast_forwarded += 1
            answer.drawn += 1
            self._append(token, answer)
        if answer.finish is not None:
            return None
        if forced:
            self._loop.feed(answer.ids[start:])
        with watch.time("mask"):
            return self._grammar.mask()

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
