"""Random Qwen2 checkpoints as transformers writes them, and a naive forward over layer programs to compare with."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from layerroute.backbone.config import read_config
from layerroute.backbone.model import Backbone
from layerroute.backbone.weights import load_weights


def random_model(seed: int = 0, **changes) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    model = Qwen2ForCausalLM(Qwen2Config(**(sizes | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms that matter, matrices that spread
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.3 if parameter.ndim == 1 else 0.15)
    return model


def save(model: Qwen2ForCausalLM, folder: Path, **kwargs) -> Path:
    model.save_pretrained(folder, **kwargs)
    return folder


def load(folder: Path, dtype=torch.float32) -> Backbone:
    config = read_config(folder)
    return Backbone(config, load_weights(folder, config, torch.device("cpu"), dtype))


@torch.inference_mode()
def naive_logits(model: Qwen2ForCausalLM, ids: Tensor, blocks: tuple[int, ...], num_full: int = 0) -> Tensor:
    """Logits [T, V] with no cache at all, from transformers' own layers.

    Tokens before `num_full` run at full depth, tokens from there on visit `blocks`. A later token sees of an
    earlier one, in each visit, the keys and values of the state that the earlier token had entering that block.
    Only for skip programs if `num_full` is neither 0 nor all; any program otherwise.
    """
    hidden = model.model.embed_tokens(ids)[None]
    T = len(ids)
    rope = model.model.rotary_emb(hidden, torch.arange(T)[None])
    mask = torch.full((T, T), float("-inf")).triu(1)[None, None]

    def run(block: int, hidden: Tensor) -> Tensor:
        out = model.model.layers[block](hidden, attention_mask=mask, position_embeddings=rope)
        return out[0] if isinstance(out, tuple) else out

    if num_full == 0:
        for block in blocks:
            hidden = run(block, hidden)
    else:
        governed = (torch.arange(T) >= num_full)[None, :, None]
        for block in range(model.config.num_hidden_layers):
            out = run(block, hidden)
            hidden = out if block in blocks else torch.where(governed, hidden, out)
    return model.lm_head(model.model.norm(hidden))[0]
