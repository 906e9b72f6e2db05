"""Structured output: which options of a call hold the answer to a schema, and which parser reads it."""

from operator import itemgetter
from typing import Any, Literal

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.base import OutputParserLike
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_layerroute.errors import InvalidRequestError
from langchain_layerroute.tools import to_openai_tools

StructuredMethod = Literal["function_calling", "json_schema", "json_mode"]


def structure(
    schema: Any, method: StructuredMethod, strict: bool | None
) -> tuple[dict[str, Any], OutputParserLike[Any]]:
    """Return the options to bind (with "tools" if there are any) and the parser of the answer.

    Raises:
        InvalidRequestError: an unknown method, or a schema that is missing or unreadable.
    """
    if method not in ("function_calling", "json_schema", "json_mode"):
        raise InvalidRequestError(f'unknown method {method!r}: use "function_calling", "json_schema" or "json_mode"')
    if schema is None:
        if method != "json_mode":
            raise InvalidRequestError(f'method "{method}" needs a schema: give one, or use method="json_mode"')
        return {"response_format": {"type": "json_object"}}, JsonOutputParser()
    # What traces show; LangChain takes it out before the model is called.
    traced = {"ls_structured_output_format": {"kwargs": {"method": method, "strict": strict}, "schema": schema}}
    if method == "function_calling":
        name = to_openai_tools([schema])[0]["function"]["name"]
        options = {"tools": [schema], "tool_choice": name, "parallel_tool_calls": False}
        return {**options, **traced}, _tool_parser(schema, name)
    if method == "json_schema":
        json_schema = _json_schema(schema)
        inner = {"name": json_schema["title"], "schema": json_schema}
        return {"response_format": {"type": "json_schema", "json_schema": inner}, **traced}, _text_parser(schema)
    return {"response_format": {"type": "json_object"}, **traced}, _text_parser(schema)


def with_raw(
    llm: Runnable[LanguageModelInput, AIMessage], parser: OutputParserLike[Any]
) -> Runnable[LanguageModelInput, dict[str, Any]]:
    """Answer with {"raw", "parsed", "parsing_error"}; errors of the parser are caught."""
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([unparsed], exception_key="parsing_error")


def _json_schema(schema: Any) -> dict[str, Any]:
    try:
        return convert_to_json_schema(schema)
    except (ValueError, TypeError) as error:
        raise InvalidRequestError(f"cannot read the schema: {error}") from error


def _is_pydantic(schema: Any) -> bool:
    return isinstance(schema, type) and is_basemodel_subclass(schema)


def _tool_parser(schema: Any, name: str) -> OutputParserLike[Any]:
    if _is_pydantic(schema):
        return PydanticToolsParser(tools=[schema], first_tool_only=True)
    return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)


def _text_parser(schema: Any) -> OutputParserLike[Any]:
    return PydanticOutputParser(pydantic_object=schema) if _is_pydantic(schema) else JsonOutputParser()
