"""Options: any value for any option, as a field, in a call or at a request, is honoured as it stands or refused."""

import math
import threading
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
from langchain_core.exceptions import ModelError
from pydantic import ValidationError

from langchain_layerroute import LayerRouteChatModel
from langchain_layerroute.options import ModelCall, read_call
from layerroute.engine.config import EngineConfig
from layerroute.engine.generation import Generation
from layerroute.engine.request import GenerationRequest, Sampling
from layerroute.errors import LayerRouteError
from layerroute.options import ALIASES, CallOptions, canonical, read
from tests.fuzz import inputs
from tests.fuzz.template import TOKENIZER

NAMES = (*CallOptions.model_fields, *ALIASES)
FURTHER = ("tools", "tool_choice", "parallel_tool_calls", "response_format", "strict", "model", "temprature", "n", "")
NEAR: dict[str, tuple[Any, ...]] = {
    "temperature": (0, 0.0, 0.7, 100, 100.5, -1e-9, Fraction(1, 2), Decimal("0.5"), np.float32(0.5), "0.5", True),
    "top_p": (0, 0.0, 1e-9, 0.9, 1, 1.0, 1.0000001, np.float64(0.3), Fraction(1, 3), True),
    "top_k": (0, 1, 5, -1, 2**63 - 1, 2**63, 5.0, np.int64(3), "5"),
    "seed": (0, 7, -1, 2**63 - 1, 2**63, 1.0, np.uint64(2**64 - 1), np.int32(4), "7"),
    "max_tokens": (0, 1, 24, -1, 2**63 - 1, 2**63, 8.0, math.nan, "24", np.int16(3)),
    "max_tool_calls": (0, 1, 8, 128, 129, True, "8"),
    "stop": ("x", "", [], ["a", "b"], ("a",), [""], ["a", 1], {"a"}, "\n", "<tool_call>", ["\ud800"], range(2)),
    "timeout": (0, 0.5, 30, -1, threading.TIMEOUT_MAX, 1e300, "30", math.inf, np.float32(2.5)),
    "router": ("full", "gates", "static:0-3", "length:5:0-2", "random:0.5:1", "no such", ""),
    "program": ("all", "0-3", "0-7,9-23", "", "3-1", "0" * 5000, "-"),
    "scope": ("generation", "sequence", "both", "", None),
    "model": ("embedded", "embedded@full", "embedded@", "@", "nobody/nothing"),
    "tools": ([], [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "f", 5),
    "tool_choice": ("auto", "any", "none", "f", "required", True, {"type": "function", "function": {"name": "f"}}),
    "response_format": ({"type": "json_object"}, {"type": "text"}, {"type": "json_schema", "json_schema": {}}),
}

Given = tuple[str, dict[str, Any]]
"""Where options are given, and the options."""


def make(rng: Random) -> Given:
    """One to four options; half of the values are near what the option takes."""
    where = rng.choices(("call", "field", "request", "invoke", "bind"), (5, 3, 2, 1, 1))[0]
    names = rng.choices(NAMES, k=rng.randrange(1, 4))
    if where in ("invoke", "bind", "call") and rng.random() < 0.2:
        names.append(rng.choice(FURTHER))
    return where, {name: _value(rng, name) for name in names}


def _value(rng: Random, name: str) -> Any:
    near = NEAR.get(ALIASES.get(name, name))
    if near and rng.random() < 0.6:
        return rng.choice(near)
    return inputs.value(rng, 2, odd=0.3)


def check(given: Given) -> str:
    """What was given is what holds, and what holds is in range."""
    where, options = given
    try:
        held = _WAYS[where](dict(options))
    except (LayerRouteError, ModelError):
        return "refused"
    except ValidationError:
        assert where == "field", "pydantic's own error"
        return "refused"
    _in_range(held)
    if where == "bind":
        return "bound"
    for name, value in options.items():
        ours = ALIASES.get(name, name)
        if ours in held and ours in CallOptions.model_fields:
            silent = value is None and sum(ALIASES.get(other, other) == ours for other in options) > 1
            assert silent or _same(ours, value, held[ours]), f"{name}={value!a} became {held[ours]!a}"
    return "honoured"


def _in_call(options: dict[str, Any]) -> dict[str, Any]:
    fields = {"model": "embedded", **CallOptions().model_dump()}
    return dict(read_call(fields, options))


def _as_fields(options: dict[str, Any]) -> dict[str, Any]:
    model = LayerRouteChatModel(engine=ENGINE, **options)
    return {name: getattr(model, name) for name in CallOptions.model_fields}


def _at_a_request(options: dict[str, Any]) -> dict[str, Any]:
    known = canonical(options, CallOptions.model_fields, "")
    read(CallOptions, known)
    drawn = {name: known[name] for name in ("temperature", "top_p", "top_k", "seed") if name in known}
    said = {name: known[name] for name in ("max_tokens", "router", "program", "scope") if name in known}
    if known.get("stop") is not None:
        said["stop"] = (known["stop"],) if isinstance(known["stop"], str) else tuple(known["stop"])
    request = GenerationRequest((1, 2, 3), sampling=Sampling(**drawn), **said)
    return _of_request(request)


def _invoked(options: dict[str, Any]) -> dict[str, Any]:
    try:
        MODEL.invoke("Hello", **options)
    except Asked as asked:
        return _of_request(asked.request)
    raise AssertionError("the engine was not asked")


def _bound(options: dict[str, Any]) -> dict[str, Any]:
    MODEL.bind(**options)
    return {}


def _of_request(request: GenerationRequest) -> dict[str, Any]:
    return {
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "router": request.router,
        "program": request.program,
        "scope": request.scope,
        "temperature": request.sampling.temperature,
        "top_k": request.sampling.top_k,
        "top_p": request.sampling.top_p,
        "seed": request.sampling.seed,
    }


_WAYS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "call": _in_call,
    "field": _as_fields,
    "request": _at_a_request,
    "invoke": _invoked,
    "bind": _bound,
}


class Asked(Exception):
    """What the engine was asked for."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request


class StubEngine:
    """An engine that answers nothing."""

    config = EngineConfig()
    model_name = "stub"
    tokenizer = TOKENIZER
    context_window = 4096

    def submit(self, request: GenerationRequest) -> Generation:
        raise Asked(request)


ENGINE = StubEngine()
MODEL = LayerRouteChatModel(engine=ENGINE)


def _same(name: str, given: Any, held: Any) -> bool:
    if name == "stop":
        return list(held or ()) == ([given] if isinstance(given, str) else list(given or ()))
    if given is None:  # says nothing, or lifts a limit
        return held in (None, {"top_k": 0, "top_p": 1.0}.get(name), ModelCall.model_fields[name].default)
    if isinstance(given, bool) or isinstance(held, bool):
        return given is held
    return type(held) in (int, float, str) and held == (float(given) if isinstance(given, Fraction) else given)


def _in_range(held: dict[str, Any]) -> None:
    """Bounds written a second time, in plain words."""
    numbers = {name: held[name] for name in _BOUNDS if name in held and held[name] is not None}
    for name, number in numbers.items():
        low, high, kinds = _BOUNDS[name]
        assert type(number) in kinds or not isinstance(number, bool), f"{name} is {number!a}"
        assert low <= number <= high, f"{name} is {number!a}"
    stop = held.get("stop") or ()
    assert all(isinstance(text, str) and text for text in stop), f"stop is {stop!a}"
    for name in ("router", "program", "scope"):
        assert held.get(name) is None or (isinstance(held[name], str) and held[name]), f"{name} is {held[name]!a}"


_BOUNDS: dict[str, tuple[float, float, tuple[type, ...]]] = {
    "temperature": (0, 100, (int, float)),
    "top_p": (5e-324, 1, (int, float)),
    "top_k": (0, 2**63 - 1, (int,)),
    "seed": (0, 2**63 - 1, (int,)),
    "max_tokens": (1, 2**63 - 1, (int,)),
    "max_tool_calls": (1, 128, (int,)),
    "timeout": (5e-324, threading.TIMEOUT_MAX, (int, float)),
}
