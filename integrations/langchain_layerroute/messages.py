"""LangChain messages as the plain dicts that the chat template reads."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_layerroute.errors import InvalidRequestError

# Blocks of an assistant turn that say again what `tool_calls` says, or that are no part of the conversation.
_SILENT_BLOCKS = frozenset(
    {
        "tool_use",
        "tool_call",
        "tool_call_chunk",
        "invalid_tool_call",
        "function_call",
        "thinking",
        "redacted_thinking",
        "reasoning",
        "reasoning_content",
    }
)
_ROLES = {"system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant"}


def to_chat_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Turn LangChain messages into chat-template messages.

    Raises:
        InvalidRequestError: no messages, or a message or content block that a text model cannot read.
    """
    if not messages:
        raise InvalidRequestError("the conversation is empty: send at least one message")
    tool_names = {
        call["id"]: call["name"]
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
    }
    return [_to_chat_message(message, tool_names) for message in messages]


def _to_chat_message(message: BaseMessage, tool_names: dict[str | None, str]) -> dict[str, Any]:
    text = _text(message)
    match message:
        case SystemMessage():
            return {"role": "system", "content": text}
        case HumanMessage():
            return {"role": "user", "content": text}
        case AIMessage():
            return assistant_message(text, message)
        case ToolMessage():
            return {"role": "tool", "name": message.name or tool_names.get(message.tool_call_id, ""), "content": text}
        case FunctionMessage():
            return {"role": "tool", "name": message.name, "content": text}
        case ChatMessage() if message.role in _ROLES:
            return {"role": _ROLES[message.role], "content": text}
        case ChatMessage():
            raise InvalidRequestError(f"unknown chat role {message.role!r}: use one of {', '.join(_ROLES)}")
    raise InvalidRequestError(f"messages of type {message.type!r} are no part of a conversation: leave them out")


def assistant_message(text: str, message: AIMessage) -> dict[str, Any]:
    """Return an assistant turn with its calls; calls whose arguments never parsed stand in its text as written."""
    broken = [f'{{"name": "{call["name"]}", "arguments": {call["args"]}' for call in message.invalid_tool_calls]
    turn: dict[str, Any] = {"role": "assistant", "content": "\n".join([text] * bool(text) + broken)}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "function": {"name": call["name"], "arguments": call["args"]}}
            for call in message.tool_calls
        ]
    return turn


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(_block_text(block, message) for block in message.content)


def _block_text(block: str | dict[Any, Any], message: BaseMessage) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type")
    if kind in ("text", "text-plain") and isinstance(block.get("text"), str):
        return str(block["text"])
    if isinstance(message, AIMessage) and kind in _SILENT_BLOCKS:
        return ""
    raise InvalidRequestError(
        f"a {message.type} message holds a content block of type {kind!r}, and this model reads text only: "
        "send text blocks, or describe the content in words"
    )
