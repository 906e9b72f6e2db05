"""What the demo scripts share: their options, the model, and the terminal view. Not a demo itself."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from langchain_core.exceptions import ModelError
from langchain_core.language_models import BaseChatModel
from rich.console import Console

from langchain_layerroute import LayerRouteChatModel
from langchain_layerroute.front_desk.runner import DemoRun, OnStep
from layerroute.console import RunView
from layerroute.errors import LayerRouteError


def read_options(description: str | None, task: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options that every demo has; `task` is the default task."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default=task, help="what to do, in plain words (default: %(default)s)")
    parser.add_argument("--model", default="embedded", help='"embedded", a folder or a hub id (default: %(default)s)')
    parser.add_argument("--adapter", default=None, help="bundle folder (default: the one the model ships with)")
    parser.add_argument("--router", default=None, help="router of every step (default: the bundle's gates)")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    return parser.parse_args(arguments)


def chat_model(options: argparse.Namespace) -> BaseChatModel:
    """Build the model that the options name; weights are loaded at the first call."""
    return LayerRouteChatModel(model=options.model, adapter=options.adapter, router=options.router)


def present(options: argparse.Namespace, work: Callable[[OnStep], DemoRun]) -> int:
    """Do the work; the answer goes to stdout, each step as it ends and the summary to stderr.

    Returns:
        0, or 1 if the agent did not finish.
    """
    view = RunView(Console(stderr=True, quiet=options.json))
    try:
        with view.loading("loading the model"):
            run = work(view.step)
    except (LayerRouteError, ModelError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    view.calls(run.tool_calls)
    view.summary(run.steps)
    print(json.dumps(run.document(), ensure_ascii=False) if options.json else run.answer)
    return 0 if run.error is None else 1
