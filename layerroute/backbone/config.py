"""BackboneConfig: the shape of a Qwen2-family checkpoint, from its config.json; and where checkpoints are found."""

import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from layerroute.errors import BackboneNotFoundError, UnsupportedArchitectureError, WeightsError
from layerroute.flops import BackboneShape

EMBEDDED = "embedded"
"""Name of the model that ships with the package."""

_CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.jinja", "merges.txt")


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


def read_config(folder: Path) -> BackboneConfig:
    """Read `config.json` of a checkpoint folder, in the form of transformers 4 or 5.

    Raises:
        BackboneNotFoundError: no config.json there.
        UnsupportedArchitectureError: not a Qwen2 model, or a feature this runtime does not implement.
        WeightsError: config.json cannot be read or lacks a field.
    """
    path = folder / "config.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BackboneNotFoundError(
            f"{folder} holds no config.json: give the folder of a Hugging Face checkpoint of the Qwen2 family"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path} is not valid JSON ({error}): download the checkpoint again") from error
    _refuse_unsupported(raw, folder)
    try:
        num_heads = int(raw["num_attention_heads"])
        hidden_size = int(raw["hidden_size"])
        rope = raw.get("rope_parameters") or {}
        return BackboneConfig(
            vocab_size=int(raw["vocab_size"]),
            hidden_size=hidden_size,
            intermediate_size=int(raw["intermediate_size"]),
            num_blocks=int(raw["num_hidden_layers"]),
            num_heads=num_heads,
            num_kv_heads=int(raw.get("num_key_value_heads") or num_heads),
            head_dim=int(raw.get("head_dim") or hidden_size // num_heads),
            rms_eps=float(raw.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10000.0))),
            max_positions=int(raw.get("max_position_embeddings", 32768)),
            tied=bool(raw.get("tie_word_embeddings", False)),
        )
    except KeyError as error:
        raise WeightsError(f"{path} lacks the field {error}: this is no complete Qwen2 configuration") from error


def _refuse_unsupported(raw: dict[str, Any], folder: Path) -> None:
    model_type = raw.get("model_type")
    if model_type != "qwen2":
        raise UnsupportedArchitectureError(
            f"{folder} is a {model_type!r} model; LayerRoute runs the Qwen2 family (model_type 'qwen2'), "
            "for example Qwen/Qwen2.5-0.5B-Instruct"
        )
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    unsupported = {
        f"RoPE scaling {rope_type!r}": rope_type not in ("default", None),
        "sliding-window attention": bool(raw.get("use_sliding_window")),
        "dual chunk attention": raw.get("dual_chunk_attention_config") is not None,
        "quantised weights": raw.get("quantization_config") is not None,
        f"activation {raw.get('hidden_act')!r}": raw.get("hidden_act", "silu") != "silu",
    }
    for feature, used in unsupported.items():
        if used:
            raise UnsupportedArchitectureError(
                f"{folder} uses {feature}, which this runtime does not implement: "
                "use the plain bfloat16 checkpoint with its default attention"
            )


def embedded_folder() -> Path:
    """Folder of the model that ships with the package."""
    return Path(str(files("layerroute"))) / "assets" / "embedded"


def resolve_checkpoint(model: str) -> Path:
    """Find the folder of a model: "embedded", a local folder, or a hub id (downloaded into the hub's own cache).

    Raises:
        BackboneNotFoundError: none of the three; the message names the remedy.
    """
    if model == EMBEDDED:
        return embedded_folder()
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    looks_like_path = model.startswith((".", "~", os.sep)) or model.count("/") != 1
    if looks_like_path:
        raise BackboneNotFoundError(
            f"no model {model!r}: give 'embedded', the path of an existing checkpoint folder, "
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
