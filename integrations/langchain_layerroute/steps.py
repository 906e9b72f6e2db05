"""One model call: from the rendered prompt, over the engine's deltas, to LangChain messages and chunks."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from langchain_core.exceptions import ModelTimeoutError
from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCall
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGenerationChunk

from langchain_layerroute.errors import InvalidRequestError
from langchain_layerroute.messages import assistant_message
from layerroute.chat.parser import AnswerParser, Event, TextDelta, ToolCallArguments, ToolCallStart
from layerroute.chat.parser import InvalidToolCall as BrokenCall
from layerroute.chat.template import render, render_answer, render_beginning
from layerroute.chat.transcript import Transcripts
from layerroute.engine.engine import TextEngine
from layerroute.engine.generation import Generation
from layerroute.engine.request import Delta, GenerationRequest, GenerationResult
from layerroute.forking import ForkSafeLock

PROVIDER = "layerroute"

_transcripts: WeakKeyDictionary[TextEngine, Transcripts] = WeakKeyDictionary()
_transcripts_lock = ForkSafeLock()


def transcripts_of(engine: TextEngine) -> Transcripts:
    """Return the token ids kept for an engine; every chat model over that engine shares them."""
    with _transcripts_lock:
        kept = _transcripts.get(engine)
        if kept is None:
            kept = _transcripts[engine] = Transcripts(engine.tokenizer)
        return kept


class Prompt:
    """A conversation as text and token ids.

    Attributes:
        text, ids: the rendered prompt. Turns that the engine wrote keep the ids it wrote.
        begun: the text of an assistant message at the end, which the answer goes on with; "" if there is none.
    """

    def __init__(self, engine: TextEngine, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> None:
        *before, last = messages
        if last["role"] == "assistant":
            self.begun = str(last["content"])
            self._asked = render(engine.tokenizer, before, tools)
            self.text = self._asked + render_beginning(engine.tokenizer, last)
        else:
            self.begun = ""
            self._asked = self.text = render(engine.tokenizer, messages, tools)
        self.ids = transcripts_of(engine).encode(self.text)

    def remember(self, engine: TextEngine, turn: dict[str, Any], token_ids: tuple[int, ...]) -> None:
        """Keep the ids of an answered turn, so that the next prompt holds them and not a second encoding."""
        whole = {**turn, "content": self.begun + turn["content"]}
        text = self._asked + render_answer(engine.tokenizer, whole)
        transcripts_of(engine).remember(text, self.ids + token_ids)


def count_tokens(engine: TextEngine, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> int:
    """Length of the prompt that messages render to, whether or not they are a conversation that can be answered."""
    return len(transcripts_of(engine).encode(render(engine.tokenizer, messages, tools)))


class Step:
    """One model call. Reads every delta once, either with `read` or with `chunks`, then `message` or `last_chunks`.

    Raises:
        InvalidRequestError: a document is asked for that would begin in the middle of an answer.
    """

    def __init__(
        self, engine: TextEngine, prompt: Prompt, request: GenerationRequest, model_name: str, timeout: float | None
    ) -> None:
        if prompt.begun and request.constraint is not None and request.constraint.response_schema is not None:
            raise InvalidRequestError(
                "an answer that is gone on with cannot become a document of `response_format`: end the conversation "
                "with a human message"
            )
        self._engine = engine
        self._prompt = prompt
        self._request = request
        self._model_name = model_name
        self._timeout = timeout
        self._parser = AnswerParser(engine.tokenizer, request.constraint.tools if request.constraint else ())
        self._call_ids: dict[int, str] = {}
        self._arguments: dict[int, str] = {}

    @contextmanager
    def running(self) -> Iterator[Generation]:
        """Submit the request; leaving early cancels it, and so does the deadline.

        Raises:
            ModelTimeoutError: the deadline passed (raised where the generation is read).
        """
        generation = self._generation = self._engine.submit(self._request)
        timed_out = ModelTimeoutError(
            f"no answer within timeout={self._timeout} s: raise `timeout` or lower `max_tokens`"
        )
        timer = None
        if self._timeout is not None:
            timer = threading.Timer(self._timeout, generation.abort, (timed_out,))
            timer.daemon = True
            timer.start()
        try:
            yield generation
        finally:
            generation.cancel()
            if timer is not None:
                timer.cancel()

    def read(self, delta: Delta) -> None:
        """Take in a delta."""
        for event in self._parser.feed(delta):
            if isinstance(event, ToolCallArguments):
                self._arguments[event.index] = self._arguments.get(event.index, "") + event.text

    def chunks(self, delta: Delta) -> list[ChatGenerationChunk]:
        """Take in a delta and return the chunks it completes."""
        return self._chunks_of(self._parser.feed(delta))

    def _chunks_of(self, events: Iterable[Event]) -> list[ChatGenerationChunk]:
        chunks = []
        for event in events:
            if isinstance(event, TextDelta):
                message = AIMessageChunk(content=event.text)
            elif isinstance(event, ToolCallArguments):
                self._arguments[event.index] = self._arguments.get(event.index, "") + event.text
                message = _call_chunk(event.index, event.text)
            elif isinstance(event, ToolCallStart):
                message = _call_chunk(event.index, "", event.name, self._call_id(event.index))
            else:
                continue
            chunks.append(ChatGenerationChunk(message=message))
        return chunks

    def _call_id(self, index: int) -> str:
        return self._call_ids.setdefault(index, f"call_{uuid4().hex}")

    def message(self) -> AIMessage:
        """Return the whole answer, once the generation has ended, and keep its token ids for the next prompt."""
        answer = self._parser.finish()
        result = self._generation.result()
        broken = {call.index for call in answer.invalid_tool_calls}
        sound = (index for index in count() if index not in broken)
        message = AIMessage(
            content=answer.content,
            tool_calls=[
                ToolCall(name=call.name, args=call.arguments, id=self._call_id(index), type="tool_call")
                for index, call in zip(sound, answer.tool_calls, strict=False)
            ],
            invalid_tool_calls=[self._invalid_call(call) for call in answer.invalid_tool_calls],
            usage_metadata=_usage(result),
            response_metadata=self._metadata(result),
        )
        if result.stop_string is None and not answer.repeated:  # else the ids hold what was cut off or left out
            self._prompt.remember(self._engine, assistant_message(answer.content, message), result.token_ids)
        return message

    def _invalid_call(self, call: BrokenCall) -> InvalidToolCall:
        arguments = call.text if call.name is None else self._arguments.get(call.index, "")
        return InvalidToolCall(
            name=call.name, args=arguments, id=self._call_id(call.index), error=call.error, type="invalid_tool_call"
        )

    def last_chunks(self) -> list[ChatGenerationChunk]:
        """Return what is left to stream once the generation has ended; the last chunk carries all the accounting.

        Numbers on more than one chunk would be added up when the chunks are merged.
        """
        chunks = self._chunks_of(self._parser.events_at_end())
        message = self.message()
        for index, call in zip(self._broken_indices(), message.invalid_tool_calls, strict=True):
            arguments = call["args"] or ""
            spoiler = _spoiler(arguments)
            unseen = call["name"] is None  # such a call has sent no chunk yet
            chunk = _call_chunk(index, arguments + spoiler if unseen else spoiler, None, call["id"] if unseen else None)
            chunks.append(ChatGenerationChunk(message=chunk))
        last = AIMessageChunk(
            content="",
            usage_metadata=message.usage_metadata,
            response_metadata=message.response_metadata,
            chunk_position="last",
        )
        return [*chunks, ChatGenerationChunk(message=last)]

    def _broken_indices(self) -> list[int]:
        return [call.index for call in self._parser.finish().invalid_tool_calls]

    def _metadata(self, result: GenerationResult) -> dict[str, Any]:
        return {
            "model_name": self._model_name,
            "model_provider": PROVIDER,
            "finish_reason": result.finish_reason,
            "stop_sequence": result.stop_string,
            "layerroute": result.report.model_dump(mode="json"),
        }


def _usage(result: GenerationResult) -> UsageMetadata:
    report = result.report
    return UsageMetadata(
        input_tokens=report.prompt_tokens,
        output_tokens=report.generated_tokens,
        total_tokens=report.prompt_tokens + report.generated_tokens,
        input_token_details=InputTokenDetails(cache_read=report.cached_tokens),
    )


def _call_chunk(index: int, arguments: str, name: str | None = None, call_id: str | None = None) -> AIMessageChunk:
    # Indices start at 1: with output_version="v1" text and calls are merged in one list, and the text has 0.
    call = ToolCallChunk(name=name, args=arguments, id=call_id, index=index + 1, type="tool_call_chunk")
    return AIMessageChunk(content="", tool_call_chunks=[call])


def _spoiler(arguments: str) -> str:
    """Return characters that keep LangChain's lenient JSON reader from completing a call that was cut off.

    Merged chunks are read leniently: a call cut off by `max_tokens` would come out as a call with shortened
    arguments, and an agent would carry it out. The reader gives up at a bracket that closes what is not open.
    """
    in_string = escaped = False
    opened: list[str] = []
    for character in arguments:
        if in_string:
            in_string = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_string = True
        elif character in "{[":
            opened.append(character)
        elif character in "}]" and opened:
            opened.pop()
    end_of_string = '"' * (in_string + escaped)
    return end_of_string + ("}" if opened and opened[-1] == "[" else "]")
