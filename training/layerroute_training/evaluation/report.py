"""What an evaluation found, as frozen pydantic models that survive JSON unchanged.

Unless a field says otherwise, *skip* is a share (0..1) of the block visits of generated tokens; those are the answer
tokens that a model is fed back, all but the last. Losses are nats per answer token, token-weighted; a perplexity is the
exponential of such a loss and nothing else. Intervals are 95 % bootstrap intervals over conversations.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from layerroute.report import Scope, StepKind

KINDS = (StepKind.TOOL_CALL, StepKind.PLANNING)
ALL = "all"
"""Name under which the steps of every group are reported together."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Frozen):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Loss(_Frozen):
    """Loss of the answers in nats per token, and its exponential."""

    nll: Interval
    perplexity: Interval


class KindReport(_Frozen):
    """The steps of one kind, or of both together.

    Attributes:
        steps, tokens, conversations: what was measured; tokens are answer tokens.
        skip: of the visits of generated tokens; skip_all: of the visits of prompt and generated tokens.
        flops: FLOPs as run over those at full depth, prompt and answer, LM head included.
        routed, full, bare: under the router; under the same LoRA at full depth; the backbone alone at full depth.
        rise, rise_relative: of the routed loss over full depth, in nats per token and as a share.
        gain_over_bare: loss of the bare backbone minus routed loss, nats per token.
        run_rate_per_block: share of generated tokens that visit each block.
    """

    steps: int
    tokens: int
    conversations: int
    skip: Interval
    skip_all: Interval
    flops: Interval
    routed: Loss
    full: Loss
    bare: Loss
    rise: Interval
    rise_relative: Interval
    gain_over_bare: Interval
    run_rate_per_block: tuple[float, ...]


class KindPrediction(_Frozen):
    """How well the kind of step is foreseen from the prompt.

    Attributes:
        accuracy: share of steps whose likelier kind is the observed one, per kind and over all steps.
        auc: chance that a tool call is believed more than a planning step.
        ece: expected calibration error over ten bins of equal width; brier: mean squared error of the belief.
    """

    accuracy: float
    accuracy_tool_call: float
    accuracy_planning: float
    auc: float
    ece: float
    brier: float


class Octile(_Frozen):
    """Steps whose length is at least `low` and below `high` (in the last octile: at most `high`).

    Attributes:
        low, high: length in tokens.
        tool_calls, plannings: number of steps; skip_tool_call, skip_planning: their skip, None without any.
    """

    low: float
    high: float
    tool_calls: int
    plannings: int
    skip_tool_call: float | None
    skip_planning: float | None


class MatchedDifferential(_Frozen):
    """The differential between steps of like length (`length_control.matched_differential` has the definition)."""

    differential: Interval
    octiles: tuple[Octile, ...]


class SwappedDifferential(_Frozen):
    """The differential where length speaks against the kind, or for it.

    Attributes:
        long_tool_calls: tool calls longer than the median of all steps against planning steps at most that long.
        short_tool_calls: the reverse. None where a side is empty.
    """

    long_tool_calls: Interval | None
    short_tool_calls: Interval | None


class LengthControl(_Frozen):
    """Whether the differential is about the kind of step and not about lengths.

    Attributes:
        by_prompt, by_answer: between steps of like prompt length, like answer length; None if no octile has both kinds.
        swapped_prompt, swapped_answer: length-swapped splits.
        correlation: point-biserial correlation of a step's skip with being a tool call.
        partial_correlation: the same, given the logarithms of both lengths; None where undefined.
    """

    by_prompt: MatchedDifferential | None
    by_answer: MatchedDifferential | None
    swapped_prompt: SwappedDifferential
    swapped_answer: SwappedDifferential
    correlation: float | None
    partial_correlation: float | None


class GroupReport(_Frozen):
    """One group of corpora, or `ALL`.

    Attributes:
        tool_call, planning: None if the group has no step of that kind.
        differential: tool-call skip minus planning skip, None, with all that follows, without both kinds.
    """

    tool_call: KindReport | None
    planning: KindReport | None
    both: KindReport
    differential: Interval | None
    prediction: KindPrediction | None
    length_control: LengthControl | None

    def kind(self, kind: StepKind) -> KindReport | None:
        """The report of one kind."""
        return self.tool_call if kind is StepKind.TOOL_CALL else self.planning


class KindOutcome(_Frozen):
    """What one way of skipping does to one kind of step: its skip, loss, and rise over full depth (nats per token)."""

    skip: float
    nll: Interval
    rise: Interval


class Outcome(_Frozen):
    """One way of skipping, over the steps of all groups.

    Attributes:
        name: such as "routed", "static greedy" or "random"; skipped: its static set where it has one.
        mean_skip: mean of the two kinds' skip, equal weights; mean_nll: likewise of the losses.
        behind: `mean_nll` minus that of the routed model, paired; None for the routed model itself.
        bundle: whose LoRA it ran under, where it is not the evaluated bundle's.
    """

    name: str
    tool_call: KindOutcome
    planning: KindOutcome
    mean_skip: float
    mean_nll: Interval
    behind: Interval | None = None
    skipped: tuple[int, ...] | None = None
    bundle: str | None = None


class FrontierPoint(_Frozen):
    """One point of quality against skip.

    Attributes:
        target: tool-call skip asked for; offset: added to every gate logit, found on training steps.
        routed: the shifted gates; static, random: at the same mean skip.
    """

    target: float
    offset: float
    routed: Outcome
    static: Outcome
    random: Outcome


class FreeRunningScore(_Frozen):
    """Generated tool calls, or generated answers, compared with the reference.

    Attributes:
        task: "tool_call" or "gsm8k"; group: of the steps (or `ALL`).
        condition: "routed", "full", "bare" or the name of a baseline; grammar: whether calls were constrained.
        steps: how many were generated.
        exact_match: share right; skip: realised, of generated tokens.
        function_match, argument_f1, calls: of tool calls, as in `tool_calls`: share with the right function names, F1
            of arguments over all steps together, share that calls a tool at all.
        difference: exact match minus that of full depth with the same grammar, paired; None at full depth.
    """

    task: Literal["tool_call", "gsm8k"]
    group: str
    condition: str
    grammar: bool
    steps: int
    exact_match: Interval
    function_match: Interval | None = None
    argument_f1: Interval | None = None
    calls: Interval | None = None
    skip: float
    difference: Interval | None = None


class FreeRunning(_Frozen):
    """What the model writes by itself, greedily.

    Attributes:
        max_tokens: most tokens per answer, beside a limit by the reference's length; seed: of the choice of steps;
            notes: what was left out, and why.
    """

    max_tokens: int
    seed: int
    scores: tuple[FreeRunningScore, ...]
    notes: tuple[str, ...] = ()


class PublishedPerplexity(_Frozen):
    """The paper's perplexity beside ours, for one kind of step.

    The paper exponentiates cross-entropy plus mean soft gate, so its full-depth pass (gates forced open) carries a
    larger penalty than its routed one: a "gain" without any change of what was computed.

    Attributes:
        paper_full, paper_routed: perplexities by the paper's formula, means over steps; full, routed: by ours.
        unchanged: steps whose routed pass runs every block, so that both passes are the same computation.
        paper_change, change: mean change of such a step's perplexity, routed minus full, by the paper's formula and by
            the exponential of its answer's loss; None without such steps.
    """

    kind: StepKind
    paper_full: float
    paper_routed: float
    full: float
    routed: float
    unchanged: int
    paper_change: float | None
    change: float | None


class Conditions(_Frozen):
    """Under what the numbers were measured.

    Attributes:
        bundle: its name or folder; backbone: name of the backbone; scope: tokens that programs govern.
        split: such as "dev"; data: sha256 of the measured steps; available: steps by "group/kind" before the limit.
        limit: most steps per group and kind, chosen by a seeded hash; None for all.
    """

    bundle: str
    backbone: str
    scope: Scope
    split: str
    data: str
    available: Mapping[str, int]
    limit: int | None
    seed: int
    device: str
    dtype: str
    package_version: str


class EvaluationReport(_Frozen):
    """A whole evaluation. `groups` has one entry per group and `ALL`, in that order.

    `baselines` begins with the routed model itself; it is empty, like `frontier`, if it was not asked for or failed.

    Attributes:
        failed: parts that were asked for and could not be measured, and why.
    """

    conditions: Conditions
    groups: Mapping[str, GroupReport]
    baselines: tuple[Outcome, ...] = ()
    frontier: tuple[FrontierPoint, ...] = ()
    published: tuple[PublishedPerplexity, ...] = ()
    free_running: FreeRunning | None = None
    failed: Mapping[str, str] = Field(default_factory=dict)

    @property
    def all(self) -> GroupReport:
        """The steps of every group together."""
        return self.groups[ALL]


class Spread(_Frozen):
    """Mean and range over seeds."""

    mean: float
    low: float
    high: float


class SeedResult(_Frozen):
    """The numbers of one seed that a sweep is judged by.

    Attributes:
        matched: differential, length-matched by prompt length.
        rise_tool_call, rise_planning: of the routed loss over full depth, relative.
        gain_tool_call, gain_planning: loss of the bare backbone minus routed loss, nats per token.
    """

    seed: int
    differential: Interval
    matched: Interval | None
    skip_tool_call: float
    skip_planning: float
    rise_tool_call: float
    rise_planning: float
    gain_tool_call: float
    gain_planning: float


class SeedsSummary(_Frozen):
    """Several seeds of one recipe.

    Attributes:
        data: sha256 of the measured steps. left_out: seeds that were started and have no whole bundle.
        positive: seeds with a positive differential; matched_excludes_zero: seeds whose length-matched interval lies
            above zero.
        sign_test: two-sided p of that many positive differentials.
        rise_tool_call, rise_planning: relative rise of the routed loss over full depth.
        below_bare_tool_call, below_bare_planning: seeds whose routed loss is below the bare backbone's.
    """

    seeds: tuple[SeedResult, ...]
    data: str
    left_out: tuple[int, ...] = ()
    positive: int
    matched_excludes_zero: int
    sign_test: float
    differential: Spread
    matched: Spread | None
    skip_tool_call: Spread
    skip_planning: Spread
    rise_tool_call: Spread
    rise_planning: Spread
    below_bare_tool_call: int
    below_bare_planning: int
