"""Keywords of JSON Schema: which hold schemas, what the others may be set to, how older drafts wrote them."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from layerroute.engine.schemas.patterns import require_size, why_not_searchable
from layerroute.engine.schemas.probing import is_held
from layerroute.errors import shown

Schema = dict[str, Any] | bool

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

MAPS_OF_SCHEMAS = ("properties", "patternProperties", "dependentSchemas")
LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE_SCHEMAS = (
    *("items", "contains", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties"),
    *("not", "if", "then", "else"),
)

DESCRIBERS = frozenset(("$ref", "$dynamicRef", "$recursiveRef", *MAPS_OF_SCHEMAS, *LISTS_OF_SCHEMAS, *SINGLE_SCHEMAS))
"""Keywords that may say which properties an object has."""


class SchemaProblem(Exception):
    """What is wrong with a schema, and at which of its fields ("" for all of it), on one line."""

    def __init__(self, place: str, what: str) -> None:
        if len(place) > 120:
            place = f"{place[:60]}...{place[-50:]}"
        message = f"{place}: {what}" if place else what
        super().__init__("".join(char if char.isprintable() else ascii(char)[1:-1] for char in message))


def subschemas(schema: Schema, *keys: str) -> Iterator[dict[str, Any]]:
    """The schemas right inside one that was read, of these keywords alone if any are named; true and false left out."""
    if isinstance(schema, bool):
        return
    for key, value in schema.items():
        if keys and key not in keys:
            continue
        if key in MAPS_OF_SCHEMAS:
            parts = list(value.values())
        elif key in LISTS_OF_SCHEMAS:
            parts = value
        else:
            parts = [value] if key in SINGLE_SCHEMAS else []
        yield from (part for part in parts if isinstance(part, dict))


def modern(node: dict[str, Any], place: str) -> dict[str, Any]:
    """A schema with the keywords of older drafts written as those of 2020-12; parts are left as they are."""
    schema = dict(node)
    further = schema.pop("additionalItems", None)
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        if not schema["prefixItems"]:
            del schema["prefixItems"]
        if further is not None:
            schema["items"] = further
    for key, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(key), bool):
            exclusive = schema.pop(key)
            if exclusive and bound in schema:
                schema[key] = schema.pop(bound)
    for key in ("$dynamicRef", "$recursiveRef"):
        if key in schema:
            schema.setdefault("$ref", schema[key])
    if "dependencies" in schema:
        dependencies = schema.pop("dependencies")
        require(isinstance(dependencies, dict), inner_place(place, "dependencies"), dependencies, "an object")
        for key, kind in (("dependentRequired", list), ("dependentSchemas", dict | bool)):
            parts = {name: part for name, part in dependencies.items() if isinstance(part, kind)}
            if parts:
                schema.setdefault(key, parts)
    return schema


def inner_place(place: str, key: str) -> str:
    """The place of a keyword or name in a schema."""
    return f"{place}.{key}" if place else key


def require(fits: Any, place: str, value: Any, what: str) -> None:
    """Raise a SchemaProblem unless `fits`."""
    if not fits:
        raise SchemaProblem(place, f"{shown(value)} must be {what}: mend it, or leave the keyword out")


def _type(value: Any, place: str) -> list[str]:
    types = value if isinstance(value, list) else [value]
    known = types and all(isinstance(name, str) and name in TYPES for name in types)
    require(known, place, value, f"one of {', '.join(TYPES)}, or a list of them")
    return types


def _enum(value: Any, place: str) -> list[Any]:
    if value == []:
        raise SchemaProblem(place, "no value is allowed, so it is unsatisfiable: list one at least")
    require(isinstance(value, list), place, value, "a list of values")
    return value  # type: ignore[no-any-return]


def check_number(value: Any, place: str) -> float:
    """The value of a keyword, if it is a number of at most 64 bits; else a SchemaProblem."""
    require(isinstance(value, int | float) and not isinstance(value, bool), place, value, "a number")
    if (isinstance(value, int) and abs(value) > 2**64) or not math.isfinite(value):
        raise SchemaProblem(place, f"{shown(value)} does not fit into 64 bits: leave it out")
    return value  # type: ignore[no-any-return]


def _factor(value: Any, place: str) -> float:
    require(check_number(value, place) > 0, place, value, "greater than 0")
    return value  # type: ignore[no-any-return]


def _count(value: Any, place: str) -> int:
    whole = check_number(value, place)
    require(whole >= 0 and whole == int(whole), place, value, "a whole number, 0 or more")
    return int(whole)


def _text(value: Any, place: str) -> str:
    require(isinstance(value, str), place, value, "text")
    return value  # type: ignore[no-any-return]


def check_pattern(value: Any, place: str) -> str:
    """The value of a keyword, if it is a regular expression that can be followed; else a SchemaProblem."""
    try:
        require_size(_text(value, place))
    except ValueError as error:
        raise SchemaProblem(place, str(error)) from error
    reason = why_not_searchable(value)
    if reason is not None and not is_held({"type": "string", "pattern": value}):
        raise SchemaProblem(place, f"{shown(value)} is no regex ({reason}): mend it, or leave it out")
    return value  # type: ignore[no-any-return]


def _flag(value: Any, place: str) -> bool:
    require(isinstance(value, bool), place, value, "true or false")
    return value  # type: ignore[no-any-return]


def _names(value: Any, place: str) -> list[str]:
    listed = isinstance(value, list) and all(isinstance(name, str) for name in value)
    require(listed, place, value, "a list of property names")
    return list(dict.fromkeys(value))


def _names_by_name(value: Any, place: str) -> dict[str, list[str]]:
    require(isinstance(value, dict), place, value, "an object of lists of property names")
    return {name: _names(names, inner_place(place, name)) for name, names in value.items()}


ASSERTIONS: dict[str, Callable[[Any, str], Any]] = {
    "type": _type,
    "enum": _enum,
    "const": lambda value, place: value,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), check_number),
    "multipleOf": _factor,
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _count),
    **dict.fromkeys(("minContains", "maxContains", "minProperties", "maxProperties"), _count),
    "pattern": check_pattern,
    "format": _text,
    "uniqueItems": _flag,
    "required": _names,
    "dependentRequired": _names_by_name,
}
