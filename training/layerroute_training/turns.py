"""Conversations as token segments, and the prompt of one assistant turn within a window.

The chat template's text is cut before every `<|im_start|>`. That is a special token, so the ids of the segments, one
after the other, are the ids of the whole text, and the prompt of a turn is a prefix of its conversation's ids.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from transformers import PreTrainedTokenizerBase

from layerroute.chat.template import SEAM, encode_rendered, render
from layerroute_training.errors import ConfigError
from layerroute_training.rows import Message, Tool

ANSWER_TOO_LONG = "answer longer than the window"
PROMPT_TOO_LONG = "prompt longer than the window"

_OPENING = "<|im_start|>assistant\n"
_SEGMENT = re.compile(r"(?=<\|im_start\|>)")


@dataclass(frozen=True, slots=True)
class Segment:
    """The ids of one message, or of tool results in a row, which the template puts into one segment.

    Attributes:
        ids: from `<|im_start|>` to the line break behind `<|im_end|>`.
        role: of the message.
        answer: where in `ids` the answer starts and ends (with `<|im_end|>`), if this is an assistant's message.
        calls: names of the tools that it calls.
    """

    ids: Sequence[int]
    role: str
    answer: tuple[int, int] = (0, 0)
    calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FittedStep:
    """A step cut down to a window: its ids, where the answer starts, and the tools that the prompt still shows."""

    ids: Sequence[int]
    answer: int
    tools: Sequence[Tool]


class SegmentEncoder:
    """Encodes conversations as the chat model renders them, system blocks that recur only once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, cache_size: int = 4096) -> None:
        """Encode with `tokenizer`, keeping the ids of up to `cache_size` system blocks."""
        self._tokenizer = tokenizer
        self._opening = self._encode([_OPENING])[0]
        self._message_end = int(tokenizer.convert_tokens_to_ids("<|im_end|>"))
        self._blocks: OrderedDict[str, Sequence[int]] = OrderedDict()
        self._cache_size = cache_size

    def system_block(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Sequence[int]:
        """Ids of the first segment: the system message, or the template's own, and the tool schemas."""
        messages = messages[:1] if messages[0]["role"] == "system" else [{"role": "user", "content": ""}]
        text = _SEGMENT.split(render(self._tokenizer, messages, tools).lstrip("\n"))[1]
        if text not in self._blocks:
            self._blocks[text] = self._encode([text])[0]
            if len(self._blocks) > self._cache_size:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(text)
        return self._blocks[text]

    def segments(self, messages: Sequence[Message]) -> list[Segment]:
        """The segments behind the system block. Assistant messages are stripped of surrounding white space.

        Raises:
            ConfigError: the chat template does not write messages as Qwen2.5's does.
            RequestError: a message that the chat model would refuse.
        """
        tidy = [_tidy(message) for message in messages]
        texts = _SEGMENT.split(render(self._tokenizer, tidy).lstrip("\n"))[2:-1]
        spoken = tidy[1:] if tidy[0]["role"] == "system" else tidy
        followers = [message for last, message in pairwise([{"role": ""}, *spoken]) if not _continues(last, message)]
        segments = [self._segment(ids, message) for ids, message in zip(self._encode(texts), followers, strict=False)]
        if len(texts) != len(followers) or None in segments:
            raise ConfigError(
                "this model's chat template does not write one <|im_start|> block per message: use a Qwen2.5 Instruct"
                " checkpoint, or a tokenizer with its template"
            )
        return [segment for segment in segments if segment is not None]

    def _segment(self, ids: Sequence[int], message: Message) -> Segment | None:
        if message["role"] != "assistant":
            return Segment(ids, message["role"])
        start = len(self._opening)
        if list(ids[:start]) != list(self._opening) or self._message_end not in ids:
            return None
        calls = tuple(call.get("function", call)["name"] for call in message.get("tool_calls") or ())
        return Segment(ids, "assistant", (start, ids.index(self._message_end) + 1), calls)

    def _encode(self, texts: Sequence[str]) -> list[Sequence[int]]:
        if any(SEAM in text for text in texts):
            return [encode_rendered(self._tokenizer, text) for text in texts]
        encodings = self._tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def fit_step(
    encoder: SegmentEncoder,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    segments: Sequence[Segment],
    turn: int,
    window: int,
) -> FittedStep | str:
    """The step whose answer is in `segments[turn]`, in at most `window` tokens; or why that cannot be.

    The answer, the system block, the last user message and the message before the answer stay; the oldest of the
    others go first, and a tool result goes with its call. If that is not enough, tools that no turn so far calls
    are left out of the schema list, from its end.
    """
    answer_start, answer_end = segments[turn].answer
    if answer_end - answer_start > window:
        return ANSWER_TOO_LONG
    exchanges = _exchanges(segments[:turn])
    sizes = [sum(len(segment.ids) for segment in exchange) for exchange in exchanges]
    users = [index for index, exchange in enumerate(exchanges) if exchange[0].role == "user"]
    kept = {*users[-1:], *range(max(len(exchanges) - 1, 0), len(exchanges))}
    room = window - answer_end - sum(sizes[index] for index in kept)
    called = {name for segment in segments[: turn + 1] for name in segment.calls}
    shown = _fit_tools(encoder, messages, tools, called, room)
    if shown is None:
        return PROMPT_TOO_LONG
    block = encoder.system_block(messages, shown)
    others = [index for index in reversed(range(len(exchanges))) if index not in kept]
    used = accumulate(sizes[index] for index in others)
    kept |= {index for index, size in zip(others, used, strict=True) if size <= room - len(block)}
    ids = [*block, *(token for index in sorted(kept) for segment in exchanges[index] for token in segment.ids)]
    return FittedStep([*ids, *segments[turn].ids[:answer_end]], len(ids) + answer_start, shown)


def _fit_tools(
    encoder: SegmentEncoder, messages: Sequence[Message], tools: Sequence[Tool], called: set[str], room: int
) -> Sequence[Tool] | None:
    """As many tools as fit `room` tokens with the system block; all those that are called, or None."""
    unused = [index for index, tool in enumerate(tools) if tool.get("function", tool)["name"] not in called]

    def without(count: int) -> list[Tool]:
        left_out = set(unused[len(unused) - count :])
        return [tool for index, tool in enumerate(tools) if index not in left_out]

    def fits(count: int) -> bool:
        return len(encoder.system_block(messages, without(count))) <= room

    if not fits(len(unused)):
        return None
    most, least = len(unused), 0  # `most` fits; halve what lies between
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if fits(middle) else (middle + 1, most)
    return without(most)


def _exchanges(segments: Sequence[Segment]) -> list[list[Segment]]:
    """The segments, every tool result together with the call before it."""
    exchanges: list[list[Segment]] = []
    for segment in segments:
        if segment.role == "tool" and exchanges and exchanges[-1][-1].role == "assistant":
            exchanges[-1].append(segment)
        else:
            exchanges.append([segment])
    return exchanges


def _continues(last: Message, message: Message) -> bool:
    return bool(last["role"] == message["role"] == "tool")


def _tidy(message: Message) -> Message:
    content = message.get("content")
    if message["role"] != "assistant" or not content or content == content.strip():
        return message
    return {**message, "content": content.strip()}
