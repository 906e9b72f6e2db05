"""What the demo scripts share: their options, the model, and the terminal view. Not a demo itself."""

import argparse
from collections.abc import Callable, Sequence

from langchain_core.language_models import BaseChatModel

from langchain_layerroute.front_desk.runner import DemoRun
from layerroute.commands.parser import refuse_unencodable
from layerroute.commands.shared import make_chat_model, print_answer, print_document
from layerroute.console import PlainConsole, RunView
from layerroute.report import RunSums


def read_options(description: str | None, tasks: Sequence[str], arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options that every demo has; `tasks` are the default tasks.

    Raises:
        RequestError: an option is no text.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    help_ = "what to do, in plain words; may be repeated (default: the demo's own)"
    parser.add_argument("--task", action="append", metavar="TEXT", help=help_)
    parser.add_argument("--model", default="embedded", help='"embedded", a folder or a hub id (default: %(default)s)')
    parser.add_argument("--adapter", metavar="FOLDER", help="bundle (default: the one the model ships with)")
    parser.add_argument("--router", metavar="SPEC", help="router of every step (default: the bundle's gates)")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    options = parser.parse_args(arguments)
    refuse_unencodable(parser, options)
    options.task = options.task or list(tasks)
    return options


def chat_model(options: argparse.Namespace) -> BaseChatModel:
    """Build the model that the options name; weights are loaded at the first call."""
    return make_chat_model(model=options.model, adapter=options.adapter, router=options.router)


def present(options: argparse.Namespace, carry_out: Callable[[str, RunView], DemoRun]) -> int:
    """Carry out the tasks; answers go to stdout, all else to stderr as it happens, and a summary at the end.

    Returns:
        0, or 1 if the agent did not finish one of them.
    """
    console = PlainConsole(stderr=True, quiet=options.json)
    view = RunView(console)
    runs: list[DemoRun] = []
    try:
        for task in options.task:
            view.heading(task)
            with view.loading("working" if runs else "loading the model"):
                runs.append(carry_out(task, view))
            if not options.json:
                print_answer(runs[-1].answer)
                console.print()
    finally:  # tasks that are done are shown, whatever became of the next one
        if options.json and runs:
            documents = [run.document() for run in runs]
            print_document(documents[0] if len(options.task) == 1 else {"tasks": documents})
        view.summary(RunSums(step for run in runs for step in run.steps))
    return 1 if any(run.error for run in runs) else 0
