"""Generated tool-use conversations: seeded, pure Python, with true or plausible results.

`generate(kind, start, stop, seed)` yields canonical rows. Every row draws from its own random stream, so row N of a
seed is the same whatever else is generated.
"""

import random
from collections.abc import Callable, Iterator

from layerroute_training.embedded.conversations import analyst, front_desk, generic, planner
from layerroute_training.embedded.conversations.prompts import Tool
from layerroute_training.embedded.conversations.synthetic import distinct, synthetic_tool
from layerroute_training.rows import Message, Row, split_of

Conversation = tuple[list[Tool], list[Message]]


def _front_desk(rng: random.Random) -> Conversation:
    distractors = distinct([synthetic_tool(rng).tool for _ in range(rng.choice((0, 1, 2, 3)))])
    return front_desk.conversation(rng, distractors)


KINDS: dict[str, Callable[[random.Random], Conversation]] = {
    "front_desk": _front_desk,
    "plan_steps": planner.steps_conversation,
    "plan": planner.plan_conversation,
    "analyst": analyst.analyst_conversation,
    "synthetic_tools": generic.synthetic_conversation,
    "everyday_tools": generic.everyday_conversation,
    "extraction": generic.extraction_conversation,
}
"""Kinds of conversations, by the name that rows carry as their source (with the prefix "generated_")."""

SHARES: dict[str, float] = {
    "front_desk": 0.56,
    "plan_steps": 0.05,
    "plan": 0.08,
    "analyst": 0.08,
    "synthetic_tools": 0.11,
    "everyday_tools": 0.07,
    "extraction": 0.05,
}
"""Share of each kind in a mixed set of conversations, by rows."""


def generate(kind: str, start: int, stop: int, seed: int = 0) -> Iterator[Row]:
    """Rows number `start` to `stop` of one kind."""
    source = f"generated_{kind}"
    for number in range(start, stop):
        tools, messages = KINDS[kind](random.Random(f"{seed} {kind} {number}"))
        yield Row(f"{source}-{seed}-{number}", source, split_of(messages), tools, messages)
