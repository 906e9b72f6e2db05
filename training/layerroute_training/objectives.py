"""Objectives: what one update minimises, given the losses and the gates of a batch.

Steps fall into cells, one for each group of corpora and kind of step, so that no cell can pay for another.

Shape suffixes: B steps of a batch, A scored tokens, L blocks, C cells, N steps of the corpus.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from layerroute.report import StepKind
from layerroute_training.config import ConstrainedObjective, PaperObjective, QualityBound, SkipTarget, StaticObjective
from layerroute_training.errors import ConfigError, CorpusError
from layerroute_training.routed_model import RoutedOutput

_KINDS = (StepKind.PLANNING, StepKind.TOOL_CALL)  # by whether a step calls a tool
_HASH = 2_654_435_761  # Knuth's multiplier: 2^32 divided by the golden ratio
_HASHES = 1 << 32

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class CellMeans:
    """Sums over the scored tokens of each cell [C], and the means that follow."""

    tokens_C: Tensor
    nll_sum_C: Tensor
    skip_sum_C: Tensor
    full_sum_C: Tensor

    def present(self) -> Tensor:
        """Which cells have tokens, bool [C]."""
        return self.tokens_C > 0

    def mean(self, sum_C: Tensor) -> Tensor:
        """Token mean of a sum; 0 where a cell has no tokens."""
        return sum_C / self.tokens_C.clamp(min=1)


class Objective(nn.Module, ABC):
    """Base of the objectives. Its state dict holds what a resumed run needs.

    Attributes:
        every_token: whether the loss scores all tokens and not the answers' only.
        needs_full_depth: whether `loss` wants the same tokens' losses at full depth.
    """

    every_token = False
    needs_full_depth = False

    def __init__(self, groups: Sequence[str]) -> None:
        """An objective over these groups of corpora."""
        super().__init__()
        self.cells = tuple(f"{group}/{kind.value}" for group in groups for kind in _KINDS)

    def programs(self, index_B: Tensor) -> Tensor | None:
        """The blocks [B, L] that steps have to run, by their index in the corpus; None lets the gates decide."""
        return None

    @abstractmethod
    def loss(
        self, output: RoutedOutput, is_tool_call_B: Tensor, group_B: Tensor, full_nll_A: Tensor | None = None
    ) -> tuple[Tensor, Metrics]:
        """What to minimise, and what to log: detached scalars, NaN for a cell without tokens in the batch.

        Args:
            output: of the routed forward pass.
            is_tool_call_B: observed kinds.
            group_B: indices into the groups.
            full_nll_A: losses of the same tokens at full depth, without gradient, if `needs_full_depth`.
        """

    def end_update(self) -> None:
        """Take in what the batches since the last call showed, over all ranks. Call it once per update."""

    def _means(
        self, output: RoutedOutput, is_tool_call_B: Tensor, group_B: Tensor, full_nll_A: Tensor | None = None
    ) -> CellMeans:
        cell_A = (group_B * len(_KINDS) + is_tool_call_B.long())[output.step_A]
        skip_A = (1.0 - output.run_BL).mean(1)[output.step_A]
        full_A = torch.zeros_like(output.nll_A) if full_nll_A is None else full_nll_A
        columns = (torch.ones_like(output.nll_A), output.nll_A, skip_A, full_A)
        zeros_C = torch.zeros(len(self.cells), device=cell_A.device)
        return CellMeans(*(zeros_C.index_add(0, cell_A, column_A) for column_A in columns))

    def _metrics(self, means: CellMeans) -> Metrics:
        values = {"nll": means.mean(means.nll_sum_C), "skip": means.mean(means.skip_sum_C)}
        if self.needs_full_depth:
            values["nll_full"] = means.mean(means.full_sum_C)
        present_C = means.present()
        return {
            f"{name}/{cell}": torch.where(present_C[index], value_C[index], torch.nan).detach()
            for name, value_C in values.items()
            for index, cell in enumerate(self.cells)
        }


class Constrained(Objective):
    """Answer cross-entropy under a constraint per cell, with Lagrange multipliers.

    A `SkipTarget` is an equality. Its multiplier is the price of a skipped share, of either sign, and the squared miss
    is added (an augmented Lagrangian), so that the gates feel a miss before the multiplier has grown.

    A `QualityBound` asks for the most skip with nll <= (1 + rise) * nll_full. The Lagrangian
    -skip + lambda * (nll - (1 + rise) * nll_full) is divided by lambda, so that the cross-entropy keeps the weight 1
    with which the LoRA learns: nll - reward * skip. The multiplier is the reward, nll_full / lambda >= 0, in units of
    the rise in nats that is allowed; it grows while the loss is below the bound and shrinks above. The room that is
    left acts at once, as the squared miss does above, and counts as one at most in either direction: a batch on which
    the gates explored cannot throw the multiplier far.
    """

    def __init__(self, config: ConstrainedObjective, groups: Sequence[str]) -> None:
        """Multipliers of zero.

        Raises:
            ConfigError: constraints for a group that is not there.
        """
        super().__init__(groups)
        self._config = config
        if missing := sorted(set(config.groups) - set(groups)):
            raise ConfigError(
                f"objective.groups: the data has no group {missing[0]!r}, only {', '.join(groups)}: name one of these"
            )
        asked = [config.constraint(group, kind) for group in groups for kind in _KINDS]
        self.needs_full_depth = any(isinstance(one, QualityBound) for one in asked)
        self.multiplier_C: Tensor
        self._target_C: Tensor
        self._rise_C: Tensor
        self._is_bound_C: Tensor
        self._sums_4C: Tensor
        self.register_buffer("multiplier_C", torch.zeros(len(asked)))
        targets = [one.skip if isinstance(one, SkipTarget) else 0.0 for one in asked]
        rises = [one.rise if isinstance(one, QualityBound) else 1.0 for one in asked]
        self.register_buffer("_target_C", torch.tensor(targets), persistent=False)
        self.register_buffer("_rise_C", torch.tensor(rises), persistent=False)
        is_bound = [isinstance(one, QualityBound) for one in asked]
        self.register_buffer("_is_bound_C", torch.tensor(is_bound), persistent=False)
        self.register_buffer("_sums_4C", torch.zeros(4, len(asked)), persistent=False)

    def loss(
        self, output: RoutedOutput, is_tool_call_B: Tensor, group_B: Tensor, full_nll_A: Tensor | None = None
    ) -> tuple[Tensor, Metrics]:
        """Sum of the cells' mean losses and prices, and the kind head's loss."""
        means = self._means(output, is_tool_call_B, group_B, full_nll_A)
        sums = (means.tokens_C, means.nll_sum_C, means.skip_sum_C, means.full_sum_C)
        self._sums_4C += torch.stack(sums).detach()
        skip_C, miss_C = means.mean(means.skip_sum_C), self._miss(means)
        equality_C = self.multiplier_C * miss_C + 0.5 * self._config.stiffness * miss_C.square()
        room_C, allowed_C = miss_C.detach(), self._rise_C * means.mean(means.full_sum_C)
        reward_C = (self.multiplier_C + self._config.stiffness * room_C) * allowed_C
        price_C = torch.where(self._is_bound_C, -reward_C * skip_C, equality_C)
        # A sum of means: each cell keeps its own trade-off, however many of its tokens a batch holds.
        loss = ((means.mean(means.nll_sum_C) + price_C) * means.present()).sum()
        kind_nll = F.binary_cross_entropy_with_logits(output.kind_logit_B, is_tool_call_B.float())
        metrics = self._metrics(means) | {"kind_nll": kind_nll.detach()}
        for index, cell in enumerate(self.cells):
            metrics[f"multiplier/{cell}"] = self.multiplier_C[index].clone()
        return loss + self._config.kind_weight * kind_nll, metrics

    def end_update(self) -> None:
        """Move the multipliers by what the update's batches missed.

        A cell keeps its own if it had no tokens, or a loss that is not finite: one such update would spoil all others.
        """
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self._sums_4C)
        means = CellMeans(*self._sums_4C)
        moved_C = self.multiplier_C + self._config.multiplier_rate * self._miss(means)
        moved_C = torch.where(self._is_bound_C, moved_C.clamp(min=0), moved_C)
        counts_C = means.present() & self._sums_4C.isfinite().all(0)
        self.multiplier_C.copy_(torch.where(counts_C, moved_C, self.multiplier_C))
        self._sums_4C.zero_()

    def _miss(self, means: CellMeans) -> Tensor:
        """By how much each cell misses: skip over the target, or the share of the allowed rise that is left."""
        over_C = means.mean(means.skip_sum_C) - self._target_C
        rise_C = means.nll_sum_C / means.full_sum_C.clamp(min=1e-9) - 1.0
        room_C = (1.0 - rise_C / self._rise_C).clamp(-1.0, 1.0)
        return torch.where(self._is_bound_C, room_C, over_C)


class Paper(Objective):
    """Cross-entropy of all tokens plus `penalty` times the mean soft gate (arXiv 2606.01838): no kind anywhere."""

    every_token = True

    def __init__(self, config: PaperObjective, groups: Sequence[str]) -> None:
        """The paper's loss."""
        super().__init__(groups)
        self._penalty = config.penalty

    def loss(
        self, output: RoutedOutput, is_tool_call_B: Tensor, group_B: Tensor, full_nll_A: Tensor | None = None
    ) -> tuple[Tensor, Metrics]:
        """Token mean over the whole batch, and the penalty."""
        nll, soft = output.nll_A.mean(), output.soft_BL.mean()
        metrics = self._metrics(self._means(output, is_tool_call_B, group_B))
        return nll + self._penalty * soft, metrics | {"nll": nll.detach(), "soft": soft.detach()}


class Static(Objective):
    """Answer cross-entropy under programs that look at nothing: the baseline that routing has to beat."""

    def __init__(self, config: StaticObjective, groups: Sequence[str], num_blocks: int) -> None:
        """Check the list of blocks.

        Raises:
            ConfigError: blocks that do not exist or are listed twice, or fewer than the skip needs.
        """
        super().__init__(groups)
        self._config, self._num_blocks = config, num_blocks
        static_programs(config.skipped, config.skip, torch.zeros(0, dtype=torch.int64), num_blocks)

    def programs(self, index_B: Tensor) -> Tensor:
        """The programs of steps, by their index."""
        return static_programs(self._config.skipped, self._config.skip, index_B, self._num_blocks)

    def loss(
        self, output: RoutedOutput, is_tool_call_B: Tensor, group_B: Tensor, full_nll_A: Tensor | None = None
    ) -> tuple[Tensor, Metrics]:
        """Sum of the cells' mean losses, as in `Constrained`."""
        means = self._means(output, is_tool_call_B, group_B)
        return means.mean(means.nll_sum_C).sum(), self._metrics(means)


def make_objective(
    config: ConstrainedObjective | PaperObjective | StaticObjective,
    groups: Sequence[str],
    is_tool_call_N: NDArray[np.bool_],
    num_blocks: int,
) -> Objective:
    """The objective of a run over steps of these groups and kinds.

    Raises:
        CorpusError: a constrained objective over one kind of step only.
        ConfigError: a static objective whose blocks do not fit the model, or constraints for a group that is not there.
    """
    if isinstance(config, PaperObjective):
        return Paper(config, groups)
    if isinstance(config, StaticObjective):
        return Static(config, groups, num_blocks)
    if is_tool_call_N.all() or not is_tool_call_N.any():
        only, missing = ("tool-call", "planning") if is_tool_call_N.any() else ("planning", "tool-call")
        raise CorpusError(
            f"all {len(is_tool_call_N)} steps are {only} steps, and the constrained objective sets each kind against "
            f"the other: add a corpus with {missing} steps to data.corpora, or train with objective.name=paper"
        )
    return Constrained(config, groups)


def static_programs(skipped: Sequence[int], skip: float, index_B: Tensor, num_blocks: int) -> Tensor:
    """Run flags [B, L] that skip the first blocks of `skipped` so that the mean skip is `skip`.

    Where that asks for a fraction of a block, this share of the steps, chosen by a hash of their index, skips one more.

    Raises:
        ConfigError: blocks that do not exist or are listed twice, or fewer than the skip needs.
    """
    whole = math.floor(skip * num_blocks + 1e-9)
    share = max(0.0, skip * num_blocks - whole)
    needed = whole + (share > 1e-9)
    if len(set(skipped)) != len(skipped) or any(block >= num_blocks for block in skipped) or len(skipped) < needed:
        raise ConfigError(
            f"objective.skipped = {tuple(skipped)}: a skip of {skip:.1%} needs {needed} different blocks "
            f"of 0 to {num_blocks - 1}"
        )
    run_BL = torch.ones(len(index_B), num_blocks, device=index_B.device)
    for block in skipped[:whole]:  # one by one: a list of indices would have to be sent to the GPU
        run_BL[:, block] = 0.0
    if needed > whole:
        run_BL[:, skipped[whole]] = (index_B * _HASH % _HASHES >= share * _HASHES).float()
    return run_BL
