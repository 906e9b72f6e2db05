"""LangChain messages as the plain dicts that the chat template reads.

What is read of messages, whoever wrote them:

- Text: a string, or blocks of text. Any other block is refused, because a question without its picture is another
  question; in an answer it is dropped, so that a model can take over from another provider's (thoughts, searches that a
  server ran, blocks that say again what `tool_calls` says). `additional_kwargs` and names of speakers are never read.
- Results of tools stand in the order of the calls that they answer. A call may go without a result (an agent that was
  interrupted), a result without its call is refused. Calls without an id take the results that fit no other, in turn.
- An answer at the end is gone on with: what comes back is what follows it. To show both to the model later, put them
  into one message.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)

from langchain_layerroute.errors import InvalidRequestError

_TEXT_BLOCKS = {"text": "text", "text-plain": "text", "output_text": "text", "refusal": "refusal"}
"""The types of blocks that hold text, and the key that holds it."""

_CALL_BLOCKS = frozenset({"tool_use", "tool_call", "tool_call_chunk", "function_call"})
_ROLES = {"system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant"}


def to_chat_messages(messages: Sequence[BaseMessage], *, whole: bool = True) -> list[dict[str, Any]]:
    """Turn LangChain messages into chat-template messages.

    Args:
        messages: a conversation that is to be answered.
        whole: False for a part of one, as it is counted to trim a history: results may then lack their calls.

    Raises:
        InvalidRequestError: no messages, one that a text model cannot read, a tool result that answers no call of the
            turn before it, or calls at the end that nothing has answered.
    """
    if not messages:
        raise InvalidRequestError("the conversation is empty: send at least one message")
    last = messages[-1]
    if whole and isinstance(last, AIMessage) and (last.tool_calls or last.invalid_tool_calls):
        raise InvalidRequestError(
            "the conversation ends with calls that nothing has answered: add a ToolMessage for each of them"
        )
    turns: list[dict[str, Any]] = []
    calls = _Calls(())
    for are_results, run in groupby(messages, key=lambda message: isinstance(message, ToolMessage)):
        if are_results:
            turns += calls.in_order(run, whole)
            continue
        for message in run:
            turns.append(_to_chat_message(message))
            if turns[-1]["role"] == "assistant":
                calls = _Calls(_calls_of(message))
    return turns


class _Calls:
    """The calls of one assistant turn, in the order in which the prompt shows them, and which of them are answered."""

    def __init__(self, calls: Iterable[Mapping[str, Any]]) -> None:
        self._calls = list(calls)
        self._answered: set[int] = set()

    def in_order(self, results: Iterable[Any], whole: bool) -> list[dict[str, Any]]:
        """Tool results that follow each other, as template messages, in the order of their calls."""
        placed = [self._placed(result, whole) for result in results]
        return [turn for _, turn in sorted(placed, key=itemgetter(0))]

    def _placed(self, result: ToolMessage, whole: bool) -> tuple[int, dict[str, Any]]:
        turn = {"role": "tool", "name": result.name or "", "content": _text(result)}
        for wanted in (result.tool_call_id, None):
            for place, call in enumerate(self._calls):
                if call["id"] == wanted and place not in self._answered:
                    self._answered.add(place)
                    return place, {**turn, "name": result.name or call["name"] or ""}
        if whole:
            raise InvalidRequestError(self._why_not(result.tool_call_id))
        return len(self._calls), turn

    def _why_not(self, wanted: str) -> str:
        known = [call["id"] for call in self._calls]
        if wanted in known:
            return f"two tool results answer the call {wanted!r}: send one for each call"
        has = f"the calls of the turn before it are {', '.join(map(repr, known))}" if known else "no call is before it"
        return (
            f"a tool result answers the call {wanted!r}, but {has}: give it the id of its call, and when trimming a "
            "history cut it before a human message"
        )


def _calls_of(message: BaseMessage) -> list[Mapping[str, Any]]:
    return [*message.invalid_tool_calls, *message.tool_calls] if isinstance(message, AIMessage) else []


def _to_chat_message(message: BaseMessage) -> dict[str, Any]:
    match message:
        case SystemMessage():
            return {"role": "system", "content": _text(message)}
        case HumanMessage():
            return {"role": "user", "content": _text(message)}
        case AIMessage():
            return assistant_message(_text(message), message)
        case ChatMessage() if message.role in _ROLES:
            return {"role": _ROLES[message.role], "content": _text(message)}
        case ChatMessage():
            raise InvalidRequestError(f"unknown chat role {message.role!r}: use one of {', '.join(_ROLES)}")
        case FunctionMessage():
            raise InvalidRequestError("a FunctionMessage names no call: send a ToolMessage with a tool_call_id instead")
    raise InvalidRequestError(f"messages of type {message.type!r} are no part of a conversation: leave them out")


def assistant_message(text: str, message: AIMessage) -> dict[str, Any]:
    """Return an assistant turn with its calls; calls that could not be read stand in its text as written."""
    parts = [text, *map(_as_written, message.invalid_tool_calls)]
    turn: dict[str, Any] = {"role": "assistant", "content": "\n".join(filter(None, parts))}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "function": {"name": call["name"], "arguments": call["args"]}}
            for call in message.tool_calls
        ]
    return turn


def _as_written(call: InvalidToolCall) -> str:
    written = call["args"] or ""  # of a call whose name was never read all of its text
    if not call["name"]:
        return written
    return f'{{"name": {json.dumps(call["name"], ensure_ascii=False)}, "arguments": {written}'


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(_block_text(block, message) for block in message.content)


def _block_text(block: str | dict[Any, Any], message: BaseMessage) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type")
    text = block.get(_TEXT_BLOCKS.get(str(kind), ""))
    if isinstance(text, str):
        return text
    if not isinstance(message, AIMessage):
        raise InvalidRequestError(
            f"a {message.type} message holds a content block of type {kind!r} without text, and this model reads text "
            "only: send text blocks, or describe the content in words"
        )
    if kind in _CALL_BLOCKS and not _calls_of(message):
        raise InvalidRequestError(
            f"an AI message holds a call as a content block of type {kind!r} only: put it into `tool_calls` as well"
        )
    return ""
