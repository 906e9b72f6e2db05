"""JSON schemas of tools and responses: read and refused by field, held by a grammar as far as one can, and checked."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from layerroute.engine.schemas.checking import Checker
from layerroute.engine.schemas.holding import hold
from layerroute.engine.schemas.keywords import SchemaProblem
from layerroute.engine.schemas.reading import read_schema
from layerroute.errors import ToolSchemaError

RESPONSE = "the response schema"
"""How messages name the schema of a document."""


@dataclass(frozen=True, slots=True)
class PreparedSchema:
    """A schema that can be used.

    Attributes:
        grammar: JSON text of what a grammar holds of it.
        checker: checks a value against all of it.
    """

    grammar: str
    checker: Checker


def prepare_schema(text: str, owner: str, arguments: bool = False) -> PreparedSchema:
    """Read a schema and make it ready; needs no tokenizer, and the same text costs nothing again.

    Args:
        text: JSON text of the schema.
        owner: whose schema it is, for messages.
        arguments: whether it describes the arguments of a tool, which are an object.

    Raises:
        ToolSchemaError: what is wrong with it, and at which field.
    """
    try:
        return _prepare(text, arguments)
    except SchemaProblem as problem:
        raise ToolSchemaError(f"{owner}: {problem}") from problem


@lru_cache(maxsize=256)
def _prepare(text: str, arguments: bool) -> PreparedSchema:
    schema: dict[str, Any] = read_schema(text, arguments)
    return PreparedSchema(hold(schema), Checker(schema))
