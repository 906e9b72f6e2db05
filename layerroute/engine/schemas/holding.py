"""What a grammar can hold of a schema: as much as llguidance takes, and never less than the schema allows.

A schema of `reading` goes in; whatever fits it fits what comes out, save that objects which list their properties take
no others unless they say so. What had to be left out is for `checking` to look at.
"""

import json
import math
from typing import Any

from layerroute.engine.schemas.formats import GRAMMAR_FORMATS, GRAMMAR_PATTERNS
from layerroute.engine.schemas.keywords import TYPES, Schema, SchemaProblem, subschemas
from layerroute.engine.schemas.probing import is_empty, is_held, says_empty, why_not_held
from layerroute.engine.schemas.references import reached, referred

_STYLE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
_MOST_ITEMS = 1000
_MOST_CHARACTERS = 10**6
_MOST_NAMES = 200
_MOST_PATTERNS = 40  # llguidance compares each with each
_EXACT = 2**53  # llguidance reads numbers as floats
_LONGEST_INTEGER = 2**63 - 1
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_OPENERS = (
    *("additionalProperties", "patternProperties", "unevaluatedProperties", "$ref", "dependentSchemas"),
    *("anyOf", "oneOf", "allOf", "if", "then", "else"),
)
"""Keywords that say by themselves, or may say elsewhere, which further properties an object has."""


def hold(schema: dict[str, Any]) -> str:
    """The JSON text of the schema that a grammar is built from.

    Raises:
        SchemaProblem: no value fits the schema.
    """
    refusal = None
    for merging in (True, False, None):
        held = _Holder(schema, merging).root() if merging is not None else {"type": schema.get("type", list(TYPES))}
        text = json.dumps({**held, "x-guidance": _STYLE})
        refusal = why_not_held(text)
        if refusal is None:
            return text
        if says_empty(refusal):
            raise SchemaProblem("", f"no value fits its schema ({refusal}): change or leave out that part of it")
    raise SchemaProblem("", f"no grammar can be built from its schema ({refusal}): simplify it")


class _Holder:
    """Turns a schema, part by part; `merging`: schemas that add up stay side by side, for llguidance to intersect."""

    def __init__(self, schema: dict[str, Any], merging: bool) -> None:
        self._schema = schema
        self._merging = merging
        self._definitions: dict[str, Schema] = schema.get("$defs", {})
        self._recursive = {name for name in self._definitions if name in reached(name, self._definitions)}
        parts = [schema, *(part for part in self._definitions.values() if isinstance(part, dict))]
        self._adding_up = any(_adds_up(part) for part in parts)

    def root(self) -> dict[str, Any]:
        definitions = {name: self._hold(part) for name, part in self._definitions.items()}
        root = self._hold({key: value for key, value in self._schema.items() if key != "$defs"})
        assert isinstance(root, dict)  # a dict stays one
        return {**root, "$defs": definitions} if definitions else root

    def _hold(self, schema: Schema, inside_object: bool = False) -> Schema:
        """`inside_object`: the schema is one of several that describe the same object."""
        if isinstance(schema, bool):
            return schema
        if "$ref" in schema and (not self._merging or referred(schema) in self._recursive):
            return {"$ref": schema["$ref"]}  # what stands beside it would be intersected without end
        listed = "properties" in schema
        held: dict[str, Any] = {key: schema[key] for key in ("$ref", "type") if key in schema}
        parts = literals = _literals(schema)
        if literals and not self._merging:
            return literals[0]
        held |= _numbers(schema) | _strings(schema, parts) | self._arrays(schema) | self._objects(schema, inside_object)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                parts.append({"anyOf": [self._hold(part, inside_object or listed) for part in schema[key]]})
        parts += [self._hold(part, inside_object or listed) for part in schema.get("allOf", ())]
        return self._with_parts(held, [part for part in parts if part not in (True, {})])

    def _with_parts(self, held: dict[str, Any], parts: list[Schema]) -> Schema:
        """A schema and further ones that a value has to fit as well."""
        if not parts:
            return held
        if not self._merging:
            return parts[0] if held.keys() <= {"type"} else held
        if len(parts) == 1 and isinstance(parts[0], dict) and not held.keys() & parts[0].keys():
            return {**held, **parts[0]}
        return {**held, "allOf": parts}

    def _arrays(self, schema: dict[str, Any]) -> dict[str, Any]:
        held: dict[str, Any] = {}
        if "prefixItems" in schema:
            held["prefixItems"] = [self._hold(part) for part in schema["prefixItems"]]
        if "items" in schema:
            held["items"] = self._hold(schema["items"])
        if "minItems" in schema:
            held["minItems"] = min(schema["minItems"], _MOST_ITEMS)
        if schema.get("maxItems", math.inf) <= _MOST_ITEMS:
            held["maxItems"] = schema["maxItems"]
        return held

    def _objects(self, schema: dict[str, Any], inside_object: bool) -> dict[str, Any]:
        held: dict[str, Any] = {}
        for key in ("properties", "patternProperties"):
            if key in schema:
                held[key] = {name: self._hold(part) for name, part in schema[key].items()}
        if "additionalProperties" in schema:
            held["additionalProperties"] = self._hold(schema["additionalProperties"])
        held |= _named_properties(schema, held)
        if "required" in schema:
            held["required"] = schema["required"]
        closed = schema.get("unevaluatedProperties") is False
        if "properties" in held and not inside_object and not self._adding_up:
            openers = [key for key in _OPENERS if key in schema and not (closed and key == "unevaluatedProperties")]
            if not openers:
                held["properties"] |= {
                    name: True for name in schema.get("required", ()) if name not in held["properties"]
                }
                held["additionalProperties"] = False
        return _counted(held, {key: schema[key] for key in ("minProperties", "maxProperties") if key in schema})


def _named_properties(schema: dict[str, Any], held: dict[str, Any]) -> dict[str, Any]:
    """`propertyNames` of a mere map, as properties or patterns of such names."""
    names = schema.get("propertyNames")
    if not isinstance(names, dict) or {"properties", "patternProperties"} & held.keys():
        return {}
    further = held.get("additionalProperties", True)
    listed = names.get("enum", [names["const"]] if "const" in names else [])
    if listed and len(listed) <= _MOST_NAMES and all(isinstance(name, str) for name in listed):
        return {"properties": dict.fromkeys(listed, further), "additionalProperties": False}
    if "pattern" in names and is_held({"type": "string", "pattern": names["pattern"]}):
        return {"patternProperties": {names["pattern"]: further}, "additionalProperties": False}
    return {}


def _counted(held: dict[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    """An object with bounds on its number of properties and patterns of their names, where llguidance follows these."""
    if not counts and "patternProperties" not in held:
        return held
    few = len(held.get("patternProperties", ())) <= _MOST_PATTERNS
    stub: dict[str, Any] = {"type": "object", **{key: held[key] for key in ("required",) if key in held}}
    for key in ("properties", "patternProperties"):
        stub[key] = dict.fromkeys(held.get(key, ()), True)
    stub["additionalProperties"] = held.get("additionalProperties", True) is not False
    if few and is_held({**stub, **counts}):
        return {**held, **counts}
    if (few and is_held(stub)) or "patternProperties" not in held:
        return held
    patterns = held.pop("patternProperties")
    if held.get("additionalProperties", True) is not True:
        further = held["additionalProperties"]
        held["additionalProperties"] = {"anyOf": [*patterns.values(), *([] if further is False else [further])]}
    return held


def _literals(schema: dict[str, Any]) -> list[Schema]:
    """`const` and `enum`, with a type in place of what llguidance would spell otherwise."""
    parts: list[Schema] = []
    if "const" in schema:
        parts.append(_literal(schema["const"]))
    if "enum" in schema:
        exact = [value for value in schema["enum"] if _is_exact(value)]
        options: list[Schema] = [{"enum": exact}] if exact else []
        options += [_literal(value) for value in schema["enum"] if not _is_exact(value)]
        parts.append(options[0] if len(options) == 1 else {"anyOf": options})
    return parts


def _literal(value: Any) -> Schema:
    if _is_exact(value):
        return {"const": value}
    kinds = {int: "integer", float: "number", list: "array", dict: "object"}
    return {"type": kinds[type(value)]}


def _is_exact(value: Any) -> bool:
    """Whether llguidance spells a value as it is: numbers go through floats, written out without an exponent."""
    if isinstance(value, bool):
        return True
    if isinstance(value, int | float):
        return abs(value) <= _EXACT and (value == 0 or abs(value) >= 1e-6)
    if isinstance(value, list):
        return all(map(_is_exact, value))
    return not isinstance(value, dict) or all(map(_is_exact, value.values()))


def _numbers(schema: dict[str, Any]) -> dict[str, Any]:
    bounds = {key: _rounded(key, schema[key]) for key in _BOUNDS if key in schema}
    bounds = {key: bound for key, bound in bounds.items() if bound is not None}
    factor = {key: schema[key] for key in ("multipleOf",) if key in schema}
    if not bounds and not factor:
        return {}
    kinds = [kind for kind in schema.get("type", ["number"]) if kind in ("integer", "number")]
    for held in (bounds | factor, bounds, factor):
        if all(is_held({"type": kind, **held}) or is_empty({"type": kind, **held}) for kind in kinds):
            return held
    return {}


def _rounded(key: str, bound: float) -> float | None:
    """A bound that llguidance takes and that excludes no value that this one allows, or None."""
    lower = key in ("minimum", "exclusiveMinimum")
    if bound < -_LONGEST_INTEGER + 1023 if lower else bound > _LONGEST_INTEGER:
        return None
    nearest = float(bound)
    if abs(bound) <= _EXACT or bound == _LONGEST_INTEGER or nearest == bound:
        return bound
    inwards = nearest > bound if lower else nearest < bound
    return math.nextafter(nearest, -math.inf if lower else math.inf) if inwards else nearest


def _strings(schema: dict[str, Any], parts: list[Schema]) -> dict[str, Any]:
    """Keywords of text; a further pattern goes to `parts`."""
    held: dict[str, Any] = {}
    if "minLength" in schema:
        held["minLength"] = min(schema["minLength"], _MOST_CHARACTERS)
    if schema.get("maxLength", math.inf) <= _MOST_CHARACTERS:
        held["maxLength"] = schema["maxLength"]
    form = schema.get("format")
    if form in GRAMMAR_FORMATS:
        held["format"] = form
    patterns = [schema["pattern"]] if "pattern" in schema else []
    patterns += [GRAMMAR_PATTERNS[form]] if form in GRAMMAR_PATTERNS else []
    patterns = [pattern for pattern in patterns if is_held({"type": "string", "pattern": pattern})]
    if patterns:
        held["pattern"] = patterns[0]
        parts += [{"pattern": pattern} for pattern in patterns[1:]]
    return held


def _adds_up(schema: dict[str, Any]) -> bool:
    """Whether properties of several schemas may add up somewhere in it."""
    beside = schema.keys() - {"$ref", "$defs", "type"}
    return bool("allOf" in schema or ("$ref" in schema and beside) or any(map(_adds_up, subschemas(schema))))
