import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from grammars import ADDED, CLOSE, END, FACTORY, OPEN, TOKENIZER, VOCAB, accept_text, allowed, build, follow, tool, walk
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from layerroute.engine.grammar import GrammarFactory
from layerroute.engine.request import OutputConstraint, ToolSpec
from layerroute.errors import LayerRouteError, RequestError, ToolSchemaError

# A random walk does not shrink to a simpler one, so do not try for minutes.
WALKS = settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "day": {"enum": ["today", "tomorrow"]}},
    "required": ["city", "day"],
}


names = st.text(st.sampled_from('ab_é"\\ \n你'), min_size=1, max_size=5)
leaves: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "maxLength": 3},
        {"type": "string", "pattern": "^[A-Z]-[0-9]{2}$"},
        {"type": "string", "format": "date"},
        {"type": "string", "format": "path"},
        {"type": "integer"},
        {"type": "integer", "minimum": -3, "maximum": 12},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["today", "to-morrow", 'a "b"', 3, None]},
        {"const": {"x": [1, "é"]}},
        {"type": "object"},
    ]
)


def objects(children: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(names, children, max_size=3).flatmap(
        lambda properties: st.builds(
            lambda required: {"type": "object", "properties": properties, "required": sorted(required)},
            st.sets(st.sampled_from(sorted(properties))) if properties else st.just(set()),
        )
    )


schemas = st.recursive(
    leaves,
    lambda children: (
        objects(children)
        | st.builds(lambda part: {"type": "array", "items": part, "maxItems": 3}, children)
        | st.builds(lambda one, other: {"anyOf": [one, other]}, children, children)
    ),
    max_leaves=5,
)


def read_calls(text: str) -> list[dict[str, Any]]:
    calls = []
    for part in text.split("\n</tool_call>")[:-1]:
        body = part.removeprefix("\n").removeprefix("<tool_call>\n")
        call = json.loads(body)
        calls.append(call)
    return calls


@given(
    st.dictionaries(names, objects(schemas), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 2**32),
    st.integers(0, 60),
)
@WALKS
def test_every_call_names_a_tool_and_fits_its_schema(
    tools: dict[str, Any], parallel: bool, seed: int, free_steps: int
) -> None:
    specs = [tool(name, schema) for name, schema in tools.items()]
    ids = walk(build(*specs, tool_choice="required", parallel=parallel), random.Random(seed), free_steps)
    calls = read_calls(TOKENIZER.decode(ids))
    assert len(calls) == ids.count(OPEN) == ids.count(CLOSE) >= 1
    assert parallel or len(calls) == 1
    assert ADDED.isdisjoint(set(ids) - {OPEN, CLOSE})
    for call in calls:
        assert list(call) == ["name", "arguments"]
        jsonschema.validate(call["arguments"], tools[call["name"]])


@given(schemas, st.integers(0, 2**32), st.integers(0, 60))
@WALKS
def test_a_response_is_a_document_of_its_schema(schema: dict[str, Any], seed: int, free_steps: int) -> None:
    ids = walk(build(response_schema=json.dumps(schema)), random.Random(seed), free_steps)
    jsonschema.validate(json.loads(TOKENIZER.decode(ids)), schema)
    assert ADDED.isdisjoint(ids)


@given(st.integers(0, 2**32), st.integers(0, 40))
@WALKS
def test_json_mode_gives_an_object(seed: int, free_steps: int) -> None:
    ids = walk(build(response_schema='{"type": "object"}'), random.Random(seed), free_steps)
    assert isinstance(json.loads(TOKENIZER.decode(ids)), dict)


def test_auto_is_free_until_the_call_token_and_forced_after_it() -> None:
    grammar = build(tool("get_weather", WEATHER))
    for token_id in [*TOKENIZER.encode('Let me look: {"name'), CLOSE]:
        assert grammar.mask() is None
        assert grammar.forced() == ()
        grammar.accept(token_id)
    grammar.accept(OPEN)
    text = follow(grammar)
    assert text.startswith('\n{"name": "get_weather", "arguments": {"city":')
    accept_text(grammar, ' "Oslo"' if text.endswith(":") else 'Oslo"')
    assert "day" in follow(grammar)


def test_a_single_tool_costs_few_decisions() -> None:
    """Everything but the city, the day and the end is forced."""
    grammar = build(tool("get_weather", WEATHER), tool_choice="required", parallel=False)
    assert grammar.forced()[0] == OPEN
    follow(grammar)
    accept_text(grammar, ' "Oslo",')
    follow(grammar)
    accept_text(grammar, "today")
    follow(grammar)
    assert grammar.finished
    assert allowed(grammar) == [END]
    assert grammar.forced() == ()
    grammar.accept(END)
    assert grammar.finished


def test_parallel_calls_may_follow_or_the_answer_ends() -> None:
    grammar = build(tool("ping", {"type": "object"}), tool_choice="required")
    assert follow(grammar) == '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
    assert not grammar.finished
    assert set(allowed(grammar)) == {END, *TOKENIZER.encode("\n")}


def test_an_answer_may_not_end_inside_a_call() -> None:
    grammar = build(tool("get_weather", WEATHER), tool_choice="required")
    accept_text(grammar, '<tool_call>\n{"name": "get_weather", "arguments": {"city": "O')
    assert END not in allowed(grammar)
    assert ADDED.isdisjoint(allowed(grammar))
    with pytest.raises(LayerRouteError, match="not allowed"):
        grammar.accept(END)


@pytest.mark.parametrize("options", [{}, {"tool_choice": "none"}])
def test_calls_are_impossible_without_tools_or_when_forbidden(options: dict[str, Any]) -> None:
    tools = (tool("get_weather", WEATHER),) if options else ()
    grammar = build(*tools, **options)
    banned = set(range(len(TOKENIZER))) - set(allowed(grammar))
    assert banned == {OPEN, CLOSE}
    accept_text(grammar, "Hello")
    with pytest.raises(LayerRouteError, match="not allowed"):
        grammar.accept(OPEN)


def test_with_tools_and_a_response_schema_the_answer_is_calls_or_a_document() -> None:
    weather, document = tool("get_weather", WEATHER), '{"type": "object", "properties": {"n": {"type": "integer"}}}'
    grammar = build(weather, response_schema=document)
    assert {token[:1] for token in TOKENIZER.batch_decode([[i] for i in allowed(grammar)])} == {"{", "<"}
    grammar.accept(OPEN)
    assert "get_weather" in follow(grammar)
    grammar = build(weather, response_schema=document)
    accept_text(grammar, '{"n": 1}')
    assert grammar.finished
    assert OPEN not in allowed(build(weather, response_schema=document, tool_choice="none"))


def test_nothing_constrained_is_no_grammar() -> None:
    assert FACTORY.build(None) is None


def test_grammars_of_one_constraint_do_not_share_state() -> None:
    first = build(tool("get_weather", WEATHER), tool_choice="required")
    before = first.forced()
    follow(first)
    assert build(tool("get_weather", WEATHER), tool_choice="required").forced() == before


def test_objects_take_no_unlisted_property_unless_they_say_so() -> None:
    closed = build(response_schema='{"type": "object", "properties": {"n": {"type": "integer"}}}')
    accept_text(closed, '{"n": 1')
    assert not set(TOKENIZER.encode(",")) & set(allowed(closed))
    opened = build(response_schema='{"properties": {"n": {"type": "integer"}}, "additionalProperties": true}')
    accept_text(opened, '{"n": 1, "m": 2}')
    parts = [{"properties": {"a": {"type": "null"}}, "required": ["a"]}, {"properties": {"b": {"type": "null"}}}]
    accept_text(build(response_schema=json.dumps({"type": "object", "allOf": parts})), '{"a": null, "b": null}')


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ('{"type": "strin"}', "strin"),
        ('{"type": "array"}', "object with properties"),
        ('{"properties": {"a": {"type": "strin"}}}', "strin"),
        ('{"properties": {"a": {"$ref": "#/$defs/missing"}}}', "missing"),
        ('{"properties": {"a": {"type": "string", "pattern": "("}}}', "regex"),
        ('{"properties": {"a": {"enum": []}}, "required": ["a"]}', "nsatisfiable"),
        ('{"properties": 5}', "must be an object of schemas"),
        ('{"properties"', "not JSON"),
        ("true", "must be a JSON object"),
    ],
)
def test_a_broken_schema_is_refused_by_name_and_reason(schema: str, reason: str) -> None:
    with pytest.raises(ToolSchemaError, match=reason) as caught:
        build(tool("fine", WEATHER), ToolSpec("broken tool", schema))
    assert "broken tool" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_response_schema_is_refused() -> None:
    with pytest.raises(ToolSchemaError, match="response schema"):
        build(response_schema='{"type": "strin"}')


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ToolSchemaError, match="share a name"):
        build(tool("same", WEATHER), tool("same", {"type": "object"}))


def test_a_tokenizer_without_call_tokens_takes_no_tools(tmp_path: Path) -> None:
    backend = json.loads(TOKENIZER.backend_tokenizer.to_str())
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["special"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(backend))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    factory = GrammarFactory(AutoTokenizer.from_pretrained(tmp_path), VOCAB)
    with pytest.raises(RequestError, match="no <tool_call> tokens"):
        factory.build(OutputConstraint((tool("get_weather", WEATHER),)))
    assert factory.build(OutputConstraint()) is None
