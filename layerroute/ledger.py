"""The run ledger: one JSON line per step, appended so that a killed writer costs at most the line it was writing."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from layerroute.errors import LedgerError
from layerroute.report import StepReport

try:
    import fcntl
except ImportError:  # Windows: appending there is safe from one process only
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)
_BEGINNING = b'{"format": 1, "run": "'


class LedgerEntry(BaseModel):
    """One line: a step, the task it belongs to, and the run that task belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    run: str
    task: str
    time: datetime
    step: StepReport


@dataclass(frozen=True, slots=True)
class LedgerRun:
    """The entries of one run, in the order they were written."""

    run: str
    entries: tuple[LedgerEntry, ...]

    @property
    def steps(self) -> tuple[StepReport, ...]:
        """Reports of all steps."""
        return tuple(entry.step for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a ledger file holds: runs in the order they began, and whether its last line was cut short."""

    runs: tuple[LedgerRun, ...]
    torn: bool = False


def new_run_id() -> str:
    """Name a run: the time in UTC, and a few random digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"


def append(path: str | Path, step: StepReport, *, run: str, task: str) -> None:
    """Append one step and wait until the disk has it. A last line that a killed writer cut short is removed first.

    Raises:
        LedgerError: the file cannot be written.
    """
    entry = LedgerEntry(run=run, task=task, time=datetime.now(UTC), step=step)
    try:
        with _locked(Path(path)) as descriptor:
            _repair(descriptor, path)
            # ASCII, so that a line holds no character that some reader takes for the end of a line.
            line = json.dumps(entry.model_dump(mode="json")).encode("ascii") + b"\n"
            while line:
                line = line[os.write(descriptor, line) :]
            os.fsync(descriptor)
    except OSError as error:
        raise LedgerError(f"cannot write the ledger {path} ({error.strerror}): choose another file") from error


def read(path: str | Path) -> Ledger:
    """Read a ledger.

    Raises:
        LedgerError: no such file, or a line that is no ledger entry; the message names the line.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise LedgerError(f"no ledger {path}: write one with `layerroute demo --ledger {path}`") from error
    except OSError as error:
        raise LedgerError(f"cannot read the ledger {path} ({error.strerror}): give a readable file") from error
    *lines, last = data.split(b"\n")
    torn = bool(last) and not _is_entry(last)
    if last and not torn:
        lines.append(last)
    runs: dict[str, list[LedgerEntry]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = LedgerEntry.model_validate_json(line)
        except ValidationError as error:
            raise LedgerError(
                f"line {number} of {path} is no ledger entry ({_reason(error)}): remove that line"
            ) from error
        runs.setdefault(entry.run, []).append(entry)
    return Ledger(tuple(LedgerRun(run, tuple(entries)) for run, entries in runs.items()), torn)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open for appending, alone among all processes and threads that do."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _repair(descriptor: int, path: str | Path) -> None:
    """Make the file end with a whole line: complete one that lacks only its end, cut off any other rest of an entry."""
    size = os.fstat(descriptor).st_size
    _refuse_other_files(_read_at(descriptor, 0, len(_BEGINNING)), path)
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        begin = max(0, start - 65536)
        tail = _read_at(descriptor, begin, start - begin) + tail
        start = begin
    rest = tail.rpartition(b"\n")[2]
    if not rest:
        return
    _refuse_other_files(rest, path)
    if _is_entry(rest):
        os.write(descriptor, b"\n")
    else:
        _log.warning("the last line of the ledger %s was cut short when its writer ended; it is removed", path)
        os.ftruncate(descriptor, size - len(rest))


def _refuse_other_files(line: bytes, path: str | Path) -> None:
    if line[: len(_BEGINNING)] != _BEGINNING[: len(line)]:
        raise LedgerError(f"{path} exists and is no ledger, so nothing is written to it: choose another file")


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    data = b""
    while len(data) < length and (piece := os.read(descriptor, length - len(data))):
        data += piece
    return data


def _is_entry(line: bytes) -> bool:
    try:
        LedgerEntry.model_validate_json(line)
    except ValidationError:
        return False
    return True


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
