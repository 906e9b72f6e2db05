"""Ledgers: whatever lines a file holds, those that are entries are read, in order, and all others are named."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

from layerroute.errors import LedgerError
from layerroute.ledger import LedgerEntry, append, read
from layerroute.report import StepReport
from layerroute.text import replace_unencodable
from tests.fuzz import inputs
from tests.step_reports import make_step

Written = tuple[bytes, tuple[str, str, StepReport] | None]
"""A file, and what is appended to it if anything is."""

_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
FOLDER = Path(tempfile.mkdtemp(prefix="layerroute-fuzz-", dir=_MEMORY))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def make(rng: Random) -> Written:
    """Up to eight lines of a few runs, one in three of them damaged or something else."""
    data = b"".join(_line(rng) for _ in range(rng.randrange(9)))
    if rng.random() < 0.2:
        data = inputs.damaged(rng, data)
    if rng.random() < 0.2:
        data += rng.choice(_STEPS)[: rng.randrange(900)]
    added = (inputs.text(rng, 2), inputs.text(rng, 4), make_step()) if rng.random() < 0.3 else None
    return data, added


def _line(rng: Random) -> bytes:
    run = json.dumps(rng.choice(("a", "b", "c", inputs.text(rng, 2))))
    task = json.dumps(inputs.text(rng, 3))
    line = b'{"format": 1, "run": %s, "task": %s, "time": "2026-11-22T00:00:00Z", "step": %s}' % (
        run.encode(),
        task.encode(),
        rng.choice(_STEPS),
    )
    kind = rng.random()
    if kind < 0.2:
        line = inputs.damaged(rng, line)
    elif kind < 0.25:
        line = inputs.text(rng, 6, surrogates=0.0).encode()
    elif kind < 0.28:
        line = json.dumps(inputs.value(rng, 3)).encode()
    elif kind < 0.3:
        line = line.replace(b'"step"', b'"run": "z", "step"')
    return line + b"\n"


def _steps() -> Iterator[bytes]:
    """Reports as JSON: sound ones, and such with one field changed."""
    rng = Random(0)
    whole = make_step().model_dump(mode="json")
    for _ in range(40):
        yield json.dumps(whole).encode()
    for _ in range(120):
        yield json.dumps(whole | {rng.choice(list(whole)): inputs.value(rng, 2)}).encode()


_STEPS = list(_steps())


def check(written: Written) -> str:
    """What is read is what is sound, whoever appends to it."""
    data, added = written
    path = FOLDER / f"{os.getpid()}.jsonl"
    path.write_bytes(data)
    if added is not None:
        run, task, step = added
        try:
            append(path, step, run=run, task=task)
        except LedgerError:
            assert path.read_bytes() == data, "a file was changed that is no ledger"
        else:
            now = path.read_bytes()
            assert now.startswith(data), "lines were changed"
            last = LedgerEntry.model_validate_json(now[:-1].rpartition(b"\n")[2])
            assert (last.run, last.task, last.step) == (replace_unencodable(run), replace_unencodable(task), step)
            data = now
    return _compare(path, data)


def _compare(path: Path, data: bytes) -> str:
    *lines, last = data.split(b"\n")
    expected: dict[str, list[str]] = {}
    bad = 0
    for line in [*lines, *[last] * bool(last)]:
        try:
            entry = LedgerEntry.model_validate_json(line)
        except ValueError:
            bad += 1
            continue
        if b'"run": "z", "step"' in line and entry.run == "z":
            bad += 1  # it names two runs
        else:
            expected.setdefault(entry.run, []).append(entry.model_dump_json())
    with read(path) as ledger:
        found = {run.run: [entry.model_dump_json() for entry in run.entries] for run in ledger.runs()}
        assert {run: entries for run, entries in found.items() if entries} == expected, "entries were lost or made up"
        assert ledger.num_damaged + ledger.torn == bad, "not every damaged line is counted"
        assert all(0 < one.line <= len(lines) + 1 and one.reason for one in ledger.damaged)
    return "damaged" if bad else "sound"
