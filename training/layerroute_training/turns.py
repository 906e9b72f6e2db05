"""The prompt of one assistant turn within a window: what of its conversation stays, and what has to go."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from layerroute_training.encoder import ConversationEncoder, Segment
from layerroute_training.rows import Message, Tool
from layerroute_training.texts import Ids

ANSWER_TOO_LONG = "answer longer than the window"
PROMPT_TOO_LONG = "prompt longer than the window"


@dataclass(frozen=True, slots=True)
class FittedStep:
    """A step cut down to a window: its ids, where the answer starts, and the tools that the prompt still shows."""

    ids: Ids
    answer: int
    tools: Sequence[Tool]


def fit_step(
    encoder: ConversationEncoder,
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
    before = [block, *(segment.ids for index in sorted(kept) for segment in exchanges[index])]
    ids = np.concatenate([*before, segments[turn].ids[:answer_end]])
    return FittedStep(ids, len(ids) - answer_end + answer_start, shown)


def _fit_tools(
    encoder: ConversationEncoder, messages: Sequence[Message], tools: Sequence[Tool], called: set[str], room: int
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
