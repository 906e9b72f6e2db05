"""Token documents, and batches of rows packed from them.

A batch depends on a seed and the state of its streams alone, so a resumed run sees the batches it would have seen.

Shape suffixes: B rows, T tokens of a row, U turns of a batch, A answer tokens, S spans. Spans are [S, 2].
"""

import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from layerroute_training.rows import Part

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class ChatTokens:
    """Token ids that mark the parts of a conversation."""

    message_end: int
    tool_call: int
    answer_header: tuple[int, ...]


@dataclass(frozen=True)
class Documents:
    """All documents of one group, one after the other: document i is `tokens[offsets[i]:offsets[i + 1]]`."""

    name: str
    tokens: NDArray[np.uint16]
    offsets: IntArray
    chat: ChatTokens

    @cached_property
    def spans(self) -> IntArray:
        """First token and end of every document."""
        return np.stack([self.offsets[:-1], self.offsets[1:]], axis=1)

    @cached_property
    def turns(self) -> "Turns":
        """All assistant turns."""
        header = self.chat.answer_header
        count = max(len(self.tokens) - len(header), 0)
        matches = np.ones(count, dtype=bool)
        for offset, token in enumerate(header):
            matches &= self.tokens[offset : offset + count] == token
        begin = np.flatnonzero(matches) + len(header)
        message_ends = np.flatnonzero(self.tokens == self.chat.message_end)
        index = np.searchsorted(message_ends, begin)
        begin, index = begin[index < len(message_ends)], index[index < len(message_ends)]
        end = message_ends[index] + 1
        document = np.searchsorted(self.spans[:, 1], begin, side="right")
        inside = (document < len(self.spans)) & (end <= self.spans[np.minimum(document, len(self.spans) - 1), 1])
        begin, end = begin[inside], end[inside]
        calls = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.tokens == self.chat.tool_call)])
        return Turns(begin, end, calls[end] > calls[begin])

    @cached_property
    def turn_of_token(self) -> NDArray[np.int32]:
        """Index of the turn whose answer a token belongs to, or -1."""
        turn = np.full(len(self.tokens), -1, dtype=np.int32)
        for index, (begin, end) in enumerate(zip(self.turns.begin, self.turns.end, strict=True)):
            turn[begin:end] = index
        return turn

    def pieces(self, longest: int) -> IntArray:
        """The documents as spans; texts over `longest` tokens are cut up, conversations keep their beginning."""
        is_text = len(self.turns.begin) == 0
        pieces = []
        for start, end in self.spans.tolist():
            stop = end if is_text else min(end, start + longest)
            pieces += [(cut, min(cut + longest, stop)) for cut in range(start, stop, longest)]
        return np.array(pieces, dtype=np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class Turns:
    """Assistant turns of a group: the answer's first token and end, and whether it calls a tool."""

    begin: IntArray
    end: IntArray
    is_tool_call: NDArray[np.bool_]


def read_documents(folder: Path, part: Part) -> list[Documents]:
    """The groups of a part that `prepare` wrote: `index.json`, the tokenizer, and one xz file of uint16 per group.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file's length is not the one in the index.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    header = tuple(tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False).ids)
    chat = ChatTokens(special_token(tokenizer, "<|im_end|>"), special_token(tokenizer, "<tool_call>"), header)
    groups = []
    for name, parts in json.loads((folder / "index.json").read_text(encoding="utf-8"))["groups"].items():
        entry = parts[part]
        tokens = np.frombuffer(lzma.decompress((folder / entry["file"]).read_bytes()), dtype="<u2")
        offsets = np.array(entry["offsets"], dtype=np.int64)
        if len(tokens) != offsets[-1]:
            raise ValueError(f"{entry['file']} holds {len(tokens)} tokens, not {offsets[-1]}: run prepare again")
        groups.append(Documents(name, tokens, offsets, chat))
    return groups


def special_token(tokenizer: Tokenizer, name: str) -> int:
    """Id of a special token.

    Raises:
        ValueError: the tokenizer lacks it.
    """
    found = tokenizer.token_to_id(name)
    if found is None:
        raise ValueError(f"the tokenizer has no token {name}: use the one that prepare wrote")
    return int(found)


class SpanStream:
    """Endless shuffled spans, packed into rows: the oldest waiting span first, then the longest that still fits."""

    def __init__(self, lengths_S: IntArray, row_tokens: int, seed: int, waiting: int = 256) -> None:
        """Stream spans of these lengths; none may exceed `row_tokens`."""
        if len(lengths_S) == 0 or int(lengths_S.max()) > row_tokens:
            raise ValueError(f"a stream needs spans, of at most {row_tokens} tokens: give data, or longer rows")
        self._lengths = lengths_S
        self._row_tokens = row_tokens
        self._seed = seed
        self._capacity = waiting
        self.epoch, self._cursor = 0, 0
        self._waiting: list[int] = []
        self._order = self._shuffled()

    def next_row(self) -> list[int]:
        """Indices of the spans of the next row."""
        self._refill()
        row = [self._waiting.pop(0)]
        left = self._row_tokens - int(self._lengths[row[0]])
        while self._waiting:
            lengths = self._lengths[self._waiting]
            fitting = np.where(lengths <= left, lengths, 0)
            best = int(fitting.argmax())
            if fitting[best] == 0:
                break
            left -= int(fitting[best])
            row.append(self._waiting.pop(best))
        return row

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as JSON values."""
        return {"epoch": self.epoch, "cursor": self._cursor, "waiting": list(self._waiting)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.epoch, self._cursor, self._waiting = state["epoch"], state["cursor"], list(state["waiting"])
        self._order = self._shuffled()

    def _refill(self) -> None:
        while len(self._waiting) < self._capacity:
            if self._cursor == len(self._order):
                if self._waiting and len(self._order) < self._capacity:
                    return  # a small group: no span twice among those waiting
                self.epoch, self._cursor = self.epoch + 1, 0
                self._order = self._shuffled()
            self._waiting.append(int(self._order[self._cursor]))
            self._cursor += 1

    def _shuffled(self) -> IntArray:
        return np.random.default_rng([self._seed, self.epoch]).permutation(len(self._lengths))


@dataclass(frozen=True)
class Rows:
    """Packed rows on a device. Flat indices point into [B, T] laid out as one line.

    Attributes:
        tokens_BT: token ids; target_BT: the next token's id; weight_BT: loss weight of the target.
        start_BT: where in its row the token's span starts; span_BT: number of the span within the batch.
        turn_BT: number of the assistant turn within the batch whose answer holds the token, or -1.
        answer_at_A: flat indices of the answer tokens, ascending.
        calls_U: whether the turn calls a tool; group_U: number of the turn's group.
        num_spans: how many spans there are, padding included.
    """

    num_spans: int
    tokens_BT: Tensor
    target_BT: Tensor
    weight_BT: Tensor
    start_BT: Tensor
    span_BT: Tensor
    turn_BT: Tensor
    answer_at_A: Tensor
    calls_U: Tensor
    group_U: Tensor

    @property
    def turn_of_answer(self) -> Tensor:
        """Turn of every answer token."""
        return self.turn_BT.flatten()[self.answer_at_A]

    def answer_nll(self, nll_BT: Tensor) -> Tensor:
        """Negative log-likelihoods of the answer tokens [A], each read where the token before it stands."""
        return nll_BT.flatten()[self.answer_at_A - 1]


@dataclass(frozen=True)
class Span:
    """Tokens `start..end` of a group."""

    group: int
    start: int
    end: int


class RowPacker:
    """Lays spans out as rows."""

    def __init__(self, groups: Sequence[Documents], row_tokens: int, other_weight: float, device: torch.device) -> None:
        """Pack rows of `row_tokens`; answers weigh 1, other tokens of conversations `other_weight`, texts 1."""
        self._groups = groups
        self._row_tokens = row_tokens
        self._other = [other_weight if len(group.turns.begin) else 1.0 for group in groups]
        self._device = device

    def pack(self, rows: Sequence[Sequence[Span]]) -> Rows:
        """Rows of the given spans; the rest of a row is one more span of weight zero.

        Turns are numbered in the order in which they stand in the batch.
        """
        B, T = len(rows), self._row_tokens
        tokens, target, start, span_of = (np.zeros((B, T), dtype=np.int64) for _ in range(4))
        weight, turn = np.zeros((B, T), dtype=np.float32), np.full((B, T), -1, dtype=np.int64)
        calls, group_of = [], []
        num_spans = num_turns = 0
        for b, row in enumerate(rows):
            at = 0
            for span in row:
                group, end = self._groups[span.group], at + span.end - span.start
                ids = group.tokens[span.start : span.end]
                tokens[b, at:end], start[b, at:end], span_of[b, at:end] = ids, at, num_spans
                target[b, at : end - 1] = ids[1:]
                first, last = np.searchsorted(group.turns.begin, [span.start, span.end])
                turns = group.turn_of_token[span.start : span.end]
                is_answer = turns >= first
                turn[b, at:end] = np.where(is_answer, turns - first + num_turns, -1)
                weight[b, at : end - 1] = np.where(is_answer[1:], 1.0, self._other[span.group])
                calls.append(group.turns.is_tool_call[first:last])
                group_of.append(np.full(last - first, span.group, dtype=np.int64))
                num_turns += int(last - first)
                num_spans += 1
                at = end
            start[b, at:], span_of[b, at:] = at, num_spans
            num_spans += at < T
        answer_at = np.flatnonzero(turn >= 0)
        per_turn = (np.concatenate(parts) for parts in (calls, group_of))
        arrays: list[NDArray[Any]] = [tokens, target, weight, start, span_of, turn, answer_at, *per_turn]
        return Rows(num_spans, *map(self._send, arrays))

    def _send(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def pack_all(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Rows that hold every span once: first fit, longest first."""
    rows: list[list[int]] = []
    left: list[int] = []
    open_from = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for row in range(open_from, len(rows)):
            if left[row] >= lengths[index]:
                break
        else:
            row = len(rows)
            rows.append([])
            left.append(row_tokens)
        rows[row].append(index)
        left[row] -= lengths[index]
        while open_from < len(rows) and left[open_from] < 16:
            open_from += 1
    return rows
