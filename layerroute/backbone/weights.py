"""Backbone weights: safetensors of a Hugging Face Qwen2 folder, fused and stacked over blocks.

Stacking puts block `i` of every matrix at index `i` of one tensor, so a layer program is data, not structure.

Shape suffixes: L blocks, D hidden size, E fused query+key+value rows, H query heads * head_dim, F twice the
intermediate size (gate and up), I intermediate size, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from layerroute.backbone.config import BackboneConfig
from layerroute.backbone.tensor_files import TensorFiles, block_tensors
from layerroute.errors import WeightsError

LoraDeltas = Mapping[str, Tensor]
"""Float32 weight changes by module name, such as "model.layers.0.self_attn.q_proj"."""


@dataclass(frozen=True, slots=True)
class BackboneWeights:
    """All weights of a backbone on one device, in one dtype."""

    embed_VD: Tensor
    attn_norm_LD: Tensor
    qkv_LED: Tensor
    qkv_bias_LE: Tensor
    o_LDH: Tensor
    mlp_norm_LD: Tensor
    gate_up_LFD: Tensor
    down_LDI: Tensor
    final_norm_D: Tensor
    lm_head_VD: Tensor

    @property
    def num_bytes(self) -> int:
        """Bytes on the device; a tied LM head counts once."""
        tensors = {getattr(self, name).data_ptr(): getattr(self, name) for name in self.__slots__}
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def load_weights(
    folder: Path, config: BackboneConfig, device: torch.device, dtype: torch.dtype, deltas: LoraDeltas | None = None
) -> BackboneWeights:
    """Load a checkpoint folder, fuse its projections, stack its blocks, and add LoRA deltas in float32.

    Raises:
        BackboneNotFoundError: no safetensors there.
        CheckpointError: files truncated, tensors missing or of the wrong shape, deltas for modules that do not exist.
    """
    with TensorFiles(folder) as tensors:
        tensors.check(config)
        return _Assembler(tensors, config, device, dtype, dict(deltas or {})).assemble()


def random_weights(config: BackboneConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> BackboneWeights:
    """Weights drawn at random, for timing a shape whose checkpoint is not at hand."""
    generator = torch.Generator(device).manual_seed(seed)
    L, D, I = config.num_blocks, config.hidden_size, config.intermediate_size  # noqa: E741
    H = config.num_heads * config.head_dim

    def draw(*shape: int) -> Tensor:
        return torch.empty(shape, device=device, dtype=dtype).normal_(0.0, 0.02, generator=generator)

    embed_VD = draw(config.vocab_size, D)
    return BackboneWeights(
        embed_VD=embed_VD,
        attn_norm_LD=1.0 + draw(L, D),
        qkv_LED=draw(L, config.qkv_size, D),
        qkv_bias_LE=draw(L, config.qkv_size),
        o_LDH=draw(L, D, H),
        mlp_norm_LD=1.0 + draw(L, D),
        gate_up_LFD=draw(L, 2 * I, D),
        down_LDI=draw(L, D, I),
        final_norm_D=1.0 + draw(D),
        lm_head_VD=embed_VD if config.tied else draw(config.vocab_size, D),
    )


@dataclass(slots=True)
class _Assembler:
    tensors: TensorFiles
    config: BackboneConfig
    device: torch.device
    dtype: torch.dtype
    deltas: dict[str, Tensor]

    def assemble(self) -> BackboneWeights:
        c = self.config
        embed_VD = self._plain("model.embed_tokens.weight")
        weights = BackboneWeights(
            embed_VD=embed_VD,
            attn_norm_LD=self._stacked("input_layernorm.weight"),
            qkv_LED=self._stacked(*(f"self_attn.{p}_proj.weight" for p in "qkv")),
            qkv_bias_LE=self._stacked(*(f"self_attn.{p}_proj.bias" for p in "qkv")),
            o_LDH=self._stacked("self_attn.o_proj.weight"),
            mlp_norm_LD=self._stacked("post_attention_layernorm.weight"),
            gate_up_LFD=self._stacked("mlp.gate_proj.weight", "mlp.up_proj.weight"),
            down_LDI=self._stacked("mlp.down_proj.weight"),
            final_norm_D=self._plain("model.norm.weight"),
            lm_head_VD=embed_VD if c.tied else self._plain("lm_head.weight"),
        )
        if self.deltas:
            raise WeightsError(f"the adapter changes modules this backbone does not have: {sorted(self.deltas)[:3]}")
        return weights

    def _read(self, name: str) -> Tensor:
        tensor = self.tensors.read(name)
        delta = self.deltas.pop(name.removesuffix(".weight"), None) if name.endswith(".weight") else None
        if delta is None:
            return tensor
        if delta.shape != tensor.shape:
            raise WeightsError(
                f"the adapter's change of {name!r} has shape {tuple(delta.shape)}, not {tuple(tensor.shape)}"
            )
        return tensor.float() + delta.to(tensor.device)

    def _plain(self, name: str) -> Tensor:
        return self._read(name).to(self.device, self.dtype).contiguous()

    def _stacked(self, *names: str) -> Tensor:
        """Stack over blocks what the tensors of these names, concatenated along rows, make up in each block."""
        shapes = [block_tensors(self.config)[name] for name in names]
        rows, columns = sum(shape[0] for shape in shapes), shapes[0][1:]
        stacked = torch.empty(self.config.num_blocks, rows, *columns, device=self.device, dtype=self.dtype)
        for block in range(self.config.num_blocks):
            start = 0
            for name, shape in zip(names, shapes, strict=True):
                stacked[block, start : start + shape[0]].copy_(self._read(f"model.layers.{block}.{name}"))
                start += shape[0]
        return stacked
