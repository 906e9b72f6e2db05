"""KVCache: one slot of keys and values per visit. Positions belong to the loop that calls, not to any block."""

from dataclasses import dataclass

import torch
from torch import Tensor

from layerroute.backbone.config import BackboneConfig
from layerroute.program import LayerProgram
from layerroute.report import Scope


@dataclass(frozen=True, slots=True)
class Visit:
    """One execution of `block`, whose keys and values live in cache slot `slot`."""

    block: int
    slot: int


def visits_of(program: LayerProgram, scope: Scope) -> tuple[Visit, ...]:
    """Visits of a program with their cache slots.

    In `generation` scope slot = block: generated tokens find the prompt's full-depth KV of the block they visit.
    In `sequence` scope slot = rank of the visit, so the second visit of a looped block has KV of its own.
    """
    if scope == "generation":
        return tuple(Visit(block, block) for block in program.blocks)
    return tuple(Visit(block, slot) for slot, block in enumerate(program.blocks))


class KVCache:
    """Keys and values of one conversation.

    `keys_SKTH` and `values_SKTH` hold S slots, K KV heads, room for T tokens and H = head_dim. Writing at positions
    that hold entries already replaces them; nothing else is ever moved, so a caller drops the tail of a
    conversation by writing on from an earlier position.
    """

    def __init__(
        self, config: BackboneConfig, num_slots: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (num_slots, config.num_kv_heads, capacity, config.head_dim)
        # A CUDA graph attends over a bucket of positions under a mask, so its memory must hold finite numbers; the
        # CPU path reads exactly what was written, and pages nobody touches then cost no memory.
        make = torch.zeros if device.type == "cuda" else torch.empty
        self.keys_SKTH: Tensor = make(shape, device=device, dtype=dtype)
        self.values_SKTH: Tensor = make(shape, device=device, dtype=dtype)

    @property
    def num_slots(self) -> int:
        """Number of visits it can hold."""
        return self.keys_SKTH.shape[0]

    @property
    def capacity(self) -> int:
        """Most tokens it can hold."""
        return self.keys_SKTH.shape[2]
