"""Tools, tool choices and response formats of LangChain, as the output constraint the engine obeys."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool

from langchain_layerroute.errors import InvalidRequestError, langchain_errors
from langchain_layerroute.schemas import for_langchain
from layerroute.engine.request import OutputConstraint, ToolSpec
from layerroute.engine.schemas import RESPONSE, prepare_schema
from layerroute.errors import shown
from layerroute.text import require_encodable

AnyTool = dict[str, Any] | type | Callable[..., Any] | BaseTool
ToolChoice = str | bool | dict[str, Any] | None

_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
_WORDS: dict[str, Literal["auto", "required", "none"]] = {
    "auto": "auto",
    "none": "none",
    "any": "required",
    "required": "required",
}


def to_openai_tools(tools: Sequence[AnyTool]) -> list[dict[str, Any]]:
    """Convert tools of any form that LangChain knows to the dicts that the chat template shows to the model.

    Raises:
        InvalidSchemaError: a tool whose calls cannot be held to its schema.
        InvalidRequestError: no list, something that is no tool, or a tool that only a provider's server could run.
    """
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Iterable):
        raise InvalidRequestError(f"tools must be a list of tools, not {shown(tools)}: put a single one into a list")
    with langchain_errors():
        return [_to_openai_tool(tool) for tool in tools]


def _to_openai_tool(tool: AnyTool) -> dict[str, Any]:
    source = for_langchain(tool)
    try:
        converted = convert_to_openai_tool(source)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRequestError(f"cannot read a tool: {error}") from error
    function = converted.get("function")
    if converted.get("type") != "function" or not isinstance(function, dict):
        raise InvalidRequestError(
            f"a tool of type {shown(converted.get('type'))} would run on a provider's server: bind a function instead"
        )
    name = function.get("name")
    if not isinstance(name, str):
        raise InvalidRequestError(f"a tool is named {shown(name)}: give it a name of text")
    description = function.get("description") or ""
    if not isinstance(description, str):
        raise InvalidRequestError(f"tool {shown(name)} is described by {shown(description)}: describe it in text")
    require_encodable(name, "the name of a tool")
    require_encodable(description, f"the description of tool {shown(name)}")
    parameters = function.get("parameters") or _NO_PARAMETERS
    ToolSpec(name, _json(parameters)).prepared()
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


@dataclass(frozen=True, slots=True)
class Choice:
    """A tool choice in one form: what is demanded, and of which tool if it names one."""

    mode: Literal["auto", "required", "none"]
    name: str | None = None


def to_choice(choice: ToolChoice, tools: Sequence[dict[str, Any]]) -> Choice:
    """Read any form of `tool_choice`: None, bool, a word, a tool's name, or an OpenAI or Anthropic dict.

    Raises:
        InvalidRequestError: a tool that was not bound, or a form that means nothing.
    """
    names = [tool["function"]["name"] for tool in tools]
    if isinstance(choice, dict):
        choice = _choice_of_dict(choice)
    if choice is None or choice is False:
        return Choice("auto")
    if choice is True:
        choice = "required"
    if not isinstance(choice, str):
        raise InvalidRequestError(
            f"cannot read tool_choice {shown(choice)}: use 'auto', 'none', 'any' or a tool's name"
        )
    if choice in names:
        return Choice("required", choice)
    if choice not in _WORDS:
        offered = ", ".join(names) or "no tool at all"
        raise InvalidRequestError(
            f"tool_choice names {shown(choice)}, but bound is {offered}: use 'auto', 'none', 'any' or a bound name"
        )
    if _WORDS[choice] == "required" and not names:
        raise InvalidRequestError(f"tool_choice {shown(choice)} demands a call but no tool is bound: bind at least one")
    return Choice(_WORDS[choice])


def _choice_of_dict(choice: dict[str, Any]) -> str:
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else choice.get("name")
    if choice.get("type") in ("function", "tool") and isinstance(name, str):
        return name
    word = choice.get("type")
    if isinstance(word, str) and word in _WORDS:
        return word
    raise InvalidRequestError(
        f'cannot read tool_choice {shown(choice)}: use {{"type": "function", "function": {{"name": ...}}}}'
    )


def to_constraint(
    tools: Sequence[dict[str, Any]],
    tool_choice: ToolChoice = None,
    *,
    parallel: bool | None = None,
    max_calls: int = 8,
    response_format: Any = None,
) -> OutputConstraint:
    """Build the constraint of one call; `tools` are in OpenAI form.

    A named choice leaves only that tool callable, "none" leaves none; the prompt shows all of them either way, so
    the tools' part of the KV cache holds whatever is chosen. A named choice is one call, unless `parallel` says more.

    Raises:
        InvalidRequestError: a choice, tool or format that cannot be honoured.
    """
    choice = to_choice(tool_choice, tools)
    callable_tools = [tool["function"] for tool in tools if choice.name in (None, tool["function"]["name"])]
    return OutputConstraint(
        tools=tuple(ToolSpec(tool["name"], _json(tool["parameters"])) for tool in callable_tools),
        tool_choice=choice.mode if callable_tools else "none",
        parallel=choice.name is None if parallel is None else parallel,
        max_calls=max_calls,
        response_schema=to_response_schema(response_format),
    )


def to_response_schema(response_format: Any) -> str | None:
    """Return the JSON text of the schema that a `response_format` stands for, or None for free text.

    Accepts OpenAI's {"type": "text" | "json_object" | "json_schema"}, a bare JSON schema, a pydantic class or a
    TypedDict.

    Raises:
        InvalidSchemaError: a schema that an answer cannot be held to.
        InvalidRequestError: something else.
    """
    text = _text_of_format(response_format)
    if text is not None:
        with langchain_errors():
            prepare_schema(text, RESPONSE)
    return text


def _text_of_format(response_format: Any) -> str | None:
    if response_format is None:
        return None
    if isinstance(response_format, dict):
        kind = response_format.get("type")
        if kind == "text":
            return None
        if kind == "json_object":
            return _json({"type": "object"})
        if kind == "json_schema":
            return _schema_of_format(response_format)
        if kind is not None or response_format.keys() & {"properties", "$ref", "anyOf", "enum", "const"}:
            return _json(response_format)
        raise InvalidRequestError(f"cannot read response_format {shown(response_format)}: send a JSON schema")
    return _json(json_schema_of(response_format))


def json_schema_of(source: AnyTool) -> dict[str, Any]:
    """Return the titled JSON schema of a class, TypedDict, function or tool, or of a dict that describes one.

    Raises:
        InvalidRequestError: it has none.
    """
    schema = for_langchain(source)
    try:
        return convert_to_json_schema(schema)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRequestError(f"cannot read the schema of {shown(source)}: {error}") from error


def _schema_of_format(response_format: dict[str, Any]) -> str:
    inner = response_format.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise InvalidRequestError(
            'response_format of type "json_schema" needs {"json_schema": {"name": ..., "schema": {...}}}'
        )
    return _json(schema)


def _json(schema: dict[str, Any]) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"a schema is no JSON: {error}") from error
