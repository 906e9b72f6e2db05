"""Schemas: what is refused and where, what a grammar holds, and what is checked on the finished value."""

import json
import random
from typing import Any

import pytest
from grammars import END, TOKENIZER, allowed, build, walk

from layerroute.engine.schemas import prepare_schema
from layerroute.errors import ToolSchemaError

TEXT: dict[str, Any] = {"type": "string"}
NODE = {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/Node"}}, "required": ["v"]}
TREE = {"properties": {"children": {"type": "array", "items": {"$ref": "#"}}, "name": TEXT}, "required": ["name"]}


def grammar_takes(schema: Any, value: Any) -> bool:
    """Whether the grammar lets a model write the value and end there."""
    grammar = build(response_schema=json.dumps(schema))
    for token in [*TOKENIZER.encode(json.dumps(value, ensure_ascii=False)), END]:
        if token not in allowed(grammar):
            return False
        grammar.accept(token)
    return True


def problem(schema: Any, value: Any) -> str | None:
    return prepare_schema(json.dumps(schema), "the response schema").checker.problem(value)


def array(**keywords: Any) -> dict[str, Any]:
    return {"type": "array", **keywords}


def obj(**keywords: Any) -> dict[str, Any]:
    return {"type": "object", **keywords}


def text(**keywords: Any) -> dict[str, Any]:
    return {"type": "string", **keywords}


def integer(**keywords: Any) -> dict[str, Any]:
    return {"type": "integer", **keywords}


# Schemas that users have, a value that fits and one that does not.
ORDINARY: dict[str, tuple[Any, Any, Any]] = {
    "a set": (array(uniqueItems=True, items=TEXT), ["a", "b"], ["a", "a"]),
    "a record": (obj(propertyNames={"pattern": "^[a-z]+$"}, additionalProperties=integer()), {"ab": 1}, {"A": 1}),
    "a record of some": (obj(propertyNames={"enum": ["a", "b"]}, additionalProperties=integer()), {"b": 1}, {"c": 1}),
    "long names": (obj(propertyNames={"minLength": 2}), {"ab": 1}, {"a": 1}),
    "look-ahead": (text(pattern="^(?!x)[a-z]+$"), "abc", "xbc"),
    "look-behind": (text(pattern="(?<=a)b"), "cab", "cb"),
    "word ends": (text(pattern=r"\bcat\b"), "a cat", "concat"),
    "back-reference": (text(pattern=r"^(?<q>[ab])c\k<q>$"), "aca", "acb"),
    "a pattern's end": (text(pattern=r"^(?=a)[a$]+$"), "a$", "a\n"),
    "a pattern and a format": (text(pattern="^2026", format="date-time"), "2026-11-28T10:00:00", "2027-11-28T10:00:00"),
    "overlapping oneOf": ({"oneOf": [text(minLength=2), text(maxLength=4)]}, "a", "abc"),
    "oneOf of objects": (
        {"oneOf": [obj(properties={"a": TEXT}, required=["a"]), obj(properties={"b": TEXT}, required=["b"])]},
        {"a": "x"},
        {"a": "x", "b": "y"},
    ),
    "anyOf and oneOf": ({"type": "integer", "anyOf": [{"minimum": 0}], "oneOf": [{"maximum": 9}]}, 5, -1),
    "int64": (integer(minimum=-(2**63), maximum=2**63 - 1), -(2**63), 2**63),
    "int64 from above": (integer(minimum=-(2**63), maximum=2**63 - 1), 2**63 - 1, -(2**63) - 1),
    "uint64": (integer(minimum=0, maximum=2**64 - 1), 2**64 - 1, 2**64),
    "a bound that is no float": (integer(maximum=2**60 + 1), 2**60 + 1, 2**60 + 2),
    "a bound that is large": ({"type": "number", "maximum": 1e30}, 1e30, 1e31),
    "not": ({"type": "string", "not": {"enum": ["no"]}}, "yes", "no"),
    "if then else": (
        obj(
            properties={"kind": {"enum": ["a", "b"]}, "n": integer()},
            **{
                "if": {"properties": {"kind": {"const": "a"}}},
                "then": {"required": ["n"]},
                "else": {"maxProperties": 1},
            },
        ),
        {"kind": "a", "n": 1},
        {"kind": "a"},
    ),
    "then lists properties": (
        obj(properties={"k": integer()}, **{"if": {"required": ["k"]}, "then": {"properties": {"x": TEXT}}}),
        {"k": 1, "x": "y"},
        {"k": 1, "x": 2},
    ),
    "dependentRequired": (
        obj(properties={"a": TEXT, "b": TEXT}, dependentRequired={"a": ["b"]}),
        {"a": "x", "b": "y"},
        {"a": "x"},
    ),
    "dependentSchemas": (
        obj(properties={"a": TEXT}, dependentSchemas={"a": {"properties": {"b": integer()}, "required": ["b"]}}),
        {"a": "x", "b": 1},
        {"a": "x"},
    ),
    "dependencies": (
        obj(properties={"a": TEXT, "b": TEXT, "c": TEXT}, dependencies={"a": ["b"], "b": {"required": ["c"]}}),
        {"a": "x", "b": "y", "c": "z"},
        {"a": "x", "b": "y"},
    ),
    "contains": (array(contains=integer(minimum=5), minContains=2), [1, 5, 6], [1, 5]),
    "unevaluatedProperties": (
        obj(allOf=[{"properties": {"a": TEXT}}], properties={"b": TEXT}, unevaluatedProperties=False),
        {"b": "x", "a": "y"},
        {"c": 1},
    ),
    "unevaluatedItems": (array(prefixItems=[TEXT], unevaluatedItems=False), ["a"], ["a", 1]),
    "hundredths": ({"type": "number", "multipleOf": 0.01}, 0.07, 0.075),
    "tiny steps": ({"type": "number", "multipleOf": 1e-30}, 0.5, "a"),
    "sevens": (integer(multipleOf=7), 49, 50),
    "counted properties": (obj(properties={"a": TEXT, "b": TEXT}, minProperties=1), {"b": "x"}, {}),
    "few properties": (
        obj(properties={"a": TEXT, "b": TEXT, "c": TEXT}, maxProperties=2),
        {"a": "", "b": ""},
        {}.fromkeys("abc", ""),
    ),
    "overlapping patterns": (obj(patternProperties={"^a": TEXT, "b$": {"maxLength": 3}}), {"ab": "x"}, {"ab": "long"}),
    "patterns and others": (
        obj(patternProperties={"^(?=a)": TEXT}, additionalProperties=False),
        {"ab": "x"},
        {"b": "x"},
    ),
    "very many patterns": (obj(patternProperties={f"^a{n}$": TEXT for n in range(900)}), {"a1": "x"}, {"a1": 1}),
    "a tuple of draft 7": (array(items=[TEXT, integer()], additionalItems=False), ["a", 1], ["a", 1, 2]),
    "exclusive bounds of draft 4": (integer(minimum=3, exclusiveMinimum=True), 4, 3),
    "a linked list": (
        {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}},
        {"v": 1, "next": {"v": 2}},
        {"v": 1, "next": {}},
    ),
    "a tree": (TREE, {"children": [{"name": "b"}], "name": "a"}, {"children": [{}], "name": "a"}),
    "a bounded tree": (
        obj(
            properties={"t": {"$ref": "#/$defs/T", "maxProperties": 1}},
            **{"$defs": {"T": obj(properties={"t": {"$ref": "#/$defs/T"}, "u": TEXT})}},
        ),
        {"t": {"t": {"t": {}, "u": ""}}},
        {"t": {"t": {}, "u": ""}},
    ),
    "an anchor": ({"$ref": "#x", "$defs": {"y": {"$anchor": "x", "type": "integer"}}}, 1, "a"),
    "an id": ({"$ref": "https://x.org/y", "$defs": {"y": {"$id": "https://x.org/y", "type": "integer"}}}, 1, "a"),
    "a dynamic reference": ({"$dynamicRef": "#x", "$defs": {"y": {"$dynamicAnchor": "x", "type": "integer"}}}, 1, "a"),
    "a reference and more": ({"$ref": "#/$defs/s", "maxLength": 2, "$defs": {"s": TEXT}}, "ab", "abc"),
    "an unknown draft": ({"$schema": "https://x.org/own", "type": "integer"}, 1, "a"),
    "annotations": (
        text(deprecated=True, nullable=3, title=5, format="path", **{"x-y": [], "discriminator": {}}),
        "a",
        1,
    ),
    "many items": (array(maxItems=10**9, minItems=1, items=TEXT), ["a"], []),
    "long text": (text(minLength=1, maxLength=10**12), "a", ""),
    "a large constant": ({"const": 2**60 + 1}, 2**60 + 1, 2**60),
    "large and small values": ({"enum": ["a", 1e300, -1e-12, [2**62]]}, 1e300, 1e299),
    "values within values": ({"enum": ["a", 1e300, -1e-12, [2**62]]}, [2**62], [1]),
    "required and not listed": (obj(properties={"a": TEXT}, required=["b"]), {"b": 1}, {"a": "x"}),
    "one or the other": (
        obj(properties={"a": TEXT, "b": TEXT}, anyOf=[{"required": ["a"]}, {"required": ["b"]}]),
        {"b": "x"},
        {},
    ),
    "null or set": ({"anyOf": [array(uniqueItems=True), {"type": "null"}]}, None, [1, 1]),
    "a point in time": (text(format="date-time"), "2026-11-28T10:00:00+01:00", "2026-11-28"),
    "a naive point in time": (text(format="date-time"), "2026-11-28T10:00:00", "2026-02-30T10:00:00"),
    "a naive time": (text(format="time"), "10:00:00.5", "25:00:00"),
    "a date": (text(format="date"), "2028-02-29", "2027-02-29"),
    "an address": (text(format="ipv6"), "::1", ":::1"),
    "an id of 128 bits": (
        text(format="uuid"),
        "123e4567-e89b-12d3-a456-426614174000",
        "123e4567e89b12d3a456426614174000",
    ),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_schema_is_held_or_checked(name: str) -> None:
    schema, good, bad = ORDINARY[name]
    schema = dict(schema)
    inside = obj(
        properties={"v": schema}, required=["v"], **{"$defs": schema.pop("$defs")} if "$defs" in schema else {}
    )
    whole = {**schema, "$defs": inside.get("$defs", {})}
    for shown, value, wrong in ((whole, good, bad), (inside, {"v": good}, {"v": bad}))[: 1 if name == "a tree" else 2]:
        assert problem(shown, value) is None
        assert grammar_takes(shown, value)
        assert problem(shown, wrong) is not None


@pytest.mark.parametrize("name", ORDINARY)
def test_whatever_a_grammar_holds_of_a_schema_has_an_end(name: str) -> None:
    for seed in range(3):
        ids = walk(build(response_schema=json.dumps(ORDINARY[name][0])), random.Random(seed), 20)
        json.loads(TOKENIZER.decode(ids))


BROKEN: dict[str, tuple[Any, str]] = {
    "format": ({"format": []}, "format"),
    "a huge bound": ({"minimum": -(10**30)}, "minimum"),
    "a bound in words": ({"maximum": "5"}, "maximum"),
    "a bound that is true": ({"maximum": True}, "maximum"),
    "a reference that is a number": ({"$ref": 5}, "$ref"),
    "half a character": ({"enum": ["\ud800"]}, "enum"),
    "half a character in a name": ({"properties": {"\udfff": {}}}, "udfff"),
    "half a character in a description": ({"description": "\ud800"}, "description"),
    "400 levels": (json.loads('{"items": ' * 400 + "{}" + "}" * 400), "items.items"),
    "no way out": (
        {"$ref": "#/$defs/A", "$defs": {"A": obj(properties={"a": {"$ref": "#/$defs/A"}}, required=["a"])}},
        "$defs.A",
    ),
    "no way out of a list": (
        {"$defs": {"A": array(items={"$ref": "#/$defs/A"}, minItems=1)}, "items": {"$ref": "#/$defs/A"}},
        "$defs.A",
    ),
    "a circle": ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "$defs.A"),
    "a wide circle": (
        {
            "$ref": "#/$defs/A",
            "$defs": {
                "A": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/B"}]},
                "B": {"allOf": [{"$ref": "#/$defs/A"}, {}]},
            },
        },
        "$defs.",
    ),
    "nowhere": ({"$ref": "#/$defs/A"}, "$ref"),
    "elsewhere": ({"$ref": "https://example.org/a.json"}, "nothing is fetched"),
    "a million": ({"pattern": "^a{1000000}$"}, "pattern"),
    "a million by hundreds": ({"pattern": "((a{100}){100}){100}"}, "pattern"),
    "a bracket": ({"pattern": "("}, "pattern"),
    "brackets": ({"pattern": "(" * 5000 + ")" * 5000}, "pattern"),
    "a bracket in a name": ({"patternProperties": {"(": {}}}, "patternProperties"),
    "no number": ({"pattern": 5}, "pattern"),
    "type": ({"type": 3}, "type"),
    "types": ({"type": ["string", "strin"]}, "type"),
    "no types": ({"type": []}, "type"),
    "required": ({"required": True}, "required"),
    "required of numbers": ({"required": [1]}, "required"),
    "properties": ({"properties": []}, "properties"),
    "a property": ({"properties": {"b": 3}}, "properties.b"),
    "items": ({"items": 3}, "items"),
    "anyOf": ({"anyOf": {}}, "anyOf"),
    "empty anyOf": ({"anyOf": []}, "anyOf"),
    "a part of anyOf": ({"anyOf": [{}, 5]}, "anyOf[1]"),
    "not": ({"not": []}, "not"),
    "definitions": ({"$defs": []}, "$defs"),
    "a definition": ({"$defs": {"A": {"type": 3}}}, "$defs.A.type"),
    "uniqueItems": ({"uniqueItems": "yes"}, "uniqueItems"),
    "minItems": ({"minItems": -1}, "minItems"),
    "minLength": ({"minLength": 1.5}, "minLength"),
    "maxLength": ({"maxLength": None}, "maxLength"),
    "multipleOf": ({"multipleOf": 0}, "multipleOf"),
    "enum": ({"enum": "abc"}, "enum"),
    "an empty enum": ({"enum": []}, "enum"),
    "dependentRequired": ({"dependentRequired": {"a": "b"}}, "dependentRequired.a"),
    "dependencies": ({"dependencies": []}, "dependencies"),
    "nothing fits": ({"type": "integer", "minimum": 5, "maximum": 3}, "nsatisfiable"),
    "nothing fits both": ({"allOf": [{"type": "integer"}, {"type": "string"}]}, "nsatisfiable"),
    "a demand that is forbidden": (
        {"type": "object", "additionalProperties": False, "required": ["b", "c"], "minProperties": 2},
        "nsatisfiable",
    ),
    "two at once": ({"unevaluatedProperties": False, "patternProperties": {"a": {}}}, "additionalProperties"),
    "very long": ({"enum": ["x" * 300_000]}, "characters"),
    "many references": (
        {"$defs": {str(n): {} for n in range(600)}, "anyOf": [{"$ref": f"#/$defs/{n}"} for n in range(600)]},
        "500",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_schema_is_refused_by_its_field(name: str) -> None:
    schema, place = BROKEN[name]
    broken = json.dumps(
        obj(properties={"a": schema}, required=["a"])
        if "$defs" not in schema and "$ref" not in schema
        else obj(**schema)
    )
    with pytest.raises(ToolSchemaError) as caught:
        prepare_schema(broken, "tool 'odd'", arguments=True)
    message = str(caught.value)
    assert message.startswith("tool 'odd': ")
    assert place in message
    assert len(message) < 500
    message.encode()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "{",
        "",
        "null",
        "[]",
        '{"minimum": NaN}',
        '{"const": 1e999}',
        '{"a": ' + "9" * 5000 + "}",
    ],
)
def test_text_that_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(ToolSchemaError):
        prepare_schema(text, "tool 'odd'", arguments=True)


def test_no_pattern_hangs_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerroute.engine.schemas.patterns.SECONDS", 0.05)
    schema = array(items=text(pattern=r"^(?=(a|aa)+$)\b(a|a|aa)+c$"))
    assert "too long" in str(problem(schema, ["a" * 40 + "b"] * 1000))


def test_a_value_of_any_depth_is_checked_or_refused() -> None:
    value: Any = {}
    for _ in range(2000):
        value = {"children": [value], "name": "a"}
    assert problem(TREE, value) is not None


def test_what_is_wrong_is_said_with_its_place() -> None:
    schema = obj(properties={"tags": array(uniqueItems=True)})
    assert problem(schema, {"tags": [1, 1]}) == "tags: [1, 1] has non-unique elements"
    assert len(problem(schema, {"tags": ["x" * 5000] * 2}) or "") < 300
