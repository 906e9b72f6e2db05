"""A bundle for three blocks of width 32 to test with."""

import torch

from layerroute.bundle import BackboneIdentity, save_bundle
from layerroute.lora import LoraModule

NUM_BLOCKS, HIDDEN = 3, 32
FEATURES = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.down_proj": (32, 48),
}


def tiny_lora(blocks=range(NUM_BLOCKS), rank=4, scale=2.0):
    generator = torch.Generator().manual_seed(7)
    return {
        f"model.layers.{block}.{name}": LoraModule(
            torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator), scale
        )
        for block in blocks
        for name, (outputs, inputs) in FEATURES.items()
    }


def save_tiny(folder, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    arguments = {
        "gates_weight_LD": torch.randn(NUM_BLOCKS, HIDDEN, generator=generator),
        "gates_bias_L": torch.randn(NUM_BLOCKS, generator=generator),
        "kind_weight_D": torch.randn(HIDDEN, generator=generator),
        "kind_bias": torch.randn(1, generator=generator),
        "evidence": "last",
        "normalise": True,
        "always_run": (0,),
        "scope": "generation",
        "backbone": BackboneIdentity(name="tiny", fingerprint="f" * 64),
        "lora": tiny_lora(),
        "training": {"seed": seed},
    }
    return save_bundle(folder, **(arguments | changes))
