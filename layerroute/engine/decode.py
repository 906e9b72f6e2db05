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
        stop_string: what ended it, if a stop string did.
    """

    ids: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    fast_forwarded: int = 0
    fed: int = 0
    finish: FinishReason | None = None
    stop_string: str | None = None


class Decoder:
    """Makes one answer out of tokens: grammar, text, end. Who draws and feeds them calls its parts in turn.

    Args:
        grammar: constrains them, or None.
        detokenizer: turns them into text and finds stop strings.
        end_ids: tokens that end the answer.
        max_tokens: most tokens to generate.
        emit: takes each delta as soon as it is settled.
        cancelled: asked before every token.
        watch: takes the time spent on masks.
        fast_forward: whether tokens that the grammar leaves no choice about are taken without a draw.
    """

    def __init__(
        self,
        grammar: Grammar | None,
        detokenizer: Detokenizer,
        end_ids: frozenset[int],
        max_tokens: int,
        emit: Callable[[Delta], None],
        cancelled: Callable[[], bool],
        watch: Stopwatch,
        fast_forward: bool = True,
    ) -> None:
        self.answer = Answer()
        self._grammar = grammar
        self._detokenizer = detokenizer
        self._end_ids = end_ids
        self._max_tokens = max_tokens
        self._emit = emit
        self._cancelled = cancelled
        self._watch = watch
        self._fast_forward = fast_forward

    def run(self, loop: TokenLoop, num_prompt_tokens: int, num_visits: int, meter: Meter) -> None:
        """Decode until an end token, a stop string, the token limit, or cancellation.

        Without a grammar the loop may draw ahead of what is read here; with one, a token's successor can only be drawn
        once its mask is known, but the token's own step runs while the mask is worked out.
        """
        answer = self.answer
        ahead = 0 if self._grammar is not None else loop.ahead
        drawn = 0  # or forced; with those that are not read yet
        while True:
            forced = self.force()
            if self.ended:
                break
            if forced:
                loop.feed(forced)
                drawn += len(forced)
            mask_W = self.mask()
            while answer.fed < len(answer.ids):
                together = 1 if loop.one_by_one else len(answer.ids) - answer.fed
                meter.add(together, num_prompt_tokens + answer.fed, num_visits, 1)
                answer.fed += together
            while drawn < min(len(answer.ids) + ahead + 1, self._max_tokens):
                loop.sample(mask_W)
                drawn += 1
                if drawn < self._max_tokens:  # the last token never needs to be fed
                    loop.step()
            self.take(loop.take())

    @property
    def ended(self) -> bool:
        """Whether no token may follow; looks for a cancellation first."""
        if self.answer.finish is None and self._cancelled():
            self.answer.finish = "cancelled"
        return self.answer.finish is not None

    def force(self) -> list[int]:
        """Take the tokens that the grammar leaves no choice about, up to the end of the answer; they are to be fed."""
        if self._grammar is None or not self._fast_forward or self.ended:
            return []
        with self._watch.time("mask"):
            forced = self._grammar.forced()
        for count, token in enumerate(forced):
            if self.ended:
                return list(forced[:count])
            self._grammar.accept(token)
            self.answer.fast_forwarded += 1
            self._append(token)
        return list(forced)

    def mask(self) -> Tensor | None:
        """Tokens that may be drawn next, packed, int32 [W] on the CPU, or None for all."""
        if self._grammar is None:
            return None
        with self._watch.time("mask"):
            return self._grammar.mask()

    def take(self, token: int) -> None:
        """Take a token that was drawn under the mask."""
        if self._grammar is not None:
            with self._watch.time("mask"):
                self._grammar.accept(token)
        self._append(token)

    def end(self) -> Answer:
        """Let go of the text that is still held back; a stop string may be at its end."""
        self._send(self._detokenizer.flush())
        answer = self.answer
        answer.stop_string = self._detokenizer.stop_string
        if answer.stop_string is not None and answer.finish == "length":
            answer.finish = "stop"
        return answer

    def _append(self, token: int) -> None:
        answer = self.answer
        answer.ids.append(token)
        self._send(self._detokenizer.add(token))
        if token in self._end_ids or self._detokenizer.stop_string is not None:
            answer.finish = "stop"
        elif len(answer.ids) >= self._max_tokens:
            answer.finish = "length"

    def _send(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            self.answer.text.append(delta.text)
            self._emit(delta)
