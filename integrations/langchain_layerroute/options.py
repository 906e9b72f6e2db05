"""The options of one call: what a model's fields say, and what the call says instead."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from layerroute.backbone.config import EMBEDDED, local_folder
from layerroute.options import ALIASES, CallOptions, ModelName, canonical, must_be, read
from layerroute.routers.registry import is_spec

_Switch = Annotated[bool | None, Field(strict=True), must_be("True or False")]


class ModelCall(CallOptions):
    """All that a call may say."""

    model: ModelName
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: _Switch = None
    response_format: Any = None
    strict: _Switch = None
    stream: _Switch = None
    ls_structured_output_format: Any = None
    structured_output_format: Any = None


_KNOWN = f"a call takes {', '.join(ModelCall.model_fields)}"
_NONE_IS_A_VALUE = {"router", "program", "top_p", "top_k", "seed", "max_tokens", "timeout"}
_NONE_SAYS_NOTHING = ModelCall.model_fields.keys() - _NONE_IS_A_VALUE


def said(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a call says, under our own names.

    None is a value where it has a meaning of its own, such as no limit; elsewhere it says nothing.

    Raises:
        RequestError: an unknown option, or two values for one.
    """
    heard = {
        name: value
        for name, value in given.items()
        if value is not None or ALIASES.get(name, name) not in _NONE_SAYS_NOTHING
    }
    return canonical(heard, ModelCall.model_fields, _KNOWN)


def read_call(fields: Mapping[str, Any], given: Mapping[str, Any]) -> ModelCall:
    """Put what a call says over a model's fields ("model" and the `CallOptions`), and check it all.

    Raises:
        RequestError: an option that is unknown or cannot be honoured, under whatever name and wherever it was set.
    """
    own = said(given)
    return read(ModelCall, {**fields, **_routing(fields, own), **own})


def _routing(fields: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, str | None]:
    """What is left of the fields' routing: a router or a program that a call names replaces both."""
    model = own.get("model", fields["model"])
    preset = split_model(model)[1] if isinstance(model, str) else None
    if own.get("program") is not None:
        return {"router": None}
    if "router" in own:
        return {"program": None}
    if "model" in own and preset is not None:
        return {"router": preset, "program": None}
    return {"router": preset if fields["router"] is None else fields["router"]}


def split_model(model: str) -> tuple[str, str | None]:
    """Split "NAME@ROUTER" into name and router; a folder of the whole name is no such pair."""
    name, at, router = model.rpartition("@")
    if at and local_folder(model) is None and (is_spec(router) or name == EMBEDDED or local_folder(name) is not None):
        return name, router
    return model, None
