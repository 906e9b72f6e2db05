"""AnswerParser: the deltas of an answer to text and tool calls, as they come."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from layerroute.engine.json_values import identity, read_json
from layerroute.engine.request import CALL_SPACE, TOOL_CALL_CLOSE, TOOL_CALL_OPEN, Delta, ToolSpec
from layerroute.report import StepKind

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")', re.DOTALL)
_ARGUMENTS = re.compile(r'\s*,\s*"arguments"\s*:\s*(?=\{)')
_JSON_TURN = re.compile(r'["\\{}]')


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Further text of the answer's content."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call whose name is known. `index` counts the calls of the answer from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """Further JSON text of a call's arguments; all pieces together are the arguments object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """A call that was started is over. Whether it is valid stands in the ParsedAnswer."""

    index: int


Event = TextDelta | ToolCallStart | ToolCallArguments | ToolCallEnd


@dataclass(frozen=True, slots=True)
class ParsedToolCall:
    """A call that can be carried out."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class InvalidToolCall:
    """A call that cannot be read: its name if that much is known, the raw text between the markers, and why."""

    index: int
    name: str | None
    text: str
    error: str


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """The whole answer.

    Attributes:
        content: its text.
        tool_calls: calls in order; one that was written twice is there once.
        invalid_tool_calls: calls that cannot be carried out.
        kind: the observed kind of the step.
        repeated: whether a call was written again, word for word, and left out; the answer's tokens hold it still.
    """

    content: str
    tool_calls: tuple[ParsedToolCall, ...]
    invalid_tool_calls: tuple[InvalidToolCall, ...]
    kind: StepKind
    repeated: bool = False


@dataclass(slots=True)
class _OpenCall:
    """The call that is being read. `position` is how far `text` has been reported or understood."""

    index: int
    held: bool  # an earlier call begins with this text: nothing is reported while it may be the same
    text: str = ""
    position: int = 0
    name: str | None = None
    streaming: bool = False  # the arguments object has begun
    arguments: list[str] = field(default_factory=list)
    depth: int = 0
    in_string: bool = False
    escaped: bool = False
    complete: bool = False  # the arguments object has ended


class AnswerParser:
    """Reads one answer. Calls are told from text that spells the markers by the token ids of the deltas.

    A call stands once in an answer: word for word again, it is left out, and in other words it is invalid. White space
    around calls is markup and no content.

    Args:
        tokenizer: tokenizer of the backbone; without `<tool_call>` tokens everything is text.
        tools: the tools on offer; their calls are checked for what a grammar cannot hold of a schema.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tools: Sequence[ToolSpec] = ()) -> None:
        added = tokenizer.get_added_vocab()
        self._open_delta = Delta(TOOL_CALL_OPEN, (added.get(TOOL_CALL_OPEN, -1),))
        self._close_delta = Delta(TOOL_CALL_CLOSE, (added.get(TOOL_CALL_CLOSE, -1),))
        self._tools = {tool.name: tool for tool in tools}
        self._content: list[str] = []
        self._space = ""  # held back: dropped if a call follows
        self._at_edge = True  # no text yet since the beginning, or since the last call
        self._call: _OpenCall | None = None
        self._num_calls = 0
        self._texts: list[str] = []  # of the calls so far
        self._identities: set[str] = set()
        self._repeated = False
        self._calls: list[ParsedToolCall] = []
        self._invalid: list[InvalidToolCall] = []

    def feed(self, delta: Delta) -> list[Event]:
        """The events that a delta makes certain."""
        if delta == self._open_delta:
            events = self._end_call(closed=False)
            self._space = ""
            self._call = _OpenCall(self._num_calls, held=bool(self._texts))
            self._num_calls += 1
            return events
        call = self._call
        if call is None:
            return self._add_text(delta.text)
        if delta == self._close_delta:
            return self._end_call(closed=True)
        call.text += delta.text
        call.held = call.held and any(text.startswith(call.text) for text in self._texts)
        return [] if call.held else _stream(call)

    def finish(self) -> ParsedAnswer:
        """The whole answer; nothing may be fed afterwards. Whoever streams events takes `events_at_end` first."""
        self.events_at_end()
        return ParsedAnswer(
            content="".join(self._content),
            tool_calls=tuple(self._calls),
            invalid_tool_calls=tuple(self._invalid),
            kind=StepKind.TOOL_CALL if self._num_calls else StepKind.PLANNING,
            repeated=self._repeated,
        )

    def events_at_end(self) -> list[Event]:
        """The last events: text that was held back, or the end of a call that was cut off."""
        events = self._end_call(closed=False)
        space, self._space = self._space, ""
        if space and not (self._at_edge and self._num_calls):
            self._content.append(space)
            events.append(TextDelta(space))
        return events

    def _add_text(self, text: str) -> list[Event]:
        text = self._space + text
        if self._at_edge and not text.strip(CALL_SPACE):
            self._space = text
            return []
        if self._at_edge and self._num_calls and not self._content:
            text = text.lstrip(CALL_SPACE)
        self._at_edge = False
        self._space = "\n" if text.endswith("\n") else ""
        text = text.removesuffix("\n")
        if not text:
            return []
        self._content.append(text)
        return [TextDelta(text)]

    def _end_call(self, closed: bool) -> list[Event]:
        call, self._call = self._call, None
        if call is None:
            return []
        self._at_edge = True
        if call.held and call.text in self._texts:
            self._repeated = True
            self._num_calls -= 1
            return []
        events = _stream(call) if call.held else []
        self._texts.append(call.text)
        try:
            parsed = self._read_call(call)
        except (ValueError, RecursionError) as error:
            reason = str(error) if closed else f"the answer ended inside the call ({error})"
            self._invalid.append(InvalidToolCall(call.index, call.name, call.text, reason))
        else:
            self._calls.append(parsed)
            if call.name is None:
                call.name = parsed.name
                events.append(ToolCallStart(call.index, parsed.name))
            if not call.streaming:
                events.append(ToolCallArguments(call.index, json.dumps(parsed.arguments, ensure_ascii=False)))
        if call.name is not None:
            events.append(ToolCallEnd(call.index))
        return events

    def _read_call(self, call: _OpenCall) -> ParsedToolCall:
        """The call that the text between the markers describes.

        Raises:
            ValueError: it describes none, another one than was streamed, an earlier one, or one that does not fit.
        """
        body = read_json(call.text)
        if not isinstance(body, dict) or not isinstance(body.get("name"), str):
            raise ValueError('the call is not a JSON object with a "name"')
        name, arguments = body["name"], body.get("arguments", {})
        if not isinstance(arguments, dict):
            raise ValueError('the "arguments" of the call are not a JSON object')
        if call.name not in (None, name) or (call.streaming and read_json("".join(call.arguments)) != arguments):
            raise ValueError("the call is another one than it began as")
        key = identity([name, arguments])
        if key in self._identities:
            raise ValueError("the call repeats an earlier one of this answer")
        self._identities.add(key)
        if (tool := self._tools.get(name)) and (problem := tool.prepared().checker.problem(arguments)):
            raise ValueError(f"the arguments do not fit the schema of {name!r}: {problem}")
        return ParsedToolCall(name, arguments)


def _stream(call: _OpenCall) -> list[Event]:
    """Events of text that was added to a call written in the usual order: name, then arguments."""
    events: list[Event] = []
    if call.name is None and (head := _HEAD.match(call.text)):
        try:
            call.name = json.loads(head[1], strict=False)
        except ValueError:  # a broken escape: the end of the call will tell
            return []
        call.position = head.end()
        events.append(ToolCallStart(call.index, str(call.name)))
    if call.name is None or call.complete:
        return events
    if not call.streaming:
        key = _ARGUMENTS.match(call.text, call.position)
        if key is None:
            return events
        call.streaming, call.position = True, key.end()
    piece = _take_object(call)
    if piece:
        call.arguments.append(piece)
        events.append(ToolCallArguments(call.index, piece))
    return events


def _take_object(call: _OpenCall) -> str:
    """The part of the unread text that belongs to the arguments object; remembers strings and nesting."""
    start = position = call.position
    text = call.text
    while position < len(text) and not call.complete:
        if call.escaped:
            call.escaped = False
            position += 1
            continue
        turn = _JSON_TURN.search(text, position)
        if turn is None:
            position = len(text)
            break
        position = turn.end()
        if turn[0] == '"':
            call.in_string = not call.in_string
        elif turn[0] == "\\":
            call.escaped = call.in_string
        elif not call.in_string:
            call.depth += 1 if turn[0] == "{" else -1
            call.complete = call.depth == 0
    call.position = position
    return text[start:position]
