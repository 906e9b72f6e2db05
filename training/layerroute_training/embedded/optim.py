"""Optimisers and schedules of the embedded backbone's recipe."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

# Newton-Schulz coefficients of Muon (Jordan et al., 2024): five steps bring all singular values near one.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Replace each matrix of a stack [L, m, n] by a nearby one whose singular values are near one."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    x = x.to(matrices.dtype)
    return x.mT if tall else x


class Muon(Optimizer):
    """Momentum, orthogonalised, for stacks of matrices; scaled so that AdamW's learning rates and decay fit."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        """Optimise stacks of shape [L, m, n]."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every stack that has a gradient."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                average = state["momentum"]
                average.lerp_(parameter.grad, 1 - momentum)
                change = orthogonalise(parameter.grad.lerp(average, momentum))
                # 0.2 sqrt(max(m, n)) gives updates the root mean square that AdamW's have (Liu et al., 2025).
                scale = 0.2 * max(parameter.shape[-2:]) ** 0.5
                parameter.mul_(1 - lr * group["weight_decay"]).add_(change, alpha=-lr * scale)


def adamw(params: Iterable[nn.Parameter], lr: float, device: torch.device) -> AdamW:
    """AdamW without weight decay, for embeddings, norms and biases."""
    return AdamW(list(params), lr=lr, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, fused=device.type == "cuda")


def update(parameters: Sequence[Tensor], optimizers: Iterable[Optimizer], clip: float, factor: float) -> Tensor:
    """Clip the gradients, step at `factor` of the peak learning rates, and clear them. Returns the gradient norm.

    Gradients that are not finite count as zero: one batch with an overflow must not end a run.
    """
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = torch.where(norm.isfinite(), parameter.grad, 0.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return norm


def trapezoid(progress: float, step: int, warmup_steps: int, decay_from: float) -> float:
    """Learning-rate factor: linear warm-up over steps, then level, then linear to zero from `decay_from` of the run."""
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return warm * min(1.0, max(0.0, (1.0 - progress) / (1.0 - decay_from)))


@dataclass
class Clock:
    """How far a stage is: in steps, or in seconds of training when `seconds` is given.

    Attributes:
        steps: planned steps; seconds: planned training seconds, which then decide instead of the steps.
        step, trained: what is done already, as saved in checkpoints.
    """

    steps: int
    seconds: float | None = None
    step: int = 0
    trained: float = 0.0
    _since: float | None = field(default=None, init=False, repr=False)

    def tick(self) -> None:
        """Count one finished step. The first of a process is not timed, because it compiles."""
        now = monotonic()
        if self._since is not None:
            self.trained += now - self._since
        self._since = now
        self.step += 1

    def pause(self) -> None:
        """Leave out the time until the next step is finished, for evaluations and checkpoints."""
        self._since = None

    @property
    def progress(self) -> float:
        """Share of the stage that is done, 0 to 1."""
        done = self.trained / self.seconds if self.seconds is not None else self.step / self.steps
        return min(done, 1.0)

    @property
    def finished(self) -> bool:
        """Whether the stage is complete."""
        return self.progress >= 1.0
