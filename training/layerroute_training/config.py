"""The configuration of a training run: everything that decides its result, as frozen pydantic models.

Unknown keys are errors. `override` applies `--set key=value` pairs.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from layerroute.bundle import GateReads
from layerroute.report import Scope, StepKind
from layerroute_training.errors import ConfigError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
CorpusFormat = Literal["auto", "canonical", "hermes", "glaive", "gsm8k", "turing", "generated"]
Pooling = Literal["last", "mean", "padded"]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusConfig(_Config):
    """One corpus.

    Attributes:
        name: hub id, or path of a file or folder; "generated" writes the embedded model's conversations.
        format: native format; "auto" knows the hub ids of the paper's four sets and canonical rows.
        group: constraints and reports keep groups apart.
        limit: read at most this many rows, or None for all.
    """

    name: str
    format: CorpusFormat = "auto"
    group: str = "corpora"
    limit: PositiveInt | None = None


class DataConfig(_Config):
    """What is trained on.

    Attributes:
        corpora: read in this order.
        window: most tokens of prompt and answer together; longer prompts lose their oldest messages.
        unused_tools: share of the planning prompts without tools that are shown tools of other rows, in training;
            dev_unused_tools: the same of held-out prompts, apart, so that runs are measured on the same steps.
        malformed: share of malformed rows beyond which the run stops.
        drop_overlap: leave out training rows that share text with evaluation rows; otherwise they stop the run.
        kept_back: train on the rows alone that the embedded backbone never saw (`rows.part_of`).
        mixture: share of the training steps per "group/kind"; empty keeps the corpora's own proportions.
    """

    corpora: tuple[CorpusConfig, ...] = ()
    window: PositiveInt = 2048
    unused_tools: Share = 0.5
    dev_unused_tools: Share = 0.2
    malformed: Share = 0.05
    drop_overlap: bool = False
    kept_back: bool = False
    mixture: Mapping[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)


class LoraConfig(_Config):
    """The adapter: rank, scale alpha / rank, drop-out, and the projections it changes."""

    rank: PositiveInt = 8
    alpha: PositiveInt = 16
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


class RouterConfig(_Config):
    """The gates.

    Attributes:
        scope: tokens that a program governs.
        pooling: what a gate reads of the states that enter its block: the last prompt token, the mean over the prompt,
            or "padded", the paper's mean over the whole padded row, answer and padding included (arXiv 2606.01838).
        reads: the block whose entering state a gate reads: its own, as the paper has it, or the last one, which has
            seen the prompt at full depth. In `sequence` scope only its own is known when a gate has to decide.
        normalise: divide the state by its root mean square.
        run_bias: logit of running a block at the start.
        band_bias: logit of the middle blocks 8 to 16 (of 24, scaled to others) at the start, or None for `run_bias`.
        always_run: blocks without a choice.
        noise: whether logistic noise explores until `quiet_from` of the run.
    """

    scope: Scope = "generation"
    pooling: Pooling = "last"
    reads: GateReads = "last_block"
    normalise: bool = True
    run_bias: float = 1.5
    band_bias: float | None = None
    always_run: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    noise: bool = True
    quiet_from: Share = 0.4

    @model_validator(mode="after")
    def _check_reads(self) -> Self:
        if self.scope == "sequence" and self.reads == "last_block":
            raise ValueError(
                "in scope 'sequence' a gate decides before the last block has run: set routers.reads=own_block too"
            )
        return self


class SkipTarget(_Config):
    """Skip this share of the block visits of generated tokens."""

    skip: Share


class QualityBound(_Config):
    """Skip as much as possible while the answer's loss rises by at most this share over full depth."""

    rise: Annotated[float, Field(gt=0.0)]


Constraint = SkipTarget | QualityBound


class GroupConstraints(_Config):
    """What is asked of the kinds in one group; None asks what is asked everywhere."""

    tool_call: Constraint | None = None
    planning: Constraint | None = None


class ConstrainedObjective(_Config):
    """Answer cross-entropy under one constraint per group and kind of step, with Lagrange multipliers.

    Attributes:
        tool_call, planning: what is asked of each kind.
        groups: what is asked instead in a group, by its name: steps of one may be easier than those of another.
        multiplier_rate: step of the multipliers; stiffness: weight of the squared violation.
        kind_weight: weight of the kind head's cross-entropy.
    """

    name: Literal["constrained"] = "constrained"
    tool_call: Constraint = SkipTarget(skip=0.325)
    planning: Constraint = SkipTarget(skip=0.01)
    groups: Mapping[str, GroupConstraints] = Field(default_factory=dict)
    multiplier_rate: Annotated[float, Field(gt=0.0)] = 0.05
    stiffness: Annotated[float, Field(ge=0.0)] = 5.0
    kind_weight: Annotated[float, Field(ge=0.0)] = 1.0

    def constraint(self, group: str, kind: StepKind) -> Constraint:
        """What is asked of the steps of a kind in a group."""
        here = self.groups.get(group, GroupConstraints())
        if kind is StepKind.TOOL_CALL:
            return here.tool_call or self.tool_call
        return here.planning or self.planning


class PaperObjective(_Config):
    """Cross-entropy of all tokens plus `penalty` times the mean soft gate (arXiv 2606.01838)."""

    name: Literal["paper"] = "paper"
    penalty: Annotated[float, Field(ge=0.0)] = 1.0


class StaticObjective(_Config):
    """Answer cross-entropy under one program for every step: the baseline that routing has to beat.

    Attributes:
        skipped: blocks that no generated token visits; steps take more or fewer of them from the end of the list so
            that the mean skip is `skip`.
    """

    name: Literal["static"] = "static"
    skipped: tuple[Annotated[int, Field(ge=0)], ...]
    skip: Share


Objective = Annotated[ConstrainedObjective | PaperObjective | StaticObjective, Field(discriminator="name")]


class ScheduleConfig(_Config):
    """The optimisation.

    Attributes:
        updates: optimiser steps; batch: steps (assistant turns) per device and micro-batch.
        accumulation: micro-batches per update.
        lora_rate, gate_rate: peak learning rates of AdamW.
        warmup: updates of linear warm-up; then "cosine" to zero, or "trapezoid": level, then linear to zero from
            `decay_from` of the run.
        horizon: update at which the cosine reaches zero, or None for the last; the paper's run ends long before it.
    """

    updates: PositiveInt = 750
    batch: PositiveInt = 64
    accumulation: PositiveInt = 1
    lora_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    gate_rate: Annotated[float, Field(gt=0.0)] = 1e-2
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip: Annotated[float, Field(gt=0.0)] = 1.0
    warmup: Annotated[int, Field(ge=0)] = 20
    shape: Literal["cosine", "trapezoid"] = "trapezoid"
    decay_from: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    horizon: PositiveInt | None = None


class TrainConfig(_Config):
    """A whole run.

    Attributes:
        model: "embedded", a checkpoint folder or a hub id.
        precision: of the forward pass; "auto" is bfloat16 on CUDA and float32 elsewhere.
        checkpoint_every: updates between checkpoints; log_every: updates between records of `metrics.jsonl`.
    """

    model: str = "Qwen/Qwen2.5-0.5B-Instruct"
    data: DataConfig = DataConfig()
    lora: LoraConfig = LoraConfig()
    routers: RouterConfig = RouterConfig()
    objective: Objective = ConstrainedObjective()
    schedule: ScheduleConfig = ScheduleConfig()
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint_every: PositiveInt = 200
    log_every: PositiveInt = 10

    @model_validator(mode="after")
    def _check_gates(self) -> Self:
        if isinstance(self.objective, PaperObjective) and self.routers.reads == "last_block":
            raise ValueError(
                "the paper's objective trains the states that gates read on the way: set routers.reads=own_block too"
            )
        return self


def override(config: TrainConfig, settings: Iterable[str]) -> TrainConfig:
    """Apply `key=value` settings such as `schedule.updates=300` or `objective.tool_call.skip=0.4`.

    Values are JSON where they parse as JSON, else text.

    Raises:
        ConfigError: a setting without "=", an unknown key, or a value of the wrong type or range.
    """
    values = config.model_dump(mode="json")
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write key=value, such as schedule.updates=300")
        _set(values, key.strip().split("."), _parse(text), key)
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {first['msg']} (got {first['input']!r}): correct the value") from None


def _set(values: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    *parents, last = path
    for name in parents:
        if not isinstance(values.get(name), dict):
            raise ConfigError(f"--set {key}: there is no {name!r}; known keys here: {', '.join(sorted(values))}")
        values = values[name]
    values[last] = value  # validation refuses a key that no model knows


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
