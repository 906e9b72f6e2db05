"""How an answer's tool calls, or its final number, compare with the reference's.

Values are compared as JSON values: 1 equals 1.0 and not true, and the keys of an object have no order. Parallel calls
have no order either. Text beside the calls is not compared.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerroute.chat.parser import ParsedAnswer, ParsedToolCall
from layerroute.report import StepKind

FloatArray = NDArray[np.float64]
Leaf = tuple[str, str, str]
"""Function name, path of a value within the arguments, and the value, the last two as canonical JSON text."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class CallScore:
    """One answer against one reference answer that calls tools.

    Attributes:
        calls: the answer calls a tool, readable or not.
        exact: the same calls, with equal names and arguments, and none besides.
        names: the same function names, as often, and no unreadable call.
        matched, produced, expected: leaves (see `leaves`) that both have, that the answer has, that the reference has.
    """

    calls: bool
    exact: bool
    names: bool
    matched: int
    produced: int
    expected: int


def score_calls(answer: ParsedAnswer, reference: ParsedAnswer) -> CallScore:
    """Compare the calls of an answer with those of the reference."""
    readable = not answer.invalid_tool_calls
    found, wanted = answer.tool_calls, reference.tool_calls
    found_leaves, wanted_leaves = leaves(found), leaves(wanted)
    return CallScore(
        calls=answer.kind is StepKind.TOOL_CALL,
        exact=readable and _as_multiset(found) == _as_multiset(wanted),
        names=readable and Counter(call.name for call in found) == Counter(call.name for call in wanted),
        matched=(found_leaves & wanted_leaves).total(),
        produced=found_leaves.total(),
        expected=wanted_leaves.total(),
    )


def argument_f1(matched: FloatArray, produced: FloatArray, expected: FloatArray) -> FloatArray:
    """Harmonic mean of precision and recall of leaves, from their counts; 0 where neither side has any."""
    return 2 * matched / np.maximum(produced + expected, 1)


def leaves(calls: tuple[ParsedToolCall, ...]) -> Counter[Leaf]:
    """The values that the calls pass, each with its function and path, counted over all calls.

    An empty object or list is a value, so a call without arguments has one leaf: its empty arguments.
    """
    return Counter((call.name, path, value) for call in calls for path, value in _leaves(call.arguments, []))


def canonical(value: Any) -> str:
    """JSON text that two values share exactly if they are equal as JSON values."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=True)


def final_number(text: str) -> str | None:
    """The number after the last "####", else the last number of the text, in one spelling; None if there is none."""
    _, marker, tail = text.rpartition("####")
    numbers = _NUMBER.findall(tail if marker else text)
    if not numbers:
        return None
    return canonical(float(numbers[0 if marker else -1].replace(",", "")))


def _as_multiset(calls: tuple[ParsedToolCall, ...]) -> Counter[tuple[str, str]]:
    return Counter((call.name, canonical(call.arguments)) for call in calls)


def _leaves(value: Any, path: list[str | int]) -> Iterator[tuple[str, str]]:
    children: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    if not children:
        yield json.dumps(path), canonical(value)
    for key, child in children:
        yield from _leaves(child, [*path, key])


def _plain(value: Any) -> Any:
    """The value with whole floats as integers, since JSON has one kind of number."""
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_plain(child) for child in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
