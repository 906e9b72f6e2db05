"""What the readers share: JSON in text, function definitions, calls, and which call a result answers."""

import ast
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from layerroute_training.rows import Message, Tool

Record = Mapping[str, Any]
Conversation = tuple[list[Tool], list[Message]]

_GAP = re.compile(r"[\s,]*")


class Malformed(ValueError):
    """A record that is no usable conversation; the text is the reason, equal for all records with that fault."""


def column(record: Record, name: str, *kinds: type) -> Any:
    """A column of one of these types.

    Raises:
        Malformed: it is missing or of another type.
    """
    if not isinstance(record.get(name), kinds):
        raise Malformed(f"no {name} column of the format's type")
    return record[name]


def mapping(value: Any) -> Mapping[str, Any]:
    """`value`, if it is an object."""
    if not isinstance(value, Mapping):
        raise Malformed("text or a list where an object belongs")
    return value


def parsed(text: str, reason: str) -> list[Any]:
    """JSON values that follow each other, or one Python literal (single quotes, None).

    Raises:
        Malformed: neither, with `reason`.
    """
    try:
        return list(_json_values(text.strip()))
    except json.JSONDecodeError:
        pass
    try:
        return [json.loads(json.dumps(ast.literal_eval(text.strip())))]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise Malformed(reason) from None


def unpacked(text: str, reason: str) -> list[Any]:
    """As `parsed`, with the elements of a list in the list's place."""
    return [item for value in parsed(text, reason) for item in (value if isinstance(value, list) else [value])]


def listed(value: Any) -> list[Any]:
    """A list whose elements, or the whole of which, may be JSON text (columns of JSON in parquet files are)."""
    items = unpacked(value, "a column is not JSON") if isinstance(value, str) else value
    if not isinstance(items, list):
        raise Malformed("an object where a list belongs")
    return [parsed(item, "a column is not JSON")[0] if isinstance(item, str) and item else item for item in items]


def tool(value: Any) -> Tool:
    """A function definition in OpenAI's form, from that or from the bare function."""
    function = mapping(value).get("function", value)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Malformed("a tool without a name")
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return {"type": "function", "function": {**function, "parameters": parameters}}


def tool_call(value: Any) -> dict[str, Any]:
    """A call in OpenAI's form with its arguments as an object, from `{"name", "arguments"}`."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise Malformed("a call without a name")
    arguments = value.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, strict=False)
        except json.JSONDecodeError:
            raise Malformed("a call's arguments are not JSON") from None
    if not isinstance(arguments, dict):
        raise Malformed("a call's arguments are no object")
    return {"type": "function", "function": {"name": value["name"], "arguments": arguments}}


def asked(messages: Sequence[Message]) -> str:
    """The function that the next result is from: results follow in call order.

    Raises:
        Malformed: no call precedes the result.
    """
    answered = len(list(itertools.takewhile(lambda message: message["role"] == "tool", reversed(messages))))
    calls = messages[-answered - 1].get("tool_calls", ()) if answered < len(messages) else ()
    if not calls:
        raise Malformed("a tool result without a call")
    return str(calls[min(answered, len(calls) - 1)]["function"]["name"])


def compact(value: Any) -> str:
    """A result as message text: text as it is, anything else as compact JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _json_values(text: str) -> Iterator[Any]:
    decoder, position = json.JSONDecoder(), 0
    while position < len(text):
        value, end = decoder.raw_decode(text, position)
        yield value
        gap = _GAP.match(text, end)
        position = gap.end() if gap else end
