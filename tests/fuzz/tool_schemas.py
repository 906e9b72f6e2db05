"""Random JSON schemas of tools: mostly such as people write, some odd, some wrong."""

from random import Random
from typing import Any

from tests.fuzz import inputs

NAMES = ("city", "day", "a", "b", "é", "a b", "name", "$ref", "x-y", 'q"', "<tool_call>", "0")
FORMATS = ("date", "time", "date-time", "email", "uuid", "uri", "ipv4", "regex", "no such", "path")
PATTERNS = ("^[A-Z]{2}$", "[0-9]+", "^a|b$", "x{2,5}", r"^\d{4}-\d{2}$", "^(?=a).b", r"\bword\b", "(", "^.*$", '[^"]')
OTHERS = (
    "minimum", "maxItems", "pattern", "format", "enum", "required", "properties", "items", "$defs", "type", "not",
    "title", "default", "$ref", "minLength", "uniqueItems", "const", "anyOf", "$schema", "description",
)  # fmt: skip


def name(rng: Random) -> str:
    """A tool's name."""
    return rng.choice(("f", "get_weather", "a-b", inputs.text(rng, 2)))


def arguments(rng: Random) -> Any:
    """A tool's parameters: an object in nine of ten."""
    if rng.random() < 0.05:
        return inputs.value(rng, 3)
    made = _object(rng, 2) if rng.random() < 0.95 else schema(rng, 2)
    if rng.random() < 0.1:
        made["$defs"] = {"node": _object(rng, 1), "n": schema(rng, 0)}
    if rng.random() < 0.15:
        made[rng.choice(OTHERS)] = inputs.value(rng, 2)
    return made


def schema(rng: Random, depth: int) -> dict[str, Any]:
    """A schema of any type."""
    kind = rng.randrange(13 if depth else 8)
    if rng.random() < 0.02:
        return {rng.choice(OTHERS): inputs.value(rng, 2)}
    match kind:
        case 0 | 1:
            return _string(rng)
        case 2 | 3:
            return _number(rng)
        case 4:
            return {"type": rng.choice(("boolean", "null"))}
        case 5:
            return {"enum": [inputs.value(rng, 1) for _ in range(rng.randrange(1, 4))]}
        case 6:
            return {"const": inputs.value(rng, 2)}
        case 7:
            return rng.choice(
                ({}, {"type": ["string", "null"]}, {"$ref": "#/$defs/node"}, {"$ref": "#/$defs/n"}, {"$ref": "#"})
            )
        case 8 | 9:
            return _object(rng, depth - 1)
        case 10:
            return _array(rng, depth - 1)
        case 11:
            return {rng.choice(("anyOf", "oneOf")): [schema(rng, depth - 1) for _ in range(rng.randrange(1, 4))]}
    return _combined(rng, depth - 1)


def _some(rng: Random, made: dict[str, Any], share: float, further: dict[str, Any]) -> dict[str, Any]:
    """With some of the further keywords."""
    return made | {key: value for key, value in further.items() if rng.random() < share}


def _string(rng: Random) -> dict[str, Any]:
    further = {"minLength": rng.randrange(4), "maxLength": rng.randrange(8), "pattern": rng.choice(PATTERNS)}
    return _some(rng, {"type": "string"}, 0.15, {**further, "format": rng.choice(FORMATS)})


def _number(rng: Random) -> dict[str, Any]:
    further = {
        "minimum": rng.choice((-3, 0, 2, 0.5, -(2**63), 10**30)),
        "maximum": rng.choice((5, 12, 2.5, 2**63, -1)),
        "exclusiveMinimum": rng.choice((-3, 0, 0.5)),
        "multipleOf": rng.choice((1, 2, 5, 0.5)),
    }
    return _some(rng, {"type": rng.choice(("integer", "number"))}, 0.15, further)


def _object(rng: Random, depth: int) -> dict[str, Any]:
    names = rng.sample(NAMES, rng.randrange(4))
    made = {"type": "object", "properties": {name: schema(rng, depth) for name in names}}
    if rng.random() < 0.7:
        made["required"] = [name for name in names if rng.random() < 0.7]
    if rng.random() < 0.5:
        made["additionalProperties"] = rng.choice((False, False, True, {"type": "integer"}))
    further = {
        "required": rng.sample(NAMES, 2),
        "minProperties": rng.randrange(3),
        "maxProperties": rng.randrange(4),
        "propertyNames": {"pattern": rng.choice(PATTERNS)},
        "patternProperties": {rng.choice(PATTERNS): schema(rng, 0)},
        "dependentRequired": {"a": ["b"]},
        "unevaluatedProperties": False,
    }
    return _some(rng, made, 0.04, further)


def _array(rng: Random, depth: int) -> dict[str, Any]:
    further = {
        "items": schema(rng, depth),
        "minItems": rng.randrange(3),
        "maxItems": rng.randrange(5),
        "uniqueItems": rng.random() < 0.8,
        "contains": schema(rng, 0),
        "prefixItems": [schema(rng, 0)],
    }
    return _some(rng, {"type": "array"}, 0.4, further)


def _combined(rng: Random, depth: int) -> dict[str, Any]:
    made = schema(rng, depth)
    further = {
        "allOf": [schema(rng, depth)],
        "not": schema(rng, 0),
        "if": schema(rng, 0),
        "then": schema(rng, 0),
        "anyOf": [schema(rng, depth), schema(rng, 0)],
    }
    return _some(rng, made, 0.3, further)
