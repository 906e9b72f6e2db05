"""Drawing the next token from logits."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from layerroute.backbone.token_mask import unpack
from layerroute.engine.request import Sampling
from layerroute.errors import LayerRouteError


def check_mask(mask_W: Tensor) -> None:
    """Refuse a packed mask [W] under which nothing can be drawn.

    Raises:
        LayerRouteError: the mask allows no token.
    """
    if not mask_W.numpy().any():
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

    def pick(self, logits_V: Tensor, mask_W: Tensor | None = None) -> int:
        """Draw one token; waits for the device once.

        Args:
            logits_V: logits `[V]` of any floating type.
            mask_W: tokens that may be drawn, packed, int32 `[W]` on the CPU; None allows all.

        Raises:
            LayerRouteError: the mask allows no token, or the logits are not numbers.
        """
        if mask_W is not None:
            check_mask(mask_W)
        return drawn_token(*pick_rows([self], logits_V.unsqueeze(0), [mask_W])[0].tolist())

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is the choice."""
        return self._generator is None

    def is_filtered(self, vocab_size: int) -> bool:
        """Whether top_k or top_p may leave tokens out."""
        return 0 < self._sampling.top_k < vocab_size or self._sampling.top_p < 1.0

    @property
    def temperature(self) -> float:
        """The divisor of the logits: float32 would take a smaller one for 0."""
        return max(self._sampling.temperature, 1e-6)

    def filtered(self, scaled_V: Tensor) -> tuple[Tensor, Tensor]:
        """The logits [K] that top_k leaves of those over the temperature, -inf where top_p does not, and their ids."""
        most = min(self._sampling.top_k or len(scaled_V), len(scaled_V))
        if self._sampling.top_p >= 1.0:
            values_K, ids_K = scaled_V.topk(most)
            return values_K, ids_K
        total = (scaled_V.topk(most).values if most < len(scaled_V) else scaled_V).logsumexp(0)
        for count in _counts(most, scaled_V.device):
            values_K, ids_K = scaled_V.topk(count)
            probabilities_K = (values_K - total).exp()
            sums_K = probabilities_K.cumsum(0)
            if count == most or sums_K[-1] >= self._sampling.top_p:
                break
        return values_K.masked_fill(sums_K - probabilities_K >= self._sampling.top_p, -torch.inf), ids_K

    def fill(self, noise: Tensor) -> None:
        """Fill a tensor with the next numbers of this request's generator, exponentially distributed."""
        noise.exponential_(generator=self._generator)


def _counts(most: int, device: torch.device) -> Sequence[int]:
    """How many of the likeliest tokens to look at, until they reach top_p.

    On a CPU sorting all of them takes longer than a few tries; elsewhere a look at their sum would wait for the device.
    """
    return (*(count for count in (128, 2048) if count < most), most) if device.type == "cpu" else (most,)


def pick_rows(samplers: Sequence[Sampler], logits_BV: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
    """Draw one token of every row, each as if it were alone, without a wait for the device.

    Args:
        samplers: one per row.
        logits_BV: logits of any floating type.
        masks: packed `[W]` per row, which allows a token at least, or None for all.

    Returns:
        Float64 [B, 2] on the device: what `drawn_token` reads.
    """
    logits_BV = _masked(logits_BV.float(), masks)
    best_B, choice_B = logits_BV.max(1)
    plain: list[int] = []
    for row, sampler in enumerate(samplers):
        if sampler.is_greedy:
            continue
        if not sampler.is_filtered(logits_BV.shape[1]):
            plain.append(row)
        else:  # one by one: sums over several rows at once may round differently
            values_K, ids_K = sampler.filtered((logits_BV[row] - best_B[row]) / sampler.temperature)
            choice_B[row] = ids_K[_drawn(values_K.unsqueeze(0), [sampler])[0]]
    if plain:
        rows = _on_device(plain, logits_BV)
        temperature_R = _on_device([samplers[row].temperature for row in plain], logits_BV)
        scaled_RV = (logits_BV[rows] - best_B[rows, None]) / temperature_R[:, None]
        choice_B[rows] = _drawn(scaled_RV, [samplers[row] for row in plain])
    return torch.stack((choice_B.double(), best_B.double()), dim=1)


def drawn_token(token: float, logit: float) -> int:
    """The token of a row that `pick_rows` drew.

    Raises:
        LayerRouteError: the logits are not numbers.
    """
    if not math.isfinite(logit):
        raise LayerRouteError(f"the model gave the logit {logit}: load it with dtype 'bfloat16' or 'float32'")
    return int(token)


def _masked(logits_BV: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
    """The logits, -inf where a mask does not allow a token."""
    masked = [(row, mask_W) for row, mask_W in enumerate(masks) if mask_W is not None]
    if not masked:
        return logits_BV
    masks_RW = torch.stack([mask_W for _, mask_W in masked]).to(logits_BV.device, non_blocking=True)
    banned_RV = ~unpack(masks_RW, logits_BV.shape[1])
    rows = _on_device([row for row, _ in masked], logits_BV)
    return logits_BV.index_copy(0, rows, logits_BV[rows].masked_fill(banned_RV, -torch.inf))


def _drawn(logits_RK: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """One draw from softmax(logits) for each row, without torch.multinomial's wait for the device."""
    noise_RK = torch.empty_like(logits_RK)
    for noise_K, sampler in zip(noise_RK, samplers, strict=True):
        sampler.fill(noise_K)
    return (logits_RK - noise_RK.clamp_(min=1e-30).log()).argmax(1)


def _on_device(numbers: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers).to(like.device, non_blocking=True)  # a blocking copy would wait for the step
