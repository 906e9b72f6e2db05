"""Backbone: the Qwen2 forward over a layer program, in plain torch (the `eager` backend and the reference).

Shape suffixes: T new tokens, P all positions so far (cached and new), D hidden size, K KV heads, G query heads per
KV head, H head_dim, L blocks, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from layerroute.backbone.config import BackboneConfig
from layerroute.backbone.kv_cache import KVCache, Visit
from layerroute.backbone.weights import BackboneWeights

Observer = Callable[[int, Tensor], bool]
"""Called with a block and the hidden states [T, D] that would enter it; False skips the block."""


class Backbone:
    """Runs blocks. Holds weights and RoPE tables, no conversation state.

    Attributes:
        executed_L: how many tokens went through each block since the start; what reports are made of.
    """

    def __init__(self, config: BackboneConfig, weights: BackboneWeights) -> None:
        self.config = config
        self.weights = weights
        self.device = weights.embed_VD.device
        self.dtype = weights.embed_VD.dtype
        self.executed_L = [0] * config.num_blocks
        self._rope_PH = (torch.empty(0), torch.empty(0))
        self._grow_rope(2048)

    def new_cache(self, num_slots: int, capacity: int) -> KVCache:
        """An empty KV cache for `num_slots` visits and `capacity` tokens."""
        return KVCache(self.config, num_slots, capacity, self.device, self.dtype)

    def embed(self, ids_T: Tensor) -> Tensor:
        """Hidden states [T, D] that enter the first visit."""
        return F.embedding(ids_T, self.weights.embed_VD)

    def forward(
        self, ids_T: Tensor, start: int, visits: Sequence[Visit], cache: KVCache, observe: Observer | None = None
    ) -> Tensor:
        """Run new tokens at positions `start..start+T-1` through `visits`; their KV is written to the cache.

        Args:
            ids_T: int64 token ids on the backbone's device.
            start: position of the first new token; positions before it are read from the cache.
            visits: blocks and slots, in order.
            cache: holds valid KV of positions `0..start-1` in every slot that is visited.
            observe: sees the states entering each block and may have it skipped.

        Returns:
            Hidden states [T, D] after the last visit, before the final norm.
        """
        hidden_TD = self.embed(ids_T)
        rotation = self._rotation(start, len(ids_T))
        mask_TP = self._causal_mask(start, len(ids_T))
        for visit in visits:
            if observe is None or observe(visit.block, hidden_TD):
                hidden_TD = self.run_block(hidden_TD, visit, start, rotation, mask_TP, cache)
        return hidden_TD

    def run_block(
        self,
        hidden_TD: Tensor,
        visit: Visit,
        start: int,
        rotation: tuple[Tensor, Tensor],
        mask_TP: Tensor | None,
        cache: KVCache,
    ) -> Tensor:
        """One visit: attention and MLP of one block, each with its residual."""
        self.executed_L[visit.block] += len(hidden_TD)
        w, block = self.weights, visit.block
        c = self.config
        T, end = len(hidden_TD), start + len(hidden_TD)
        x_TD = F.rms_norm(hidden_TD, (c.hidden_size,), w.attn_norm_LD[block], c.rms_eps)
        qkv = F.linear(x_TD, w.qkv_LED[block], w.qkv_bias_LE[block]).view(T, -1, c.head_dim)
        num_rotated = c.num_heads + c.num_kv_heads
        rotated = rotate(qkv[:, :num_rotated], *rotation)
        keys_KPH = cache.keys_SKTH[visit.slot, :, :end]
        values_KPH = cache.values_SKTH[visit.slot, :, :end]
        keys_KPH[:, start:].copy_(rotated[:, c.num_heads :].transpose(0, 1))
        values_KPH[:, start:].copy_(qkv[:, num_rotated:].transpose(0, 1))
        attended = self._attend(rotated[:, : c.num_heads], keys_KPH, values_KPH, mask_TP)
        hidden_TD = torch.addmm(hidden_TD, attended, w.o_LDH[block].t())
        x_TD = F.rms_norm(hidden_TD, (c.hidden_size,), w.mlp_norm_LD[block], c.rms_eps)
        gate_TI, up_TI = F.linear(x_TD, w.gate_up_LFD[block]).chunk(2, dim=-1)
        return torch.addmm(hidden_TD, F.silu(gate_TI) * up_TI, w.down_LDI[block].t())

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Logits [T, V] of hidden states [T, D]."""
        w = self.weights
        return F.linear(
            F.rms_norm(hidden_TD, (self.config.hidden_size,), w.final_norm_D, self.config.rms_eps), w.lm_head_VD
        )

    def rope_tables(self, num_positions: int) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine [P, H] of at least `num_positions` positions, for `rotate`."""
        if num_positions > len(self._rope_PH[0]):
            self._grow_rope(num_positions)
        return self._rope_PH

    def _attend(self, queries_TQH: Tensor, keys_KPH: Tensor, values_KPH: Tensor, mask_TP: Tensor | None) -> Tensor:
        """Grouped-query attention [T, Q * H]. No mask: a single token, which sees every position."""
        c = self.config
        T = len(queries_TQH)
        if T == 1:
            group = c.num_heads // c.num_kv_heads
            queries_KGH = queries_TQH.reshape(c.num_kv_heads, group, c.head_dim)
            scores_KGP = torch.matmul(queries_KGH * c.head_dim**-0.5, keys_KPH.transpose(1, 2))
            return torch.matmul(scores_KGP.softmax(-1), values_KPH).view(1, -1)
        attended_QTH = F.scaled_dot_product_attention(
            queries_TQH.transpose(0, 1).unsqueeze(0),
            keys_KPH.unsqueeze(0),
            values_KPH.unsqueeze(0),
            attn_mask=mask_TP,
            is_causal=mask_TP is None,
            enable_gqa=True,
        )[0]
        return attended_QTH.transpose(0, 1).reshape(T, -1)

    def _causal_mask(self, start: int, num_tokens: int) -> Tensor | None:
        """Boolean [T, P] mask, or None where attention needs no explicit one (one token, or nothing cached)."""
        if num_tokens == 1 or start == 0:
            return None
        return torch.ones(num_tokens, start + num_tokens, dtype=torch.bool, device=self.device).tril(start)

    def _rotation(self, start: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine [T, 1, H] of positions `start..start+T-1`."""
        end = start + num_tokens
        cos_PH, sin_PH = self.rope_tables(end)
        return cos_PH[start:end].unsqueeze(1), sin_PH[start:end].unsqueeze(1)

    def _grow_rope(self, num_positions: int) -> None:
        c = self.config
        size = max(2 * len(self._rope_PH[0]), num_positions)
        exponent = torch.arange(0, c.head_dim, 2, dtype=torch.float32) / c.head_dim
        angles = torch.outer(torch.arange(size, dtype=torch.float32), 1.0 / c.rope_theta**exponent)
        cos_PH = torch.cat([angles.cos(), angles.cos()], dim=-1)
        sin_PH = torch.cat([-angles.sin(), angles.sin()], dim=-1)
        self._rope_PH = (cos_PH.to(self.device, self.dtype), sin_PH.to(self.device, self.dtype))


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Rotary embedding of `[..., H]`; the first half of `signed_sin` carries the minus of the rotation."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), signed_sin)
