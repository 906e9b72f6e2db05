"""Schemas on their way from LangChain: kept whole in prompt and constraint, refused when bound, checked afterwards."""

import functools
import json
from collections.abc import Callable
from typing import Annotated, Any, NotRequired, Required

import pydantic.v1
import pytest
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.tools import StructuredTool, tool
from pydantic import BaseModel, create_model
from scripted import ScriptedEngine, call_text, saying
from typing_extensions import TypedDict

from langchain_layerroute import LayerRouteChatModel
from langchain_layerroute.errors import StructuredAnswerError
from langchain_layerroute.tools import to_openai_tools
from layerroute.errors import ToolSchemaError


@tool
def get_weather(city: str) -> str:
    """Look the weather up."""
    return city


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Folder(BaseModel):
    """A folder."""

    name: str
    folders: list["Folder"] = []


class FolderV1(pydantic.v1.BaseModel):
    """A folder."""

    name: str
    folders: list["FolderV1"] = []


FolderV1.update_forward_refs()


class FolderDict(TypedDict):
    """A folder."""

    name: Annotated[str, ..., "what it is called"]
    folders: NotRequired[list["FolderDict"]]


def make_folders(folder: Folder) -> str:
    """Make folders."""
    return folder.name


class Shelf(BaseModel):
    """Holds folders."""

    folder: Folder


GOOD = {"name": "a", "folders": [{"name": "b", "folders": [{"name": "c"}]}]}
BAD = {"name": "a", "folders": [{"name": "b", "folders": [{"label": "c"}]}]}
AS_TOOLS = [
    StructuredTool(name="Folder", description="Make one.", func=lambda **_: "", args_schema=schema)
    for schema in (Folder, Folder.model_json_schema())
]
AT_ROOT = [Folder, FolderV1, FolderDict, *AS_TOOLS]


@pytest.mark.parametrize("source", [*AT_ROOT, make_folders, tool(make_folders), Shelf], ids=str)
def test_schemas_that_hold_themselves_are_kept_in_prompt_and_constraint(source: Any):
    arguments, wrong = (GOOD, BAD) if source in AT_ROOT else ({"folder": GOOD}, {"folder": BAD})
    (shown,) = to_openai_tools([source])
    name = shown["function"]["name"]
    engine = ScriptedEngine(saying(call_text(name, arguments) + "\n" + call_text(name, wrong)))
    answer = LayerRouteChatModel(engine=engine).bind_tools([source]).invoke("Hello")
    assert [call["args"] for call in answer.tool_calls] == [arguments]
    assert "'name' is a required property" in answer.invalid_tool_calls[0]["error"]
    constraint = engine.requests[-1].constraint
    assert constraint is not None
    parameters = json.loads(constraint.tools[0].parameters)
    assert parameters == shown["function"]["parameters"]
    assert json.dumps(parameters, ensure_ascii=False) in engine.prompt_text()


@pytest.mark.parametrize("source", [Folder, FolderV1, FolderDict, {**Folder.model_json_schema(), "title": "Folder"}])
@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_of_schemas_that_hold_themselves(source: Any, method: Any):
    def answering(arguments: Any) -> Any:
        text = call_text(name, arguments) if method == "function_calling" else json.dumps(arguments)
        model = LayerRouteChatModel(engine=ScriptedEngine(saying(text))).with_structured_output(source, method=method)
        return model.invoke("Hello")

    name = to_openai_tools([source])[0]["function"]["name"]
    found = answering(GOOD)
    assert (found if isinstance(found, dict) else json.loads(found.json(exclude_unset=True))) == GOOD
    with pytest.raises(StructuredAnswerError):
        answering(BAD)


def test_references_that_would_multiply_are_kept():
    fields: Any = {"leaf": (str, ...)}
    for level in range(25):
        fields = {side: (create_model(f"Level{level}", **fields), ...) for side in ("left", "right")}
    (shown,) = to_openai_tools([create_model("Top", **fields)])
    assert len(json.dumps(shown)) < 10_000


def test_references_that_end_are_written_out_as_langchain_does():
    class Inner(BaseModel):
        n: int

    class Outer(BaseModel):
        inner: Inner

    assert to_openai_tools([Outer])[0]["function"]["parameters"] == {
        "properties": {"inner": {"properties": {"n": {"type": "integer"}}, "required": ["n"], "type": "object"}},
        "required": ["inner"],
        "type": "object",
    }


def odd(**schema: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"field": schema}}
    return {"type": "function", "function": {"name": "odd_tool", "parameters": parameters}}


ODD = [{"format": []}, {"minimum": -(10**30)}, {"enum": ["\ud800"]}, {"pattern": "^a{1000000}$"}, {"type": "strin"}]


@pytest.mark.parametrize("schema", ODD, ids=str)
def test_a_broken_schema_is_refused_when_it_is_bound(schema: dict[str, Any]):
    model = LayerRouteChatModel(model="nobody/has-this-model")  # whatever is at hand: nothing is downloaded
    with pytest.raises(ToolSchemaError, match=r"'odd_tool'.*field") as caught:
        model.bind_tools([get_weather, odd(**schema)])
    assert isinstance(caught.value, ModelInvalidRequestError)
    with pytest.raises(ToolSchemaError, match="field"):
        model.bind_tools([], response_format=odd(**schema)["function"]["parameters"])
    titled = {**odd(**schema)["function"]["parameters"], "title": "Odd"}
    for method in ("function_calling", "json_schema"):
        with pytest.raises(ToolSchemaError, match="field"):
            model.with_structured_output(titled, method=method)


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return odd(**schema)


@pytest.mark.parametrize("levels", [400, 4000, 100_000])
def test_a_schema_of_many_levels_is_refused_when_it_is_bound(levels: int):
    with pytest.raises(ModelInvalidRequestError):
        LayerRouteChatModel(engine=ScriptedEngine()).bind_tools([deep(levels)])


@pytest.mark.parametrize(
    "broken", [{"name": "a\ud800"}, {"name": "a", "description": "\udfff"}, {"name": "a", "description": 5}]
)
def test_names_and_descriptions_are_text(broken: dict[str, Any]):
    with pytest.raises(ModelInvalidRequestError):
        LayerRouteChatModel(engine=ScriptedEngine()).bind_tools([broken])


def test_what_no_grammar_holds_is_checked_and_said():
    @tool
    def label(tags: set[str]) -> str:
        """Label."""
        return ""

    written = call_text("label", {"tags": ["a", "a"]}) + "\n" + call_text("label", {"tags": ["a", "b"]})
    model = LayerRouteChatModel(engine=ScriptedEngine(saying(written))).bind_tools([get_weather, label])
    answer = model.invoke("Hello")
    assert [call["args"] for call in answer.tool_calls] == [{"tags": ["a", "b"]}]
    assert "'label': tags: ['a', 'a'] has non-unique elements" in answer.invalid_tool_calls[0]["error"]
    chunks = list(model.stream("Hello"))
    streamed = sum(chunks[1:], chunks[0])
    assert [call["args"] for call in streamed.tool_calls] == [{"tags": ["a", "b"]}]
    assert len(streamed.invalid_tool_calls) == 1


def test_documents_are_checked_too():
    schema = {"title": "Tags", "type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
    model = LayerRouteChatModel(engine=ScriptedEngine(saying('{"tags": [1, 1]}')))
    with pytest.raises(StructuredAnswerError, match="non-unique"):
        model.with_structured_output(schema, method="json_schema").invoke("Hello")


def test_a_repeated_call_is_in_no_message_and_no_chunk():
    once, other = call_text("add", {"a": 1, "b": 2}), call_text("add", {"a": 1, "b": 3})
    model = LayerRouteChatModel(engine=ScriptedEngine(saying("\n".join([once, other, once])))).bind_tools([add])
    answer = model.invoke("Hello")
    assert [call["args"]["b"] for call in answer.tool_calls] == [2, 3]
    assert answer.content == ""
    assert answer.invalid_tool_calls == []
    chunks = list(model.stream("Hello"))
    assert [call["args"] for call in sum(chunks[1:], chunks[0]).tool_calls] == [
        call["args"] for call in answer.tool_calls
    ]


class Opaque(BaseModel):
    """Holds what JSON cannot."""

    call: Callable[[], int]


class JokeLike(TypedDict):
    setup: Required[str]


class Optional(TypedDict, total=False):
    """Nothing is needed."""

    name: str
    inner: list[JokeLike]


def undefined(a: "Nowhere") -> None:  # noqa: F821
    """Cannot be read."""


@pytest.mark.parametrize("source", [Opaque, undefined, functools.partial(add, 1), object()], ids=str)
def test_what_has_no_schema_is_refused_by_name(source: Any):
    model = LayerRouteChatModel(engine=ScriptedEngine())
    with pytest.raises(ModelInvalidRequestError, match="cannot read"):
        model.bind_tools([source])
    for method in ("function_calling", "json_schema"):
        with pytest.raises(ModelInvalidRequestError, match="cannot read"):
            model.with_structured_output(source, method=method)


def test_keys_that_a_typed_dict_may_leave_out_are_optional():
    (shown,) = to_openai_tools([Optional])
    parameters = shown["function"]["parameters"]
    assert parameters.get("required", []) == []
    assert parameters["properties"]["name"] == {"type": "string"}
    assert "JokeLike" in json.dumps(parameters)
