"""BackboneConfig: the shape of a Qwen2-family checkpoint, from its config.json; and where checkpoints are found."""

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from layerroute.backbone.documents import AGAIN, Document, check_document, read_object
from layerroute.errors import BackboneNotFoundError, CheckpointError, UnsupportedArchitectureError, shown
from layerroute.flops import BackboneShape

EMBEDDED = "embedded"
"""Name of the model that ships with the package."""

_CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.jinja")


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """Shape and constants of a Qwen2-family decoder.

    Attributes:
        vocab_size: rows of the embedding (may exceed the tokenizer's vocabulary).
        max_positions: longest sequence the checkpoint was trained for, in tokens.
        tied: whether the LM head shares the embedding matrix.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_blocks: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_eps: float
    rope_theta: float
    max_positions: int
    tied: bool

    @property
    def qkv_size(self) -> int:
        """Rows of the fused query, key and value projection."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    def shape(self, dtype: torch.dtype) -> BackboneShape:
        """The sizes that cost depends on, for weights of `dtype`."""
        return BackboneShape(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_blocks=self.num_blocks,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            bytes_per_weight=dtype.itemsize,
        )


_Size = Annotated[int, Field(ge=1, le=2**24)]  # far beyond any model, and sums of products stay numbers


class _RopeDocument(Document):
    rope_theta: Annotated[float, Field(ge=1)] | None = None
    rope_type: str | None = None
    type: str | None = None
    partial_rotary_factor: float | None = None
    full_attention: Any = None

    @property
    def kind(self) -> str:
        """Its name; "default" rotates by position alone."""
        if self.full_attention is not None:
            return "by kind of layer"
        return self.rope_type or self.type or "default"


class _ConfigDocument(Document):
    """What `config.json` of a Qwen2 model says, with transformers' defaults."""

    vocab_size: _Size
    hidden_size: _Size
    intermediate_size: _Size
    num_hidden_layers: _Size
    num_attention_heads: _Size
    num_key_value_heads: _Size | None = None
    head_dim: _Size | None = None
    rms_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    rope_theta: Annotated[float, Field(ge=1)] | None = None
    rope_parameters: _RopeDocument | None = None
    rope_scaling: _RopeDocument | None = None
    max_position_embeddings: Annotated[int, Field(ge=2, le=2**22)] = 32768  # tables of all positions are made
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    use_sliding_window: bool | None = None
    layer_types: list[str] | None = None
    dual_chunk_attention_config: Any = None
    quantization_config: Any = None


def read_config(folder: Path) -> BackboneConfig:
    """Read `config.json` of a checkpoint folder, in the form of transformers 4 or 5.

    Raises:
        BackboneNotFoundError: no config.json there.
        UnsupportedArchitectureError: not a Qwen2 model, or a feature this runtime does not implement.
        CheckpointError: config.json cannot be read, lacks a field, or says what cannot be.
    """
    path = folder / "config.json"
    if not os.path.lexists(path):
        raise BackboneNotFoundError(
            f"{folder} holds no config.json: give the folder of a Hugging Face checkpoint of the Qwen2 family"
        )
    raw = read_object(path)
    if raw.get("model_type") != "qwen2":
        raise UnsupportedArchitectureError(
            f"{folder} is a {shown(raw.get('model_type'))} model; LayerRoute runs the Qwen2 family "
            "(model_type 'qwen2'), for example Qwen/Qwen2.5-0.5B-Instruct"
        )
    said = check_document(path, raw, _ConfigDocument)
    _refuse_unsupported(said, folder)
    num_kv_heads = said.num_key_value_heads or said.num_attention_heads
    if said.num_attention_heads % num_kv_heads:
        raise CheckpointError(
            f"{path} has num_attention_heads = {said.num_attention_heads}, which num_key_value_heads = {num_kv_heads} "
            f"does not divide: {AGAIN}"
        )
    return BackboneConfig(
        vocab_size=said.vocab_size,
        hidden_size=said.hidden_size,
        intermediate_size=said.intermediate_size,
        num_blocks=said.num_hidden_layers,
        num_heads=said.num_attention_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_head_dim(said, path),
        rms_eps=said.rms_norm_eps,
        rope_theta=(said.rope_parameters and said.rope_parameters.rope_theta) or said.rope_theta or 10000.0,
        max_positions=said.max_position_embeddings,
        tied=said.tie_word_embeddings,
    )


def _head_dim(said: _ConfigDocument, path: Path) -> int:
    if said.head_dim is None and said.hidden_size % said.num_attention_heads:
        raise CheckpointError(
            f"{path} has hidden_size = {said.hidden_size}, which num_attention_heads = {said.num_attention_heads} "
            f"does not divide, and no head_dim: {AGAIN}"
        )
    head_dim = said.head_dim or said.hidden_size // said.num_attention_heads
    if head_dim % 2:
        raise CheckpointError(f"{path} gives a head_dim of {head_dim}, and RoPE needs an even one: {AGAIN}")
    return head_dim


def _refuse_unsupported(said: _ConfigDocument, folder: Path) -> None:
    ropes = [rope for rope in (said.rope_scaling, said.rope_parameters) if rope is not None]
    odd_ropes = [rope.kind for rope in ropes if rope.kind != "default"]
    sliding = any(kind != "full_attention" for kind in said.layer_types or ())
    unsupported = {
        f"RoPE scaling {shown(odd_ropes[0] if odd_ropes else None)}": bool(odd_ropes),
        "RoPE of a part of each head": any(rope.partial_rotary_factor not in (None, 1) for rope in ropes),
        "sliding-window attention": said.use_sliding_window or sliding,
        "dual chunk attention": said.dual_chunk_attention_config is not None,
        "quantised weights": said.quantization_config is not None,
        f"activation {shown(said.hidden_act)}": said.hidden_act != "silu",
    }
    for feature, used in unsupported.items():
        if used:
            raise UnsupportedArchitectureError(
                f"{folder} uses {feature}, which this runtime does not implement: "
                "use the plain bfloat16 checkpoint of a Qwen2 model with its default attention"
            )


def embedded_folder() -> Path:
    """Folder of the model that ships with the package."""
    return Path(str(files("layerroute"))) / "assets" / "embedded"


def local_folder(name: str) -> Path | None:
    """The folder of that path, if there is one; a name that can be no path here is none."""
    path = os.path.expanduser(name)  # pathlib raises for an unknown user, a NUL or thousands of letters
    return Path(path) if os.path.isdir(path) else None


def resolve_checkpoint(model: str) -> Path:
    """Find the folder of a model: "embedded", a local folder, or a hub id (downloaded into the hub's own cache).

    Raises:
        BackboneNotFoundError: none of the three; the message names the remedy.
    """
    if model == EMBEDDED:
        return embedded_folder()
    folder = local_folder(model)
    if folder is not None:
        return folder
    looks_like_path = model.startswith((".", "~", os.sep)) or model.count("/") != 1
    if looks_like_path:
        raise BackboneNotFoundError(
            f"no model {shown(model)}: give 'embedded', the path of an existing checkpoint folder, "
            "or a hub id such as 'Qwen/Qwen2.5-0.5B-Instruct'"
        )
    return _download(model)


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(_CHECKPOINT_FILES)))
    except Exception as error:  # the hub client raises many types; all mean that the model is not to be had
        raise BackboneNotFoundError(
            f"no local folder {hub_id!r}, and the hub did not deliver a model of that name "
            f"({type(error).__name__}): check the name and the network, or download the checkpoint "
            "elsewhere and give its folder"
        ) from error
