"""Small routed models whose gates and LoRA matter, and batches of random steps for them."""

import torch
from qwen2 import random_model

from layerroute_training.config import LoraConfig, PaperObjective, RouterConfig, TrainConfig
from layerroute_training.recipes import paper
from layerroute_training.routed_model import RoutedModel

BLOCKS, VOCABULARY = 6, 97
SCOPES = ("generation", "sequence")
PAPER = TrainConfig(objective=PaperObjective(), lora=LoraConfig(dropout=0.05), routers=paper().routers)
FORMS = (("generation", "last_block"), ("generation", "own_block"), ("sequence", "own_block"))
"""Scopes, and what gates may read in them."""


def routed(scope="generation", pooling="last", dtype=torch.float32, reads="own_block", **changes):
    """A small model whose gates differ from step to step and whose LoRA changes the weights."""
    config = TrainConfig(routers=RouterConfig(scope=scope, pooling=pooling, reads=reads), **changes)
    model = RoutedModel(random_model(num_hidden_layers=BLOCKS).to(dtype), config).eval()
    return trained(model)


def trained(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=generator)
            elif not name.startswith("backbone"):
                parameter.normal_(std=0.5, generator=generator)
    return model


def batch(shapes, padded_to=None, seed=0):
    """Steps of random tokens: (prompt length, answer length) each, padded with random tokens too."""
    generator = torch.Generator().manual_seed(seed)
    prompts, ends = torch.tensor([p for p, _ in shapes]), torch.tensor([p + a for p, a in shapes])
    width = padded_to or int(ends.max())
    rows = [torch.randint(VOCABULARY, (width,), generator=torch.Generator().manual_seed(p * 64 + a)) for p, a in shapes]
    filler = torch.randint(VOCABULARY, (len(shapes), width), generator=generator)
    return torch.where(torch.arange(width) < ends[:, None], torch.stack(rows), filler), prompts, ends
