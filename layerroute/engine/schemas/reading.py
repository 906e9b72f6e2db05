"""JSON schemas in one form: every keyword checked, older drafts rewritten as 2020-12, references resolved.

What is read holds keywords that constrain a value and nothing else (no titles, no unknown keywords), and every `$ref`
in it is `#/$defs/N`. So whoever works on it needs to know neither drafts nor documents.
"""

import json
from typing import Any

from layerroute.engine.schemas.keywords import (
    ASSERTIONS,
    DESCRIBERS,
    LISTS_OF_SCHEMAS,
    MAPS_OF_SCHEMAS,
    SINGLE_SCHEMAS,
    Schema,
    SchemaProblem,
    check_number,
    check_pattern,
    inner_place,
    modern,
    require,
)
from layerroute.engine.schemas.references import find, require_end
from layerroute.errors import shown

MAX_DEPTH = 100
"""Most brackets that the text of a schema may nest."""

MAX_TEXT = 2**18
"""Most characters of that text."""

MAX_REFERENCES = 500
"""Most parts of it that references name."""


def read_schema(text: str, arguments: bool) -> dict[str, Any]:
    """Read the JSON text of a schema; `arguments`: it describes an object, the arguments of a tool.

    Raises:
        SchemaProblem: it is no JSON, no schema, or of a size or depth beyond what is followed.
    """
    if len(text) > MAX_TEXT:
        raise SchemaProblem(
            "", f"its schema has {len(text):,} characters, and at most {MAX_TEXT:,} are read: shorten it"
        )
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SchemaProblem("", f"its schema is not JSON ({error}): pass a JSON schema") from error
    if not isinstance(document, dict):
        raise SchemaProblem("", f"its schema must be a JSON object, not {text[:40]!r}: pass a JSON schema")
    if arguments:
        types = document.get("type", "object")
        if types != "object" and not (isinstance(types, list) and "object" in types):
            raise SchemaProblem(
                "type", f"its parameters are described as {types!r}: describe an object with properties"
            )
        document = {**document, "type": "object"}
        if not document.keys() & DESCRIBERS:
            document["properties"] = {}
    return _Reader(document).read()


class _Reader:
    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._named = _named_parts(document)
        self._keywords: set[str] = set()
        self._names: dict[int, str] = {}
        self._waiting: list[tuple[str, Any, str]] = []
        self._definitions: dict[str, Schema] = {}
        self._places: dict[str, str] = {}

    def read(self) -> dict[str, Any]:
        root = self._schema(self._document, "")
        assert isinstance(root, dict)  # a dict stays one
        while self._waiting:
            name, node, place = self._waiting.pop()
            self._definitions[name] = self._schema(node, place)
        require_end(self._definitions, self._places)
        return {**root, "$defs": self._definitions} if self._definitions else root

    def _schema(self, node: Any, place: str) -> Schema:
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise SchemaProblem(place, f"{shown(node)} is no schema: write an object, true or false")
        for key in ("$defs", "definitions"):
            self._map(node.get(key, {}), inner_place(place, key))
        self._keywords |= node.keys()
        if {"unevaluatedProperties", "patternProperties"} <= self._keywords:
            raise SchemaProblem(
                place, "patternProperties and unevaluatedProperties are not checked together: use additionalProperties"
            )
        schema: dict[str, Any] = {}
        for key, value in modern(node, place).items():
            inner = inner_place(place, key)
            if key in MAPS_OF_SCHEMAS:
                schema[key] = self._map(value, inner)
            elif key in LISTS_OF_SCHEMAS:
                require(isinstance(value, list) and value, inner, value, "a list of schemas with one at least")
                schema[key] = [self._schema(part, f"{inner}[{index}]") for index, part in enumerate(value)]
            elif key in SINGLE_SCHEMAS:
                schema[key] = self._schema(value, inner)
            elif key == "$ref":
                schema[key] = self._reference(value, inner)
            elif key in ASSERTIONS:
                schema[key] = ASSERTIONS[key](value, inner)
        for pattern in schema.get("patternProperties", ()):
            check_pattern(pattern, inner_place(place, "patternProperties"))
        alone = schema["allOf"] if list(schema) == ["allOf"] else []
        return alone[0] if len(alone) == 1 and isinstance(alone[0], dict) else schema

    def _map(self, value: Any, place: str) -> dict[str, Schema]:
        require(isinstance(value, dict), place, value, "an object of schemas")
        return {name: self._schema(part, inner_place(place, name)) for name, part in value.items()}

    def _reference(self, reference: Any, place: str) -> str:
        require(isinstance(reference, str), place, reference, "text")
        named = self._named.get(reference)
        node, target = (named, reference) if named is not None else find(self._document, reference, place)
        name = self._names.get(id(node))
        if name is None:
            if len(self._names) == MAX_REFERENCES:
                raise SchemaProblem(place, f"its schema refers to more than {MAX_REFERENCES} parts: simplify it")
            name = self._names[id(node)] = str(len(self._names))
            self._places[name] = target
            self._waiting.append((name, node, target))
        return f"#/$defs/{name}"


def _named_parts(document: dict[str, Any]) -> dict[str, Any]:
    """Parts of a document by the reference that names them (`#anchor` or an `$id`), once all of it has been looked at.

    Raises:
        SchemaProblem: it nests too deeply, or holds text that cannot be encoded.
    """
    named: dict[str, Any] = {}
    waiting: list[tuple[Any, str, int]] = [(document, "", 1)]
    while waiting:
        node, place, depth = waiting.pop()
        if isinstance(node, str):
            _require_encodable(node, place)
        if isinstance(node, float):
            check_number(node, place)
        if not isinstance(node, dict | list):
            continue
        if depth > MAX_DEPTH:
            raise SchemaProblem(
                place, f"its schema nests more than {MAX_DEPTH} levels: flatten it, or use $ref and $defs"
            )
        if isinstance(node, list):
            waiting += [(part, f"{place}[{index}]", depth + 1) for index, part in enumerate(node)]
            continue
        for key, part in node.items():
            _require_encodable(key, place)
            waiting.append((part, inner_place(place, key), depth + 1))
        for key, prefix in (("$id", ""), ("id", ""), ("$anchor", "#"), ("$dynamicAnchor", "#")):
            if isinstance(node.get(key), str):
                named.setdefault(prefix + node[key], node)
    return named


def _require_encodable(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SchemaProblem(
            place,
            f"{ascii(text)[:80]} holds half of a surrogate pair, which no encoding has: leave it out",
        ) from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
