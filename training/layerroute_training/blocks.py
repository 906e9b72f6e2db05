"""System blocks: the first segment of a conversation, with its system message and its tools, one on a line.

A few thousand tools come back in tens of thousands of blocks. So a block is put together from lines that are rendered
and encoded once, where template and tokenizer allow that: the template writes the tools on lines of their own, and no
token reaches across the end of one. Elsewhere every block is rendered and encoded as a whole; the ids are the same.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers.normalizers import NFC
from transformers import PreTrainedTokenizerBase

from layerroute.chat.template import render
from layerroute_training.rows import Tool
from layerroute_training.texts import Ids, Recent, TextEncoder

SEGMENT = re.compile(r"(?=<\|im_start\|>)")
"""Where a segment of rendered text begins."""

_PROBES = tuple({"type": "function", "function": {"name": f"probe {letter}"}} for letter in "ab")
_JOINTS = ('<tools>\n{"type"', '"}}\n{"type"', "}\n</tools>")
"""How the lines of a block meet."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """The text before and behind the lines of the tools, cut where a line ends."""

    before: str
    behind: str


class SystemBlocks:
    """Encodes system blocks.

    Args:
        tokenizer: with Qwen2.5's chat template; texts: encodes with it.
        size: blocks, and rendered lines, that are remembered.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: TextEncoder, size: int = 1 << 12) -> None:
        self._tokenizer, self._texts = tokenizer, texts
        self._blocks: Recent[tuple[str | None, str], Ids] = Recent(size)
        self._frames: Recent[str | None, _Frame] = Recent(size)
        self._lines: Recent[str, str] = Recent(size)
        self._has_lines = ends_at_lines(tokenizer) and self._writes_lines()

    def encode(self, system: str | None, tools: Sequence[Tool]) -> Ids:
        """Ids of the block with a system message (None for the template's own) and tools.

        Raises:
            RequestError: a system message or a tool that the chat model would refuse.
        """
        texts = [json.dumps(tool, ensure_ascii=False) for tool in tools]
        return self._blocks.find((system, "\n".join(texts)), lambda: self._put_together(system, tools, texts))

    def _put_together(self, system: str | None, tools: Sequence[Tool], texts: Sequence[str]) -> Ids:
        if not tools or not self._has_lines:
            return self._texts.encode([self._render(system, tools)])[0]
        frame = self._frame(system)
        lines = [self._line(tool, text) for tool, text in zip(tools, texts, strict=True)]
        return np.concatenate(self._texts.encode([frame.before, *lines, frame.behind]))

    def _frame(self, system: str | None) -> _Frame:
        """What stands around the tools."""

        def make() -> _Frame:
            before, _, behind = self._render(system, _PROBES[:1]).rpartition(json.dumps(_PROBES[0]))
            return _Frame(before, behind.removeprefix("\n"))

        return self._frames.find(system, make)

    def _line(self, tool: Tool, text: str) -> str:
        """The line of a tool, whose JSON text is `text`, with the line break."""

        def make() -> str:
            frame = self._frame(None)
            return self._render(None, [tool]).removeprefix(frame.before).removesuffix(frame.behind)

        return self._lines.find(text, make)

    def _render(self, system: str | None, tools: Sequence[Tool]) -> str:
        first = {"role": "user", "content": ""} if system is None else {"role": "system", "content": system}
        return SEGMENT.split(render(self._tokenizer, [first], tools).lstrip("\n"))[1]

    def _writes_lines(self) -> bool:
        """Whether the template writes tools as lines between brackets."""
        one, other = map(json.dumps, _PROBES)
        before, found, behind = self._render(None, _PROBES[:1]).rpartition(one)
        return (
            bool(found)
            and before.endswith(">\n")
            and behind.startswith("\n<")
            and self._render(None, _PROBES) == f"{before}{one}\n{other}{behind}"
        )


def ends_at_lines(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether no token and no normalised letter lies across the end of a line of a block.

    Before the end stand a bracket and a line break, behind it a bracket. Pre-tokenizers such as Qwen's tell by these
    alone that a word ends there.
    """
    backend = tokenizer.backend_tokenizer
    strips = any(token.lstrip for token in tokenizer.added_tokens_decoder.values())
    if strips or backend.pre_tokenizer is None or not isinstance(backend.normalizer, NFC | None):
        return False
    for joint in _JOINTS:
        starts = [start for _, (start, _) in backend.pre_tokenizer.pre_tokenize_str(joint)]
        if joint.index("\n") + 1 not in starts:
            return False
    return True
