"""The JSON files of a checkpoint folder: checked as a whole before anything uses a field of them."""

import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from layerroute.errors import CheckpointError, shown
from layerroute.files import parse_json, read_bounded

AGAIN = "fetch the checkpoint again"
_MOST_BYTES = 2**24


class Document(BaseModel):
    """What is read of a JSON file: types are JSON's own, numbers finite, and fields that are not named are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


AnyDocument = TypeVar("AnyDocument", bound=Document)


def read_document(path: Path, kind: type[AnyDocument], most_bytes: int = _MOST_BYTES) -> AnyDocument:
    """Read a file and check what it says.

    Raises:
        CheckpointError: missing, unreadable, no JSON object, or with a field that cannot be; names file and field.
    """
    return check_document(path, read_object(path, most_bytes), kind)


def read_optional(path: Path, kind: type[AnyDocument]) -> AnyDocument:
    """As `read_document`; of a file that is not there, the defaults."""
    return read_document(path, kind) if os.path.lexists(path) else kind()


def read_object(path: Path, most_bytes: int = _MOST_BYTES) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: missing, unreadable, or no JSON object.
    """
    try:
        found = parse_json(read_bounded(path, most_bytes))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}): {AGAIN}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): {AGAIN}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds {shown(found)} and no JSON object: {AGAIN}")
    return found


def check_document(path: Path, found: dict[str, Any], kind: type[AnyDocument]) -> AnyDocument:
    """Check what a file says.

    Raises:
        CheckpointError: a field is missing or cannot be.
    """
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part)[:40] for part in first["loc"])
    if first["type"] == "missing":
        raise CheckpointError(f"{path} lacks the field {field!r}: {AGAIN}")
    wanted = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    raise CheckpointError(f"{path} has {ascii(field)[1:-1]} = {shown(first['input'])}, but it {wanted}: {AGAIN}")
