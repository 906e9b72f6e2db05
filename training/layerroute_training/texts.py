"""Rendered text to token ids; what comes again is not encoded again."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from layerroute.chat.template import SEAM, encode_rendered

Ids = NDArray[np.int32]
"""Token ids of a text; shared, and therefore read-only."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values of the keys that were put or asked for last, at most `size` of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, if it is still known."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def find(self, key: K, make: Callable[[], V]) -> V:
        """The value, made if it is not known."""
        value = self.get(key)
        return self.put(key, make()) if value is None else value

    def put(self, key: K, value: V) -> V:
        """Remember a value, and return it."""
        self._values[key] = value
        if len(self._values) > self._size:
            self._values.popitem(last=False)
        return value


class TextEncoder:
    """Encodes rendered text, each text apart from the others.

    Args:
        tokenizer: of the backbone.
        size: texts that are remembered.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int = 1 << 14) -> None:
        self._tokenizer = tokenizer
        self._known: Recent[str, Ids] = Recent(size)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text; those that are not known are encoded together."""
        ids_of = {text: ids for text in texts if (ids := self._known.get(text)) is not None}
        new = list(dict.fromkeys(text for text in texts if text not in ids_of))
        plain = [text for text in new if SEAM not in text]
        encodings = self._tokenizer.backend_tokenizer.encode_batch_fast(plain, add_special_tokens=False)
        found: dict[str, Sequence[int]] = {text: each.ids for text, each in zip(plain, encodings, strict=True)}
        for text in new:
            ids = np.array(found[text] if text in found else encode_rendered(self._tokenizer, text), np.int32)
            ids.flags.writeable = False
            ids_of[text] = self._known.put(text, ids)
        return [ids_of[text] for text in texts]
