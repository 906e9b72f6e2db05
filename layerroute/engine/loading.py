"""Turn an EngineConfig into things: device, dtype, bundle, backbone, end tokens."""

import os
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field
from transformers import PreTrainedTokenizerBase

from layerroute.backbone.config import BackboneConfig
from layerroute.backbone.documents import AGAIN, Document, read_optional
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import Stepper, select_stepper
from layerroute.backbone.weights import load_weights
from layerroute.bundle import Bundle, check_fits, fingerprint, load_bundle
from layerroute.engine.config import EngineConfig
from layerroute.errors import CheckpointError, DeviceError, RequestError, shown
from layerroute.flops import BackboneShape

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TURN_ENDS = ("<|im_end|>", "<|endoftext|>")


def resolve_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        DeviceError: not there, or not a device name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"unknown device {name!r}: use 'auto', 'cpu', 'cuda' or 'cuda:0'") from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {name!r} is not supported: use 'auto', 'cpu', 'cuda' or 'cuda:0'")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"device {name!r} was asked for, but this torch ({torch.__version__}) sees no CUDA GPU: "
            "use device='cpu' or 'auto', or install a CUDA build of torch and its driver"
        )
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise DeviceError(
            "this process was forked from one that already used CUDA, and a CUDA context cannot be inherited: load the "
            "model in the child only, start children with 'spawn', or use device='cpu' there"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"there is no {name!r}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; "auto" is bfloat16 on CUDA and float32 on the CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise RequestError(f"unknown dtype {name!r}: use 'auto' or one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def default_bundle(config: EngineConfig, folder: Path, shape: BackboneShape) -> Bundle | None:
    """The bundle asked for, or the one that ships with the checkpoint, checked against the backbone.

    Raises:
        BundleError: missing, damaged, or made for another backbone.
    """
    if config.adapter == "none":
        return None
    path = Path(config.adapter or folder / "bundle")
    if config.adapter is None and not path.is_dir():
        return None
    bundle = load_bundle(path)
    check_fits(bundle, fingerprint(folder), shape)
    return bundle


def load_backbone(
    folder: Path, config: BackboneConfig, device: torch.device, dtype: torch.dtype, bundle: Bundle | None
) -> tuple[Backbone, Stepper]:
    """Load weights, with the bundle's LoRA merged in float32, and choose the backend."""
    deltas = bundle.lora_deltas() if bundle else None
    backbone = Backbone(config, load_weights(folder, config, device, dtype, deltas))
    return backbone, select_stepper(backbone)


def check_memory(backbone: Backbone, config: EngineConfig, context_window: int) -> None:
    """Refuse KV caches that the device cannot hold beside the weights: one, or those of all rows that run together.

    Raises:
        RequestError: they cannot be held; how much memory there is and what to lower.
    """
    shape = backbone.config.shape(backbone.dtype)
    per_token = 2 * shape.kv_size * shape.bytes_per_weight * shape.num_blocks
    caches = config.conversations if config.max_batch_size > 1 else 1
    needed, room = caches * context_window * per_token, _free_bytes(backbone.device)
    if room is not None and needed > room:
        raise RequestError(
            f"max_batch_size={config.max_batch_size} needs {needed / 2**30:.2f} GiB for KV caches of {context_window} "
            f"tokens, and {backbone.device} has {room / 2**30:.2f} GiB: lower max_batch_size or context_window"
        )


def _free_bytes(device: torch.device) -> int | None:
    """Bytes that KV caches can take; of a CPU its whole memory, as pages cost nothing before they are touched."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return None


def _as_list(ids: Any) -> Any:
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


class _GenerationDocument(Document):
    eos_token_id: Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_as_list)] = Field([], max_length=32)


def end_ids_of(folder: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer: those of generation_config.json, and the chat template's end of turn.

    Raises:
        CheckpointError: generation_config.json is damaged or names ids that no token has, or nothing ends an answer.
    """
    path = folder / "generation_config.json"
    vocabulary = tokenizer.get_vocab()
    listed = read_optional(path, _GenerationDocument).eos_token_id
    if unknown := set(listed) - set(vocabulary.values()):
        raise CheckpointError(f"{path} has eos_token_id = {shown(min(unknown))}, which is the id of no token: {AGAIN}")
    ids = {*listed, *(vocabulary[token] for token in _TURN_ENDS if token in vocabulary)}
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    if not ids:
        raise CheckpointError(
            f"nothing ends an answer of the model in {folder}: name the end token as eos_token_id in "
            f"{path.name}, or as eos_token in tokenizer_config.json"
        )
    return frozenset(ids)
