"""Steps: one example per assistant turn, its prompt as the chat model renders it and its answer.

Shape suffixes: N steps. Everything is columnar, so that a hundred thousand steps travel as one small folder.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from layerroute_training.errors import CorpusError
from layerroute_training.rows import Row, Tool
from layerroute_training.step_store import read_columns, write_columns
from layerroute_training.turns import FittedStep, SegmentEncoder, fit_step

IntArray = NDArray[np.int64]

_COLUMNS: Mapping[str, type[np.generic]] = {
    "tokens": np.int32,
    "start": np.int64,
    "answer": np.int64,
    "end": np.int64,
    "is_tool_call": np.bool_,
    "group": np.int32,
    "source": np.int32,
    "tools": np.int32,
    "conversation": np.int32,
}

_PER_STEP = tuple(name for name in _COLUMNS if name not in ("tokens", "start", "answer", "end"))
_NAMES = {"groups": "group", "sources": "source", "tool_lists": "tools"}


@dataclass(frozen=True)
class StepSet:
    """Steps as columns. The prompt of step i is `tokens[start[i]:answer[i]]`, its answer `tokens[answer[i]:end[i]]`.

    Steps with the same `start` share their tokens: the prompt of a later turn begins with that of an earlier one.

    Attributes:
        tokens: ids of all conversations, one after the other.
        start, answer, end: [N] where the prompt starts, the answer starts, and the answer ends (with `<|im_end|>`).
        is_tool_call: [N] whether the answer holds a tool call, the observed kind.
        group, source, tools: [N] indices into `groups`, `sources`, `tool_lists`; -1 where no tools are shown.
        conversation: [N] number of the step's conversation, the cluster of a bootstrap.
        groups, sources: names.
        tool_lists: JSON text of the OpenAI tool lists that prompts show.
    """

    tokens: NDArray[np.int32]
    start: IntArray
    answer: IntArray
    end: IntArray
    is_tool_call: NDArray[np.bool_]
    group: NDArray[np.int32]
    source: NDArray[np.int32]
    tools: NDArray[np.int32]
    conversation: NDArray[np.int32]
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    tool_lists: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def prompt_lengths(self) -> IntArray:
        """[N] tokens of the prompts."""
        return self.answer - self.start

    @property
    def answer_lengths(self) -> IntArray:
        """[N] tokens of the answers, `<|im_end|>` included."""
        return self.end - self.answer

    @property
    def lengths(self) -> IntArray:
        """[N] tokens of prompt and answer together."""
        return self.end - self.start

    def select(self, indices: NDArray[Any] | Sequence[int]) -> "StepSet":
        """The steps at `indices` (or where a mask [N] is true), in that order, with no more tokens than they need."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        start, end = self.start[chosen], self.end[chosen]
        runs, run_of_step = np.unique(start, return_inverse=True)
        run_ends = np.zeros(len(runs), np.int64)
        np.maximum.at(run_ends, run_of_step, end)
        starts = np.cumsum(run_ends - runs) - (run_ends - runs)
        pieces = [self.tokens[first:last] for first, last in zip(runs.tolist(), run_ends.tolist(), strict=True)]
        moved = (starts - runs)[run_of_step]
        return replace(
            self,
            tokens=np.concatenate([np.zeros(0, np.int32), *pieces]),
            start=start + moved,
            answer=self.answer[chosen] + moved,
            end=end + moved,
            **{name: getattr(self, name)[chosen] for name in _PER_STEP},
        )

    @staticmethod
    def concat(parts: "Iterable[StepSet]") -> "StepSet":
        """All steps of `parts`, in that order; conversations are numbered anew, names and tool lists merged.

        Raises:
            CorpusError: there are no parts.
        """
        sets = list(parts)
        if not sets:
            raise CorpusError("there are no steps to join: give at least one set")
        names: dict[str, Any] = {
            field: tuple(dict.fromkeys(name for part in sets for name in getattr(part, field))) for field in _NAMES
        }
        columns: dict[str, list[NDArray[Any]]] = {name: [] for name in _COLUMNS}
        offset = conversations = 0
        for part in sets:
            columns["tokens"].append(part.tokens)
            for name in ("start", "answer", "end"):
                columns[name].append(getattr(part, name) + offset)
            columns["is_tool_call"].append(part.is_tool_call)
            columns["conversation"].append(part.conversation + conversations)
            for field, column in _NAMES.items():
                place = {name: index for index, name in enumerate(names[field])}
                new = np.array([*(place[name] for name in getattr(part, field)), -1], np.int32)  # -1 stays -1
                columns[column].append(new[getattr(part, column)])
            offset += len(part.tokens)
            conversations += int(part.conversation.max(initial=-1)) + 1
        joined: dict[str, Any] = {name: np.concatenate(columns[name]).astype(kind) for name, kind in _COLUMNS.items()}
        return StepSet(**joined, **names)

    def digest(self) -> str:
        """SHA-256 (hex) of the content."""
        content = hashlib.sha256(json.dumps([self.groups, self.sources, self.tool_lists]).encode())
        for name, kind in _COLUMNS.items():
            column = np.ascontiguousarray(getattr(self, name), dtype=np.dtype(kind).newbyteorder("<"))
            content.update(f"{name} {len(column)} ".encode())
            content.update(column.data)
        return content.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the steps into `folder`, which appears complete or not at all.

        Raises:
            CorpusError: `folder` exists and holds something else.
        """
        columns: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _COLUMNS}
        if len(self.tokens) == 0 or int(self.tokens.max()) < 1 << 16:
            columns["tokens"] = self.tokens.astype(np.uint16)
        columns["tool_lists"] = np.frombuffer(json.dumps(self.tool_lists).encode(), np.uint8)
        metadata = {"groups": self.groups, "sources": self.sources, "steps": len(self), "digest": self.digest()}
        write_columns(folder, columns, metadata)

    @staticmethod
    def load(folder: Path) -> "StepSet":
        """Read what `save` wrote.

        Raises:
            CorpusError: a file is missing, cut off or edited.
        """
        columns, metadata = read_columns(folder)
        try:
            steps = StepSet(
                **{name: columns[name].astype(kind) for name, kind in _COLUMNS.items()},
                groups=tuple(metadata["groups"]),
                sources=tuple(metadata["sources"]),
                tool_lists=tuple(json.loads(columns["tool_lists"].tobytes())),
            )
            whole = steps.digest() == metadata["digest"]
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise CorpusError(f"{folder} does not hold the steps that its index names: save the steps again")
        return steps


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
) -> tuple[StepSet, StepCounts]:
    """One step per assistant turn of the conversations, as the chat model would render them.

    Args:
        rows: conversations of every group.
        tokenizer: of the backbone, with Qwen2.5's chat template.
        window: most tokens of prompt and answer; longer prompts are cut down as `turns.fit_step` says.
        unused_tools: share of the conversations without tools that are shown 1 to 4 tools of another row, so that
            the presence of tools does not give the kind away. Which ones depends on `seed` and the rows alone.

    Raises:
        CorpusError: no step is left.
        ConfigError: the chat template is not Qwen2.5's.
    """
    builder = _Builder(SegmentEncoder(tokenizer), window)
    lenders = _tool_lists(rows.values()) if unused_tools > 0 else []
    lent = 0
    for group, conversations in rows.items():
        for row in conversations:
            tools = row.tools or _borrowed(row, lenders, unused_tools, seed)
            lent += len(tools) > len(row.tools)
            builder.add(group, row, tools)
    return builder.finish(lent)


class _Builder:
    """Collects the columns of a StepSet conversation by conversation."""

    def __init__(self, encoder: SegmentEncoder, window: int) -> None:
        self._encoder = encoder
        self._window = window
        self._runs: list[NDArray[np.int32]] = []
        self._num_tokens = self._conversations = self._truncated = self._fewer_tools = 0
        self._steps: list[tuple[int, ...]] = []
        self._names: dict[str, dict[str, int]] = {field: {} for field in _NAMES}
        self._skipped: Counter[str] = Counter()

    def add(self, group: str, row: Row, tools: Sequence[Tool]) -> None:
        """Add the steps of one conversation whose prompts show `tools`."""
        segments = self._encoder.segments(row.messages) if row.messages else []
        turns = [index for index, segment in enumerate(segments) if segment.role == "assistant"]
        if not turns:
            self._skipped["conversation without an assistant turn"] += 1
        block = self._encoder.system_block(row.messages, tools) if turns else ()
        starts = list(accumulate((len(segment.ids) for segment in segments), initial=len(block)))
        run, longest = self._num_tokens, 0
        fitted: list[tuple[int, FittedStep]] = []
        for turn in turns:
            first, end = (starts[turn] + offset for offset in segments[turn].answer)
            if end - first == 1:
                self._skipped["empty answer"] += 1
            elif end <= self._window:
                longest = end
                self._add_step(group, row, tools, (run, first, end), bool(segments[turn].calls))
            else:
                step = fit_step(self._encoder, row.messages, tools, segments, turn, self._window)
                if isinstance(step, str):
                    self._skipped[step] += 1
                else:
                    fitted.append((turn, step))
        whole = [*block, *(token for segment in segments for token in segment.ids)] if longest else []
        self._add_run(whole[:longest])
        for turn, step in fitted:
            span = (self._num_tokens, step.answer, len(step.ids))
            self._add_step(group, row, step.tools, span, bool(segments[turn].calls))
            self._add_run(step.ids)
            self._truncated += 1
            self._fewer_tools += len(step.tools) < len(tools)
        self._conversations += 1

    def finish(self, lent_tools: int) -> tuple[StepSet, StepCounts]:
        """The steps and what became of all turns."""
        counts = StepCounts(
            conversations=self._conversations,
            steps=len(self._steps),
            truncated=self._truncated,
            fewer_tools=self._fewer_tools,
            lent_tools=lent_tools,
            skipped=dict(sorted(self._skipped.items())),
        )
        if not self._steps:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in counts.skipped.items())
            raise CorpusError(
                f"{self._conversations} conversations give no step in a window of {self._window} tokens"
                f" ({reasons or 'there are no conversations'}): raise data.window, or give other corpora"
            )
        values = np.array(self._steps, np.int64)
        columns: dict[str, Any] = {
            name: values[:, place].astype(kind) for place, (name, kind) in enumerate(list(_COLUMNS.items())[1:])
        }
        names: dict[str, Any] = {field: tuple(known) for field, known in self._names.items()}
        return StepSet(tokens=np.concatenate(self._runs), **columns, **names), counts

    def _add_step(self, group: str, row: Row, tools: Sequence[Tool], span: tuple[int, int, int], call: bool) -> None:
        start, answer, end = span[0], span[0] + span[1], span[0] + span[2]
        shown = self._number("tool_lists", _tools_text(tools)) if tools else -1
        numbers = (self._number("groups", group), self._number("sources", row.source), shown, self._conversations)
        self._steps.append((start, answer, end, int(call), *numbers))

    def _add_run(self, ids: Sequence[int]) -> None:
        self._runs.append(np.array(ids, np.int32))
        self._num_tokens += len(ids)

    def _number(self, field: str, name: str) -> int:
        return self._names[field].setdefault(name, len(self._names[field]))


def _tools_text(tools: Sequence[Tool]) -> str:
    return json.dumps(list(tools), ensure_ascii=False)


def _tool_lists(groups: Iterable[Iterable[Row]]) -> list[str]:
    """The tool list of every row that has one, as text; equal ones share it."""
    known: dict[str, str] = {}
    texts = (_tools_text(row.tools) for rows in groups for row in rows if row.tools)
    return [known.setdefault(text, text) for text in texts]


def _borrowed(row: Row, lenders: Sequence[str], share: float, seed: int) -> Sequence[Tool]:
    pick = random.Random(f"{seed} {row.id}")
    if not lenders or pick.random() >= share or any(message.get("tool_calls") for message in row.messages):
        return ()
    tools: list[Tool] = json.loads(lenders[pick.randrange(len(lenders))])
    return pick.sample(tools, min(len(tools), pick.randint(1, 4)))
