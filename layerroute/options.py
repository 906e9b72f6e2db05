"""Options: what may be said about an engine and about one call of it, with the range of each, in one place.

The chat model's fields, the options of its calls, the command line and the engine's own requests are all checked here:
a value of the wrong type or out of range is refused by name, and the message says what to write instead.
"""

import threading
from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from layerroute.backbone.config import EMBEDDED
from layerroute.errors import RequestError, shown, suggesting
from layerroute.report import Scope

ALIASES = {"stop_sequences": "stop", "max_completion_tokens": "max_tokens", "model_name": "model"}
"""Names that other chat models have for an option, and ours."""

_LARGEST = 2**63 - 1
_Options = TypeVar("_Options", bound=BaseModel)


def must_be(expected: str) -> WrapValidator:
    """Refuse what the annotation does not take, with the option's name and what is expected of it."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return handler(value.item() if hasattr(value, "item") else value)  # a scalar of numpy or torch
        except Exception:  # whatever a foreign object does when it is asked for its value
            raise ValueError(f"{info.field_name} must be {expected}, not {shown(value)}") from None

    return WrapValidator(check)


_Text = Annotated[str, Field(strict=True, min_length=1)]
ModelName = Annotated[_Text, must_be('"embedded", a folder or a hub id')]


class EngineOptions(BaseModel):
    """What decides which engine answers."""

    model: ModelName = EMBEDDED
    """"embedded", a local checkpoint folder or a hub id; a chat model takes "NAME@ROUTER" too ("embedded@full")."""

    adapter: Annotated[_Text | None, must_be('a bundle folder, "none", or None for the one the model ships with')] = (
        None
    )
    """Bundle folder; "none" for the bare backbone; None for the model's own bundle if it ships one."""

    device: Annotated[_Text, must_be('"auto", "cpu", "cuda" or "cuda:N"')] = "auto"
    """"auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N"."""

    dtype: Annotated[_Text, must_be('"auto", "float32", "bfloat16" or "float16"')] = "auto"
    """"auto" (bfloat16 on CUDA, float32 on CPU), "float32", "bfloat16" or "float16"."""

    context_window: Annotated[
        int | None,
        Field(strict=True, ge=2, le=_LARGEST),
        must_be("a whole number of tokens, at least 2, or None for what the checkpoint allows"),
    ] = None
    """Most tokens of prompt and answer together; None for what the checkpoint allows."""

    max_batch_size: Annotated[
        int, Field(strict=True, ge=1, le=_LARGEST), must_be("a whole number of calls, at least 1")
    ] = 1
    """Most calls that decode together, as rows of batched steps: those of `batch` and `abatch`, or of several agents.
    1 answers one call after the other. A row's answer does not depend on the others; each holds a KV cache."""


class CallOptions(BaseModel):
    """What may be said about one answer: how it is routed, drawn and ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    router: Annotated[
        _Text | None,
        must_be(
            'the text form of a router, such as "gates", "full" or "static:0-7,9-23", or None for the model\'s own'
        ),
    ] = None
    """"gates", "full", "static:0-7,9-23", "random:...", "length:..."; None for gates if the bundle has them."""

    program: Annotated[
        _Text | None,
        must_be('the text form of a program, such as "0-7,9-23" or "all", or None to ask the router'),
    ] = None
    """Text form of a layer program that overrides the router, such as "0-7,9-23"."""

    scope: Annotated[Scope, must_be('"generation" or "sequence"')] = "generation"
    """Tokens that the program governs: "generation" (answer only) or "sequence" (prompt and answer)."""

    temperature: Annotated[
        float, Field(strict=True, ge=0, le=100, allow_inf_nan=False), must_be("a number from 0 (greedy) to 100")
    ] = 0.0
    """0 is greedy; else the logits are divided by it. At most 100."""

    top_p: Annotated[
        float | None,
        Field(strict=True, gt=0, le=1, allow_inf_nan=False),
        must_be("a number above 0 and at most 1, or None to keep all tokens"),
    ] = None
    """Draw from the smallest set of likeliest tokens with this much probability; None or 1 keeps all."""

    top_k: Annotated[
        int | None,
        Field(strict=True, ge=0, le=_LARGEST),
        must_be("a whole number of tokens, or None or 0 to keep all"),
    ] = None
    """Draw from the k likeliest tokens; None or 0 keeps all."""

    seed: Annotated[
        int | None,
        Field(strict=True, ge=0, le=_LARGEST),
        must_be("a whole number from 0 to 2**63 - 1, or None to draw one"),
    ] = None
    """Seed of each call's own random numbers, 0 to 2**63 - 1; None draws one from the operating system."""

    max_tokens: Annotated[
        int | None,
        Field(strict=True, ge=1, le=_LARGEST),
        must_be("a whole number of tokens, at least 1, or None for what the context window leaves"),
    ] = 1024
    """Most tokens of an answer; None for what the context window leaves."""

    max_tool_calls: Annotated[int, Field(strict=True, ge=1, le=128), must_be("a whole number from 1 to 128")] = 8
    """Most tool calls in one answer, 1 to 128; `parallel_tool_calls=False` of a call means 1."""

    stop: Annotated[
        list[_Text] | None,
        BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
        must_be("a string or a list of strings, none of them empty, or None"),
    ] = None
    """Strings that end an answer and are cut off it; `stop` of a call replaces them, and [] takes them away."""

    timeout: Annotated[
        float | None,
        Field(strict=True, gt=0, le=threading.TIMEOUT_MAX, allow_inf_nan=False),
        must_be(f"a number of seconds above 0 and at most {threading.TIMEOUT_MAX:.0f}, or None to wait for ever"),
    ] = None
    """Seconds until a call is given up, waiting for the engine included; None waits for ever."""


def read(options: type[_Options], given: Mapping[str, Any]) -> _Options:
    """Check options that were given by name; the others have their defaults.

    Raises:
        RequestError: what is wrong with each of them, and what to write instead.
    """
    try:
        return options.model_validate(dict(given))
    except ValidationError as error:
        raise RequestError(problems(error)) from None


def problems(error: ValidationError) -> str:
    """What a validation found, on one line."""
    found = []
    for entry in error.errors(include_url=False):
        own = entry.get("ctx", {}).get("error")
        found.append(str(own) if own else f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}")
    return "; ".join(found)


def canonical(given: Mapping[str, Any], known: Collection[str], what: str) -> dict[str, Any]:
    """Give aliases our own names, and refuse names that mean nothing; `what` takes them, for the message.

    Raises:
        RequestError: an unknown name, or two names of one option with different values.
    """
    unknown = [name for name in given if name not in known and name not in ALIASES]
    if unknown:
        known = [*known, *ALIASES]
        raise RequestError(f"unknown option {', '.join(sorted(suggesting(name, known) for name in unknown))}: {what}")
    options = {name: value for name, value in given.items() if name not in ALIASES}
    for alias in given.keys() & ALIASES.keys():
        name = ALIASES[alias]
        if name in options and not _equal(options[name], given[alias]):
            raise RequestError(
                f"{name} and {alias} are one option, and {shown(options[name])} is not {shown(given[alias])}: give one"
            )
        options[name] = given[alias]
    return options


def _equal(one: Any, other: Any) -> bool:
    try:
        return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)
    except Exception:  # values of other libraries, which cannot tell
        return False
