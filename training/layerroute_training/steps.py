"""Steps: one example per assistant turn, its prompt and its answer.

Shape suffixes: N steps. Everything is columnar, so that a hundred thousand steps travel as one small folder.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerroute_training.errors import CorpusError
from layerroute_training.step_store import read_columns, write_columns

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

    @staticmethod
    def of(
        tokens: NDArray[np.int32],
        steps: Sequence[tuple[int, ...]],
        groups: tuple[str, ...],
        sources: tuple[str, ...],
        tool_lists: tuple[str, ...],
    ) -> "StepSet":
        """Steps given one by one, each as the values of the columns from `start` to `conversation`."""
        per_step = list(_COLUMNS.items())[1:]
        values = np.array(steps, np.int64).reshape(-1, len(per_step))
        columns: dict[str, Any] = {name: values[:, place].astype(kind) for place, (name, kind) in enumerate(per_step)}
        return StepSet(tokens, **columns, groups=groups, sources=sources, tool_lists=tool_lists)

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
    def concat(parts: "Iterable[StepSet]", conversations: Sequence[int] | None = None) -> "StepSet":
        """All steps of `parts`, in that order; conversations are numbered anew, names and tool lists merged.

        Args:
            parts: sets of steps.
            conversations: how many each of them has, steps or not; None takes those up to the last that has a step.

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
        if conversations is None:
            conversations = [int(part.conversation.max(initial=-1)) + 1 for part in sets]
        offset = 0
        for part, first in zip(sets, accumulate(conversations, initial=0), strict=False):
            columns["tokens"].append(part.tokens)
            for name in ("start", "answer", "end"):
                columns[name].append(getattr(part, name) + offset)
            columns["is_tool_call"].append(part.is_tool_call)
            columns["conversation"].append(part.conversation + first)
            for field, column in _NAMES.items():
                place = {name: index for index, name in enumerate(names[field])}
                new = np.array([*(place[name] for name in getattr(part, field)), -1], np.int32)  # -1 stays -1
                columns[column].append(new[getattr(part, column)])
            offset += len(part.tokens)
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
