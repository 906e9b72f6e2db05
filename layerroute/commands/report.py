"""Show the runs of a ledger again: every step, and sums by kind of step for each run.

Damaged lines are left out and named on stderr, and then the exit code is 1.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from layerroute.commands.shared import print_json, tell
from layerroute.console import PlainConsole, RunView
from layerroute.errors import LedgerError
from layerroute.ledger import Ledger, LedgerEntry, LedgerRun, read
from layerroute.report import RunSums

HELP = "show a run ledger again"
_MOST_NAMED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("file", type=Path, metavar="FILE", help="ledger that --ledger wrote")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Show the ledger on stdout, run by run; 0, or 1 if lines were damaged.

    Raises:
        LedgerError: there is no such file, or not one line of it is an entry.
    """
    with read(args.file) as ledger:
        num_runs = _print_document(ledger) if args.json else _show(ledger)
    if ledger.num_damaged and not num_runs:
        first = ledger.damaged[0]
        raise LedgerError(f"{args.file} holds no entry (line {first.line}: {first.reason}): give a run ledger")
    left_out = list(_left_out(ledger))
    if left_out:
        tell(f"left out of {args.file}: {'; '.join(left_out)}")
    return 1 if ledger.num_damaged else 0


def _show(ledger: Ledger) -> int:
    console = PlainConsole()
    num_runs = 0
    for past in _runs(ledger):
        num_runs += 1
        view, sums = RunView(console), RunSums()
        view.title(f"run {past.run}")
        for task, entries in groupby(past.entries, key=_task):
            view.heading(task)
            for entry in entries:
                view.step(entry.step)
                sums.add(entry.step)
        view.summary(sums)
        console.print()
    if not num_runs:
        console.print("no steps yet")
    return num_runs


def _print_document(ledger: Ledger) -> int:
    """Print one document, piece by piece: a step takes a line."""
    num_runs = 0
    print_json('{"runs": [')
    for past in _runs(ledger):
        num_runs += 1
        sums = RunSums()
        print_json(f'{"," if num_runs > 1 else ""}{{"run": {_quoted(past.run)}, "tasks": [')
        for number, (task, entries) in enumerate(groupby(past.entries, key=_task)):
            print_json(f'{"," if number else ""}{{"task": {_quoted(task)}, "steps": [')
            for place, entry in enumerate(entries):
                sums.add(entry.step)
                print_json(f"{',' if place else ''}{entry.step.model_dump_json()}")
            print_json("]}")
        print_json(f'], "summary": {sums.summary().model_dump_json()}}}')
    damaged = {"lines": ledger.num_damaged, "first": [asdict(line) for line in ledger.damaged]}
    print_json(f'], "torn": {_quoted(ledger.torn)}, "damaged": {_quoted(damaged)}}}')
    return num_runs


def _runs(ledger: Ledger) -> Iterator[LedgerRun]:
    """Runs that have entries."""
    for past in ledger.runs():
        first = next(past.entries, None)
        if first is not None:
            yield LedgerRun(past.run, chain([first], past.entries))


def _task(entry: LedgerEntry) -> str:
    return entry.task


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _left_out(ledger: Ledger) -> Iterator[str]:
    """Say which lines are not shown and why, on one line."""
    for damaged in sorted(ledger.damaged, key=lambda damaged: damaged.line)[:_MOST_NAMED]:
        yield f"line {damaged.line} ({damaged.reason})"
    if ledger.num_damaged > _MOST_NAMED:
        yield f"{ledger.num_damaged - _MOST_NAMED:,} more damaged lines"
    if ledger.torn:
        yield "the last line, cut short when its writer ended"
