"""Structured output: a whole object of the schema, or an error that says what cut it off. Never half an object."""

import json
from typing import Any, Literal

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import StructuredOutputError
from langchain_core.exceptions import OutputParserException
from pydantic import BaseModel, field_validator
from pydantic.v1 import BaseModel as OldBaseModel
from scripted import ScriptedEngine, call_text, saying
from typing_extensions import TypedDict

from langchain_layerroute import LayerRouteChatModel
from langchain_layerroute.errors import StructuredAnswerError, TruncatedAnswerError


class Basket(BaseModel):
    """What is bought."""

    items: list[str]
    note: str = ""


class OldBasket(OldBaseModel):
    """What is bought."""

    items: list[str]
    note: str = ""


class TypedBasket(TypedDict):
    """What is bought."""

    items: list[str]


DICT_BASKET: dict[str, Any] = {**Basket.model_json_schema(), "title": "Basket"}
SCHEMAS: dict[str, Any] = {
    "pydantic": Basket,
    "pydantic v1": OldBasket,
    "TypedDict": TypedBasket,
    "dict": DICT_BASKET,
    "none": None,
}
WHOLE = {"items": ["apples", "pears", "plums"], "note": "ripe ones"}
Method = Literal["function_calling", "json_schema", "json_mode"]


def asked(schema: Any, method: Method, script: str | None = None, **options: Any) -> Any:
    """A runnable of the schema over a model that answers with WHOLE, or with the script."""
    name = schema["title"] if isinstance(schema, dict) else getattr(schema, "__name__", "")
    written = script or (call_text(name, WHOLE) if method == "function_calling" else json.dumps(WHOLE))
    include_raw = options.pop("include_raw", False)
    model = LayerRouteChatModel(engine=ScriptedEngine(saying(written)), **options)
    return model.with_structured_output(schema, method=method, include_raw=include_raw)


CASES = [
    (schema, method)
    for schema in SCHEMAS
    for method in ("function_calling", "json_schema", "json_mode")
    if schema != "none" or method == "json_mode"
]


@pytest.mark.parametrize(("schema", "method"), CASES)
async def test_an_answer_cut_off_by_length_is_an_error_wherever_it_ends(schema: str, method: Method):
    whole = asked(SCHEMAS[schema], method).invoke("Buy")
    for limit in range(1, 40):
        structured = asked(SCHEMAS[schema], method, max_tokens=limit)
        try:
            parsed = structured.invoke("Buy")
        except TruncatedAnswerError as error:
            reason = str(error)
        else:
            assert parsed == whole
            break
        assert f"cut off after {limit} tokens" in reason
        assert "raise `max_tokens`" in reason
        with pytest.raises(TruncatedAnswerError):
            list(structured.stream("Buy"))
        with pytest.raises(TruncatedAnswerError):
            [part async for part in structured.astream("Buy")]
        with pytest.raises(TruncatedAnswerError):
            await structured.ainvoke("Buy")
    assert limit > 8


@pytest.mark.parametrize(("schema", "method"), [case for case in CASES if case[1] != "function_calling"])
@pytest.mark.parametrize("stop", ["pears", '"', "}", "]", ", "])
def test_an_answer_cut_off_by_a_stop_string_is_an_error(schema: str, method: Method, stop: str):
    structured = asked(SCHEMAS[schema], method, stop=[stop])
    with pytest.raises(TruncatedAnswerError) as caught:
        structured.invoke("Buy")
    assert f"the stop string {stop!r}" in str(caught.value)
    with pytest.raises(TruncatedAnswerError):
        list(structured.stream("Buy"))


@pytest.mark.parametrize(("schema", "method"), CASES)
@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
async def test_with_include_raw_the_error_stands_beside_the_answer(schema: str, method: Method, how: str):
    structured = asked(SCHEMAS[schema], method, max_tokens=12, include_raw=True)
    match how:
        case "invoke":
            result = structured.invoke("Buy")
        case "ainvoke":
            result = await structured.ainvoke("Buy")
        case "stream":
            parts = list(structured.stream("Buy"))
            result = sum(parts[1:], parts[0])
        case _:
            parts = [part async for part in structured.astream("Buy")]
            result = sum(parts[1:], parts[0])
    assert set(result) == {"raw", "parsed", "parsing_error"}
    assert result["parsed"] is None
    assert isinstance(result["parsing_error"], TruncatedAnswerError)
    assert result["raw"].response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize(("schema", "method"), CASES)
async def test_whole_answers_are_the_same_however_they_are_asked_for(schema: str, method: Method):
    structured = asked(SCHEMAS[schema], method)
    whole = structured.invoke("Buy")
    assert (whole if isinstance(whole, dict) else dict(whole)) == WHOLE
    assert list(structured.stream("Buy"))[-1] == whole
    assert [part async for part in structured.astream("Buy")][-1] == whole
    raw = asked(SCHEMAS[schema], method, include_raw=True)
    parts = list(raw.stream("Buy"))
    for result in (raw.invoke("Buy"), await raw.ainvoke("Buy"), sum(parts[1:], parts[0])):
        assert (result["parsed"], result["parsing_error"]) == (whole, None)


def test_partial_objects_are_streamed():
    parts = list(asked(DICT_BASKET, "json_schema").stream("Buy"))
    assert len(parts) > 3
    assert parts[0] == {}
    raw = list(asked(DICT_BASKET, "json_schema", include_raw=True).stream("Buy"))
    assert len(raw) > 3


def test_a_number_that_was_cut_off_is_no_number():
    engine = ScriptedEngine(saying("1234567"))
    schema = {"title": "Count", "type": "integer"}
    model = LayerRouteChatModel(engine=engine)
    assert model.with_structured_output(schema, method="json_schema").invoke("How many?") == 1234567
    for cut in ({"max_tokens": 3}, {"stop": ["5"]}):
        with pytest.raises(TruncatedAnswerError):
            LayerRouteChatModel(engine=engine, **cut).with_structured_output(schema, method="json_schema").invoke("?")


def test_a_document_that_was_whole_when_the_tokens_ran_out_is_taken():
    engine = ScriptedEngine(saying(json.dumps(WHOLE)))
    length = len(engine.tokenizer.encode(json.dumps(WHOLE)))
    result = asked(Basket, "json_schema", max_tokens=length, include_raw=True).invoke("Buy")
    assert result["raw"].response_metadata["finish_reason"] == "length"
    assert result["parsed"] == Basket(**WHOLE)


@pytest.mark.parametrize(
    ("method", "script", "reason"),
    [
        ("function_calling", "I would rather not.", "does not call 'Basket'"),
        ("function_calling", '<tool_call>\n{"name": "Basket", "arguments": 5}\n</tool_call>', "arguments"),
        ("function_calling", call_text("Basket", {"items": 5}), "do not fit the schema of 'Basket'"),
        ("json_schema", '{"items": 5}', "does not fit Basket"),
        ("json_schema", "I would rather not.", "no JSON"),
        ("json_schema", '{"items": ["a"]', "no JSON"),
        ("json_mode", '{"items": NaN}', "no JSON"),
        ("json_mode", "[" * 3000, "no JSON"),
    ],
)
def test_answers_without_such_an_object_say_why(method: Method, script: str, reason: str):
    structured = asked(Basket, method, script, max_tokens=None)
    with pytest.raises(StructuredAnswerError, match=reason) as caught:
        structured.invoke("Buy")
    assert isinstance(caught.value, OutputParserException)
    with pytest.raises(StructuredAnswerError):
        list(structured.stream("Buy"))
    raw = asked(Basket, method, script, max_tokens=None, include_raw=True).invoke("Buy")
    assert isinstance(raw["parsing_error"], StructuredAnswerError)


class Few(BaseModel):
    """At most two."""

    items: list[str]

    @field_validator("items")
    @classmethod
    def few(cls, items: list[str]) -> list[str]:
        if len(items) > 2:
            raise ValueError("three is a crowd")
        return items


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_a_stream_whose_whole_object_is_invalid_does_not_end_in_silence(method: Method):
    with pytest.raises(StructuredAnswerError, match="three is a crowd"):
        list(asked(Few, method).stream("Buy"))


def test_an_agents_answer_that_was_cut_off_is_no_structured_response():
    model = LayerRouteChatModel(engine=ScriptedEngine(saying(json.dumps(WHOLE))), max_tokens=12)
    with pytest.raises(StructuredOutputError):
        create_agent(model, [], response_format=Basket).invoke({"messages": [("user", "Buy")]})
