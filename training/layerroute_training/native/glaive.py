"""glaiveai/glaive-function-calling-v2: two texts, `system` with the functions and `chat` with all turns."""

import json
import re
from typing import Any

from layerroute_training.native.pieces import (
    Conversation,
    Malformed,
    Record,
    asked,
    column,
    compact,
    tool,
    tool_call,
    unpacked,
)
from layerroute_training.rows import Message

_TURN = re.compile(r"(?:\A|<\|endoftext\|>|\n\s*\n)\s*(USER|ASSISTANT|FUNCTION RESPONSE):")
_BOILERPLATE = re.compile(
    r"You are a helpful assistant,? with access to the following functions\. Use them if required\s*-?", re.IGNORECASE
)
_QUOTED_ARGUMENTS = re.compile(r"""\{\s*"name":\s*"([^"]*)",\s*"arguments":\s*'(.*)'\s*\}""", re.DOTALL)


def read_glaive(record: Record) -> Conversation:
    """Tools and messages of a record `{"system", "chat"}`."""
    system = column(record, "system", str).strip().removeprefix("SYSTEM:").strip()
    introduction, brace, functions = system.partition("{")
    tools = [tool(value) for value in unpacked(brace + functions, "tools are not JSON")]
    spoken = _BOILERPLATE.sub("", introduction).strip()
    messages: list[Message] = [{"role": "system", "content": spoken}] if spoken else []
    before, *turns = _TURN.split(column(record, "chat", str))
    if before.strip():
        raise Malformed("text before the first turn")
    for role, text in zip(turns[::2], turns[1::2], strict=True):
        content = text.replace("<|endoftext|>", "").strip()
        if role == "USER":
            messages.append({"role": "user", "content": content})
        elif role == "ASSISTANT":
            messages.append(_answer(content))
        else:
            messages.append({"role": "tool", "name": asked(messages), "content": _result(content)})
    return tools, messages


def _answer(text: str) -> Message:
    spoken, *calls = text.split("<functioncall>")
    message: Message = {"role": "assistant", "content": spoken.strip()}
    return {**message, "tool_calls": [_call(call.strip()) for call in calls]} if calls else message


def _call(text: str) -> dict[str, Any]:
    """A call is JSON, but its arguments are JSON text between single quotes; apostrophes in it may be escaped."""
    quoted = _QUOTED_ARGUMENTS.fullmatch(text)
    if quoted is not None:
        return tool_call({"name": quoted[1], "arguments": _unescaped(quoted[2])})
    values = unpacked(text, "a call is not JSON")
    return tool_call(values[0] if len(values) == 1 else None)


def _unescaped(arguments: str) -> str:
    try:
        json.loads(arguments, strict=False)
    except json.JSONDecodeError:
        return arguments.replace("\\'", "'")
    return arguments


def _result(text: str) -> str:
    try:
        return compact(json.loads(text))
    except json.JSONDecodeError:
        return text
