"""Random steps and small routed models whose gates decide by the step."""

import numpy as np
import torch
from qwen2 import random_model

from layerroute_training.config import ConstrainedObjective, LoraConfig, RouterConfig, TrainConfig
from layerroute_training.routed_model import RoutedModel
from layerroute_training.steps import StepSet

BLOCKS, VOCABULARY = 6, 97


def made_steps(count=40, seed=0, calls=None, answers=(1, 20), prompts=(4, 40)):
    """Steps in conversations of two, of two groups and (unless `calls` says otherwise) both kinds."""
    random = np.random.default_rng(seed)
    prompt, answer = random.integers(*prompts, count), random.integers(*answers, count)
    end = np.cumsum(prompt + answer)
    start = end - prompt - answer
    return StepSet(
        tokens=random.integers(0, VOCABULARY, int(end[-1])).astype(np.int32),
        start=start,
        answer=start + prompt,
        end=end,
        is_tool_call=random.random(count) < 0.5 if calls is None else np.full(count, calls),
        group=random.integers(0, 2, count).astype(np.int32),
        source=np.zeros(count, np.int32),
        tools=np.full(count, -1, np.int32),
        conversation=(np.arange(count) // 2).astype(np.int32),
        groups=("corpora", "generated"),
        sources=("made",),
        tool_lists=(),
    )


def made_model(scope="generation", always_run=(0,), run_bias=0.3, seed=0, **changes):
    """A model with gates that differ from step to step and a LoRA that changes the weights."""
    config = TrainConfig(
        routers=RouterConfig(scope=scope, reads="own_block", always_run=always_run, run_bias=run_bias),
        lora=LoraConfig(dropout=0.5),
        objective=ConstrainedObjective(),
    )
    model = RoutedModel(random_model(seed, **changes), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        for parameter in (model.gates_weight_LD, model.kind_weight_D):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def without_effect(model, block):
    """Make a block add nothing to its input."""
    layer = model.backbone.model.layers[block]
    with torch.no_grad():
        for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
            getattr(module, "base_layer", module).weight.zero_()
        for matrix in layer.self_attn.o_proj.lora_B.parameters():
            matrix.zero_()
