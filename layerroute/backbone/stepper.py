"""The backend seam: how a decode step runs on a device."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from layerroute.backbone.kv_cache import KVCache, Visit, visits_of
from layerroute.backbone.model import Backbone
from layerroute.errors import RequestError
from layerroute.program import LayerProgram

MAX_TOKENS = 64
"""Tokens uploaded to the device at once; longer pieces are uploaded in parts."""
MAX_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}
"""Relative difference of a fast backend's logits from the eager ones, in norm, from which on it is not used."""


class Stepper(Protocol):
    """Runs decode steps. `name` and `reason` say which backend this is and why it was chosen.

    Attributes:
        one_by_one: whether tokens fed together run as a step each, LM head included, and not as one pass.
    """

    name: str
    reason: str
    one_by_one: bool

    def step(self, ids: Sequence[int], start: int, visits: tuple[Visit, ...], cache: KVCache) -> Tensor:
        """Feed tokens at positions `start..`; return the logits [V] after the last, on the backbone's device.

        The logits are float32 or of the backbone's dtype, and valid until the next step, which may reuse their memory.
        """
        ...


class StepBuffers(Protocol):
    """What a step on the device reads and writes there.

    Attributes:
        state: int64, the fields that `triton_kernels` names: position, cursor, the cache's place, then token ids.
        logits_V: float32, of the token fed last.
    """

    state: Tensor
    logits_V: Tensor


class DeviceStepper(ABC):
    """A stepper that takes its token and position from the device, so that draws can be launched between its steps.

    Attributes:
        kernels: the buffers of its steps, which stay in place.
        on_device: makes the backbone's device the current one.
        pdl: whether kernels may use programmatic dependent launch.
        pool: what graphs allocate from, or None without CUDA.
    """

    one_by_one = True
    kernels: StepBuffers
    on_device: AbstractContextManager[object]
    pdl: bool
    pool: Any
    _backbone: Backbone

    def step(self, ids: Sequence[int], start: int, visits: tuple[Visit, ...], cache: KVCache) -> Tensor:
        """Feed tokens at positions `start..`, a step for each.

        Returns:
            Float32 logits [V] after the last token, valid until the next step.

        Raises:
            KernelError, RequestError: as `replay`.
        """
        self.feed(ids, start, visits, cache)
        for visit in visits:
            self._backbone.executed_L[visit.block] += len(ids)
        return self.kernels.logits_V

    def feed(self, ids: Sequence[int], start: int, visits: tuple[Visit, ...], cache: KVCache) -> None:
        """What `step` launches, without counting it as executed."""
        with self.on_device:
            for offset in range(0, len(ids), MAX_TOKENS):
                piece = ids[offset : offset + MAX_TOKENS]
                self.upload(start + offset, cache, piece)
                self.replay(len(piece), start + offset + len(piece), visits)

    def upload(self, position: int, cache: KVCache, ids: Sequence[int]) -> None:
        """Put tokens, the position of the first, and the cache's address on the device."""
        keys, values = cache.keys_SKTH.data_ptr(), cache.values_SKTH.data_ptr()
        self._upload(self.kernels.state, torch.tensor([position, 0, keys, values, cache.capacity, 0, 0, 0, *ids]))

    @abstractmethod
    def replay(self, count: int, end: int, visits: tuple[Visit, ...]) -> None:
        """Feed the next `count` tokens that lie on the device, the last of them before position `end`.

        Raises:
            KernelError: a launch was refused, or an earlier step was given up on the device.
            RequestError: a program that is longer than the backend takes.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise what went wrong on the device in a step that has ended, if anything did."""

    @staticmethod
    def _upload(target: Tensor, data: Tensor) -> None:
        # From pageable memory the driver takes its own copy before it returns, so nothing has to be waited for.
        target.view(-1)[: data.numel()].copy_(data.view(-1), non_blocking=True)


class EagerStepper:
    """Plain torch calls, any device: the reference."""

    name = "eager"
    one_by_one = False

    def __init__(self, backbone: Backbone, reason: str) -> None:
        self._backbone = backbone
        self.reason = reason

    def step(self, ids: Sequence[int], start: int, visits: tuple[Visit, ...], cache: KVCache) -> Tensor:
        """Run one forward pass over `ids`."""
        ids_T = torch.tensor(ids, device=self._backbone.device)
        hidden_TD = self._backbone.forward(ids_T, start, visits, cache)
        return self._backbone.logits(hidden_TD[-1:])[0]


def select_stepper(backbone: Backbone) -> Stepper:
    """The fastest backend that serves this device; its `reason` also says which faster ones were left, and why."""
    left: list[str] = []
    for name in _fast_backends(backbone.device):
        try:
            stepper = make_stepper(backbone, name)
        except RequestError as error:
            left.append(str(error))
        else:
            stepper.reason = "; ".join([stepper.reason, *left])
            return stepper
    return EagerStepper(backbone, "; ".join(left) or f"the device is {backbone.device.type}")


def make_stepper(backbone: Backbone, name: str) -> Stepper:
    """A backend by its name, tried out on two steps, so that one that cannot work is found here and not in an answer.

    Raises:
        RequestError: an unknown name, or a backend that cannot serve this backbone, with the reason.
    """
    if name == "eager":
        return EagerStepper(backbone, "asked for by name")
    if name not in ("hopper", "triton", "graph"):
        raise RequestError(f"unknown backend {name!r}: use 'auto', 'hopper', 'triton', 'graph' or 'eager'")
    why_not = _why_not(backbone, name)
    if why_not is not None:
        raise RequestError(f"the {name} backend cannot serve: {why_not}")
    executed = list(backbone.executed_L)
    try:
        stepper = _construct(backbone, name)
        difference = _trial(backbone, stepper)
    except Exception as error:  # a compiler, driver or launch error of any kind: another backend can still serve
        first_line = (str(error).splitlines() or [""])[0][:200]
        raise RequestError(f"the {name} backend failed its trial: {type(error).__name__}: {first_line}") from error
    finally:
        backbone.executed_L[:] = executed  # a trial is no work that a report may count
    bound = MAX_DIFFERENCE[backbone.dtype]
    if not difference <= bound:  # also not a number
        raise RequestError(
            f"the {name} backend failed its trial: logits differ from the eager ones by {difference:.1e}, "
            f"more than {bound:.0e}"
        )
    return stepper


def _fast_backends(device: torch.device) -> tuple[str, ...]:
    return ("hopper", "triton", "graph") if device.type == "cuda" else ()


def _why_not(backbone: Backbone, name: str) -> str | None:
    from layerroute.backbone import triton_step
    from layerroute.backbone.hopper import stepper as hopper_step

    if name == "hopper":
        return hopper_step.why_not(backbone.config, backbone.dtype, backbone.device)
    if name == "triton":
        return triton_step.why_not(backbone.config, backbone.dtype, backbone.device)
    return None if backbone.device.type == "cuda" else f"the device is {backbone.device.type}, not a CUDA GPU"


def _construct(backbone: Backbone, name: str) -> Stepper:
    from layerroute.backbone.cuda_graph import GraphStepper
    from layerroute.backbone.hopper.stepper import HopperStepper
    from layerroute.backbone.triton_step import TritonStepper

    if name == "hopper":
        return HopperStepper(backbone)
    return TritonStepper(backbone) if name == "triton" else GraphStepper(backbone)


@torch.inference_mode()
def _trial(backbone: Backbone, stepper: Stepper) -> float:
    """Largest relative difference of a stepper's logits from the eager ones over two steps after a short prompt.

    The second step replays what the first compiled and captured.
    """
    num_blocks = backbone.config.num_blocks
    visits = visits_of(LayerProgram.identity(num_blocks), "generation")
    theirs, ours = backbone.new_cache(num_blocks, 16), backbone.new_cache(num_blocks, 16)
    eager = EagerStepper(backbone, "the reference")
    for cache in (theirs, ours):
        eager.step(range(1, 9), 0, visits, cache)
    differences = []
    for position, token in ((8, 11), (9, 2)):
        logits_V = stepper.step([token], position, visits, theirs).double()
        expected_V = eager.step([token], position, visits, ours).double()
        differences.append(float((logits_V - expected_V).norm() / expected_V.norm()))
    return max(differences, key=lambda difference: (difference != difference, difference))
