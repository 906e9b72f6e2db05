"""Drawing the next token from logits."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from layerroute.engine.request import Sampling
from layerroute.errors import LayerRouteError


def check_mask(mask_V: Tensor) -> None:
    """Refuse a mask under which nothing can be drawn.

    Raises:
        LayerRouteError: the mask allows no token.
    """
    if not mask_V.any():
        raise LayerRouteError("the output grammar allows no further token: simplify the tool or response schema")


class Sampler:
    """Draws tokens for one request with a generator of its own, so other requests cannot change what it draws.

    Args:
        sampling: temperature, top_k, top_p and seed.
        device: where the logits lie.
    """

    def __init__(self, sampling: Sampling, device: torch.device | str) -> None:
        self._sampling = sampling
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0.0:
            self._generator = torch.Generator(device)
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)

    def pick(self, logits_V: Tensor, mask_V: Tensor | None = None) -> int:
        """Draw one token; waits for the device once.

        Args:
            logits_V: logits `[V]` of any floating type.
            mask_V: bool `[V]`, True for tokens that may be drawn, on any device; None allows all.

        Raises:
            LayerRouteError: the mask allows no token, or the logits are not numbers.
        """
        if mask_V is not None:
            check_mask(mask_V)
        return drawn_token(*pick_rows([self], logits_V.unsqueeze(0), [mask_V])[0].tolist())

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is the choice."""
        return self._generator is None

    def draw(self, logits_V: Tensor) -> Tensor:
        """One draw from float32 logits whose largest is 0; not for greedy sampling."""
        assert self._generator is not None  # callers look first
        sampling = self._sampling
        scaled_V = logits_V / max(sampling.temperature, 1e-6)  # float32 would take a smaller divisor for 0
        kept = min(sampling.top_k or len(scaled_V), len(scaled_V))
        if kept == len(scaled_V) and sampling.top_p >= 1.0:
            return _gumbel_argmax(scaled_V, self._generator)
        values_K, ids_K = scaled_V.topk(kept)
        if sampling.top_p < 1.0:
            probabilities_K = values_K.softmax(0)
            before_K = probabilities_K.cumsum(0) - probabilities_K
            values_K = values_K.masked_fill(before_K >= sampling.top_p, -torch.inf)
        return ids_K[_gumbel_argmax(values_K, self._generator)]


def pick_rows(samplers: Sequence[Sampler], logits_BV: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
    """Draw one token of every row, each as if it were alone, without a wait for the device.

    Args:
        samplers: one per row.
        logits_BV: logits of any floating type.
        masks: bool `[V]` per row, which allows a token at least, or None for all.

    Returns:
        Float64 [B, 2] on the device: what `drawn_token` reads.
    """
    logits_BV = logits_BV.float()
    masked = [(row, mask_V) for row, mask_V in enumerate(masks) if mask_V is not None]
    if masked:
        banned = ~torch.stack([mask_V for _, mask_V in masked]).to(logits_BV.device, non_blocking=True)
        rows = torch.tensor([row for row, _ in masked]).to(logits_BV.device, non_blocking=True)
        logits_BV = logits_BV.index_copy(0, rows, logits_BV[rows].masked_fill(banned, -torch.inf))
    best_B, choice_B = logits_BV.max(1)
    for row, sampler in enumerate(samplers):
        if not sampler.is_greedy:
            choice_B[row] = sampler.draw(logits_BV[row] - best_B[row])
    return torch.stack((choice_B.double(), best_B.double()), dim=1)


def drawn_token(token: float, logit: float) -> int:
    """The token of a row that `pick_rows` drew.

    Raises:
        LayerRouteError: the logits are not numbers.
    """
    if not math.isfinite(logit):
        raise LayerRouteError(f"the model gave the logit {logit}: load it with dtype 'bfloat16' or 'float32'")
    return int(token)


def _gumbel_argmax(logits_K: Tensor, generator: torch.Generator) -> Tensor:
    """One draw from softmax(logits), without torch.multinomial's wait for the device."""
    noise_K = torch.empty_like(logits_K).exponential_(generator=generator).clamp_(min=1e-30)
    return (logits_K - noise_K.log()).argmax()
