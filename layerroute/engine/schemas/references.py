"""References of a schema: what they name, and that whoever follows them comes to an end."""

from typing import Any

from layerroute.engine.schemas.keywords import TYPES, Schema, SchemaProblem, subschemas

_IN_PLACE = ("anyOf", "oneOf", "allOf", "not", "if", "then", "else", "dependentSchemas")


def find(document: dict[str, Any], reference: str, place: str) -> tuple[Any, str]:
    """The part of a document that a reference in it names, and its place.

    Raises:
        SchemaProblem: it names none.
    """
    if reference != "#" and not reference.startswith("#/"):
        raise SchemaProblem(
            place, f"{reference[:80]!r} points out of the schema, and nothing is fetched: put it into $defs"
        )
    node: Any = document
    steps = [step.replace("~1", "/").replace("~0", "~") for step in reference.split("/")[1:]]
    for step in steps:
        if isinstance(node, dict) and step in node:
            node = node[step]
        elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
            node = node[int(step)]
        else:
            raise SchemaProblem(place, f"{reference[:80]!r} points to nothing: define it, or leave the $ref out")
    return node, ".".join(steps)


def referred(schema: Schema) -> str | None:
    """The name of the definition that a schema that was read refers to."""
    reference = None if isinstance(schema, bool) else schema.get("$ref")
    return reference.rpartition("/")[2] if reference else None


def reached(name: str, definitions: dict[str, Schema], *keys: str) -> set[str]:
    """The definitions that one leads to, through these keywords alone if any are named."""
    found: set[str] = set()
    waiting: list[Schema] = [definitions[name]]
    while waiting:
        schema = waiting.pop()
        waiting += subschemas(schema, *keys)
        following = referred(schema)
        if following is not None and following not in found:
            found.add(following)
            waiting.append(definitions[following])
    return found


def require_end(definitions: dict[str, Schema], places: dict[str, str]) -> None:
    """Check that every definition has a finite value and is read in finitely many steps.

    Raises:
        SchemaProblem: one leads back to itself before any part of a value, or demands itself again and again.
    """
    for name, place in places.items():
        if name in reached(name, definitions, *_IN_PLACE):
            raise SchemaProblem(place, "its $ref leads back to itself: let it name another schema")
    ending: set[str] = set()
    while found := {name for name in places if name not in ending and _ends(definitions[name], ending)}:
        ending |= found
    for name, place in places.items():
        if name not in ending:
            raise SchemaProblem(place, "it demands itself again without end: make a property in it optional")


def _ends(schema: Schema, ending: set[str]) -> bool:
    """Whether a finite value fits, given the definitions of which that is known."""
    if isinstance(schema, bool):
        return True
    if (name := referred(schema)) is not None and name not in ending:
        return False
    if not all(_ends(part, ending) for part in schema.get("allOf", ())):
        return False
    if any(not any(_ends(part, ending) for part in schema[key]) for key in ("anyOf", "oneOf") if key in schema):
        return False
    types = schema.get("type", TYPES)
    if "const" in schema or "enum" in schema or set(types) - {"object", "array"}:
        return True
    further = schema.get("additionalProperties", True)
    demanded = [schema.get("properties", {}).get(name, further) for name in schema.get("required", ())]
    if "object" in types and all(_ends(part, ending) for part in demanded):
        return True
    items, fewest = schema.get("prefixItems", []), schema.get("minItems", 0)
    items = [*items, schema.get("items", True)] if fewest > len(items) else items[:fewest]
    return "array" in types and all(_ends(part, ending) for part in items)
