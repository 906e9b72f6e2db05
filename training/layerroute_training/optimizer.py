"""The optimiser of a run: AdamW in two groups that clips, and leaves out an update whose gradients are not finite."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from layerroute_training.config import ScheduleConfig

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class ClippedAdamW(torch.optim.AdamW):
    """AdamW over LoRA and gates, with a learning rate each.

    An update with a gradient that is not finite changes nothing, neither parameters nor moments, and is counted. All
    of that happens on the device, so nothing waits for it.

    Attributes:
        gradient_norm: of the last update, before clipping; skipped: updates left out. Both are tensors of one number.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], schedule: ScheduleConfig) -> None:
        """Optimise `parameters` by name; those of the LoRA have "lora_" in their names."""
        self._named = dict(parameters)
        lora = [parameter for name, parameter in parameters.items() if "lora_" in name]
        gates = [parameter for name, parameter in parameters.items() if "lora_" not in name]
        groups = [
            {"params": lora, "lr": schedule.lora_rate},
            {"params": gates, "lr": schedule.gate_rate},
        ]
        super().__init__(
            [group for group in groups if group["params"]],
            betas=schedule.betas,
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        self._clip = schedule.clip
        device = next(iter(parameters.values())).device
        self.gradient_norm = torch.zeros((), device=device)
        self.skipped = torch.zeros((), device=device)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Clip the gradients and apply them, unless one is not finite."""
        self.gradient_norm = clip_grad_norm_(self._named.values(), self._clip)
        is_broken = (~torch.isfinite(self.gradient_norm)).float()
        self.skipped += is_broken
        # The fused kernel reads these two, as torch's own GradScaler uses them.
        self.grad_scale, self.found_inf = None, is_broken
        super().step()

    def named_state(self) -> dict[str, Tensor]:
        """The moments by parameter name, and the count of updates left out."""
        state = {
            f"{name}.{moment}": self.state[parameter][moment]
            for name, parameter in self._named.items()
            if parameter in self.state
            for moment in _MOMENTS
        }
        return state | {"skipped": self.skipped}

    def load_named_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `named_state` returned."""
        self.skipped.copy_(state["skipped"])
        for name, parameter in self._named.items():
            if f"{name}.{_MOMENTS[0]}" in state:
                moments = {moment: state[f"{name}.{moment}"].to(parameter.device, copy=True) for moment in _MOMENTS}
                self.state[parameter] = moments
