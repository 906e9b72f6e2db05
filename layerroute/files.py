"""Files: written whole or not at all, whoever else writes or reads them at the same time; those of others read only if
they end, and their JSON only if it is plain.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows: there, writers of the same file or folder must not meet
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

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
    """Write a file and wait until its bytes are on the disk; for what takes its name afterwards."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the new one, never a part."""
    replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, data: bytes) -> None:
    """Replace a file in one step, whichever other processes and threads do the same."""
    with replacing(path) as staging:
        write_durably(staging, data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to make a file or a folder; at the end of the block it takes the place of `path`.

    Writers take turns, and each begins by removing what killed ones have left. A block that raises leaves `path` as it
    was. A process killed at any point leaves the old or the new one whole: a folder perhaps under another name, where
    `read_folder` finds it.

    Raises:
        OSError: the disk is full, the folder may not be written, ...
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _turn_in(path.parent) as is_alone:
        for remains in _remains(path) if is_alone else ():
            _remove(remains)
        staging = path.with_name(f".{path.name}.{uuid4().hex[:12]}.saving")
        try:
            yield staging
            _give_name(staging, path)
        finally:
            _remove(staging)


def read_folder(path: Path, read: Callable[[Path], T], failure: type[Exception]) -> T:
    """Return what `read` makes of a folder that others may replace meanwhile: it is begun again when they do.

    Args:
        path: where the folder was put.
        read: is handed the folder that is there now; verifies what it reads.
        failure: what `read` raises if something is missing or does not fit, which ends it if nobody replaced anything.
    """
    while True:
        before = _identities(path)
        try:
            return read(standing(path))
        except failure:
            if _identities(path) == before:
                raise


def standing(path: Path) -> Path:
    """Where a folder is now: under its name, or set aside by a writer that was killed before the new one had it."""
    return _aside(path) if os.path.exists(_aside(path)) and not os.path.exists(path) else path


def _give_name(staging: Path, path: Path) -> None:
    if staging.is_dir():
        _sync_folder(staging)
        if path.exists():
            _remove(_aside(path))
            path.rename(_aside(path))
        staging.rename(path)
        _sync_folder(path.parent)
        _remove(_aside(path))
    else:
        os.replace(staging, path)
        _sync_folder(path.parent)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _remains(path: Path) -> list[Path]:
    staging = re.compile(rf"\.{re.escape(path.name)}(\.[0-9a-f]+)?\.saving")
    return [entry for entry in path.parent.iterdir() if staging.fullmatch(entry.name)]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _identities(path: Path) -> list[tuple[int, ...] | None]:
    """What tells the folder, and the one set aside, from those that replace them: numbers of files come again."""

    def identity(place: Path) -> tuple[int, ...] | None:
        try:
            state = place.stat()
        except OSError:
            return None
        return state.st_dev, state.st_ino, state.st_mtime_ns

    return [identity(path), identity(_aside(path))]


@contextmanager
def _turn_in(folder: Path) -> Iterator[bool]:
    """Wait until no other process or thread replaces something in a folder; False where nobody can tell."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # not to be read, or on Windows
        yield False
        return
    try:
        yield _lock(descriptor)
    finally:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing would not do, if a forked child has it too
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # some network file systems lock no folder
        return False
    return True


def _sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk."""
    if fcntl is None:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
