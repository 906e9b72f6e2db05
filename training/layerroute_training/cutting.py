"""Conversations cut into steps, by as many processes as one likes: the steps do not depend on their number."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from layerroute.errors import RequestError
from layerroute_training.encoder import ConversationEncoder, tools_text
from layerroute_training.errors import CorpusError
from layerroute_training.rows import Row, Tool
from layerroute_training.steps import StepSet
from layerroute_training.texts import Ids
from layerroute_training.turns import FittedStep, fit_step
from layerroute_training.workers import in_order

AT_A_TIME = 128
"""Conversations that a process takes at a time."""
WORTH_A_PROCESS = 2_000
"""Conversations for which one more process pays, although it takes seconds to start."""


@dataclass(frozen=True)
class StepCounts:
    """What became of the assistant turns.

    Attributes:
        conversations: how many there were, skipped ones included.
        steps: steps built; of them `truncated` lost messages, and `fewer_tools` show fewer tools than their row has.
        lent_tools: conversations without tools that are shown tools of other rows.
        skipped: turns left out, by reason.
    """

    conversations: int
    steps: int
    truncated: int
    fewer_tools: int
    lent_tools: int
    skipped: Mapping[str, int]


def build_steps(
    rows: Mapping[str, Sequence[Row]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    window: int,
    unused_tools: float = 0.0,
    seed: int = 0,
    processes: int = 1,
    progress: Callable[[int], None] = lambda conversations: None,
) -> tuple[StepSet, StepCounts]:
    """One step per assistant turn of the conversations, as the chat model would render them.

    Args:
        rows: conversations of every group.
        tokenizer: of the backbone, with Qwen2.5's chat template.
        window: most tokens of prompt and answer; longer prompts are cut down as `turns.fit_step` says.
        unused_tools: share of the conversations without tools that are shown 1 to 4 tools of another row, so that
            the presence of tools does not give the kind away. Which ones depends on `seed` and the rows alone.
        processes: most processes that work; few conversations take fewer.
        progress: told how many conversations more are cut.

    Raises:
        CorpusError: no step is left, or a conversation cannot be rendered; the message names its row.
        ConfigError: the chat template is not Qwen2.5's.
        WorkerError: a process was ended from outside.
    """
    lenders = [row.tools for conversations in rows.values() for row in conversations if row.tools]
    shown = (
        _Shown(group, row, row.tools or _borrowed(row, lenders, unused_tools, seed))
        for group, conversations in rows.items()
        for row in conversations
    )
    processes = min(processes, 1 + sum(map(len, rows.values())) // WORTH_A_PROCESS)
    pieces: list[tuple[StepSet, StepCounts]] = []
    with in_order(Cutter, (tokenizer, window), _several(shown, AT_A_TIME), processes) as results:
        for steps, counts in results:
            pieces.append((steps, counts))
            progress(counts.conversations)
    total = _total([counts for _, counts in pieces])
    if not total.steps:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in total.skipped.items())
        raise CorpusError(
            f"{total.conversations} conversations give no step in a window of {window} tokens"
            f" ({reasons or 'there are no conversations'}): raise data.window, or give other corpora"
        )
    return StepSet.concat((steps for steps, _ in pieces), [counts.conversations for _, counts in pieces]), total


@dataclass(frozen=True, slots=True)
class _Shown:
    """A conversation of a group, and the tools that its prompts show."""

    group: str
    row: Row
    tools: Sequence[Tool]


class Cutter:
    """Cuts conversations into steps, several at a time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, window: int) -> None:
        self._encoder = ConversationEncoder(tokenizer)
        self._window = window

    def __call__(self, conversations: Sequence[_Shown]) -> tuple[StepSet, StepCounts]:
        """Their steps, and what became of their turns.

        Raises:
            CorpusError: one cannot be rendered; the message names its row.
        """
        builder = _Builder(self._encoder, self._window)
        for shown in conversations:
            try:
                builder.add(shown)
            except RequestError as error:
                raise CorpusError(f"row {shown.row.id} of {shown.row.source}: {error}") from error
            except Exception as error:
                error.add_note(f"in row {shown.row.id} of {shown.row.source}")
                raise
        return builder.finish()


class _Builder:
    """Collects the columns of a StepSet conversation by conversation."""

    def __init__(self, encoder: ConversationEncoder, window: int) -> None:
        self._encoder = encoder
        self._window = window
        self._runs: list[Ids] = [np.zeros(0, np.int32)]
        self._num_tokens = self._conversations = self._truncated = self._fewer_tools = self._lent_tools = 0
        self._steps: list[tuple[int, ...]] = []
        self._names: dict[str, dict[str, int]] = {"groups": {}, "sources": {}, "tool_lists": {}}
        self._skipped: Counter[str] = Counter()

    def add(self, shown: _Shown) -> None:
        """Add the steps of one conversation."""
        row, tools = shown.row, shown.tools
        segments = self._encoder.segments(row.messages) if row.messages else []
        turns = [index for index, segment in enumerate(segments) if segment.role == "assistant"]
        if not turns:
            self._skipped["conversation without an assistant turn"] += 1
        block = self._encoder.system_block(row.messages, tools) if turns else np.zeros(0, np.int32)
        tool_list = tools_text(tools) if tools else None
        starts = list(accumulate((len(segment.ids) for segment in segments), initial=len(block)))
        run, longest = self._num_tokens, 0
        fitted: list[tuple[int, FittedStep]] = []
        for turn in turns:
            first, end = (starts[turn] + offset for offset in segments[turn].answer)
            if end - first == 1:
                self._skipped["empty answer"] += 1
            elif end <= self._window:
                longest = end
                self._add_step(shown, tool_list, (run, first, end), bool(segments[turn].calls))
            else:
                step = fit_step(self._encoder, row.messages, tools, segments, turn, self._window)
                if isinstance(step, str):
                    self._skipped[step] += 1
                else:
                    fitted.append((turn, step))
        if longest:
            self._add_run(np.concatenate([block, *(segment.ids for segment in segments)])[:longest])
        for turn, step in fitted:
            span = (self._num_tokens, step.answer, len(step.ids))
            tool_list = tools_text(step.tools) if step.tools else None
            self._add_step(shown, tool_list, span, bool(segments[turn].calls))
            self._add_run(step.ids)
            self._truncated += 1
            self._fewer_tools += len(step.tools) < len(tools)
        self._conversations += 1
        self._lent_tools += len(tools) > len(row.tools)

    def finish(self) -> tuple[StepSet, StepCounts]:
        """The steps and what became of all turns."""
        counts = StepCounts(
            conversations=self._conversations,
            steps=len(self._steps),
            truncated=self._truncated,
            fewer_tools=self._fewer_tools,
            lent_tools=self._lent_tools,
            skipped=self._skipped,
        )
        names = {field: tuple(known) for field, known in self._names.items()}
        return StepSet.of(np.concatenate(self._runs), self._steps, **names), counts

    def _add_step(self, shown: _Shown, tool_list: str | None, span: tuple[int, int, int], call: bool) -> None:
        start, answer, end = span[0], span[0] + span[1], span[0] + span[2]
        tools = -1 if tool_list is None else self._number("tool_lists", tool_list)
        numbers = (self._number("groups", shown.group), self._number("sources", shown.row.source), tools)
        self._steps.append((start, answer, end, int(call), *numbers, self._conversations))

    def _add_run(self, ids: Ids) -> None:
        self._runs.append(ids)
        self._num_tokens += len(ids)

    def _number(self, field: str, name: str) -> int:
        return self._names[field].setdefault(name, len(self._names[field]))


def _total(counts: Sequence[StepCounts]) -> StepCounts:
    skipped: Counter[str] = sum((Counter(part.skipped) for part in counts), Counter())
    return StepCounts(
        conversations=sum(part.conversations for part in counts),
        steps=sum(part.steps for part in counts),
        truncated=sum(part.truncated for part in counts),
        fewer_tools=sum(part.fewer_tools for part in counts),
        lent_tools=sum(part.lent_tools for part in counts),
        skipped=dict(sorted(skipped.items())),
    )


def _several(shown: Iterator[_Shown], count: int) -> Iterator[list[_Shown]]:
    while several := list(islice(shown, count)):
        yield several


def _borrowed(row: Row, lenders: Sequence[Sequence[Tool]], share: float, seed: int) -> Sequence[Tool]:
    if not lenders or share <= 0 or any(message.get("tool_calls") for message in row.messages):
        return ()
    pick = random.Random(f"{seed} {row.id}")
    if pick.random() >= share:
        return ()
    tools = lenders[pick.randrange(len(lenders))]
    return pick.sample(tools, min(len(tools), pick.randint(1, 4)))
