"""The learning rate over a run."""

import math

from layerroute_training.config import ScheduleConfig


def rate_factor(schedule: ScheduleConfig, update: int) -> float:
    """What the peak learning rates are multiplied by in the update of that number, counted from 0."""
    if update < schedule.warmup:
        return (update + 1) / schedule.warmup
    if schedule.shape == "cosine":
        horizon = schedule.horizon or schedule.updates
        progress = (update - schedule.warmup) / max(horizon - schedule.warmup, 1)
        return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    progress = update / schedule.updates
    return min(1.0, (1.0 - progress) / (1.0 - schedule.decay_from))
