"""Prefix cache: the KV of recent conversations, reused for the tokens that a new prompt shares with them.

A conversation's KV is only comparable with KV made by the same blocks, so every entry carries a key: in
`generation` scope all prompts run at full depth and share one key, in `sequence` scope the program is the key.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from layerroute.backbone.kv_cache import KVCache


@dataclass(slots=True)
class Conversation:
    """KV of one conversation.

    Attributes:
        key: what the KV depends on beside the tokens; "" is never shared.
        ids: tokens whose KV is valid in `cache`, by position.
        sums: (number of tokens n, float32 [L, D] sum over tokens 0..n-1 of the states entering each block), for
            routers that read the mean; ascending in n.
        leased: whether an answer is being decoded into `cache`, behind `ids`. Others may copy from it meanwhile.
    """

    key: str
    cache: KVCache
    ids: list[int] = field(default_factory=list)
    sums: list[tuple[int, Tensor]] = field(default_factory=list)
    leased: bool = False

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on."""
        del self.ids[length:]
        self.sums = [(n, total) for n, total in self.sums if n <= length]


class PrefixCache:
    """At most `max_conversations` conversations, least recently used first out.

    One that is leased is handed out to nobody, so at least one more must fit than are leased.
    """

    def __init__(self, max_conversations: int, new_cache: Callable[[int], KVCache]) -> None:
        self._max = max(1, max_conversations)
        self._new_cache = new_cache
        self._conversations: list[Conversation] = []  # least recently used first

    def take(self, key: str, prompt_ids: Sequence[int], num_slots: int, *, by_sums: bool = False) -> Conversation:
        """Conversation to write the prompt into; its `ids` are the part of the prompt that is cached already.

        At least one prompt token is left to compute, since its logits start the answer.

        Args:
            key: what the KV depends on; "" shares nothing.
            prompt_ids: token ids of the prompt.
            num_slots: KV slots the step needs.
            by_sums: reuse only up to a position whose state sums are known.
        """
        best, length = self._longest_match(key, prompt_ids, by_sums)
        if best is not None and not best.leased and length >= len(best.ids) - 1:
            conversation = best
        else:
            conversation = self._vacate(key, num_slots, keep=best)
            if best is not None and length and conversation is not best:
                self._copy(best, conversation, length)
        conversation.truncate(length)
        self._conversations = [c for c in self._conversations if c is not conversation] + [conversation]
        return conversation

    def _longest_match(self, key: str, prompt_ids: Sequence[int], by_sums: bool) -> tuple[Conversation | None, int]:
        best: Conversation | None = None
        longest = 0
        for conversation in self._conversations if key else []:
            if conversation.key != key:
                continue
            length = min(_common_prefix(conversation.ids, prompt_ids), len(prompt_ids) - 1)
            if by_sums:
                length = max((n for n, _ in conversation.sums if n <= length), default=0)
            if length > longest:
                best, longest = conversation, length
        return best, longest

    def _vacate(self, key: str, num_slots: int, keep: Conversation | None) -> Conversation:
        """A conversation to overwrite: a new one while there is room, else the least recently used that is free."""
        if len(self._conversations) < self._max:
            return Conversation(key, self._new_cache(num_slots))
        free = [c for c in self._conversations if not c.leased]
        victim = next((c for c in free if c is not keep), free[0])
        if victim is keep:
            return victim
        self._conversations.remove(victim)
        cache = victim.cache if victim.cache.num_slots >= num_slots else self._new_cache(num_slots)
        return Conversation(key, cache)

    @staticmethod
    def _copy(source: Conversation, target: Conversation, length: int) -> None:
        slots = min(source.cache.num_slots, target.cache.num_slots)
        target.cache.keys_SKTH[:slots, :, :length].copy_(source.cache.keys_SKTH[:slots, :, :length])
        target.cache.values_SKTH[:slots, :, :length].copy_(source.cache.values_SKTH[:slots, :, :length])
        target.ids = source.ids[:length]
        target.sums = list(source.sums)


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
