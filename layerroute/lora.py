"""Plain LoRA in PEFT's file format: what a bundle's adapter is read from and written to, without needing PEFT.

Shape suffixes: R rank, I input features, O output features.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from layerroute.errors import BundleError, shown
from layerroute.files import parse_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_MODULE = re.compile(r"model\.layers\.(0|[1-9]\d{0,5})\.((?:self_attn\.[qkvo]|mlp\.(?:gate|up|down))_proj)", re.ASCII)
_KEY = re.compile(rf"{re.escape(_PREFIX)}({_MODULE.pattern})\.lora_([AB])\.weight", re.ASCII)
_HIGHEST = 2**20  # rank and alpha are some 8 to 512; beyond this, weights overflow

# Fields of PEFT's configuration that do not change what a plain LoRA computes, or that are read here.
_READ_OR_INERT = {
    *("peft_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path", "revision", "task_type"),
    *("inference_mode", "auto_mapping", "peft_version", "lora_dropout", "layers_to_transform", "layers_pattern"),
    *("exclude_modules", "megatron_core", "qalora_group_size"),
}
# Every other field has to be off, or have one of these values.
_NEUTRAL: dict[str, tuple[Any, ...]] = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian")}


@dataclass(frozen=True, slots=True, eq=False)
class LoraModule:
    """The LoRA of one linear module: its weight changes by `scale * B @ A`."""

    a_RI: Tensor
    b_OR: Tensor
    scale: float

    def delta(self) -> Tensor:
        """The change of the module's weight, float32, shape [O, I]."""
        return self.scale * (self.b_OR.float() @ self.a_RI.float())


def parse_adapter(config: bytes, weights: bytes) -> dict[str, LoraModule]:
    """Read the two files of a PEFT adapter.

    Returns:
        LoRA by module name, such as "model.layers.0.self_attn.q_proj".

    Raises:
        BundleError: not a plain LoRA, or damaged.
    """
    rank, scale = _read_config(config)
    tensors = load_tensors(ADAPTER_WEIGHTS, weights)
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise BundleError(
                f"{ADAPTER_WEIGHTS} holds {shown(key)}: only LoRA on the linear modules of Qwen2 blocks can be applied"
            )
        halves.setdefault(match[1], {})[match[4]] = tensor
    return {module: _module(module, halves[module], rank, scale) for module in sorted(halves)}


def load_tensors(name: str, data: bytes) -> dict[str, Tensor]:
    """The tensors of a bundle's file.

    Raises:
        BundleError: not safetensors, or of a dtype that torch does not have.
    """
    try:
        tensors: dict[str, Tensor] = load(data)
    except Exception as error:  # beside its own error, the library raises what reading an odd dtype or shape gives
        raise BundleError(f"{name} is damaged ({str(error)[:200]!a}): fetch or train the bundle again") from error
    return tensors


def serialise_adapter(lora: Mapping[str, LoraModule], num_blocks: int, backbone: str) -> dict[str, bytes]:
    """Write the two files of a PEFT adapter, which `peft.PeftModel.from_pretrained` opens.

    Raises:
        BundleError: module names that no Qwen2 block has, or modules of different rank or scale.
    """
    if len({(module.a_RI.shape[0], module.scale) for module in lora.values()}) != 1:
        raise BundleError("all LoRA modules of a bundle need the same rank and scale")
    one = next(iter(lora.values()))
    rank, alpha = one.a_RI.shape[0], one.scale * one.a_RI.shape[0]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": backbone,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": _target_modules(lora, num_blocks),
        "inference_mode": True,
    }
    tensors = {}
    for name, module in lora.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = module.a_RI.detach().cpu().contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = module.b_OR.detach().cpu().contiguous()
    config_text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    return {ADAPTER_CONFIG: config_text.encode(), ADAPTER_WEIGHTS: save(tensors, {"format": "pt"})}


def _read_config(data: bytes) -> tuple[int, float]:
    try:
        config = parse_json(data)
    except ValueError as error:
        raise BundleError(f"{ADAPTER_CONFIG} is not JSON ({error}): fetch or train the bundle again") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise BundleError(f"{ADAPTER_CONFIG} is not of a LoRA adapter: a bundle's adapter must have peft_type 'LORA'")
    for field, value in config.items():
        if field in _READ_OR_INERT or not value or value in _NEUTRAL.get(field, ()):
            continue
        raise BundleError(
            f"{ADAPTER_CONFIG} asks for {shown(field)[1:-1]} = {shown(value)}, which this runtime does not apply: save "
            "the adapter as plain LoRA (merge or convert it with PEFT first)"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= _HIGHEST:
        raise BundleError(f"{ADAPTER_CONFIG} has r = {shown(rank)}: a LoRA needs a rank r from 1 to {_HIGHEST}")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) <= _HIGHEST:
        raise BundleError(
            f"{ADAPTER_CONFIG} has lora_alpha = {shown(alpha)}: a LoRA needs a number lora_alpha, at most {_HIGHEST}"
        )
    return rank, alpha / rank


def _module(name: str, halves: dict[str, Tensor], rank: int, scale: float) -> LoraModule:
    if set(halves) != {"A", "B"}:
        raise BundleError(f"{ADAPTER_WEIGHTS} holds half of the LoRA of {name!r}: fetch or train the bundle again")
    a_RI, b_OR = halves["A"], halves["B"]
    if not (a_RI.is_floating_point() and b_OR.is_floating_point()):
        raise BundleError(f"the LoRA of {name!r} is of {a_RI.dtype} and {b_OR.dtype}: save it in float32 or bfloat16")
    if a_RI.ndim != 2 or b_OR.ndim != 2 or a_RI.shape[0] != rank or b_OR.shape[1] != rank:
        raise BundleError(
            f"the LoRA of {name!r} has shapes {tuple(a_RI.shape)} and {tuple(b_OR.shape)}, which do not fit rank {rank}"
        )
    if not (torch.isfinite(a_RI).all() and torch.isfinite(b_OR).all()):
        raise BundleError(f"the LoRA of {name!r} holds NaN or infinite values: train the bundle again")
    return LoraModule(a_RI, b_OR, scale)


def _target_modules(lora: Mapping[str, LoraModule], num_blocks: int) -> list[str]:
    """Short names ("q_proj") where they select exactly the modules there are, else full names."""
    matches = {name: _MODULE.fullmatch(name) for name in lora}
    if wrong := [name for name, match in matches.items() if match is None]:
        raise BundleError(f"no Qwen2 block has a linear module {wrong[0]!r}: name modules as transformers does")
    short = {match[2] for match in matches.values() if match}
    if len(lora) == len(short) * num_blocks:
        return sorted(name.rpartition(".")[2] for name in short)
    return sorted(lora)
