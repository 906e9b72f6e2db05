"""JSON schemas as the grammar takes them: read, checked for shape, narrowed where they leave too much open."""

import json
from typing import Any

from layerroute.errors import ToolSchemaError

_FORMATS = frozenset(["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"])
_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE_SCHEMAS = ("items", "additionalProperties")
_OPENERS = ("additionalProperties", "patternProperties", "unevaluatedProperties", "$ref", *_LISTS_OF_SCHEMAS)
"""Keys that say by themselves, or may say elsewhere, which further properties an object has."""


def prepare_schema(text: str, owner: str, arguments: bool) -> dict[str, Any]:
    """Read the JSON text of a schema and narrow it; whatever fits the result fits the schema as written.

    - An object that lists its properties takes no others, unless it says so.
    - A `format` that is not one of JSON Schema's checkable ones is an annotation and is left out.
    - Arguments are an object, and `{}` if the schema lists no properties.

    Args:
        text: JSON text of the schema.
        owner: whose schema it is, for messages.
        arguments: whether it describes the arguments of a tool.

    Raises:
        ToolSchemaError: not JSON, not an object, or not a schema of an object where one is needed.
    """
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise ToolSchemaError(f"{owner}: its schema is not JSON ({error}): pass a JSON schema") from error
    if not isinstance(schema, dict):
        raise ToolSchemaError(f"{owner}: its schema must be a JSON object, not {text[:40]!r}: pass a JSON schema")
    if arguments:
        if schema.get("type", "object") != "object":
            raise ToolSchemaError(
                f"{owner}: its parameters have type {schema['type']!r}: describe them as an object with properties"
            )
        schema = {"type": "object", "properties": {}, **schema}
    narrowed = _narrow(schema, open_end='"allOf"' in text)
    assert isinstance(narrowed, dict)  # a dict stays one
    return narrowed


def _narrow(schema: Any, open_end: bool) -> Any:
    """Narrow one schema and those inside it; `open_end` where properties of several schemas add up."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    if result.get("format") not in _FORMATS:
        result.pop("format", None)
    for key in _MAPS_OF_SCHEMAS:
        if isinstance(result.get(key), dict):
            result[key] = {name: _narrow(part, open_end) for name, part in result[key].items()}
    for key in _LISTS_OF_SCHEMAS:
        if isinstance(result.get(key), list):
            result[key] = [_narrow(part, open_end or "properties" in result) for part in result[key]]
    for key in _SINGLE_SCHEMAS:
        if key in result:
            result[key] = _narrow(result[key], open_end)
    if "properties" in result and not open_end and not any(key in result for key in _OPENERS):
        result["additionalProperties"] = False
    return result
