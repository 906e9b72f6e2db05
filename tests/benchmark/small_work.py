"""What tests of the benchmark time: little work on a small random model."""

import torch
from qwen2 import random_model

STEPS = 10  # timed steps of each program, and tokens of each answer


def talkative_model(**changes):
    """A random model whose greedy answers are not one token over and over."""
    model = random_model(**changes)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.mul_(3.0 if parameter.ndim == 2 else 1.0)
    return model
