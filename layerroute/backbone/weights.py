"""Backbone weights: safetensors of a Hugging Face Qwen2 folder, fused and stacked over blocks.

Stacking puts block `i` of every matrix at index `i` of one tensor, so a layer program is data, not structure.

Shape suffixes: L blocks, D hidden size, E fused query+key+value rows, H query heads * head_dim, F twice the
intermediate size (gate and up), I intermediate size, V vocabulary.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from layerroute.backbone.config import BackboneConfig
from layerroute.errors import BackboneNotFoundError, WeightsError

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


class TensorFiles:
    """Tensors by name over all safetensors files of a folder, read one at a time.

    Raises:
        BackboneNotFoundError: the folder holds no safetensors.
        WeightsError: a file is truncated or not safetensors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        paths = sorted(folder.glob("model*.safetensors"))
        if not paths:
            raise BackboneNotFoundError(
                f"{folder} holds no model*.safetensors: give a checkpoint in safetensors form "
                "(other formats can run code when loaded and are refused)"
            )
        self._by_name = {}
        for path in paths:
            try:
                handle = self._stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{path.name} is truncated or damaged ({error}): fetch the file again") from error
            self._by_name.update(dict.fromkeys(handle.keys(), handle))

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._by_name))

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read one tensor and check its shape."""
        if name not in self._by_name:
            raise WeightsError(f"{self.folder} lacks the tensor {name!r}: a weight file is missing, fetch it again")
        tensor: Tensor = self._by_name[name].get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise WeightsError(
                f"{name!r} has shape {tuple(tensor.shape)}, but config.json asks for {shape}: "
                "weights and configuration are of different models"
            )
        return tensor


def load_weights(
    folder: Path, config: BackboneConfig, device: torch.device, dtype: torch.dtype, deltas: LoraDeltas | None = None
) -> BackboneWeights:
    """Load a checkpoint folder, fuse its projections, stack its blocks, and add LoRA deltas in float32.

    Raises:
        BackboneNotFoundError: no safetensors there.
        WeightsError: files truncated, tensors missing or of the wrong shape, deltas for modules that do not exist.
    """
    with TensorFiles(folder) as tensors:
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
        D, I = c.hidden_size, c.intermediate_size  # noqa: E741 - the shape letters of this module
        H, K = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        embed_VD = self._plain("model.embed_tokens.weight", (c.vocab_size, D))
        head = "lm_head.weight"
        weights = BackboneWeights(
            embed_VD=embed_VD,
            attn_norm_LD=self._stacked({"input_layernorm.weight": (D,)}),
            qkv_LED=self._stacked(
                {f"self_attn.{p}_proj.weight": (r, D) for p, r in zip("qkv", (H, K, K), strict=True)}
            ),
            qkv_bias_LE=self._stacked(
                {f"self_attn.{p}_proj.bias": (r,) for p, r in zip("qkv", (H, K, K), strict=True)}
            ),
            o_LDH=self._stacked({"self_attn.o_proj.weight": (D, H)}),
            mlp_norm_LD=self._stacked({"post_attention_layernorm.weight": (D,)}),
            gate_up_LFD=self._stacked({"mlp.gate_proj.weight": (I, D), "mlp.up_proj.weight": (I, D)}),
            down_LDI=self._stacked({"mlp.down_proj.weight": (D, I)}),
            final_norm_D=self._plain("model.norm.weight", (D,)),
            lm_head_VD=embed_VD if c.tied else self._plain(head, (c.vocab_size, D)),
        )
        if self.deltas:
            raise WeightsError(f"the adapter changes modules this backbone does not have: {sorted(self.deltas)[:3]}")
        return weights

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self.tensors.read(name, shape)
        delta = self.deltas.pop(name.removesuffix(".weight"), None) if name.endswith(".weight") else None
        if delta is None:
            return tensor
        if delta.shape != tensor.shape:
            raise WeightsError(f"the adapter's change of {name!r} has shape {tuple(delta.shape)}, not {shape}")
        return tensor.float() + delta.to(tensor.device)

    def _plain(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._read(name, shape).to(self.device, self.dtype).contiguous()

    def _stacked(self, parts: Mapping[str, tuple[int, ...]]) -> Tensor:
        """Stack over blocks what `parts` (name and shape, concatenated along rows) make up in each block."""
        rows = sum(shape[0] for shape in parts.values())
        columns = next(iter(parts.values()))[1:]
        stacked = torch.empty(self.config.num_blocks, rows, *columns, device=self.device, dtype=self.dtype)
        for block in range(self.config.num_blocks):
            start = 0
            for name, shape in parts.items():
                stacked[block, start : start + shape[0]].copy_(self._read(f"model.layers.{block}.{name}", shape))
                start += shape[0]
        return stacked
