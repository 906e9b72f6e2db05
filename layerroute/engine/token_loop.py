"""The decode loop's seam: who draws a token and feeds it, the host for any backend, or the device by itself."""

import secrets
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from layerroute.backbone.kv_cache import KVCache, Visit
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import DeviceStepper, Stepper
from layerroute.backbone.token_mask import pack
from layerroute.backbone.triton_loop import DrawRule, TritonLoop
from layerroute.engine.request import Sampling
from layerroute.engine.sampling import Sampler, check_mask


class TokenLoop(Protocol):
    """Draws and feeds the tokens of one answer. Only `take` has to wait for the device.

    Attributes:
        ahead: how many draws may be asked for before the first of them is taken, less one.
        one_by_one: whether tokens fed together run as a step each.
    """

    ahead: int
    one_by_one: bool

    def sample(self, mask_W: Tensor | None) -> None:
        """Draw the next token from the latest logits, among those that a packed mask [W] on the CPU allows."""
        ...

    def step(self) -> None:
        """Feed the token drawn last."""
        ...

    def feed(self, ids: Sequence[int]) -> None:
        """Feed tokens that the host chose."""
        ...

    def take(self) -> int:
        """The oldest token drawn and not yet taken."""
        ...


class HostLoop:
    """The host draws each token and hands it to a stepper, with all others that wait, when logits are needed again."""

    ahead = 0

    def __init__(
        self,
        stepper: Stepper,
        sampler: Sampler,
        logits_V: Tensor,
        position: int,
        visits: tuple[Visit, ...],
        cache: KVCache,
    ) -> None:
        self.one_by_one = stepper.one_by_one
        self._stepper, self._sampler, self._logits_V = stepper, sampler, logits_V
        self._position, self._visits, self._cache = position, visits, cache
        self._pending: list[int] = []
        self._token = 0

    def sample(self, mask_W: Tensor | None) -> None:
        """Feed what waits in one pass, then draw."""
        if self._pending:
            self._logits_V = self._stepper.step(self._pending, self._position, self._visits, self._cache)
            self._position += len(self._pending)
            self._pending = []
        self._token = self._sampler.pick(self._logits_V, mask_W)

    def step(self) -> None:
        """The drawn token waits to be fed."""
        self._pending.append(self._token)

    def feed(self, ids: Sequence[int]) -> None:
        """The tokens wait to be fed."""
        self._pending.extend(ids)

    def take(self) -> int:
        """The drawn token."""
        return self._token


class DeviceLoop:
    """The device draws and feeds by itself; a mask that allows nothing is still refused by the host."""

    one_by_one = True

    def __init__(self, loop: TritonLoop) -> None:
        self._loop = loop
        self.ahead = loop.ahead
        self.step, self.feed, self.take = loop.step, loop.feed, loop.take

    def sample(self, mask_W: Tensor | None) -> None:
        """Draw the next token."""
        if mask_W is not None:
            check_mask(mask_W)
        self._loop.sample(mask_W)


class TokenLoops:
    """Starts the loop of each answer: on the device where the backend can and passed a trial, else on the host.

    Attributes:
        reason: where the loop runs, and why.
    """

    def __init__(self, backbone: Backbone, stepper: Stepper, end_ids: frozenset[int]) -> None:
        self._backbone, self._stepper, self._end_ids = backbone, stepper, end_ids
        self._loop: TritonLoop | None = None
        self.reason = f"the loop runs on the host: backend {stepper.name} hands logits back"
        if isinstance(stepper, DeviceStepper):
            try:
                loop = TritonLoop(backbone, stepper)
                _try_out(backbone, loop, end_ids)
                self._loop, self.reason = loop, "the loop runs on the device"
            except Exception as error:  # a compiler, driver or launch error of any kind: the host can still draw
                first_line = (str(error).splitlines() or [""])[0][:200]
                self.reason = f"the loop runs on the host: its trial failed: {type(error).__name__}: {first_line}"

    def start(
        self, sampling: Sampling, logits_V: Tensor, position: int, visits: tuple[Visit, ...], cache: KVCache
    ) -> TokenLoop:
        """The loop of one answer, whose first token is at `position` and has these logits.

        Loops of different answers must not be mixed: the device holds one at a time.
        """
        if self._loop is None:
            sampler = Sampler(sampling, self._backbone.device)
            return HostLoop(self._stepper, sampler, logits_V, position, visits, cache)
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**63
        rule = DrawRule(sampling.temperature, sampling.top_k, sampling.top_p, seed)
        self._loop.begin(logits_V, position, visits, cache, rule, self._end_ids)
        return DeviceLoop(self._loop)


@torch.inference_mode()
def _try_out(backbone: Backbone, loop: TritonLoop, end_ids: frozenset[int]) -> None:
    """Compare draws with torch's on made-up logits, masked and not, over no blocks and a small cache."""
    vocab_size = backbone.config.vocab_size
    logits_V = torch.randn(vocab_size, generator=torch.Generator().manual_seed(0))
    mask_V = torch.arange(vocab_size) % 3 == 1
    cache = backbone.new_cache(1, 8)
    for rule in (DrawRule(0.0, 0, 1.0, 0), DrawRule(1e-6, 5, 0.5, 0)):
        for mask in (None, mask_V):
            loop.begin(logits_V.to(backbone.device), 0, (), cache, rule, end_ids)
            loop.sample(None if mask is None else pack(mask))
            expected = int((logits_V if mask is None else logits_V.masked_fill(~mask, -torch.inf)).argmax())
            token = loop.take()
            if token != expected:
                raise RuntimeError(f"drew token {token} where {expected} is the likeliest")
