"""Tools, tool choices, response formats and structured output: what the engine is told, and what comes back."""

import json
from typing import Any

import pytest
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from scripted import ScriptedEngine, call_text, saying
from typing_extensions import TypedDict

from langchain_layerroute import LayerRouteChatModel
from langchain_layerroute.tools import to_openai_tools
from layerroute.engine.request import OutputConstraint


class Joke(BaseModel):
    """A joke."""

    setup: str = Field(description="how it begins")
    punchline: str


class JokeDict(TypedDict):
    """A joke."""

    setup: str
    punchline: str


@tool
def get_weather(city: str) -> str:
    """Look the weather up."""
    return city


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ANTHROPIC = {"name": "pick", "description": "Pick.", "input_schema": {"type": "object", "properties": {}}}
OPENAI = {"type": "function", "function": {"name": "bare"}}
TOOLS = [get_weather, add, Joke, ANTHROPIC, OPENAI]
NAMES = ["get_weather", "add", "Joke", "pick", "bare"]
FORMAT = {"type": "json_schema", "json_schema": {"name": "Joke", "schema": Joke.model_json_schema()}}


def constraint_of(engine: ScriptedEngine) -> OutputConstraint:
    constraint = engine.requests[-1].constraint
    assert constraint is not None
    return constraint


def asked(**kwargs: Any) -> tuple[ScriptedEngine, OutputConstraint]:
    engine = ScriptedEngine(saying("Hi"))
    LayerRouteChatModel(engine=engine).bind_tools(TOOLS, **kwargs).invoke("Hello")
    return engine, constraint_of(engine)


def test_every_form_of_a_tool():
    converted = to_openai_tools(TOOLS)
    assert [entry["function"]["name"] for entry in converted] == NAMES
    assert all(entry.keys() == {"type", "function"} for entry in converted)
    assert all(entry["function"].keys() == {"name", "description", "parameters"} for entry in converted)
    assert converted[4]["function"]["parameters"] == {"type": "object", "properties": {}}


def test_prompt_and_constraint_name_the_same_tools():
    engine, constraint = asked()
    assert [spec.name for spec in constraint.tools] == NAMES
    shown = engine.prompt_text().split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
    assert [json.loads(line)["function"]["name"] for line in shown] == NAMES
    parameters = {spec.name: json.loads(spec.parameters) for spec in constraint.tools}
    assert parameters["add"]["properties"].keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        (None, "auto", NAMES),
        (False, "auto", NAMES),
        ("auto", "auto", NAMES),
        ("none", "none", NAMES),
        ("any", "required", NAMES),
        ("required", "required", NAMES),
        (True, "required", NAMES),
        ("add", "required", ["add"]),
        ({"type": "function", "function": {"name": "add"}}, "required", ["add"]),
        ({"type": "tool", "name": "add"}, "required", ["add"]),
        ({"type": "any"}, "required", NAMES),
        ({"type": "auto"}, "auto", NAMES),
        ({"type": "none"}, "none", NAMES),
    ],
)
def test_every_form_of_a_choice(choice: Any, mode: str, names: list[str]):
    engine, constraint = asked(tool_choice=choice)
    assert constraint.tool_choice == mode
    assert [spec.name for spec in constraint.tools] == names
    free, _ = asked()
    assert engine.requests[0].prompt_ids == free.requests[0].prompt_ids  # so that the KV of the tools can be reused


@pytest.mark.parametrize("choice", ["subtract", {"type": "function", "function": {"name": "subtract"}}, {}, 3])
def test_choices_that_mean_nothing(choice: Any):
    model = LayerRouteChatModel(engine=ScriptedEngine())
    with pytest.raises(ModelInvalidRequestError, match="tool_choice"):
        model.bind_tools(TOOLS, tool_choice=choice)
    with pytest.raises(ModelInvalidRequestError, match="tool_choice"):
        model.bind_tools(TOOLS).invoke("Hello", tool_choice=choice)


def test_a_demand_without_tools():
    with pytest.raises(ModelInvalidRequestError, match="bind at least one"):
        LayerRouteChatModel(engine=ScriptedEngine()).bind_tools([], tool_choice="any")


def test_no_tools_means_no_calls():
    engine = ScriptedEngine(saying("Hi"))
    model = LayerRouteChatModel(engine=engine)
    model.invoke("Hello")
    plain = engine.requests[-1]
    model.bind_tools([]).invoke("Hello")
    assert constraint_of(engine) == OutputConstraint(tool_choice="none")
    assert plain == engine.requests[-1]


@pytest.mark.parametrize("broken", [{"type": "web_search"}, 3, {"no": "name"}])
def test_what_is_no_tool(broken: Any):
    with pytest.raises(ModelInvalidRequestError):
        LayerRouteChatModel(engine=ScriptedEngine()).bind_tools([broken])


@pytest.mark.parametrize(("given", "parallel"), [({}, True), ({"parallel_tool_calls": False}, False)])
def test_parallel_calls(given: dict[str, Any], parallel: bool):
    assert asked(**given)[1].parallel is parallel


@pytest.mark.parametrize(
    ("response_format", "properties"),
    [
        (FORMAT, {"setup", "punchline"}),
        (Joke, {"setup", "punchline"}),
        (JokeDict, {"setup", "punchline"}),
        (Joke.model_json_schema(), {"setup", "punchline"}),
        ({"type": "json_object"}, None),
    ],
)
def test_response_formats(response_format: Any, properties: set[str] | None):
    engine = ScriptedEngine()
    LayerRouteChatModel(engine=engine).invoke("Joke!", response_format=response_format)
    schema = json.loads(constraint_of(engine).response_schema or "null")
    assert schema["type"] == "object"
    assert (set(schema["properties"]) if "properties" in schema else None) == properties


def test_text_is_a_response_format():
    engine = ScriptedEngine()
    LayerRouteChatModel(engine=engine).invoke("Hello", response_format={"type": "text"})
    assert constraint_of(engine).response_schema is None


@pytest.mark.parametrize("broken", [{"type": "json_schema"}, {}, 3, "json", {"type": "object", "default": object()}])
def test_formats_that_mean_nothing(broken: Any):
    with pytest.raises(ModelInvalidRequestError):
        LayerRouteChatModel(engine=ScriptedEngine()).invoke("Hello", response_format=broken)


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
@pytest.mark.parametrize("schema", [Joke, JokeDict, Joke.model_json_schema()], ids=["pydantic", "typeddict", "json"])
@pytest.mark.parametrize("strict", [None, True, False])
def test_structured_output(method: Any, schema: Any, strict: bool | None):
    model = LayerRouteChatModel(engine=ScriptedEngine())
    raw = model.with_structured_output(schema, method=method, strict=strict, include_raw=True).invoke("Joke!")
    parsed = raw["parsed"]
    assert raw["parsing_error"] is None
    assert isinstance(raw["raw"], AIMessage)
    assert parsed == model.with_structured_output(schema, method=method).invoke("Joke!")
    assert isinstance(parsed, Joke if schema is Joke else dict)


def test_structured_output_keeps_parsing_errors():
    model = LayerRouteChatModel(engine=ScriptedEngine(saying('{"setup": "only"}')))
    raw = model.with_structured_output(Joke, method="json_schema", include_raw=True).invoke("Joke!")
    assert raw["parsed"] is None
    assert "punchline" in str(raw["parsing_error"])


def test_function_calling_forces_one_call_of_the_schema():
    engine = ScriptedEngine(saying(call_text("Joke", {"setup": "a", "punchline": "b"})))
    result = LayerRouteChatModel(engine=engine).with_structured_output(Joke).invoke("Joke!")
    assert result == Joke(setup="a", punchline="b")
    constraint = constraint_of(engine)
    assert (constraint.tool_choice, constraint.parallel, constraint.tools[0].name) == ("required", False, "Joke")


@pytest.mark.parametrize("kwargs", [{"method": "telepathy"}, {"schema": None}, {"tools": []}, {"schema": 3}])
def test_structured_output_refuses(kwargs: dict[str, Any]):
    with pytest.raises(ModelInvalidRequestError):
        LayerRouteChatModel(engine=ScriptedEngine()).with_structured_output(**{"schema": Joke, **kwargs})
