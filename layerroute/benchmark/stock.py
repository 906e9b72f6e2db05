"""The stock model: transformers' own Qwen2 and `generate()` over the very weights that this engine runs.

Shape suffixes: B = 1 prompt, T tokens, H query heads * head_dim, K KV heads * head_dim.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from layerroute.backbone.config import BackboneConfig
from layerroute.backbone.model import Backbone
from layerroute.backbone.weights import BackboneWeights
from layerroute.benchmark.answers import Generate


def stock_model(backbone: Backbone) -> Any:
    """A Qwen2ForCausalLM whose parameters are views of the backbone's weights: the same numbers, no second copy."""
    c = backbone.config
    config = Qwen2Config(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_blocks,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim,
        max_position_embeddings=c.max_positions,
        rms_norm_eps=c.rms_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        tie_word_embeddings=c.tied,
    )
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    model.requires_grad_(False)
    model.load_state_dict(state_dict(backbone.weights, c), assign=True)
    model.model.rotary_emb = Qwen2RotaryEmbedding(config).to(backbone.device)  # its frequencies are in no state dict
    return model.eval()


def state_dict(weights: BackboneWeights, config: BackboneConfig) -> dict[str, Tensor]:
    """The backbone's weights by transformers' names, as views."""
    H, K = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    tensors = {
        "model.embed_tokens.weight": weights.embed_VD,
        "model.norm.weight": weights.final_norm_D,
        "lm_head.weight": weights.lm_head_VD,
    }
    for block in range(config.num_blocks):
        parts = {
            "input_layernorm.weight": weights.attn_norm_LD[block],
            "post_attention_layernorm.weight": weights.mlp_norm_LD[block],
            "self_attn.o_proj.weight": weights.o_LDH[block],
            "mlp.down_proj.weight": weights.down_LDI[block],
        }
        for name, start, size in (("q", 0, H), ("k", H, K), ("v", H + K, K)):
            parts[f"self_attn.{name}_proj.weight"] = weights.qkv_LED[block, start : start + size]
            parts[f"self_attn.{name}_proj.bias"] = weights.qkv_bias_LE[block, start : start + size]
        parts["mlp.gate_proj.weight"], parts["mlp.up_proj.weight"] = weights.gate_up_LFD[block].chunk(2)
        tensors |= {f"model.layers.{block}.{name}": tensor for name, tensor in parts.items()}
    return tensors


def stock_answer(model: Any, prompt_ids: tuple[int, ...], cache: str | None) -> Generate:
    """Greedy `generate()` from a prompt; no token ends the answer.

    `cache` is transformers' name of a cache implementation, None for its default.
    """
    ids_BT = torch.tensor([prompt_ids], device=model.device)
    mask_BT = torch.ones_like(ids_BT)

    def generate(num_tokens: int, on_token: Callable[[], None] | None) -> list[int]:
        config = GenerationConfig(
            do_sample=False, max_new_tokens=num_tokens, min_new_tokens=num_tokens, cache_implementation=cache
        )
        output_BT = model.generate(
            ids_BT,
            attention_mask=mask_BT,
            generation_config=config,
            streamer=None if on_token is None else _Streamer(on_token),
        )
        return [int(token) for token in output_BT[0, len(prompt_ids) :].tolist()]

    return generate


class _Streamer:
    """Hears of each token, after the prompt, as soon as the host has it."""

    def __init__(self, on_token: Callable[[], None]) -> None:
        self._on_token = on_token
        self._is_prompt = True

    def put(self, _: Tensor) -> None:
        if not self._is_prompt:
            self._on_token()
        self._is_prompt = False

    def end(self) -> None:
        pass
