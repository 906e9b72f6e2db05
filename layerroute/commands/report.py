"""Show the runs of a ledger again: every step, and sums by kind of step for each run."""

import argparse
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.text import Text

from layerroute.commands.shared import print_document
from layerroute.console import PlainConsole, RunView
from layerroute.ledger import Ledger, LedgerRun, read
from layerroute.report import RunSums, StepReport, summarise

HELP = "show a run ledger again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("file", type=Path, metavar="FILE", help="ledger that --ledger wrote")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Show the ledger on stdout."""
    ledger = read(args.file)
    if args.json:
        print_document(_document(ledger))
        return 0
    console = PlainConsole()
    for past in ledger.runs:
        view = RunView(console)
        console.print(Text(f"run {past.run}", style="bold underline"))
        for task, steps in _tasks(past):
            view.heading(task)
            for step in steps:
                view.step(step)
        view.summary(RunSums(past.steps))
        console.print()
    if not ledger.runs:
        console.print("no steps yet")
    if ledger.torn:
        PlainConsole(stderr=True).print(Text("The last line was cut short when its writer ended, and is left out."))
    return 0


def _tasks(past: LedgerRun) -> list[tuple[str, list[StepReport]]]:
    """Steps of a run by task, in order."""
    groups = groupby(past.entries, key=lambda entry: entry.task)
    return [(task, [entry.step for entry in entries]) for task, entries in groups]


def _document(ledger: Ledger) -> dict[str, Any]:
    runs = []
    for past in ledger.runs:
        tasks = [
            {"task": task, "steps": [step.model_dump(mode="json") for step in steps]} for task, steps in _tasks(past)
        ]
        runs.append({"run": past.run, "tasks": tasks, "summary": summarise(past.steps).model_dump(mode="json")})
    return {"runs": runs, "torn": ledger.torn}
