"""Routers of the embedded backbone: gates, LoRA and kind head, fitted in `generation` scope with constraints per kind.

Every example is one assistant turn: its prompt at full depth, its answer under the blocks that the gates chose from the
state of the last prompt token. Examples are packed into rows, so no padding exists that a router could read.

Shape suffixes: B rows, T tokens of a row, L blocks, D hidden, U turns of a batch, A answer tokens, R LoRA rank,
O outputs, I inputs, C constraints.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerroute_training.embedded.batches import Documents, RowPacker, Rows, Span, SpanStream
from layerroute_training.embedded.network import Gate, Network, Weights
from layerroute_training.embedded.optim import Clock, adamw, trapezoid, update
from layerroute_training.embedded.runtime import Journal, Runtime

GENERATED = "generated"
"""Group of the front desk's conversations; the others are corpora."""

NORM_EPS = 1e-6


@dataclass(frozen=True)
class Stratum:
    """Turns of one group and kind; `share` is their part of the rows of a batch."""

    group: str
    calls: bool
    share: float


@dataclass(frozen=True)
class RouterConfig:
    """The recipe of the routers.

    Attributes:
        steps: length when no time is planned; longest_prompt, longest_answer: turns beyond these are left out.
        tool_call_skip, planning_skip: share of block visits of generated tokens to skip, per kind.
        run_bias: logit of running a block at the start, the same for every block.
        quiet_from: from this share of the run on the gates decide without noise.
        multiplier_rate: step of the Lagrange multipliers; stiffness: weight of the squared violation.
        strata: where the turns come from. The corpora share their constraints.
    """

    steps: int = 900
    longest_prompt: int = 3_000
    longest_answer: int = 512
    rank: int = 8
    alpha: int = 16
    lora_rate: float = 1e-3
    gate_rate: float = 3e-3
    warmup_steps: int = 20
    decay_from: float = 0.3
    clip: float = 1.0
    tool_call_skip: float = 0.31
    planning_skip: float = 0.05
    run_bias: float = 1.5
    quiet_from: float = 0.7
    multiplier_rate: float = 0.05
    stiffness: float = 5.0
    strata: tuple[Stratum, ...] = field(
        default=(
            Stratum(GENERATED, True, 0.25),
            Stratum(GENERATED, False, 0.20),
            Stratum("toolcall", True, 0.25),
            Stratum("toolcall", False, 0.15),
            Stratum("planning", False, 0.15),
        )
    )
    seed: int = 0
    log_every: int = 20


class Routers(nn.Module):
    """Gates, kind head and LoRA over the attention projections of every block."""

    def __init__(self, network: Network, config: RouterConfig) -> None:
        """Neutral gates (zero weights, one bias for all) and a LoRA that changes nothing yet."""
        super().__init__()
        L, D = network.shape.num_blocks, network.shape.hidden_size
        self.scale = config.alpha / config.rank
        self.gates_weight_LD = nn.Parameter(torch.zeros(L, D))
        self.gates_bias_L = nn.Parameter(torch.full((L,), config.run_bias))
        self.kind_weight_D = nn.Parameter(torch.zeros(D))
        self.kind_bias = nn.Parameter(torch.zeros(1))
        generator = torch.Generator().manual_seed(config.seed)
        projections = {
            "q": network.q_weight_LQD,
            "k": network.k_weight_LKD,
            "v": network.v_weight_LKD,
            "o": network.o_weight_LDQ,
        }
        self.lora_a = nn.ParameterDict()
        self.lora_b = nn.ParameterDict()
        for name, weight in projections.items():
            O, I = weight.shape[1:]  # noqa: E741
            bound = I**-0.5  # Kaiming-uniform with a = sqrt(5), as PEFT has it
            a_LRI = (torch.rand(L, config.rank, I, generator=generator) * 2 - 1) * bound
            self.lora_a[name] = nn.Parameter(a_LRI)
            self.lora_b[name] = nn.Parameter(torch.zeros(L, O, config.rank))

    def deltas(self) -> dict[str, Tensor]:
        """What LoRA adds to the weights of q, k, v and o, stacked over blocks."""
        return {name: self.scale * (b @ self.lora_a[name]) for name, b in self.lora_b.items()}

    def read(self, state_BTD: Tensor, rows: Rows) -> Tensor:
        """The RMS-normalised state of every turn's last prompt token, float32 [U, D], cut off from the backbone."""
        state_UD = state_BTD.detach().flatten(0, 1)[rows.prompt_end_U].float()
        return state_UD * torch.rsqrt(state_UD.square().mean(-1, keepdim=True) + NORM_EPS)


class RoutedPass:
    """The gate of one forward pass; it keeps what it decided.

    Attributes:
        kind_logit_U: belief that the turn calls a tool, read where the last block begins (after the pass).
    """

    def __init__(self, routers: Routers, rows: Rows, dtype: torch.dtype, noise_UL: Tensor | None) -> None:
        """Route `rows`; `noise_UL`, if given, is added to the logits."""
        self._routers, self._rows, self._dtype, self._noise = routers, rows, dtype, noise_UL
        self._turn_A = rows.turn_of_answer
        self._decisions: list[Tensor] = []
        self.kind_logit_U: Tensor

    def __call__(self, block: int, state_BTD: Tensor) -> Tensor:
        """Decide one block from the state that enters it."""
        routers, rows = self._routers, self._rows
        read_UD = routers.read(state_BTD, rows)
        logit_U = read_UD @ routers.gates_weight_LD[block] + routers.gates_bias_L[block]
        if self._noise is not None:
            logit_U = logit_U + self._noise[:, block]
        soft_U = torch.sigmoid(logit_U)
        wanted_U = torch.ones_like(logit_U) if block == 0 else (logit_U > 0).float()
        # Straight through: the forward pass is hard, the gradient is the sigmoid's. Block 0 always runs.
        run_U = wanted_U + (soft_U - soft_U.detach()) * (block != 0)
        self._decisions.append(run_U)
        if block == len(routers.gates_bias_L) - 1:
            self.kind_logit_U = read_UD @ routers.kind_weight_D + routers.kind_bias
        full = torch.ones(rows.tokens_BT.numel(), device=run_U.device, dtype=self._dtype)
        run = full.index_copy(0, rows.answer_at_A, run_U.index_select(0, self._turn_A).to(self._dtype))
        return run.view(*rows.tokens_BT.shape, 1)

    def decisions(self) -> Tensor:
        """Run flags [U, L] of all blocks, after the pass."""
        return torch.stack(self._decisions, dim=1)


class TurnStream:
    """Batches of single turns, in the strata's shares."""

    def __init__(self, groups: Sequence[Documents], config: RouterConfig, runtime: Runtime) -> None:
        """Stream the turns of `groups`."""
        names = [group.name for group in groups]
        self._strata = []
        self._turns: list[list[Span]] = []
        for stratum in config.strata:
            spans = turn_spans(groups, names.index(stratum.group), stratum.calls, config)
            if spans:
                self._strata.append(stratum)
                self._turns.append([s for s in spans if s.end - s.start <= runtime.row_tokens])
        self._streams = [
            SpanStream(np.array([span.end - span.start for span in spans]), runtime.row_tokens, config.seed + index)
            for index, spans in enumerate(self._turns)
        ]
        self._packer = RowPacker(groups, runtime.row_tokens, 0.0, runtime.device)
        self._rows, self._seed = runtime.rows, config.seed

    def draw(self, step: int) -> Rows:
        """The batch of a step."""
        shares = np.array([stratum.share for stratum in self._strata])
        random = np.random.default_rng([self._seed, 3, step])
        chosen = random.choice(len(shares), size=self._rows, p=shares / shares.sum()).tolist()
        return self._packer.pack([[self._turns[s][i] for i in self._streams[s].next_row()] for s in chosen])


def turn_spans(groups: Sequence[Documents], group: int, calls: bool, config: RouterConfig) -> list[Span]:
    """The turns of one group and kind as spans from the conversation's beginning to the answer's end."""
    turns = groups[group].turns
    keep = (turns.is_tool_call == calls) & (turns.begin - turns.document <= config.longest_prompt)
    keep &= turns.end - turns.begin <= config.longest_answer
    columns = (turns.document[keep].tolist(), turns.end[keep].tolist(), turns.begin[keep].tolist())
    return [Span(group, start, end, begin) for start, end, begin in zip(*columns, strict=True)]


class Constraints:
    """Lagrange multipliers that pull the mean skip of each kind, front desk and corpora apart, to its target."""

    def __init__(self, groups: Sequence[str], config: RouterConfig, device: torch.device) -> None:
        """One constraint for each of planning and tool calls, in the corpora (0, 1) and generated (2, 3)."""
        self._config = config
        self.target_C = torch.tensor([config.planning_skip, config.tool_call_skip] * 2, device=device)
        self.multiplier_C = torch.zeros(4, device=device)
        self._offset_of_group = torch.tensor([2 if name == GENERATED else 0 for name in groups], device=device)

    def of_turns(self, rows: Rows) -> Tensor:
        """The constraint every turn belongs to."""
        return self._offset_of_group[rows.group_U] + rows.calls_U.long()

    def loss(self, nll_A: Tensor, skipped_UL: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss per kind and place plus the price of missing the targets; the means and skips [C] beside it."""
        of_answer_A = self.of_turns(rows)[rows.turn_of_answer]
        skip_A = skipped_UL.mean(1)[rows.turn_of_answer]
        count_C = torch.zeros(4, device=nll_A.device).index_add(0, of_answer_A, torch.ones_like(nll_A))
        present_C = (count_C > 0).float()
        nll_C = torch.zeros_like(count_C).index_add(0, of_answer_A, nll_A) / count_C.clamp(min=1)
        skip_C = torch.zeros_like(count_C).index_add(0, of_answer_A, skip_A) / count_C.clamp(min=1)
        excess_C = (skip_C - self.target_C) * present_C
        price = (self.multiplier_C * excess_C + 0.5 * self._config.stiffness * excess_C.square()).sum()
        with torch.no_grad():
            self.multiplier_C = self.multiplier_C + self._config.multiplier_rate * excess_C
        # The sum of the four means: each keeps its own trade-off, however many of its tokens a batch holds.
        return (nll_C * present_C).sum() + price, nll_C.detach(), skip_C.detach()


class RouterFit:
    """One fit of the routers on a frozen backbone."""

    def __init__(
        self,
        config: RouterConfig,
        network: Network,
        runtime: Runtime,
        train: Sequence[Documents],
        clock: Clock,
        journal: Journal,
    ) -> None:
        """Set up the fit. The network must be on the runtime's device; its weights are not changed."""
        self.config, self.network, self.runtime, self.clock = config, network, runtime, clock
        network.requires_grad_(False)
        self.routers = Routers(network, config).to(runtime.device)
        self.constraints = Constraints([group.name for group in train], config, runtime.device)
        self._journal = journal
        self._stream = TurnStream(train, config, runtime)
        lora = [*self.routers.lora_a.values(), *self.routers.lora_b.values()]
        gates = [p for name, p in self.routers.named_parameters() if not name.startswith("lora")]
        self._parameters: list[Tensor] = [*lora, *gates]
        self._optimizers = [
            adamw(lora, config.lora_rate, runtime.device),
            adamw(gates, config.gate_rate, runtime.device),
        ]

    def run(self, deadline: float) -> bool:
        """Fit until the stage is complete or `monotonic()` passes `deadline`. True when complete."""
        while not self.clock.finished and monotonic() < deadline:
            rows, values = self.step()
            self.clock.tick()
            if self.clock.step % self.config.log_every == 0 or self.clock.step <= 3:
                numbers = {name: value.tolist() for name, value in values.items()}
                progress = {"step": self.clock.step, "progress": self.clock.progress, "turns": len(rows.calls_U)}
                self._journal.write("routers", {**progress, **numbers})
        return self.clock.finished

    def step(self) -> tuple[Rows, dict[str, Tensor]]:
        """One update. Returns the batch and what to log."""
        config, runtime = self.config, self.runtime
        rows = self._stream.draw(self.clock.step)
        noise_UL = None
        if self.clock.progress < config.quiet_from:
            generator = torch.Generator(runtime.device).manual_seed(config.seed * 1_000_003 + self.clock.step)
            shape = (len(rows.calls_U), self.network.shape.num_blocks)
            uniform = torch.rand(shape, generator=generator, device=runtime.device).clamp(1e-6, 1 - 1e-6)
            noise_UL = torch.logit(uniform)
        routed = RoutedPass(self.routers, rows, runtime.dtype, noise_UL)
        nll_A = routed_nll(self.network, routed_weights(self.network, self.routers, runtime), runtime, rows, routed)
        loss, nll_C, skip_C = self.constraints.loss(nll_A, 1.0 - routed.decisions(), rows)
        kind_loss = F.binary_cross_entropy_with_logits(routed.kind_logit_U, rows.calls_U.float())
        (loss + kind_loss).backward()  # type: ignore[no-untyped-call]
        factor = trapezoid(self.clock.progress, self.clock.step, config.warmup_steps, config.decay_from)
        norm = update(self._parameters, self._optimizers, config.clip, factor)
        values = {"nll": nll_C, "skip": skip_C, "multipliers": self.constraints.multiplier_C.clone()}
        return rows, values | {"kind_loss": kind_loss.detach(), "gradient_norm": norm}


def routed_weights(network: Network, routers: Routers, runtime: Runtime) -> Weights:
    """The backbone's weights with the LoRA in them."""
    weights = network.weights(runtime.dtype, routers.deltas())
    # With gradients reaching the first state, every block is one and the same compiled graph.
    return weights._replace(embed_VD=weights.embed_VD.detach().requires_grad_(torch.is_grad_enabled()))


def routed_nll(network: Network, weights: Weights, runtime: Runtime, rows: Rows, gate: Gate) -> Tensor:
    """Loss of every answer token [A] in nats, under a gate."""
    states = runtime.states(network, weights, rows.tokens_BT, rows.start_BT, gate)
    return rows.answer_nll(network.nll(weights, states, rows.target_BT))


def describe(config: RouterConfig, clock: Clock, constraints: Constraints) -> dict[str, Any]:
    """What the bundle records about its training."""
    return {
        "objective": "constrained",
        "targets": {"tool_call": config.tool_call_skip, "planning": config.planning_skip},
        "updates": clock.step,
        "seconds": round(clock.trained, 1),
        "seed": config.seed,
        "multipliers": [round(value, 4) for value in constraints.multiplier_C.tolist()],
    }
