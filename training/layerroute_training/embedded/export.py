"""The trained backbone as a checkpoint in Hugging Face's form."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from layerroute_training.embedded.batches import special_token
from layerroute_training.embedded.network import Network, NetworkShape

SHARD_BYTES = 15_000_000
STACKS = {
    "input_norm_LD": "input_layernorm.weight",
    "post_norm_LD": "post_attention_layernorm.weight",
    "q_weight_LQD": "self_attn.q_proj.weight",
    "k_weight_LKD": "self_attn.k_proj.weight",
    "v_weight_LKD": "self_attn.v_proj.weight",
    "q_bias_LQ": "self_attn.q_proj.bias",
    "k_bias_LK": "self_attn.k_proj.bias",
    "v_bias_LK": "self_attn.v_proj.bias",
    "o_weight_LDQ": "self_attn.o_proj.weight",
    "gate_weight_LFD": "mlp.gate_proj.weight",
    "up_weight_LFD": "mlp.up_proj.weight",
    "down_weight_LDF": "mlp.down_proj.weight",
}
SINGLES = {"embed_VD": "model.embed_tokens.weight", "final_norm_D": "model.norm.weight"}


def named_tensors(network: Network) -> Iterator[tuple[str, Tensor]]:
    """The weights under `transformers`' names, in block order."""
    yield SINGLES["embed_VD"], network.embed_VD.detach()
    for block in range(network.shape.num_blocks):
        for ours, theirs in STACKS.items():
            yield f"model.layers.{block}.{theirs}", network.get_parameter(ours)[block].detach()
    yield SINGLES["final_norm_D"], network.final_norm_D.detach()


def export_backbone(network: Network, tokenizer_folder: Path, folder: Path) -> None:
    """Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load, with weights in bf16 shards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shards: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for name, tensor in named_tensors(network):
        stored = tensor.to(torch.bfloat16).cpu().contiguous().clone()
        if size and size + stored.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = stored
        size += stored.nbytes
        total += stored.nbytes
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, file)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    end, padding = special_token(tokenizer, "<|im_end|>"), special_token(tokenizer, "<|endoftext|>")
    _write_json(folder / "config.json", backbone_config(network.shape, end, padding))
    generation = {"eos_token_id": [end, padding], "pad_token_id": padding, "do_sample": False}
    _write_json(folder / "generation_config.json", generation)
    for pattern in ("tokenizer.json", "tokenizer_config.json", "*.jinja"):
        for source in tokenizer_folder.glob(pattern):
            shutil.copyfile(source, folder / source.name)


def load_backbone(network: Network, folder: Path) -> None:
    """Give the network the weights that `export_backbone` wrote.

    Raises:
        FileNotFoundError: the folder has no weights.
        ValueError: they are those of another shape.
    """
    files = sorted(folder.glob("model-*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no model-*.safetensors: give the folder embedded/ of a finished run")
    stored: dict[str, Tensor] = {}
    for file in files:
        stored |= load_file(file)
    with torch.no_grad():
        for name, ours in named_tensors(network):
            found = stored.get(name)
            if found is None or found.shape != ours.shape:
                raise ValueError(f"{folder}: {name} does not fit a network of shape {network.shape}")
            ours.copy_(found)  # `ours` shares the parameter's memory


def backbone_config(shape: NetworkShape, end: int, padding: int) -> dict[str, Any]:
    """`config.json` of the backbone."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_blocks,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": padding,
        "dtype": "bfloat16",
        "use_cache": True,
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
