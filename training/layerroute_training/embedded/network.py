"""The embedded backbone as a training network: Qwen2 in plain torch, over rows that hold several documents.

The weights of one kind are stacked over the blocks: the optimiser and the exporter each treat a kind at once.
Every block is called through one function of static shape, which `torch.compile` compiles once for all blocks.

Shape suffixes: B rows, T tokens of a row, L blocks, D hidden, Q query features, K KV features, H head size,
F intermediate, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

MASK_TILE = 128

Mask = BlockMask | Tensor
"""Who attends to whom: a block mask for flex attention, or a dense one for SDPA."""


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of the network, named as in `transformers`' Qwen2 configuration where it has a name for them."""

    vocab_size: int = 16_384
    hidden_size: int = 256
    num_blocks: int = 24
    num_heads: int = 4
    num_kv_heads: int = 1
    head_dim: int = 64
    intermediate_size: int = 768
    max_positions: int = 4_096
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6

    def to_dict(self) -> dict[str, Any]:
        """The sizes as JSON values."""
        return asdict(self)


class BlockWeights(NamedTuple):
    """What one block computes with, in the compute type; projections that read the same input are joined."""

    input_norm_D: Tensor
    qkv_weight: Tensor
    qkv_bias: Tensor
    o_weight_DQ: Tensor
    post_norm_D: Tensor
    gate_up_weight: Tensor
    down_weight_DF: Tensor


class Weights(NamedTuple):
    """What a forward pass computes with, in the compute type."""

    embed_VD: Tensor
    blocks: list[BlockWeights]
    final_norm_D: Tensor


class Rope(NamedTuple):
    """Rotary tables of every token of a batch."""

    cos_B1TH: Tensor
    sin_B1TH: Tensor


Block = Callable[[Tensor, BlockWeights, Rope, Mask, Tensor], Tensor]


class Network(nn.Module):
    """Float32 master weights of the backbone and its forward pass over packed rows."""

    def __init__(self, shape: NetworkShape) -> None:
        """Allocate the weights; `initialise` or `load_state_dict` gives them values."""
        super().__init__()
        self.shape = shape
        L, D, F_ = shape.num_blocks, shape.hidden_size, shape.intermediate_size
        Q, K = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        self.embed_VD = nn.Parameter(torch.empty(shape.vocab_size, D))
        self.final_norm_D = nn.Parameter(torch.empty(D))
        self.input_norm_LD = nn.Parameter(torch.empty(L, D))
        self.post_norm_LD = nn.Parameter(torch.empty(L, D))
        self.q_weight_LQD = nn.Parameter(torch.empty(L, Q, D))
        self.k_weight_LKD = nn.Parameter(torch.empty(L, K, D))
        self.v_weight_LKD = nn.Parameter(torch.empty(L, K, D))
        self.q_bias_LQ = nn.Parameter(torch.empty(L, Q))
        self.k_bias_LK = nn.Parameter(torch.empty(L, K))
        self.v_bias_LK = nn.Parameter(torch.empty(L, K))
        self.o_weight_LDQ = nn.Parameter(torch.empty(L, D, Q))
        self.gate_weight_LFD = nn.Parameter(torch.empty(L, F_, D))
        self.up_weight_LFD = nn.Parameter(torch.empty(L, F_, D))
        self.down_weight_LDF = nn.Parameter(torch.empty(L, D, F_))
        self._block: Block
        self._token_nll: Callable[[Tensor, Tensor, Tensor], Tensor]
        self.interpret()

    def initialise(self, seed: int) -> None:
        """Normal weights of deviation 0.02, residual projections smaller by sqrt(2 L), zero biases, unit norms."""
        generator = torch.Generator().manual_seed(seed)
        residual = 0.02 / math.sqrt(2 * self.shape.num_blocks)
        for name, parameter in self.named_parameters():
            if "norm" in name:
                nn.init.ones_(parameter)
            elif "bias" in name:
                nn.init.zeros_(parameter)
            else:
                std = residual if name.startswith(("o_", "down_")) else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)

    def matrices(self) -> list[nn.Parameter]:
        """The stacked matrices of the blocks."""
        return [parameter for parameter in self.parameters() if parameter.dim() == 3]

    def vectors(self) -> list[nn.Parameter]:
        """Embedding, norms and biases."""
        return [parameter for parameter in self.parameters() if parameter.dim() != 3]

    def compile(self, backend: str = "inductor") -> None:
        """Compile the block and the loss; every block shares one graph."""
        self._block = torch.compile(make_block(self.shape), fullgraph=True, dynamic=False, backend=backend)
        self._token_nll = torch.compile(token_nll, fullgraph=True, dynamic=False, backend=backend)

    def interpret(self) -> None:
        """Undo `compile`."""
        self._block, self._token_nll = make_block(self.shape), token_nll

    def weights(self, dtype: torch.dtype) -> Weights:
        """Weights for a forward pass in `dtype`."""
        stacks = (
            self.input_norm_LD,
            torch.cat([self.q_weight_LQD, self.k_weight_LKD, self.v_weight_LKD], dim=1),
            torch.cat([self.q_bias_LQ, self.k_bias_LK, self.v_bias_LK], dim=1),
            self.o_weight_LDQ,
            self.post_norm_LD,
            torch.cat([self.gate_weight_LFD, self.up_weight_LFD], dim=1),
            self.down_weight_LDF,
        )
        per_block = zip(*(stack.to(dtype).unbind(0) for stack in stacks), strict=True)
        return Weights(self.embed_VD.to(dtype), [BlockWeights(*one) for one in per_block], self.final_norm_D.to(dtype))

    def forward(self, weights: Weights, tokens_BT: Tensor, mask: Mask, rope: Rope, run_LBT1: Tensor) -> Tensor:
        """Final normalised states [B, T, D]; multiply by the embedding for logits.

        `run_LBT1` is one where a token takes the block and zero where it skips it.
        """
        state_BTD = F.embedding(tokens_BT, weights.embed_VD)
        for block, run_BT1 in zip(weights.blocks, run_LBT1, strict=True):
            state_BTD = self._block(state_BTD, block, rope, mask, run_BT1)
        return rms_norm(state_BTD, weights.final_norm_D, self.shape.norm_eps)

    def nll(self, weights: Weights, state_BTD: Tensor, target_BT: Tensor) -> Tensor:
        """Negative log-likelihood of each target token, float32 [B, T], in nats."""
        return self._token_nll(state_BTD, weights.embed_VD, target_BT)


def make_block(shape: NetworkShape) -> Block:
    """The function of one block: state, weights, rotary tables, mask and run flags to the next state."""
    heads, kv_heads, head_dim, eps = shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.norm_eps
    split = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]

    def block(state_BTD: Tensor, w: BlockWeights, rope: Rope, mask: Mask, run_BT1: Tensor) -> Tensor:
        B, T, _ = state_BTD.shape
        qkv = F.linear(rms_norm(state_BTD, w.input_norm_D, eps), w.qkv_weight, w.qkv_bias)
        q, k, v = (part.view(B, T, -1, head_dim).transpose(1, 2) for part in torch.split(qkv, split, dim=-1))
        q, k = rotate(q, rope), rotate(k, rope)
        mixed = attend(q, k, v, mask).transpose(1, 2).reshape(B, T, heads * head_dim)
        attended_BTD = F.linear(mixed, w.o_weight_DQ)
        gate, up = F.linear(rms_norm(state_BTD + attended_BTD, w.post_norm_D, eps), w.gate_up_weight).chunk(2, dim=-1)
        change_BTD = attended_BTD + F.linear(F.silu(gate) * up, w.down_weight_DF)
        return state_BTD + run_BT1 * change_BTD

    return block


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm, computed in float32."""
    x32 = x.float()
    return weight_D * (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Apply rotary positions to [B, heads, T, H]."""
    first, second = x.chunk(2, dim=-1)
    return (x * rope.cos_B1TH + torch.cat([-second, first], dim=-1) * rope.sin_B1TH).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """Attention with grouped KV heads: flex attention under a block mask, else SDPA under a dense one."""
    if isinstance(mask, Tensor):
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # Contiguous, because torch 2.11's compiled flex attention misreads views into a joined projection (seen on a CPU).
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
    assert isinstance(out, Tensor)  # no log-sum-exp was asked for
    return out


def token_nll(state_BTD: Tensor, embed_VD: Tensor, target_BT: Tensor) -> Tensor:
    """Negative log-likelihood of each target under the tied head, float32."""
    logits = F.linear(state_BTD, embed_VD).float()
    return torch.logsumexp(logits, dim=-1) - logits.gather(-1, target_BT.unsqueeze(-1)).squeeze(-1)


def rope_tables(shape: NetworkShape, position_BT: Tensor, dtype: torch.dtype) -> Rope:
    """Cosines and sines of every token's position."""
    H = shape.head_dim
    exponents = torch.arange(0, H, 2, device=position_BT.device, dtype=torch.float32) / H
    angle = position_BT.float().unsqueeze(-1) * (1.0 / shape.rope_theta**exponents)
    angle_B1TH = torch.cat([angle, angle], dim=-1).unsqueeze(1)
    return Rope(angle_B1TH.cos().to(dtype), angle_B1TH.sin().to(dtype))


def dense_mask(start_BT: Tensor) -> Tensor:
    """Causal attention within documents as a boolean [B, 1, T, T]; `start_BT` is where each token's document starts."""
    T = start_BT.shape[1]
    index = torch.arange(T, device=start_BT.device)
    causal = index[:, None] >= index[None, :]
    return (causal & (index[None, None, :] >= start_BT[:, :, None])).unsqueeze(1)


def flex_mask(start_BT: Tensor) -> BlockMask:
    """The mask of `dense_mask` for flex attention, built tile by tile; T must be a multiple of 128."""
    tiles = start_BT.shape[1] // MASK_TILE
    tile = torch.arange(tiles, device=start_BT.device)
    # Documents are contiguous, so a query tile needs every key tile from the start of its first token's document on,
    # and sees a whole earlier tile unmasked when even its last token's document starts before that tile.
    first = start_BT[:, ::MASK_TILE].div(MASK_TILE, rounding_mode="floor")
    last = start_BT[:, MASK_TILE - 1 :: MASK_TILE]
    needed = (tile <= tile[:, None]) & (tile >= first[:, :, None])
    full = needed & (tile < tile[:, None]) & (tile * MASK_TILE >= last[:, :, None])

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (k >= start_BT[b, q])

    return BlockMask.from_kv_blocks(*_listed(needed & ~full), *_listed(full), BLOCK_SIZE=MASK_TILE, mask_mod=visible)


def _listed(tiles_BQK: Tensor) -> tuple[Tensor, Tensor]:
    """Number and indices of the marked key tiles of each query tile, as flex attention wants them."""
    counts = tiles_BQK.sum(-1, dtype=torch.int32).unsqueeze(1)
    order = torch.argsort(tiles_BQK.to(torch.int8), dim=-1, descending=True, stable=True).to(torch.int32).unsqueeze(1)
    return counts, order.contiguous()
