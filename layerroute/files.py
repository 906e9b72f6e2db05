"""Files: written whole or not at all; those of others read only if they end, and their JSON only if it is plain."""

import json
import os
import re
from pathlib import Path
from stat import S_ISREG
from typing import Any

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a regular file; a pipe, a socket or a device is not even opened, as it might never end.

    Raises:
        OSError: missing, unreadable, or no regular file.
        ValueError: more than `limit` bytes.
    """
    status = path.stat()
    if not S_ISREG(status.st_mode):
        raise OSError("it is no regular file")
    if status.st_size > limit:
        raise ValueError(f"it has {status.st_size} bytes, and {limit} are the most that make sense")
    with path.open("rb") as file:
        return file.read(limit)


def parse_json(data: bytes) -> Any:
    """Read a JSON document in UTF-8.

    Raises:
        ValueError: anything else, also NaN, a key that stands twice, half of a surrogate pair, and brackets nested too
            deeply to follow.
    """
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_with_each_key_once, parse_constant=_refuse_constant)
        if _SURROGATE_ESCAPE.search(data):
            json.dumps(found, ensure_ascii=False).encode("utf-8")  # fails on the half of a pair
        return found
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} stands twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and wait until its bytes are on the disk; for files of a folder that is renamed afterwards."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the new one, never a part."""
    replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, data: bytes) -> None:
    """Replace a file in one step, whichever other processes do the same."""
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_bytes(data)
    os.replace(staging, path)
