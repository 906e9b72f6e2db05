"""JSON schemas of classes, functions and tools where LangChain's own conversion would lose a part of them.

LangChain writes every reference out in full: one that leads back to itself ends as a schema that allows anything, and
references within references multiply. It reads a TypedDict as if all its keys were required.
"""

import inspect
import math
from collections.abc import Callable
from types import UnionType
from typing import (
    Annotated,
    Any,
    ForwardRef,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from langchain_core.tools import BaseTool, Tool, create_schema_from_function
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, Field, create_model
from typing_extensions import ReadOnly, is_typeddict

from langchain_layerroute.errors import InvalidRequestError
from layerroute.errors import shown

_LARGEST = 5000
_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")

Source = dict[str, Any] | type | Callable[..., Any] | BaseTool


def for_langchain(source: Source) -> Source:
    """Return what LangChain converts without loss: the source itself, or the OpenAI tool that it stands for.

    Raises:
        InvalidRequestError: a class, function or tool that has no JSON schema.
    """
    try:
        return _for_langchain(source)
    except Exception as error:  # of whatever somebody wrote into their annotations
        raise InvalidRequestError(f"cannot read the schema of {shown(source)}: {error}") from error


def _for_langchain(source: Source) -> Source:
    if isinstance(source, type) and is_typeddict(source):
        reader = _TypedDictReader()
        schema = reader.schema(source)
        return source if not reader.has_optional_keys and _written_out(schema) <= _LARGEST else _openai_tool(schema)
    if isinstance(source, dict) and "title" in source and "$ref" in source and "properties" not in source:
        return _openai_tool(source)  # LangChain takes it for a tool without parameters
    described = _described(source)
    if described is None or _written_out(described) <= _LARGEST:
        return source
    return _openai_tool(described)


def _described(source: Source) -> dict[str, Any] | None:
    """The titled schema of a class, function or tool; of a dict none, for its references stay as they are."""
    if isinstance(source, dict):
        return None
    if isinstance(source, type) and is_basemodel_subclass(source):
        return _schema_of_model(source)
    if isinstance(source, BaseTool):
        if isinstance(source, Tool) and not source.args_schema:
            return None
        arguments = source.tool_call_schema
        schema = arguments if isinstance(arguments, dict) else _schema_of_model(arguments)
        return {**schema, "title": source.name, "description": source.description}
    if not inspect.isroutine(source):
        return None
    model = create_schema_from_function(
        source.__name__,
        source,
        filter_args=(),
        parse_docstring=True,
        error_on_invalid_docstring=False,
        include_injected=False,
    )
    return {**_schema_of_model(model), "title": source.__name__, "description": model.__doc__ or ""}


def _schema_of_model(model: Any) -> dict[str, Any]:
    schema: dict[str, Any] = model.model_json_schema() if issubclass(model, BaseModel) else model.schema()
    return schema


def _openai_tool(schema: dict[str, Any]) -> dict[str, Any]:
    whole = _whole(schema)
    name, description = whole.pop("title", ""), whole.pop("description", "")
    function = {"name": name, "description": description, "parameters": _without_titles(whole)}
    return {"type": "function", "function": function}


def _whole(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema in which the definition that all of it refers to stands in its place."""
    root = schema.get("$ref", "")
    key, _, name = root.removeprefix("#/").partition("/")
    definitions = dict(schema.get(key, {}))
    if name not in definitions:
        return dict(schema)
    whole = definitions.pop(name) | {part: schema[part] for part in schema if part not in ("$ref", key)}
    renamed: dict[str, Any] = _renamed(whole | ({key: definitions} if definitions else {}), root)
    return renamed


def _renamed(value: Any, reference: str) -> Any:
    """A schema whose references to a part refer to the whole."""
    if isinstance(value, list):
        return [_renamed(part, reference) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        key: "#" if key == "$ref" and part == reference else _renamed(part, reference) for key, part in value.items()
    }


def _without_titles(value: Any, names: bool = False) -> Any:
    """A schema without its titles, as LangChain shows it; `names`: the keys are names and no keywords."""
    if isinstance(value, list):
        return [_without_titles(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_titles(part, names=not names and key in _MAPS_OF_SCHEMAS)
        for key, part in value.items()
        if names or key != "title"
    }


def _written_out(schema: dict[str, Any]) -> float:
    """How many nodes a schema has once every reference is written out; infinite if one leads back to itself."""
    sizes: dict[str, float] = {}

    def size(node: Any) -> float:
        if isinstance(node, list):
            return 1 + sum(map(size, node))
        if not isinstance(node, dict):
            return 1
        reference = node.get("$ref")
        further = size_of_definition(reference) if isinstance(reference, str) else 0
        return 1 + further + sum(size(part) for key, part in node.items() if key not in ("$defs", "definitions"))

    def size_of_definition(reference: str) -> float:
        if reference not in sizes:
            sizes[reference] = math.inf  # until it is known: met again, it leads back to itself
            sizes[reference] = size(_target(schema, reference))
        return sizes[reference]

    return size(schema)


def _target(schema: dict[str, Any], reference: str) -> Any:
    """What a reference of the forms that pydantic writes names; others are for whoever reads the schema to refuse."""
    node: Any = schema
    for step in reference.split("/")[1:]:
        node = node.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
    return node


class _TypedDictReader:
    """Reads TypedDicts as pydantic models, so that they may hold themselves.

    Attributes:
        has_optional_keys: whether one that was read may leave out a key.
    """

    def __init__(self) -> None:
        self.has_optional_keys = False
        self._names: dict[Any, str] = {}
        self._models: dict[str, type[BaseModel]] = {}

    def schema(self, source: type) -> dict[str, Any]:
        name = self._name(source)
        for model in list(self._models.values()):
            model.model_rebuild(_types_namespace=self._models)
        return self._models[name].model_json_schema()

    def _name(self, source: Any) -> str:
        """The name of a TypedDict's model, which is made at first need."""
        if source not in self._names:
            name = self._names[source] = f"_{len(self._names)}"
            fields: Any = {
                key: self._field(hint, key in source.__required_keys__)
                for key, hint in get_type_hints(source, include_extras=True).items()
            }
            written = vars(source).get("__doc__")  # not the one of dict
            model = create_model(source.__name__, __doc__=written and inspect.cleandoc(written), **fields)
            self._models[name] = model
        return self._names[source]

    def _field(self, hint: Any, required: bool) -> tuple[Any, Any]:
        while get_origin(hint) in (Required, NotRequired, ReadOnly):
            required = required if get_origin(hint) is ReadOnly else get_origin(hint) is Required
            (hint,) = get_args(hint)
        options: dict[str, Any] = {}
        if get_origin(hint) is Annotated:
            hint, *told = get_args(hint)
            if told[0] is ... or isinstance(told[-1], str):  # LangChain's own form: a default and a description
                options = dict(zip(("default", "description"), told, strict=False))
                required = options.pop("default", ...) is ... if told[0] is ... else False
            else:
                hint = Annotated[(hint, *told)]
        if not required and "default" not in options:
            options["default_factory"] = type(None)  # shows no default
        self.has_optional_keys |= not required
        return self._replaced(hint), Field(**options)

    def _replaced(self, hint: Any) -> Any:
        """A type in which models stand for TypedDicts."""
        if is_typeddict(hint):
            return ForwardRef(self._name(hint))
        origin, parts = get_origin(hint), get_args(hint)
        if origin is None or origin is Literal or not parts:
            return hint
        if origin is Annotated:
            return Annotated[(self._replaced(parts[0]), *parts[1:])]
        replaced = tuple(part if part is ... else self._replaced(part) for part in parts)
        if origin in (Union, UnionType):
            return Union[replaced]  # noqa: UP007 (it is made of values)
        return origin[replaced]
