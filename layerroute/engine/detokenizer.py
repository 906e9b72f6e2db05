"""Token ids to text as they come: whole characters only, stop strings cut, tool-call markers apart."""

import codecs
from functools import lru_cache
from typing import Literal

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from layerroute.engine.request import CALL_SPACE, TOOL_CALL_OPEN, Delta

_BYTE_OF_CHARACTER = {character: byte for byte, character in bytes_to_unicode().items()}


@lru_cache(maxsize=4)
def token_bytes(tokenizer: PreTrainedTokenizerBase) -> tuple[bytes, ...]:
    """The bytes behind every token id of a byte-level BPE tokenizer, made once per tokenizer."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    table = [b""] * (max(vocabulary.values()) + 1)
    for token, token_id in vocabulary.items():
        try:
            table[token_id] = bytes(_BYTE_OF_CHARACTER[character] for character in token)
        except KeyError:  # an added token, spelled in characters that stand for no byte
            table[token_id] = token.encode()
    return tuple(table)


class Detokenizer:
    """Text of one answer. The texts of all deltas together are what `tokenizer.decode` makes of the ids.

    Stop strings are looked for in content alone: not between the markers of a call, nor in what the answer's parser
    takes for markup before one, a line break behind text or white space by itself, so that these wait for what follows.

    Args:
        tokenizer: byte-level BPE tokenizer of the backbone.
        stop: strings that end the answer; the first to be complete is cut off with all that follows it.
        marker_ids: tokens that come as deltas of their own.
        end_ids: tokens that end the answer and have no text.

    Attributes:
        stop_string: the one that ended the answer, or None; nothing comes after it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop: tuple[str, ...],
        marker_ids: frozenset[int],
        end_ids: frozenset[int],
    ) -> None:
        self.stop_string: str | None = None
        self._bytes = token_bytes(tokenizer)
        self._stop = stop
        self._marker_ids = marker_ids
        self._end_ids = end_ids
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._unread: list[int] = []  # ids whose characters are not complete yet
        self._held: list[Delta] = []  # deltas that may be the beginning of a stop string
        self._in_call = False
        self._at_edge = True  # no text but white space yet since the beginning, or since the last call

    def add(self, token_id: int) -> list[Delta]:
        """The deltas that a further token makes certain."""
        if self.stop_string is not None or token_id in self._end_ids:
            return []
        if token_id in self._marker_ids:
            return self._add_marker(token_id)
        # Ids beyond the tokenizer's (padding of the vocabulary) have no text, as in tokenizer.decode.
        text = self._decoder.decode(self._bytes[token_id] if token_id < len(self._bytes) else b"")
        self._unread.append(token_id)
        if not text:
            return []
        piece = Delta(text, tuple(self._unread))
        self._unread.clear()
        return self._release([piece])

    def flush(self) -> list[Delta]:
        """What is left at the end of the answer: text held back, and an unfinished character as U+FFFD."""
        if self.stop_string is not None:
            return []
        return self._release(self._rest_of_characters(), then="end")

    def _add_marker(self, token_id: int) -> list[Delta]:
        rest, marker = self._rest_of_characters(), Delta(self._bytes[token_id].decode(), (token_id,))
        if marker.text == TOOL_CALL_OPEN:
            released = self._release(rest, then="call")
            if self.stop_string is not None:
                return released
            self._in_call = self._at_edge = True
            return [*released, marker]
        if not self._in_call:  # a stray marker is text like any other
            return self._release([*rest, marker])
        self._in_call = False
        return [*rest, marker]

    def _rest_of_characters(self) -> list[Delta]:
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        rest = [Delta(text, tuple(self._unread))] if text or self._unread else []
        self._unread.clear()
        return rest

    def _release(self, pieces: list[Delta], then: Literal["text", "call", "end"] = "text") -> list[Delta]:
        """Hold new pieces back together with the old, cut at a stop string, and let go what can be no part of one."""
        if self._in_call or not self._stop:
            return pieces
        self._held += pieces
        text = "".join(piece.text for piece in self._held)
        self._at_edge = self._at_edge and not text.strip(CALL_SPACE)
        sure = "" if self._at_edge else text.removesuffix("\n")  # content, whatever follows
        found = self._first_stop(text if then == "end" else sure)
        if found is not None:
            start, self.stop_string = found
        else:
            start = self._first_doubt(text) if then == "text" else len(text)
        released: list[Delta] = []
        while self._held and start >= len(self._held[0].text):
            start -= len(self._held[0].text)
            released.append(self._held.pop(0))
        if self.stop_string is not None and self._held:
            # One delta for the cut piece and all behind it, so that a cut marker is none.
            ids = tuple(token_id for piece in self._held for token_id in piece.token_ids)
            released.append(Delta(self._held[0].text[:start], ids))
            self._held.clear()
        return released

    def _first_stop(self, text: str) -> tuple[int, str] | None:
        """Where the stop string begins that is complete first, and which it is; it hangs on no token's length."""
        found = [(position + len(stop), position, stop) for stop in self._stop if (position := text.find(stop)) >= 0]
        return min(found)[1:] if found else None

    def _first_doubt(self, text: str) -> int:
        """Where a stop string begins that is not complete yet, or in what may be markup; or the length of the text."""
        longest = max(map(len, self._stop))
        ends = (start for start in range(max(0, len(text) - longest), len(text)) if self._begins_a_stop(text[start:]))
        complete = (text.find(stop) for stop in self._stop if stop in text)
        return min([*complete, *ends], default=len(text))

    def _begins_a_stop(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self._stop)
