"""Watch a front-desk agent work: it looks up and changes orders, converts, calculates, takes notes, keeps a calendar.

Without --task and --interactive it carries out a script of several tasks.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from layerroute.commands.shared import (
    FORGOTTEN,
    Recorder,
    add_model_arguments,
    chat_model,
    is_full,
    print_answer,
    print_document,
    read_lines,
    show_error,
)
from layerroute.report import RunSums

if TYPE_CHECKING:
    from langchain_layerroute.front_desk.agent import DemoRun, FrontDesk

HELP = "watch a tool-using agent work, step by step"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--task", action="append", metavar="TEXT", help="what to do, in plain words; may be repeated")
    what.add_argument("--interactive", action="store_true", help="ask for one task after another, as one conversation")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Carry out the tasks; 0, or 1 if the agent did not finish one of them."""
    from layerroute.errors import RequestError

    if args.interactive and args.json:
        raise RequestError("--json prints one document for given tasks: use it with --task, not with --interactive")
    recorder = Recorder(args)
    tasks = read_lines(recorder, "task> ", "--task") if args.interactive else args.task
    with recorder.view.loading("starting"):
        from langchain_layerroute.front_desk.agent import DEFAULT_TASKS, FrontDesk

        desk = FrontDesk(chat_model(args))
    runs: list[DemoRun] = []
    try:
        with desk:
            for run in _runs(desk, tasks or DEFAULT_TASKS, recorder, args.interactive):
                runs.append(run)
                if not args.json:
                    print_answer(run.answer)
                    recorder.console.print()
                recorder.check()
    finally:  # tasks that are done are shown, whatever became of the next one
        if args.json and runs:
            documents = [run.document() for run in runs]
            print_document(documents[0] if args.task and len(args.task) == 1 else {"tasks": documents})
        recorder.view.summary(RunSums(recorder.steps))
    return 1 if any(run.error for run in runs) else 0


def _runs(desk: "FrontDesk", tasks: Iterable[str], recorder: Recorder, is_interactive: bool) -> "Iterator[DemoRun]":
    for task in tasks:
        try:
            yield _carry_out(desk, task, recorder, is_interactive)
        except Exception as error:
            if not (is_interactive and show_error(error)):  # a conversation goes on after a failed task
                raise
            if is_full(error):
                desk.forget()
                recorder.view.remark(FORGOTTEN)


def _carry_out(desk: "FrontDesk", task: str, recorder: Recorder, is_interactive: bool) -> "DemoRun":
    recorder.task = task
    if not (is_interactive and sys.stdin.isatty()):  # otherwise it stands there as it was typed
        recorder.view.heading(task)
    with recorder.view.loading("working" if recorder.steps else "loading the model"):
        return desk.run(task, recorder.step, recorder.view.call, keep_history=is_interactive)
