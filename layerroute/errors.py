"""Exceptions of the project: every message says what is wrong and what to do about it."""

from collections.abc import Iterable
from difflib import get_close_matches


class LayerRouteError(Exception):
    """Base class of every error this project raises on purpose."""


class ProgramError(LayerRouteError):
    """A layer program that cannot be read, or that names blocks the backbone does not have."""


class BackboneError(LayerRouteError):
    """A backbone that cannot be found, read or run."""


class BackboneNotFoundError(BackboneError):
    """No checkpoint under the given name or path."""


class UnsupportedArchitectureError(BackboneError):
    """A checkpoint that is not of the Qwen2 family, or uses a feature this runtime does not implement."""


class CheckpointError(BackboneError):
    """A file of a checkpoint that cannot be read, or says what cannot be."""


class WeightsError(CheckpointError):
    """Weight files that are missing, truncated, or do not match the configuration."""


class KernelError(BackboneError):
    """A GPU kernel that cannot be compiled, loaded or launched, or that gave up."""


class DeviceError(BackboneError):
    """A device that was asked for and is not there."""


class BundleError(LayerRouteError):
    """A bundle that is missing, incomplete, tampered with, or made for another backbone."""


class RouterError(LayerRouteError):
    """An unknown router, or one that cannot serve the request."""


class RequestError(LayerRouteError):
    """A request that cannot be honoured: empty prompt, contradictory or unknown options."""


class ContextWindowError(RequestError):
    """A prompt (plus the answer asked for) that does not fit the context window."""


class GenerationCancelledError(LayerRouteError):
    """The result of a generation that its own consumer cancelled before the first token."""


class EngineClosedError(GenerationCancelledError):
    """The engine was closed before an answer was complete."""

    def __init__(self) -> None:
        super().__init__(
            "the engine was closed before the answer was complete: ask again, and a later request starts it anew"
        )


class ToolSchemaError(RequestError):
    """A tool or response schema that no grammar can be built from."""


class LedgerError(LayerRouteError):
    """A run ledger that cannot be read."""


def shown(value: object) -> str:
    """A value of a user as a message shows it: on one line and short, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # an integer of thousands of digits, or an object that cannot say what it is
        return f"this {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def suggesting(name: str, known: Iterable[str]) -> str:
    """An unknown name as a message shows it, with the known one that it is most like, if it is like one at all."""
    near = get_close_matches(name, list(known), n=1)
    return f"{shown(name)} (did you mean {near[0]!r}?)" if near else shown(name)
