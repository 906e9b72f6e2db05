"""Pre-training of the embedded backbone: packed rows, a mixture of groups, and block drop-out that prepares routing.

Shape suffixes: B rows, T tokens of a row, L blocks, U turns, S spans of a batch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerroute.files import replacing
from layerroute_training.embedded.batches import Documents, RowPacker, Rows, Span, SpanStream, pack_all
from layerroute_training.embedded.network import Network
from layerroute_training.embedded.optim import Clock, Muon, adamw, trapezoid, update
from layerroute_training.embedded.runtime import Journal, Runtime


@dataclass(frozen=True)
class Depths:
    """A share of the turns, whose answers go without `fewest` to `most` blocks, all equally likely."""

    share: float
    fewest: int
    most: int


@dataclass(frozen=True)
class AnswerSkips:
    """Which blocks answers go without while the backbone learns, so that it knows how to answer under a program.

    Attributes:
        order: blocks in the order in which answers give them up, spread over the depth; the first 8 are a third of all.
        random_share: share of the skipping turns that give up random blocks instead, never block 0.
        tool_call, planning: how many blocks, per kind of turn; the other turns run at full depth.
    """

    order: tuple[int, ...] = (11, 17, 5, 14, 8, 20, 2, 22, 16, 7, 13, 4)
    random_share: float = 0.15
    tool_call: tuple[Depths, ...] = (Depths(0.5, 8, 8), Depths(0.3, 1, 12))
    planning: tuple[Depths, ...] = (Depths(0.3, 1, 2), Depths(0.2, 1, 10))


@dataclass(frozen=True)
class PretrainConfig:
    """The pre-training recipe. Shares are of tokens; times of the run are shares of its progress.

    Attributes:
        rows, row_tokens: batch size; steps: length of the run when no time is planned.
        matrix_rate: Muon's peak learning rate; vector_rate: AdamW's, for embedding, norms and biases.
        other_weight: loss weight of conversation tokens outside answers.
        mixture, anneal_mixture: shares of the groups, before and after `anneal_from`.
        dropout_from: when both kinds of block drop-out begin.
        block_dropout, anneal_block_dropout: chance that a whole document goes without a block.
        answer_skips: blocks that the answers of single turns go without.
        ema_rate: step of the running average of the weights.
    """

    rows: int = 32
    row_tokens: int = 4_096
    steps: int = 6_000
    matrix_rate: float = 4e-3
    vector_rate: float = 2e-3
    momentum: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    warmup_steps: int = 200
    decay_from: float = 0.4
    other_weight: float = 0.2
    mixture: Mapping[str, float] = field(
        default_factory=lambda: {
            "generated": 0.45,
            "toolcall": 0.28,
            "planning": 0.11,
            "general": 0.16,
        }
    )
    anneal_from: float = 0.75
    anneal_mixture: Mapping[str, float] = field(
        default_factory=lambda: {
            "generated": 0.53,
            "toolcall": 0.30,
            "planning": 0.11,
            "general": 0.06,
        }
    )
    dropout_from: float = 0.2
    block_dropout: float = 0.05
    anneal_block_dropout: float = 0.02
    answer_skips: AnswerSkips = field(default_factory=AnswerSkips)
    ema_rate: float = 0.005
    seed: int = 0
    log_every: int = 25
    dev_batches: int = 6
    dev_seconds: float = 60.0
    checkpoint_seconds: float = 120.0


class MixtureStream:
    """Batches whose rows come from the groups in given shares."""

    def __init__(self, groups: Sequence[Documents], packer: RowPacker, rows: int, row_tokens: int, seed: int) -> None:
        """Stream the documents of `groups`."""
        self._names = [group.name for group in groups]
        self._pieces = [group.pieces(row_tokens) for group in groups]
        self._streams = [
            SpanStream(pieces[:, 1] - pieces[:, 0], row_tokens, seed + index)
            for index, pieces in enumerate(self._pieces)
        ]
        self._packer, self._rows, self._seed = packer, rows, seed

    def draw(self, step: int, mixture: Mapping[str, float]) -> tuple[Rows, list[int]]:
        """The batch of a step, and the group of each of its rows."""
        shares = np.array([mixture[name] for name in self._names])
        random = np.random.default_rng([self._seed, 1, step])
        chosen = random.choice(len(shares), size=self._rows, p=shares / shares.sum()).tolist()
        rows = [
            [Span(group, *self._pieces[group][index].tolist()) for index in self._streams[group].next_row()]
            for group in chosen
        ]
        return self._packer.pack(rows), chosen

    def state(self) -> list[dict[str, Any]]:
        """Where every group's stream stands."""
        return [stream.state() for stream in self._streams]

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue where `states` were taken."""
        for stream, state in zip(self._streams, states, strict=True):
            stream.restore(state)

    def epochs(self) -> dict[str, int]:
        """How often each group has been read in full."""
        return {name: stream.epoch for name, stream in zip(self._names, self._streams, strict=True)}


def block_dropout(rows: Rows, num_blocks: int, drop: float, skips: AnswerSkips, seed: int) -> Tensor:
    """Which tokens take which blocks, as booleans [L, B, T]: every token of a dropped document goes without the block,
    and the answer tokens of a skipping turn without the turn's blocks."""
    device = rows.tokens_BT.device
    generator = torch.Generator(device).manual_seed(seed)
    turns = len(rows.calls_U)
    dropped_LS = torch.rand(num_blocks, rows.num_spans, generator=generator, device=device) < drop
    count_U = torch.where(
        rows.calls_U,
        draw_depths(skips.tool_call, turns, generator),
        draw_depths(skips.planning, turns, generator),
    )
    # The rank of a block is its place in the order; blocks without a place, and block 0, come after all counts.
    rank_L = torch.full((num_blocks,), num_blocks, device=device)
    rank_L[list(skips.order)] = torch.arange(len(skips.order), device=device)
    random_UL = torch.rand(turns, num_blocks, generator=generator, device=device)
    random_UL[:, 0] = 2.0
    is_random_U = torch.rand(turns, generator=generator, device=device) < skips.random_share
    rank_UL = torch.where(is_random_U[:, None], random_UL.argsort(1).argsort(1), rank_L)
    skipped_LU = torch.zeros(num_blocks, turns + 1, dtype=torch.bool, device=device)
    skipped_LU[:, :turns] = (rank_UL < count_U[:, None]).T
    return ~(dropped_LS[:, rows.span_BT] | skipped_LU[:, rows.turn_BT])  # -1, no answer, reads the last column


def draw_depths(depths: Sequence[Depths], turns: int, generator: torch.Generator) -> Tensor:
    """How many blocks each turn goes without [turns]: the first of `depths` whose share the turn falls into, else 0."""
    device = generator.device
    place_U = torch.rand(turns, generator=generator, device=device)
    count_U = torch.zeros(turns, dtype=torch.int64, device=device)
    before = 0.0
    for depth in depths:
        drawn_U = torch.randint(depth.fewest, depth.most + 1, (turns,), generator=generator, device=device)
        count_U = torch.where((place_U >= before) & (place_U < before + depth.share), drawn_U, count_U)
        before += depth.share
    return count_U


class Pretraining:
    """One pre-training run: its state, its steps and its checkpoints."""

    def __init__(
        self,
        config: PretrainConfig,
        network: Network,
        runtime: Runtime,
        train: Sequence[Documents],
        dev: Sequence[Documents],
        clock: Clock,
        folder: Path,
        journal: Journal,
    ) -> None:
        """Set up a fresh run; `resume` continues a saved one. The network must be on the runtime's device."""
        self.config, self.network, self.runtime, self.clock = config, network, runtime, clock
        self._folder, self._journal = folder, journal
        packer = RowPacker(train, runtime.row_tokens, config.other_weight, runtime.device)
        self._stream = MixtureStream(train, packer, runtime.rows, runtime.row_tokens, config.seed)
        self._groups = [group.name for group in train]
        self._dev = dev_rows(dev, runtime, config)
        self._dev_names = [group.name for group in dev]
        matrices, vectors = network.matrices(), network.vectors()
        self._optimizers = [
            Muon(matrices, config.matrix_rate, config.momentum, config.weight_decay),
            adamw(vectors, config.vector_rate, runtime.device),
        ]
        self._parameters: list[Tensor] = list(network.parameters())
        self._average = [parameter.detach().clone() for parameter in self._parameters]
        self._since_log = (0, 0.0)

    @property
    def checkpoint_path(self) -> Path:
        """The run's checkpoint."""
        return self._folder / "pretrain.pt"

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one."""
        if not self.checkpoint_path.exists():
            return False
        saved = torch.load(self.checkpoint_path, map_location=self.runtime.device, weights_only=True)
        self.network.load_state_dict(saved["network"])
        for optimizer, state in zip(self._optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        torch._foreach_copy_(self._average, saved["average"])
        self._stream.restore(saved["stream"])
        self.clock.step, self.clock.trained = saved["step"], saved["trained"]
        return True

    def save(self) -> None:
        """Replace the checkpoint, as a whole."""
        with replacing(self.checkpoint_path) as staging:
            torch.save(self._state(), staging)

    def _state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "average": self._average,
            "stream": self._stream.state(),
            "step": self.clock.step,
            "trained": self.clock.trained,
            "config": {key: dict(v) if isinstance(v, Mapping) else v for key, v in asdict(self.config).items()},
        }

    def run(self, deadline: float) -> bool:
        """Train until the stage is complete or `monotonic()` passes `deadline`, then save. True when complete."""
        config = self.config
        next_dev = next_save = monotonic()
        next_dev += config.dev_seconds
        next_save += config.checkpoint_seconds
        while not self.clock.finished and monotonic() < deadline:
            rows, chosen, nll_BT, norm = self.train_step()
            self.clock.tick()
            if self.clock.step % config.log_every == 0 or self.clock.step <= 3:
                self._log(rows, chosen, nll_BT, norm)
            if monotonic() > next_dev:
                self._journal.write("dev", {"step": self.clock.step, **self.dev_nll()})
                next_dev = monotonic() + config.dev_seconds
                self.clock.pause()
            if monotonic() > next_save:
                self.save()
                next_save = monotonic() + config.checkpoint_seconds
                self.clock.pause()
        self.save()
        return self.clock.finished

    def train_step(self) -> tuple[Rows, list[int], Tensor, Tensor]:
        """One update. Returns the batch, its rows' groups, the losses of its tokens and the gradient norm."""
        config, runtime, progress = self.config, self.runtime, self.clock.progress
        annealing = progress >= config.anneal_from
        mixture = config.anneal_mixture if annealing else config.mixture
        rows, chosen = self._stream.draw(self.clock.step, mixture)
        weights = self.network.weights(runtime.dtype)
        if progress >= config.dropout_from:
            run_LBT1 = self._dropped(rows, annealing)
        else:
            run_LBT1 = runtime.full_depth(self.network, rows.start_BT)
        states = runtime.states(self.network, weights, rows.tokens_BT, rows.start_BT, run_LBT1)
        nll_BT = self.network.nll(weights, states, rows.target_BT)
        loss = (nll_BT * rows.weight_BT).sum() / rows.weight_BT.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        factor = trapezoid(progress, self.clock.step, config.warmup_steps, config.decay_from)
        norm = update(self._parameters, self._optimizers, config.clip, factor)
        with torch.no_grad():
            torch._foreach_lerp_(self._average, self._parameters, config.ema_rate)
        return rows, chosen, nll_BT.detach(), norm

    def dev_nll(self) -> dict[str, float]:
        """Full-depth loss on the dev documents in nats per answer token, by group and kind of step."""
        sums = torch.zeros(2, 2 * len(self._dev_names), device=self.runtime.device, dtype=torch.float64)
        with torch.no_grad():
            weights = self.network.weights(self.runtime.dtype)
            for rows in self._dev:
                run_LBT1 = self.runtime.full_depth(self.network, rows.start_BT)
                states = self.runtime.states(self.network, weights, rows.tokens_BT, rows.start_BT, run_LBT1)
                nll_A = rows.answer_nll(self.network.nll(weights, states, rows.target_BT)).double()
                bin_A = (rows.group_U * 2 + rows.calls_U)[rows.turn_of_answer]
                sums[0].index_add_(0, bin_A, nll_A)
                sums[1].index_add_(0, bin_A, torch.ones_like(nll_A))
        totals, counts = sums.tolist()
        names = [f"{name}/{kind}" for name in self._dev_names for kind in ("planning", "tool_call")]
        means = {name: t / n for name, t, n in zip(names, totals, counts, strict=True) if n}
        overall = sum(means.values()) / len(means) if means else math.nan
        return {"mean": overall, **means}

    def adopt_better_weights(self) -> str:
        """Compare the last weights with their running average on the dev documents and keep the better ones."""
        last = [parameter.detach().clone() for parameter in self._parameters]
        of_last = self.dev_nll()
        with torch.no_grad():
            torch._foreach_copy_(self._parameters, self._average)
        of_average = self.dev_nll()
        choice = "average" if of_average["mean"] < of_last["mean"] else "last"
        if choice == "last":
            with torch.no_grad():
                torch._foreach_copy_(self._parameters, last)
        self._journal.write("weights", {"kept": choice, "last": of_last, "average": of_average})
        return choice

    def _dropped(self, rows: Rows, annealing: bool) -> Tensor:
        config = self.config
        drop = config.anneal_block_dropout if annealing else config.block_dropout
        seed = config.seed * 1_000_003 + self.clock.step
        run_LBT = block_dropout(rows, self.network.shape.num_blocks, drop, config.answer_skips, seed)
        return run_LBT.to(self.runtime.dtype).unsqueeze(-1)

    def _log(self, rows: Rows, chosen: list[int], nll_BT: Tensor, norm: Tensor) -> None:
        weighted_B = (nll_BT * rows.weight_BT).sum(1).tolist()
        weight_B = rows.weight_BT.sum(1).tolist()
        losses = {}
        for index, name in enumerate(self._groups):
            mine = [row for row, group in enumerate(chosen) if group == index]
            if mine:
                losses[name] = sum(weighted_B[row] for row in mine) / max(sum(weight_B[row] for row in mine), 1e-9)
        steps, trained = self.clock.step - self._since_log[0], self.clock.trained - self._since_log[1]
        self._since_log = (self.clock.step, self.clock.trained)
        self._journal.write(
            "train",
            {
                "step": self.clock.step,
                "progress": self.clock.progress,
                "trained_seconds": self.clock.trained,
                "loss": sum(weighted_B) / sum(weight_B),
                "groups": losses,
                "gradient_norm": float(norm),
                "rate": self._optimizers[0].param_groups[0]["lr"],
                "tokens_per_second": steps * rows.tokens_BT.numel() / trained if trained > 0 else 0.0,
                "filled": 1.0 - float((rows.weight_BT == 0).float().mean()),
                "epochs": self._stream.epochs(),
            },
        )


def dev_rows(dev: Sequence[Documents], runtime: Runtime, config: PretrainConfig) -> list[Rows]:
    """A fixed sample of the dev documents, as packed batches."""
    spans = [
        Span(index, start, end)
        for index, group in enumerate(dev)
        if len(group.turns.begin)
        for start, end in group.pieces(runtime.row_tokens).tolist()
    ]
    order = np.random.default_rng([config.seed, 2]).permutation(len(spans)).tolist()
    budget = config.dev_batches * runtime.rows * runtime.row_tokens
    sample: list[Span] = []
    for index in order:
        budget -= spans[index].end - spans[index].start
        if budget < 0:
            break
        sample.append(spans[index])
    return packed_batches(sample, dev, runtime)


def packed_batches(spans: Sequence[Span], groups: Sequence[Documents], runtime: Runtime) -> list[Rows]:
    """Batches of the runtime's shape that hold every span once; the last one is filled up with empty rows."""
    packer = RowPacker(groups, runtime.row_tokens, 0.0, runtime.device)
    rows = [[spans[i] for i in row] for row in pack_all([span.end - span.start for span in spans], runtime.row_tokens)]
    rows += [[] for _ in range(-len(rows) % runtime.rows)]
    return [packer.pack(rows[at : at + runtime.rows]) for at in range(0, len(rows), runtime.rows)]
