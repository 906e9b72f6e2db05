"""Structured output: which options of a call hold the answer to a schema, and the parser that reads it."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import BaseTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import AddableDict, Runnable, RunnableGenerator, RunnableMap
from langchain_core.utils.json import parse_partial_json
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, SkipValidation
from typing_extensions import override

from langchain_layerroute.errors import InvalidRequestError, StructuredAnswerError, TruncatedAnswerError
from langchain_layerroute.schemas import for_langchain
from langchain_layerroute.tools import json_schema_of, to_openai_tools, to_response_schema
from layerroute.engine.json_values import read_json
from layerroute.engine.schemas import RESPONSE, prepare_schema

StructuredMethod = Literal["function_calling", "json_schema", "json_mode"]


def structure(schema: Any, method: StructuredMethod, strict: bool | None) -> tuple[dict[str, Any], "StructuredParser"]:
    """Return the options to bind (with "tools" if there are any) and the parser of the answer.

    Raises:
        InvalidRequestError: an unknown method, or a schema that is missing or unreadable.
    """
    if method not in ("function_calling", "json_schema", "json_mode"):
        raise InvalidRequestError(f'unknown method {method!r}: use "function_calling", "json_schema" or "json_mode"')
    if schema is None:
        if method != "json_mode":
            raise InvalidRequestError(f'method "{method}" needs a schema: give one, or use method="json_mode"')
        return {"response_format": {"type": "json_object"}}, StructuredParser()
    # What traces show; LangChain takes it out before the model is called.
    format_shown = {"kwargs": {"method": method, "strict": strict}, "schema": for_langchain(schema)}
    traced = {"ls_structured_output_format": format_shown}
    if method == "function_calling":
        name = to_openai_tools([schema])[0]["function"]["name"]
        options = {"tools": [schema], "tool_choice": name, "parallel_tool_calls": False}
        return {**options, **traced}, StructuredParser(model=_model(schema), tool=name)
    if method == "json_schema":
        json_schema = json_schema_of(schema)
        inner = {"name": json_schema["title"], "schema": json_schema}
        response_format = {"type": "json_schema", "json_schema": inner}
        model, document = _model(schema), to_response_schema(response_format)
        parser = StructuredParser(model=model, document=document if model is None else None)
        return {"response_format": response_format, **traced}, parser
    return {"response_format": {"type": "json_object"}, **traced}, StructuredParser(model=_model(schema))


class StructuredParser(BaseTransformOutputParser[Any]):
    """Reads the object out of an answer: a whole one, or an error. A half one is never completed.

    A stream gives what there is of the object as it grows; its end is read like an answer that came in one piece.

    Attributes:
        model: pydantic class of the object, or None for plain JSON.
        tool: name of the call whose arguments are the object, or None if the text is.
        document: JSON text of the schema that the object has to fit, where no `model` says so.
    """

    model: Annotated[Any, SkipValidation()] = None
    tool: str | None = None
    document: str | None = None

    @property
    @override
    def OutputType(self) -> Any:
        """What is read: the pydantic class, or any JSON."""
        return self.model or Any

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Return the object; with `partial` what there is of it, or None.

        Raises:
            TruncatedAnswerError: the answer was cut off before the object was whole.
            StructuredAnswerError: the answer holds no such object.
        """
        generation = result[0]
        message = generation.message if isinstance(generation, ChatGeneration) else AIMessage(generation.text)
        return self._growing(message) if partial else self._whole(message)

    def parse(self, text: str) -> Any:
        """Like `parse_result`, for an answer that is text."""
        return self._whole(AIMessage(text))

    def _whole(self, message: BaseMessage) -> Any:
        cut = _cut(message)
        try:
            data = _arguments(message, self.tool) if self.tool is not None else _document(message)
        except StructuredAnswerError as error:
            if cut is None:
                raise
            raise TruncatedAnswerError(cut, llm_output=message.text) from error
        if cut is not None and type(data) in (int, float):  # more digits may have been to come
            raise TruncatedAnswerError(cut, llm_output=message.text)
        problem = prepare_schema(self.document, RESPONSE).checker.problem(data) if self.document is not None else None
        if problem is not None:
            raise StructuredAnswerError(f"the answer does not fit its schema: {problem}", llm_output=message.text)
        try:
            return self._validated(data)
        except ValueError as error:
            reason = f"the answer does not fit {self.model.__name__}: {error}"
            raise StructuredAnswerError(reason, llm_output=message.text) from error

    def _growing(self, message: BaseMessage) -> Any:
        try:
            if self.tool is None:
                return self._validated(parse_partial_json(message.text.strip()))
            call = _call(message, self.tool)
            return None if call is None else self._validated(call["args"])
        except (ValueError, RecursionError):
            return None

    def _validated(self, data: Any) -> Any:
        if self.model is None:
            return data
        return self.model.model_validate(data) if issubclass(self.model, BaseModel) else self.model.parse_obj(data)

    def _transform(self, input: Iterator[Any]) -> Iterator[Any]:
        message, last = None, None
        for chunk in input:
            message = chunk if message is None else message + chunk
            parsed = self._growing(message)
            if parsed is not None and parsed != last:
                yield (last := parsed)
        if message is not None and (parsed := self._whole(message)) != last:
            yield parsed

    async def _atransform(self, input: AsyncIterator[Any]) -> AsyncIterator[Any]:
        message, last = None, None
        async for chunk in input:
            message = chunk if message is None else message + chunk
            parsed = self._growing(message)
            if parsed is not None and parsed != last:
                yield (last := parsed)
        if message is not None and (parsed := self._whole(message)) != last:
            yield parsed


def with_raw(
    llm: Runnable[LanguageModelInput, AIMessage], parser: StructuredParser
) -> Runnable[LanguageModelInput, dict[str, Any]]:
    """Answer with {"raw", "parsed", "parsing_error"}; errors of the parser are caught."""

    def parsed(message: Any) -> AddableDict:
        try:
            return AddableDict(parsed=parser.invoke(message), parsing_error=None)
        except Exception as error:  # a validator of the schema may raise anything
            return AddableDict(parsed=None, parsing_error=error)

    def transform(parts: Iterator[dict[str, Any]]) -> Iterator[AddableDict]:
        message = None
        for part in parts:
            message = part["raw"] if message is None else message + part["raw"]
            yield AddableDict(part)
        yield parsed(message)

    async def atransform(parts: AsyncIterator[dict[str, Any]]) -> AsyncIterator[AddableDict]:
        message = None
        async for part in parts:
            message = part["raw"] if message is None else message + part["raw"]
            yield AddableDict(part)
        yield parsed(message)

    return RunnableMap(raw=llm) | RunnableGenerator(transform, atransform)


def _cut(message: BaseMessage) -> str | None:
    """Say what cut an answer off, and the remedy; None if it ended by itself."""
    stop = message.response_metadata.get("stop_sequence")
    if stop is not None:
        return f"the stop string {stop!r} ended the answer before its object was whole: call without it"
    if message.response_metadata.get("finish_reason") != "length":
        return None
    tokens = message.usage_metadata["output_tokens"] if isinstance(message, AIMessage) and message.usage_metadata else 0
    return (
        f"the answer was cut off after {tokens} tokens, before its object was whole: raise `max_tokens`, "
        "or shorten the conversation if it fills the context window"
    )


def _call(message: BaseMessage, tool: str) -> Any:
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    return next((call for call in calls if call["name"] == tool), None)


def _arguments(message: BaseMessage, tool: str) -> Any:
    call = _call(message, tool)
    if call is not None:
        return call["args"]
    for invalid in message.invalid_tool_calls if isinstance(message, AIMessage) else []:
        raise StructuredAnswerError(f"the call of {tool!r} is invalid: {invalid['error'] or invalid['args']}")
    raise StructuredAnswerError(f"the answer does not call {tool!r}: leave `tools` and `tool_choice` to this runnable")


def _document(message: BaseMessage) -> Any:
    try:
        return read_json(message.text)
    except (ValueError, RecursionError) as error:
        raise StructuredAnswerError(f"the answer is no JSON ({error})", llm_output=message.text) from error


def _model(schema: Any) -> Any:
    return schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
