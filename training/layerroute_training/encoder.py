"""From messages and tools to token ids, as the chat model renders them: the one encoder of conversations in training.

The chat template's text is cut before every `<|im_start|>`. That is a special token, so the ids of the segments, one
after the other, are the ids of the whole text, and the prompt of a turn is a prefix of its conversation's ids.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from transformers import PreTrainedTokenizerBase

from layerroute.chat.template import render
from layerroute_training.blocks import SEGMENT, SystemBlocks
from layerroute_training.errors import ConfigError
from layerroute_training.rows import Message, Row, Tool
from layerroute_training.texts import Ids, TextEncoder

_OPENING = "<|im_start|>assistant\n"


@dataclass(frozen=True, slots=True)
class Segment:
    """The ids of one message, or of tool results in a row, which the template puts into one segment.

    Attributes:
        ids: from `<|im_start|>` to the line break behind `<|im_end|>`.
        role: of the message.
        answer: where in `ids` the answer starts and ends (with `<|im_end|>`), if this is an assistant's message.
        calls: names of the tools that it calls.
    """

    ids: Ids
    role: str
    answer: tuple[int, int] = (0, 0)
    calls: tuple[str, ...] = ()


class ConversationEncoder:
    """Encodes conversations, and what recurs in them only once.

    Args:
        tokenizer: with Qwen2.5's chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._texts = TextEncoder(tokenizer)
        self._blocks = SystemBlocks(tokenizer, self._texts)
        self._opening = self._texts.encode([_OPENING])[0]
        self._message_end = int(tokenizer.convert_tokens_to_ids("<|im_end|>"))

    def encode(self, row: Row) -> Ids:
        """Token ids of a whole conversation, ending with `<|im_end|>` and a line break.

        Raises:
            ConfigError, RequestError: as `segments`.
        """
        segments = self.segments(row.messages)
        return np.concatenate([self.system_block(row.messages, row.tools), *(segment.ids for segment in segments)])

    def system_block(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Ids:
        """Ids of the first segment: the system message, or the template's own, and the tools."""
        first = messages[0]
        return self._blocks.encode(first["content"] if first["role"] == "system" else None, tools)

    def segments(self, messages: Sequence[Message]) -> list[Segment]:
        """The segments behind the system block. Assistant messages are stripped of surrounding white space.

        Raises:
            ConfigError: the chat template does not write messages as Qwen2.5's does.
            RequestError: a message that the chat model would refuse.
        """
        tidy = [_tidy(message) for message in messages]
        texts = SEGMENT.split(render(self._tokenizer, tidy).lstrip("\n"))[2:-1]
        spoken = tidy[1:] if tidy[0]["role"] == "system" else tidy
        followers = [message for last, message in pairwise([{"role": ""}, *spoken]) if not _continues(last, message)]
        segments = [
            self._segment(ids, message) for ids, message in zip(self._texts.encode(texts), followers, strict=False)
        ]
        if len(texts) != len(followers) or None in segments:
            raise ConfigError(
                "this model's chat template does not write one <|im_start|> block per message: use a Qwen2.5 Instruct"
                " checkpoint, or a tokenizer with its template"
            )
        return [segment for segment in segments if segment is not None]

    def _segment(self, ids: Ids, message: Message) -> Segment | None:
        if message["role"] != "assistant":
            return Segment(ids, message["role"])
        start = len(self._opening)
        ends = np.flatnonzero(ids == self._message_end)
        if not np.array_equal(ids[:start], self._opening) or not len(ends):
            return None
        calls = tuple(call.get("function", call)["name"] for call in message.get("tool_calls") or ())
        return Segment(ids, "assistant", (start, int(ends[0]) + 1), calls)


def tools_text(tools: Sequence[Tool]) -> str:
    """A tool list as JSON text."""
    return json.dumps(list(tools), ensure_ascii=False)


def _continues(last: Message, message: Message) -> bool:
    return bool(last["role"] == message["role"] == "tool")


def _tidy(message: Message) -> Message:
    content = message.get("content")
    if message["role"] != "assistant" or not content or content == content.strip():
        return message
    return {**message, "content": content.strip()}
