"""The decode loop on the device: draws follow steps without a word from the host, which reads tokens behind it.

A step is a graph or one kernel, a draw is a graph. Between them the host may upload a mask, or take back the lead with
tokens of its own; the device waits for neither. The step that follows a draw needs nothing but what the draw left on
the device, so the host works out the next mask while that step runs.

Shape suffixes: V vocabulary, W words of the mask.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from layerroute.backbone.capture import capture
from layerroute.backbone.kv_cache import KVCache, Visit
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import DeviceStepper
from layerroute.backbone.token_mask import num_words
from layerroute.backbone.triton_tiling import power_of_two
from layerroute.errors import BackboneError

RING = 64
MAX_END_IDS = 32
_GROUP = 1024
_WARPS = 4
_NARROW_WARPS = 8
"""More than for one look at each logit: every program also sums up a histogram."""


@dataclass(frozen=True, slots=True)
class DrawRule:
    """How tokens are drawn. Temperature 0 is greedy; top_k 0 and top_p 1 keep all tokens.

    Filters keep ties of the last token they keep, and no token that lies 32 nats or more below the best.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int

    @property
    def filters(self) -> tuple[bool, ...]:
        """The filters that are on, top-k before top-p: whether each goes by probability, not by number."""
        if self.temperature <= 0.0:
            return ()
        return (False,) * (self.top_k > 0) + (True,) * (self.top_p < 1.0)


class TritonLoop:
    """Decodes one answer after the other over a `DeviceStepper`.

    Attributes:
        ahead: how many draws the device may be in front of what the host has read.
    """

    ahead = 2

    def __init__(self, backbone: Backbone, stepper: DeviceStepper) -> None:
        from layerroute.backbone import triton_draw_kernels

        self._kernels, self._stepper, self._backbone = triton_draw_kernels, stepper, backbone
        device, V = backbone.device, backbone.config.vocab_size
        self._on_cuda = device.type == "cuda"
        self._groups = -(-V // _GROUP)
        self._best, self._peaks = torch.zeros(2, self._groups, dtype=torch.float32, device=device)
        self._index = torch.zeros(self._groups, dtype=torch.int32, device=device)
        self._bits_W = torch.full((num_words(V),), -1, dtype=torch.int32, device=device)
        self._rule = torch.zeros(2, dtype=torch.float32, device=device)
        self._top_k = torch.ones(1, dtype=torch.int64, device=device)
        self._top_p = torch.ones(1, dtype=torch.float64, device=device)
        most = 2 * len(triton_draw_kernels.DIGITS)
        self._histograms = torch.zeros(most, triton_draw_kernels.BINS.value, dtype=torch.int64, device=device)
        self._found = torch.zeros(most + 1, triton_draw_kernels.FOUND_FIELDS.value, dtype=torch.int64, device=device)
        self._draws = torch.zeros(4, dtype=torch.int64, device=device)
        self._ends = torch.zeros(MAX_END_IDS, dtype=torch.int64, device=device)
        self._ring = torch.zeros(RING, dtype=torch.int64, pin_memory=self._on_cuda)  # the device writes to the host
        self._masks = torch.zeros(2 * (self.ahead + 1), len(self._bits_W), dtype=torch.int32, pin_memory=self._on_cuda)
        self._graphs: dict[tuple[bool, ...], torch.cuda.CUDAGraph] = {}  # by the filters
        self._waiting: deque[tuple[int, int, torch.cuda.Event | None]] = deque()  # place in the ring, tokens fed, ready

    def begin(
        self,
        logits_V: Tensor,
        position: int,
        visits: tuple[Visit, ...],
        cache: KVCache,
        rule: DrawRule,
        end_ids: frozenset[int],
    ) -> None:
        """Start an answer.

        Args:
            logits_V: logits of its first token.
            position: of its first token.
            visits: blocks and slots of every step.
            cache: holds all earlier positions.
            rule: how to draw.
            end_ids: after one of them nothing more is drawn.
        """
        if len(end_ids) > MAX_END_IDS:
            raise BackboneError(f"{len(end_ids)} end tokens; this backend takes up to {MAX_END_IDS}")
        self._position, self._visits, self._cache, self._rule_now = position, visits, cache, rule
        self._fed = self._drawn = 0
        self._waiting.clear()
        greedy = rule.temperature <= 0.0
        self._put(self._rule, [1.0 if greedy else 1.0 / max(rule.temperature, 1e-6), 0.0 if greedy else 1.0])
        self._put(self._top_k, [rule.top_k])
        self._put(self._top_p, [rule.top_p])
        self._put(self._draws, [rule.seed, 0, 0, 0])
        self._put(self._ends, [*end_ids, *[-3] * (MAX_END_IDS - len(end_ids))])
        self._bits_W.fill_(-1)
        self._mask_W: Tensor | None = None
        with self._stepper.on_device:
            self._stepper.upload(position, cache, [0])
            self._stepper.kernels.logits_V.copy_(logits_V)

    def sample(self, mask_W: Tensor | None) -> None:
        """Draw the next token from the latest logits; `take` will give it.

        Args:
            mask_W: tokens that may be drawn, packed, int32 [W] on the CPU, or None for all. The same tensor again is
                taken for the same mask.
        """
        if mask_W is None:
            if self._mask_W is not None:
                self._bits_W.fill_(-1)
        elif mask_W is not self._mask_W:
            # A page of memory that the copy of an earlier mask may still read is not written again.
            staged_W = self._masks[self._drawn % len(self._masks)]
            staged_W.copy_(mask_W)
            self._bits_W.copy_(staged_W, non_blocking=True)
        self._mask_W = mask_W
        with self._stepper.on_device:
            self._replay(self._rule_now.filters)
            ready = None
            if self._on_cuda:
                ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
                ready.record()
        self._waiting.append((self._drawn % RING, self._fed, ready))
        self._drawn += 1
        self._fed = 0

    def step(self) -> None:
        """Feed the token drawn last."""
        with self._stepper.on_device:
            self._stepper.replay(1, self._position + 1, self._visits)
        self._moved(1)

    def feed(self, ids: Sequence[int]) -> None:
        """Feed tokens that the host chose."""
        self._stepper.feed(ids, self._position, self._visits, self._cache)
        self._moved(len(ids))

    def take(self) -> int:
        """The oldest token drawn and not yet taken; waits for it.

        Raises:
            BackboneError: the logits were not numbers, or an end token was taken before.
            KernelError: a step was given up on the device.
        """
        place, fed, ready = self._waiting.popleft()
        if ready is not None:
            ready.synchronize()
        for visit in self._visits:  # counted here: what ran ahead of the end is no part of the answer
            self._backbone.executed_L[visit.block] += fed
        token = int(self._ring[place])
        if token == self._kernels.AFTER_THE_END.value:
            raise BackboneError("the answer has ended: begin another before more tokens are taken")
        if token < 0:
            self._stepper.check()
            raise BackboneError("the model's logits are not numbers: load it with dtype 'bfloat16' or 'float32'")
        return token

    def _moved(self, count: int) -> None:
        self._position += count
        self._fed += count

    def _replay(self, filters: tuple[bool, ...]) -> None:
        if not self._on_cuda:
            self._run(filters)
            return
        if filters not in self._graphs:
            restored = (self._draws, self._stepper.kernels.state)
            self._graphs[filters] = capture(partial(self._run, filters), self._stepper.pool, restored)
        self._graphs[filters].replay()

    def _run(self, filters: tuple[bool, ...]) -> None:
        k, state, logits_V = self._kernels, self._stepper.kernels.state, self._stepper.kernels.logits_V
        pdl = self._stepper.pdl
        follow = {"launch_pdl": True} if pdl else {}
        sizes = {"V": len(logits_V), "BN": _GROUP, "PDL": pdl}
        groups = {"GROUPS": self._groups, "GP": power_of_two(self._groups)}
        narrowings = [(shift, by_mass) for by_mass in filters for shift in k.DIGITS]
        if narrowings:
            bins = len(narrowings) * k.BINS.value
            k.peak_kernel[(self._groups,)](
                self._peaks, self._histograms, self._found, logits_V, self._bits_W,
                ZEROS=power_of_two(-(-bins // self._groups)), TOTAL=bins, num_warps=_WARPS, **sizes,
            )  # fmt: skip
        before = (0, False)
        for number, (shift, by_mass) in enumerate(narrowings):
            k.narrow_kernel[(self._groups,)](
                self._histograms, self._found, self._peaks, logits_V, self._bits_W, self._rule, self._top_k,
                self._top_p, NUMBER=number, SHIFT=shift, BY_MASS=by_mass, SHIFT_BEFORE=before[0],
                BY_MASS_BEFORE=before[1], num_warps=_NARROW_WARPS, **groups, **sizes, **follow,
            )  # fmt: skip
            before = (shift, by_mass)
        k.draw_kernel[(self._groups,)](
            self._best, self._index, self._peaks, self._histograms, self._found, logits_V, self._bits_W, self._rule,
            self._top_k, self._top_p, self._draws, state,
            NARROWINGS=len(narrowings), BY_MASS_BEFORE=before[1], num_warps=_NARROW_WARPS if narrowings else _WARPS,
            **groups, **sizes, **(follow if narrowings else {}),
        )  # fmt: skip
        k.pick_kernel[(1,)](
            self._ring, self._draws, state, self._best, self._index, self._ends,
            RING=RING, ENDS=MAX_END_IDS, PDL=pdl, num_warps=_WARPS, **groups, **follow,
        )  # fmt: skip

    @staticmethod
    def _put(target: Tensor, values: Sequence[float]) -> None:
        # From pageable memory the driver takes its own copy before it returns, so nothing has to be waited for.
        target.copy_(torch.tensor(values, dtype=target.dtype), non_blocking=True)
