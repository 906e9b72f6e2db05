"""Drawing the next token from logits."""

import math

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
        logits_V = logits_V.float()
        if mask_V is not None:
            check_mask(mask_V)
            logits_V = logits_V.masked_fill(~mask_V.to(logits_V.device), -torch.inf)
        best, choice = logits_V.max(0)
        if self._generator is not None:
            choice = self._draw(logits_V - best, self._generator)
        token, logit = torch.stack((choice.double(), best.double())).tolist()
        if not math.isfinite(logit):
            raise LayerRouteError(f"the model gave the logit {logit}: load it with dtype 'bfloat16' or 'float32'")
        return int(token)

    def _draw(self, logits_V: Tensor, generator: torch.Generator) -> Tensor:
        """One draw from logits whose largest is 0."""
        sampling = self._sampling
        scaled_V = logits_V / max(sampling.temperature, 1e-6)  # float32 would take a smaller divisor for 0
        kept = min(sampling.top_k or len(scaled_V), len(scaled_V))
        if kept == len(scaled_V) and sampling.top_p >= 1.0:
            return _gumbel_argmax(scaled_V, generator)
        values_K, ids_K = scaled_V.topk(kept)
        if sampling.top_p < 1.0:
            probabilities_K = values_K.softmax(0)
            before_K = probabilities_K.cumsum(0) - probabilities_K
            values_K = values_K.masked_fill(before_K >= sampling.top_p, -torch.inf)
        return ids_K[_gumbel_argmax(values_K, generator)]


def _gumbel_argmax(logits_K: Tensor, generator: torch.Generator) -> Tensor:
    """One draw from softmax(logits), without torch.multinomial's wait for the device."""
    noise_K = torch.empty_like(logits_K).exponential_(generator=generator).clamp_(min=1e-30)
    return (logits_K - noise_K.log()).argmax()
