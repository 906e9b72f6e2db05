"""Transcripts: the token ids behind conversations, so that what a step generated is never encoded anew."""

from collections import OrderedDict

from transformers import PreTrainedTokenizerBase

from layerroute.chat.template import control_strings, encode_rendered
from layerroute.forking import ForkSafeLock


class Transcripts:
    """Maps rendered conversation text to the ids it was made of, least recently used first out. Thread-safe.

    A model may spell an answer in other tokens than the tokenizer would. Encoding the answer anew would change the ids
    of the conversation, and with them lose its KV and the model's own words.

    Args:
        tokenizer: tokenizer of the backbone.
        capacity: texts that are remembered.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, capacity: int = 64) -> None:
        self._tokenizer = tokenizer
        self._capacity = capacity
        self._ids_of_text: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._lock = ForkSafeLock()

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of rendered text: remembered ones for the longest remembered beginning, fresh ones for the rest."""
        with self._lock:
            known = max((known for known in self._ids_of_text if text.startswith(known)), key=len, default="")
            ids = self._ids_of_text.get(known, ())
            if known:
                self._ids_of_text.move_to_end(known)
        return ids + encode_rendered(self._tokenizer, text[len(known) :])

    def remember(self, text: str, ids: tuple[int, ...]) -> bool:
        """Keep the ids of a rendered conversation: prompt and answer, up to and including the end token.

        Returns:
            Whether it was kept. An answer that was cut off (its ids do not end with the token that ends its text)
            is not: what follows a conversation may only be encoded apart from it at a control token.
        """
        last = encode_rendered(self._tokenizer, text[text.rfind("<") :]) if "<" in text else ()
        ends_with_control = len(last) == 1 and control_strings(self._tokenizer).fullmatch(text, text.rfind("<"))
        if not ends_with_control or ids[-1:] != last:
            return False
        with self._lock:
            self._ids_of_text[text] = ids
            self._ids_of_text.move_to_end(text)
            if len(self._ids_of_text) > self._capacity:
                self._ids_of_text.popitem(last=False)
        return True
