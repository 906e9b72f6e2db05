"""Options of the chat model: a value is honoured or refused by name, whoever gives it and wherever."""

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import ModelNotFoundError
from langchain_core.messages import AIMessage
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from pydantic import BaseModel, ValidationError
from scripted import ScriptedEngine, saying

from langchain_layerroute import LayerRouteChatModel
from langchain_layerroute.errors import InvalidRequestError
from layerroute.engine.request import GenerationRequest
from layerroute.options import CallOptions, EngineOptions

HUGE = 10**5000  # Python refuses to spell it
NUMBERS: list[Any] = [True, "5", "hot", float("nan"), float("inf"), -1, [1], {}]
BAD: dict[str, list[Any]] = {
    "temperature": [*NUMBERS, 101, HUGE],
    "top_p": [*NUMBERS, 0, 0.0, 1.5, HUGE],
    "top_k": [*NUMBERS, 2.5, HUGE],
    "seed": [*NUMBERS, 2**64, 2**63, 1.0, HUGE],
    "max_tokens": [*NUMBERS, 0, 2.5, HUGE],
    "max_tool_calls": [*NUMBERS, 0, 129, HUGE],
    "timeout": [*NUMBERS, 0, 1e300, 2 * threading.TIMEOUT_MAX, HUGE],
    "stop": [1, [1], [None], "", [""], ["a", ""], {"a": 1}, True, "\ud800", ["\udfff"]],
    "router": [5, "", True, ["full"], "\ud800"],
    "program": [5, "", True, [0, 1], "\ud800"],
    "scope": ["all", "", 5, ["sequence"], True],
}
BAD_FOR_AN_ENGINE: dict[str, list[Any]] = {
    **{name: [5, "", None, "\ud800"] for name in ("model", "device", "dtype")},
    "adapter": [5, "", "\ud800"],
    "context_window": [0, 1, "512", True, 512.0, HUGE],
    "max_batch_size": [0, "2", None, True, 2.0, HUGE],
}
GOOD: dict[str, list[Any]] = {
    "temperature": [0, 0.7, 100],
    "top_p": [None, 1, 0.5, 1e-9],
    "top_k": [None, 0, 5],
    "seed": [None, 0, 2**63 - 1],
    "max_tokens": [None, 1, 2**63 - 1],
    "max_tool_calls": [1, 128],
    "timeout": [None, 1, 30.5, threading.TIMEOUT_MAX],
    "stop": [None, [], "zz", ["zz"], ("zz", "yy")],
    "router": [None, "full"],
    "program": [None, "0-3"],
    "scope": ["generation", "sequence"],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    """A case for each value; pytest cannot name all of them."""
    return [pytest.param(name, value, id=f"{name}-{i}") for name in table for i, value in enumerate(table[name])]


def model(**fields: Any) -> LayerRouteChatModel:
    return LayerRouteChatModel(engine=ScriptedEngine(saying("Hi")), **fields)


def request_of(chat: LayerRouteChatModel, **options: Any) -> GenerationRequest:
    """What the engine is asked for, for a call with these options."""
    chat.invoke("Hello", **options)
    return chat.engine.requests[-1]


@tool
def get_weather(city: str) -> str:
    """Look the weather up."""
    return city


class Weather(BaseModel):
    """What the weather is."""

    city: str


# One rule for fields, calls and bound options.


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_a_bad_value_is_refused_by_name_in_every_call(name: str, value: Any):
    chat = model()
    for ask in (
        lambda: chat.invoke("Hello", **{name: value}),
        lambda: list(chat.stream("Hello", **{name: value})),
        lambda: chat.bind(**{name: value}),
        lambda: chat.bind_tools([get_weather], **{name: value}),
        lambda: chat.batch(["Hello"], **{name: value}),
    ):
        with pytest.raises(InvalidRequestError, match=rf"^{name} must be") as caught:
            ask()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 250
    assert chat.engine.requests == []


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_a_bad_value_is_refused_by_name_as_a_field(name: str, value: Any):
    with pytest.raises(ValidationError, match=rf"{name} must be"):
        model(**{name: value})


@pytest.mark.parametrize(("name", "value"), cases(BAD_FOR_AN_ENGINE))
def test_a_bad_value_that_describes_the_engine_is_refused_by_name(name: str, value: Any):
    with pytest.raises(ValidationError, match=rf"{name} must be"):
        LayerRouteChatModel(**{name: value})


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_a_good_value_means_the_same_as_a_field_and_in_a_call(name: str, value: Any):
    as_field = request_of(model(**{name: value}))
    assert request_of(model(), **{name: value}) == as_field
    chat = model()
    chat.bind(**{name: value}).invoke("Hello")
    assert chat.engine.requests == [as_field]


def test_a_field_that_was_changed_behind_the_model_s_back_is_refused_at_the_call():
    for changed in (model().model_copy(update={"max_tokens": float("nan")}), model()):
        changed.max_tokens = float("nan")  # type: ignore[assignment]
        with pytest.raises(InvalidRequestError, match="max_tokens must be"):
            changed.invoke("Hello")


@pytest.mark.parametrize("name", ["parallel_tool_calls", "strict", "stream"])
@pytest.mark.parametrize("value", ["no", "yes", 0, 1, []])
def test_a_switch_is_a_bool(name: str, value: Any):
    chat = model()
    for ask in (lambda: chat.bind_tools([get_weather], **{name: value}), lambda: chat.invoke("Hello", **{name: value})):
        with pytest.raises(InvalidRequestError, match=f"{name} must be True or False"):
            ask()


@pytest.mark.parametrize("choice", [HUGE, {"type": []}, {"type": HUGE}, 2.5, ["any"]], ids="abcde")
def test_a_choice_that_means_nothing_is_refused(choice: Any):
    with pytest.raises(InvalidRequestError, match="cannot read tool_choice"):
        model().bind_tools([get_weather], tool_choice=choice)


@pytest.mark.parametrize("function", [5, None, [], {"name": 5}, {"name": None}, {}])
def test_a_tool_without_a_name_is_refused(function: Any):
    with pytest.raises(InvalidRequestError, match="a tool"):
        model().bind_tools([{"type": "function", "function": function}], tool_choice="any")


@pytest.mark.parametrize("tools", [5, "get_weather", {"type": "function"}, b"x", True])
def test_tools_are_a_list(tools: Any):
    for ask in (lambda: model().bind_tools(tools), lambda: model().invoke("Hello", tools=tools)):
        with pytest.raises(InvalidRequestError, match="tools must be a list"):
            ask()


SPELLED = "10**5000"  # stands for HUGE where hypothesis has to spell what it tries
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["\ud800", SPELLED]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
OTHERS = ("tools", "tool_choice", "parallel_tool_calls", "response_format", "strict", "stream", "max_token")
OPTIONS = st.sampled_from([*BAD, *OTHERS, "max_completion_tokens", "stop_sequences", "model_name"])
ENGINE = ScriptedEngine(saying("Hi"))


def unspelled(value: Any) -> Any:
    """A JSON-like value with the numbers that are spelled in it."""
    if isinstance(value, dict):
        return {name: unspelled(part) for name, part in value.items()}
    if isinstance(value, list):
        return [unspelled(part) for part in value]
    return HUGE if value == SPELLED else value


@settings(max_examples=300)
@given(options=st.dictionaries(OPTIONS, JSON, max_size=3), with_tools=st.booleans(), with_cache=st.booleans())
def test_whatever_json_an_option_is_given_it_is_honoured_or_refused(
    options: dict[str, Any], with_tools: bool, with_cache: bool
):
    chat = LayerRouteChatModel(engine=ENGINE, cache=InMemoryCache() if with_cache else None)
    options = unspelled(options)
    try:
        answer = chat.invoke("Hello", **({"tools": [get_weather]} | options if with_tools else options))
    except (InvalidRequestError, ModelNotFoundError):
        return
    assert isinstance(answer, AIMessage)


@settings(max_examples=200)
@given(fields=st.dictionaries(st.sampled_from([*BAD, "max_completion_tokens", "stop_sequences", "nonsense"]), JSON))
def test_whatever_json_a_field_is_given_it_is_honoured_or_refused(fields: dict[str, Any]):
    try:
        chat = LayerRouteChatModel(engine=ENGINE, **unspelled(fields))
    except ValidationError:
        return
    assert chat.invoke("Hello", program="0-3").content == "Hi"


# None, where it has a meaning, and absence.


def test_none_on_a_call_is_no_absence():
    chat = model(max_tokens=7, top_p=0.5, top_k=3, seed=1, timeout=30, temperature=1)
    assert request_of(chat).max_tokens == 7
    lifted = request_of(chat, max_tokens=None, top_p=None, top_k=None, seed=None, timeout=None)
    assert lifted.max_tokens is None
    assert (lifted.sampling.top_p, lifted.sampling.top_k, lifted.sampling.seed) == (1.0, 0, None)


def test_none_where_it_means_nothing_leaves_the_field():
    chat = model(temperature=0.5, scope="sequence", stop=["x"], max_tool_calls=2)
    same = request_of(chat, temperature=None, scope=None, stop=None, max_tool_calls=None, model=None)
    assert same == request_of(chat)
    assert request_of(chat, stop=[]).stop == ()


@pytest.mark.parametrize(
    ("fields", "call", "expected"),
    [
        ({"router": "full"}, {"router": None}, (None, None)),
        ({"program": "0-3"}, {"router": None}, (None, None)),
        ({"program": "0-3"}, {"program": None}, (None, None)),
        ({"program": "0-3", "router": "full"}, {"program": None}, ("full", None)),
        ({"model": "embedded@full"}, {"router": None}, (None, None)),
        ({"model": "embedded@full"}, {"program": None}, ("full", None)),
    ],
)
def test_none_for_a_router_or_a_program_takes_the_field_s_away(
    fields: dict[str, Any], call: dict[str, Any], expected: tuple[str | None, str | None]
):
    request = request_of(model(**fields), **call)
    assert (request.router, request.program) == expected


def test_the_cache_tells_apart_whatever_changes_an_answer():
    params = model(stop=["a"])._identifying_params
    fields = {*EngineOptions.model_fields, *CallOptions.model_fields} - {"timeout", "stop"}
    assert {*fields, "stop_sequences"} <= params.keys()
    assert params["stop_sequences"] == ["a"]


# Aliases, and names that mean nothing.


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [("stop_sequences", "stop", ["zz"]), ("max_completion_tokens", "max_tokens", 7), ("model_name", "model", "m")],
)
def test_an_alias_is_the_option(alias: str, name: str, value: Any):
    assert getattr(model(**{alias: value}), name) == value
    assert getattr(model(**{alias: value, name: value}), name) == value
    with pytest.raises(ValidationError, match=f"{name} and {alias} are one option"):
        model(**{alias: value, name: ["other"] if name == "stop" else 9 if name == "max_tokens" else "other"})


def test_an_alias_is_the_option_of_a_call_too():
    chat = model(stop=["a"], max_tokens=5)
    request = request_of(chat, stop_sequences=["zz"], max_completion_tokens=7)
    assert (request.stop, request.max_tokens) == (("zz",), 7)
    with pytest.raises(InvalidRequestError, match="stop and stop_sequences are one option"):
        chat.invoke("Hello", stop=["a"], stop_sequences=["b"])
    with pytest.raises(InvalidRequestError, match="max_tokens and max_completion_tokens are one option"):
        chat.bind(max_tokens=1, max_completion_tokens=None)
    assert chat.invoke("Hello", model_name="embedded@full").response_metadata["model_name"] == "embedded@full"
    params = chat._get_ls_params(stop_sequences=["b"], max_completion_tokens=9, model_name="other")
    assert (params["ls_stop"], params["ls_max_tokens"], params["ls_model_name"]) == (["b"], 9, "other")
    assert "ls_max_tokens" not in chat._get_ls_params(max_tokens=None)


@pytest.mark.parametrize(
    ("name", "near"),
    [("temprature", "temperature"), ("max_new_tokens", "max_tokens"), ("stop_sequence", "stop_sequences")],
)
def test_an_unknown_option_is_told_what_it_is_like(name: str, near: str):
    chat = model()
    for ask in (
        lambda: chat.invoke("Hello", **{name: 1}),
        lambda: chat.bind(**{name: 1}),
        lambda: chat.bind_tools([], **{name: 1}),
        lambda: model(**{name: 1}),
    ):
        with pytest.raises((InvalidRequestError, ValidationError), match=f"'{name}' .did you mean '{near}'"):
            ask()
    with pytest.raises(InvalidRequestError, match=r"unknown option 'zzz': a call takes"):
        chat.invoke("Hello", zzz=1)


def test_a_configured_option_is_checked_as_a_field():
    chat = model().configurable_fields(max_tokens=ConfigurableField(id="most"))
    with pytest.raises(ValidationError, match="max_tokens must be"):
        chat.with_config(configurable={"most": "5"}).invoke("Hello")


def test_a_run_s_configuration_can_choose_the_model():
    chat = model().configurable_fields(model=ConfigurableField(id="model"))
    answer = chat.invoke("Hello", config={"configurable": {"model": "embedded@full"}})
    assert answer.response_metadata["model_name"] == "embedded@full"


# What one answer cannot be.


@pytest.mark.parametrize("choice", ["any", "required", True, "get_weather", {"type": "any"}])
def test_a_demanded_call_and_a_format_are_refused_together(choice: Any):
    chat = model()
    for ask in (
        lambda: chat.bind_tools([get_weather], tool_choice=choice, response_format=Weather),
        lambda: chat.bind_tools([get_weather], tool_choice=choice).bind(response_format=Weather).invoke("Hello"),
        lambda: chat.invoke("Hello", tools=[get_weather], tool_choice=choice, response_format={"type": "json_object"}),
    ):
        with pytest.raises(InvalidRequestError, match="tool_choice 'auto'"):
            ask()


@pytest.mark.parametrize(
    ("tools", "options", "has_schema"),
    [
        ([get_weather], {"response_format": Weather}, True),
        ([get_weather], {"response_format": Weather, "tool_choice": "auto"}, True),
        ([get_weather], {"response_format": Weather, "tool_choice": "none"}, True),
        ([get_weather], {"response_format": {"type": "text"}, "tool_choice": "any"}, False),
        ([get_weather], {"response_format": None, "tool_choice": "any"}, False),
        ([], {"response_format": Weather}, True),
        ([], {"response_format": Weather, "tool_choice": "none"}, True),
    ],
)
def test_what_goes_together_is_allowed(tools: list[Any], options: dict[str, Any], has_schema: bool):
    chat = model()
    chat.bind_tools(tools, **options).invoke("Hello")
    assert (chat.engine.requests[0].constraint.response_schema is not None) is has_schema


def test_a_demand_without_tools_is_refused_with_a_format_too():
    with pytest.raises(InvalidRequestError, match="bind at least one"):
        model().bind_tools([], tool_choice="any", response_format=Weather)


def test_an_agent_with_tools_and_a_format_goes_on_working():
    chat = LayerRouteChatModel(engine=ScriptedEngine(saying('{"city": "Oslo"}')))
    state = create_agent(chat, [get_weather], response_format=Weather).invoke({"messages": [("user", "Where?")]})
    assert state["structured_response"] == Weather(city="Oslo")


@pytest.mark.parametrize(
    ("fields", "call", "most"),
    [({}, {}, 8), ({"max_tool_calls": 3}, {}, 3), ({"max_tool_calls": 3}, {"max_tool_calls": 5}, 5)],
)
def test_most_calls_of_an_answer_reach_the_engine(fields: dict[str, Any], call: dict[str, Any], most: int):
    assert request_of(model(**fields), tools=[get_weather], **call).constraint.max_calls == most


@pytest.mark.parametrize(
    ("options", "parallel"),
    [
        ({}, True),
        ({"tool_choice": "any"}, True),
        ({"tool_choice": "get_weather"}, False),
        ({"tool_choice": "get_weather", "parallel_tool_calls": True}, True),
        ({"tool_choice": "any", "parallel_tool_calls": False}, False),
    ],
)
def test_a_named_tool_is_called_once_unless_more_is_said(options: dict[str, Any], parallel: bool):
    assert request_of(model(), tools=[get_weather], **options).constraint.parallel is parallel
