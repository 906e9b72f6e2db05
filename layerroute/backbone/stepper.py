"""The backend seam: how a decode step runs on a device."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from layerroute.backbone.kv_cache import KVCache, Visit
from layerroute.backbone.model import Backbone


class Stepper(Protocol):
    """Runs decode steps. `name` and `reason` say which backend this is and why it was chosen."""

    name: str
    reason: str

    def step(self, ids: Sequence[int], start: int, visits: tuple[Visit, ...], cache: KVCache) -> Tensor:
        """Feed tokens at positions `start..`; return the logits [V] after the last, on the backbone's device."""
        ...


class EagerStepper:
    """Plain torch calls, any device: the reference."""

    name = "eager"

    def __init__(self, backbone: Backbone, reason: str) -> None:
        self._backbone = backbone
        self.reason = reason

    def step(self, ids: Sequence[int], start: int, visits: tuple[Visit, ...], cache: KVCache) -> Tensor:
        """Run one forward pass over `ids`."""
        ids_T = torch.tensor(ids, device=self._backbone.device)
        hidden_TD = self._backbone.forward(ids_T, start, visits, cache)
        return self._backbone.logits(hidden_TD[-1:])[0]


def select_stepper(backbone: Backbone) -> Stepper:
    """The fastest backend that serves this device."""
    if backbone.device.type == "cuda":
        from layerroute.backbone.cuda_graph import GraphStepper

        return GraphStepper(backbone)
    return EagerStepper(backbone, f"the device is {backbone.device.type}")
