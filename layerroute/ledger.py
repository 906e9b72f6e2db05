"""The run ledger: one JSON line per step, appended so that a killed writer costs at most the line it was writing.

It is read as a stream, so its length does not matter, and a line that is damaged costs that line alone.
"""

import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, ValidationError

from layerroute.errors import LedgerError
from layerroute.report import StepReport
from layerroute.text import replace_unencodable

try:
    import fcntl
except ImportError:  # Windows: appending there is safe from one process only
    fcntl = None  # type: ignore[assignment]

_BEGINNING = b'{"format": 1, "run": "'
_RUN = re.compile(rb'\{"format": 1, "run": ("(?:[^"\\]|\\.)*+")')
_MOST_BYTES = 2**24
_MOST_KEPT = 20


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
    """A run and its entries, in the order they were written. They are read as they are asked for, one run at a time."""

    run: str
    entries: Iterator[LedgerEntry]


@dataclass(frozen=True, slots=True)
class DamagedLine:
    """A line that is no ledger entry: its number, from 1, and why."""

    line: int
    reason: str


@dataclass(slots=True)
class _Stretch:
    """Lines of one run that follow each other."""

    offset: int
    first: int
    lines: int = 1


def new_run_id() -> str:
    """Name a run: the time in UTC, and a few random digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"


def append(path: str | Path, step: StepReport, *, run: str, task: str) -> None:
    """Append one step and wait until the disk has it, whoever else appends to the same file.

    Of `run` and `task`, what no encoding has is replaced by U+FFFD. A last line that a killed writer cut short is
    ended first, and stays as a damaged one.

    Raises:
        LedgerError: the file cannot be written, or is no ledger; the task has millions of characters.
    """
    time = datetime.now(UTC)
    entry = LedgerEntry(run=replace_unencodable(run), task=replace_unencodable(task), time=time, step=step)
    # ASCII, so that a line holds no character that some reader takes for the end of a line.
    line = json.dumps(entry.model_dump(mode="json")).encode("ascii") + b"\n"
    if len(line) > _MOST_BYTES:
        raise LedgerError(f"a task of {len(task):,} characters is too long for a ledger: shorten it")
    try:
        with _locked(Path(path)) as descriptor:
            line = _end_of_last_line(descriptor, path) + line
            while line:  # one write, unless the disk fills up
                line = line[os.write(descriptor, line) :]
            os.fsync(descriptor)
    except OSError as error:
        raise LedgerError(f"cannot write the ledger {path} ({error.strerror}): choose another file") from error


class Ledger:
    """An open ledger; close it, or use it in `with`. Lines that are no entries are left out, named and counted.

    Attributes:
        torn: whether the last line was cut short when its writer ended. It is left out, too.
        damaged: the first lines that are no entries, among those read so far.
        num_damaged: how many there are.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.torn = False
        self.damaged: list[DamagedLine] = []
        self.num_damaged = 0
        self._file = file
        self._stretches: dict[str, list[_Stretch]] = {}
        self._find_runs()

    def runs(self) -> Iterator[LedgerRun]:
        """Yield the runs, in the order they began. One whose lines are all damaged has no entries."""
        for run, stretches in self._stretches.items():
            yield LedgerRun(run, self._entries(run, stretches))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find_runs(self) -> None:
        """Find out where each run's lines are, by their first bytes: two writers' lines may alternate."""
        offset, before = 0, None
        for number, (line, size) in enumerate(_lines(self._file), start=1):
            run = self._run_of(number, line)
            if run is not None and run == before:
                self._stretches[run][-1].lines += 1
            elif run is not None:
                self._stretches.setdefault(run, []).append(_Stretch(offset, number))
            offset, before = offset + size, run

    def _run_of(self, number: int, line: bytes) -> str | None:
        try:
            found = _RUN.match(line)
            if found and line.endswith(b"\n"):
                return str(json.loads(found[1]))
            return LedgerEntry.model_validate_json(line).run
        except ValueError as error:
            if line and not line.endswith(b"\n"):
                self.torn = True
            else:
                self._leave_out(number, _reason(error) if line else f"it has more than {_MOST_BYTES:,} bytes")
            return None

    def _entries(self, run: str, stretches: list[_Stretch]) -> Iterator[LedgerEntry]:
        for stretch in stretches:
            self._file.seek(stretch.offset)
            for number in range(stretch.first, stretch.first + stretch.lines):
                try:
                    entry = LedgerEntry.model_validate_json(self._file.readline())
                except ValidationError as error:
                    self._leave_out(number, _reason(error))
                    continue
                if entry.run == run:
                    yield entry
                else:
                    self._leave_out(number, "it names two runs")

    def _leave_out(self, number: int, reason: str) -> None:
        self.num_damaged += 1
        if len(self.damaged) < _MOST_KEPT:
            self.damaged.append(DamagedLine(number, reason))


def read(path: str | Path) -> Ledger:
    """Open a ledger, or a pipe that one comes through.

    Raises:
        LedgerError: no such file, or one that cannot be read.
    """
    try:
        return Ledger(_opened(path))
    except FileNotFoundError as error:
        raise LedgerError(f"no ledger {path}: write one with `layerroute demo --ledger {path}`") from error
    except (OSError, ValueError) as error:
        raise LedgerError(f"cannot read the ledger {path} ({_why(error)}): give a readable file") from error


def _opened(path: str | Path) -> BinaryIO:
    if stat.S_ISCHR(os.stat(path).st_mode):  # it may never end
        raise OSError("it is a device")
    file = open(path, "rb")  # noqa: SIM115
    if file.seekable():
        return file
    with file:
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        shutil.copyfileobj(file, copy)
    copy.seek(0)
    return copy


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Lines and their sizes in the file; of a line that is too long nothing but the size."""
    while line := file.readline(_MOST_BYTES):
        size, rest = len(line), line
        while len(rest) == _MOST_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(_MOST_BYTES)
            size += len(rest)
        yield (line if size == len(line) < _MOST_BYTES else b""), size


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open for appending, alone among all processes and threads that do, where the file system can tell."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _end_of_last_line(descriptor: int, path: str | Path) -> bytes:
    """What has to come before the next line: nothing, or the end of a line that lacks it."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise LedgerError(f"{path} is no regular file, and what is written there cannot be kept: choose another file")
    _refuse_other_files(_read_at(descriptor, 0, len(_BEGINNING)), path)
    start, tail = status.st_size, b""
    while start > 0 and b"\n" not in tail and len(tail) < _MOST_BYTES:
        begin = max(0, start - 65536)
        tail = _read_at(descriptor, begin, start - begin) + tail
        start = begin
    rest = tail.rpartition(b"\n")[2]
    _refuse_other_files(rest, path)
    return b"\n" if rest else b""


def _refuse_other_files(line: bytes, path: str | Path) -> None:
    if line[: len(_BEGINNING)] != _BEGINNING[: len(line)]:
        raise LedgerError(f"{path} exists and is no ledger, so nothing is written to it: choose another file")


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    data = b""
    while len(data) < length and (piece := os.read(descriptor, length - len(data))):
        data += piece
    return data


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    message = re.sub(r"at line \d+ column (\d+)$", r"at byte \1", first["msg"])
    return f"{'.'.join(map(str, first['loc']))[:80]}: {message}".removeprefix(": ")
