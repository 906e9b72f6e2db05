"""NousResearch/hermes-function-calling-v1: ShareGPT turns, tools inside the system turn, calls and results in tags."""

import re
from collections.abc import Sequence
from typing import Any

from layerroute_training.native.pieces import (
    Conversation,
    Malformed,
    Record,
    asked,
    column,
    compact,
    listed,
    mapping,
    parsed,
    tool,
    tool_call,
    unpacked,
)
from layerroute_training.rows import Message, Tool

_TOOLS = re.compile(r"<tools>\s*([\[{].*?)\s*</tools>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESULT = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
_BOILERPLATE = re.compile(
    r"You are a function calling AI model\."
    r"|You are provided with function signatures within <tools>\s*</tools> XML tags\."
    r"|You may call one or more functions to assist with the user query\."
    r"|Don't make assumptions about what values to plug into functions\."
    r"|Here are the available tools:"
    r"|(?:For each function call,? return|Use the following pydantic model json schema).*",
    re.DOTALL | re.IGNORECASE,
)


def read_hermes(record: Record) -> Conversation:
    """Tools and messages of a record `{"conversations": [{"from", "value"}], "tools"?}`."""
    tools = _tools_column(record.get("tools"))
    messages: list[Message] = []
    for turn in column(record, "conversations", list):
        sender, text = mapping(turn).get("from"), mapping(turn).get("value")
        if not isinstance(text, str):
            raise Malformed("a turn without text")
        if sender == "system":
            block = _TOOLS.search(text)
            if block is not None:
                tools = tools or [tool(value) for value in unpacked(block[1], "tools are not JSON")]
                text = _BOILERPLATE.sub("", f"{text[: block.start()]}\n{text[block.end() :]}")
            messages += [{"role": "system", "content": text.strip()}] if text.strip() else []
        elif sender in ("human", "user"):
            messages.append({"role": "user", "content": text.strip()})
        elif sender in ("gpt", "assistant"):
            messages.append(_answer(text))
        elif sender == "tool":
            for result in _RESULT.findall(text) or [text]:
                messages.append(_result(result.strip(), messages))
        else:
            raise Malformed("a role that the format does not know")
    return tools, messages


def _tools_column(value: Any) -> list[Tool]:
    """Definitions of the `tools` column where it can be read; the system turn repeats them."""
    try:
        return [tool(item) for item in listed(value)] if value else []
    except Malformed:
        return []


def _answer(text: str) -> Message:
    spoken = _CALL.sub("", text).strip()
    if "<tool_call>" in spoken or "</tool_call>" in spoken:
        raise Malformed("a call without its opening or closing tag")
    calls = [tool_call(value) for body in _CALL.findall(text) for value in unpacked(body, "a call is not JSON")]
    message: Message = {"role": "assistant", "content": spoken}
    return {**message, "tool_calls": calls} if calls else message


def _result(text: str, messages: Sequence[Message]) -> Message:
    """A result is `{"name": ..., "content": ...}`, or whatever else the function answered."""
    name = asked(messages)
    try:
        values = parsed(text, "")
    except Malformed:
        values = []
    if len(values) != 1:
        return {"role": "tool", "name": name, "content": text}
    value = values[0]
    if isinstance(value, dict) and set(value) == {"name", "content"} and isinstance(value["name"], str):
        name, value = value["name"], value["content"]
    return {"role": "tool", "name": name, "content": compact(value)}
