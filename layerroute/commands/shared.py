"""What commands that run a model share: its options, and what happens to each step's report."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from rich.text import Text

from layerroute.console import PlainConsole, RunView, plain, plain_json
from layerroute.errors import ContextWindowError, LayerRouteError, RequestError
from layerroute.ledger import append, new_run_id
from layerroute.parts import INTERRUPTED
from layerroute.report import StepReport
from layerroute.text import require_encodable

if TYPE_CHECKING:
    from langchain_layerroute import LayerRouteChatModel

_LONGEST_LINE = 2**20

P = ParamSpec("P")

FORGOTTEN = "What was said so far is forgotten: the next line starts a new conversation."


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a model, how it is routed, and where reports go."""
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="embedded", help='"embedded", a folder or a hub id (default: %(default)s)')
    model.add_argument("--adapter", metavar="FOLDER", help='bundle, or "none" (default: the one the model ships with)')
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    routing = parser.add_argument_group("routing")
    routing.add_argument(
        "--router",
        metavar="SPEC",
        help="gates, full, static:PROGRAM, random:RATE[:SEED] or length:TOKENS:PROGRAM "
        "(default: gates if the model has a bundle, else full)",
    )
    routing.add_argument("--program", help='blocks to run instead of asking a router, such as "0-7,9,12-23"')
    routing.add_argument(
        "--scope",
        choices=("generation", "sequence"),
        default="generation",
        help="tokens the program governs: generated ones, or the prompt too (default: %(default)s)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--ledger", type=Path, metavar="FILE", help="append each step's report to this file")
    output.add_argument("--json", action="store_true", help="print one JSON document on stdout, and no reports")


def chat_model(args: argparse.Namespace) -> "LayerRouteChatModel":
    """Make the model the options name; weights are loaded at its first call.

    Raises:
        RequestError: an option that cannot be honoured, by name.
    """
    return make_chat_model(
        model=args.model,
        adapter=args.adapter,
        device=args.device,
        router=args.router,
        program=args.program,
        scope=args.scope,
    )


def make_chat_model(**options: Any) -> "LayerRouteChatModel":
    """Make a model of options that a command line gave.

    Raises:
        RequestError: an option that cannot be honoured, by name.
    """
    from pydantic import ValidationError

    from langchain_layerroute import LayerRouteChatModel

    try:
        return LayerRouteChatModel(**options)
    except ValidationError as error:
        from layerroute.options import problems

        raise RequestError(problems(error)) from None


class Recorder:
    """Takes the report of every step: shows it, keeps it, and appends it to the ledger."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.console = PlainConsole(stderr=True, quiet=args.json)
        self.view = RunView(self.console)
        self.steps: list[StepReport] = []
        self.task = ""
        self._ledger: Path | None = args.ledger
        self._run = new_run_id()
        self._error: LayerRouteError | None = None

    def step(self, report: StepReport) -> None:
        """Take one report. What goes wrong is raised by `check`, since callers may swallow what callbacks raise."""
        self.steps.append(report)
        self.view.step(report)
        if self._ledger is not None and self._error is None:
            try:
                append(self._ledger, report, run=self._run, task=self.task)
            except LayerRouteError as error:
                self._error = error

    def check(self) -> None:
        """Raise what went wrong since the last check.

        Raises:
            LedgerError: a report could not be written.
        """
        if self._error is not None:
            raise self._error


def tell(text: str) -> None:
    """Say something on one line of stderr; nothing in it can steer a terminal."""
    print(f"layerroute: {plain(' '.join(text.split()))}", file=sys.stderr)


def show_error(error: Exception) -> bool:
    """Show an error that the user can do something about, on one line of stderr; False if it is a bug instead."""
    is_ours = isinstance(error, LayerRouteError) or isinstance(error.__cause__, LayerRouteError)
    is_missing_extra = isinstance(error, ImportError) and "pip install" in str(error)
    if is_ours or is_missing_extra:
        tell(str(error))
    return is_ours or is_missing_extra


def telling(command: Callable[P, int]) -> Callable[P, int]:
    """Let a command end with 2 and one line when an error comes up that the user can do something about."""

    @wraps(command)
    def told(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except Exception as error:
            if not show_error(error):
                raise
            return 2

    return told


def is_full(error: Exception) -> bool:
    """Tell whether a conversation failed because it has outgrown the context window."""
    return isinstance(error, ContextWindowError) or isinstance(error.__cause__, ContextWindowError)


def read_lines(recorder: Recorder, prompt: str, instead: str) -> Iterator[str]:
    """Return the lines of stdin that are not blank, until its end; if a person types them, stderr prompts for each.

    Args:
        instead: the option that says the same.

    Raises:
        RequestError: stdin is closed; and from the iterator: it cannot be read, or a line is no text or has no end.
    """
    if sys.stdin is None:
        raise RequestError(f"stdin is closed, so there is nothing to read: give {instead}")
    return _lines(recorder, prompt)


def _lines(recorder: Recorder, prompt: str) -> Iterator[str]:
    for number in count(1):
        if sys.stdin.isatty():
            recorder.console.print(Text(prompt, style="bold"), end="")
        try:
            line = sys.stdin.readline(_LONGEST_LINE)
        except OSError as error:
            raise RequestError(f"cannot read stdin ({error.strerror}): give a file or a pipe") from error
        if len(line) == _LONGEST_LINE:
            raise RequestError(f"line {number} of stdin has more than {_LONGEST_LINE:,} characters: shorten it")
        if not line and sys.stdin.isatty():
            recorder.console.print()  # what follows does not stand behind the prompt
        if not line:
            return
        if line.strip():
            yield require_encodable(line.removesuffix("\n"), f"line {number} of stdin")


def print_answer(text: str) -> None:
    """Print a whole answer on stdout; a terminal gets it broken between words, and nothing that could steer it."""
    if sys.stdout.isatty():
        PlainConsole(highlight=False).print(Text(text))
    else:
        print(text, flush=True)


def print_piece(text: str) -> None:
    """Print a piece of an answer on stdout at once; what is foreign in it cannot steer a terminal."""
    print(plain(text) if sys.stdout.isatty() else text, end="", flush=True)


def print_path(path: Path) -> None:
    """Print where a command has put something: the very bytes of its name, or what a terminal can show of them."""
    if sys.stdout.isatty():
        print(plain(str(path)))
    else:
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")
        sys.stdout.flush()


def tell_failed(failed: Mapping[str, str], console: PlainConsole) -> int:
    """Name the parts of a command's work that gave nothing, and why.

    Returns:
        The exit code: 0 if there are none, 130 if the user ended one of them, else 1.
    """
    for name, why in failed.items():
        console.print(f"failed: {name} ({why})", highlight=False, markup=False)
    return 130 if INTERRUPTED in failed.values() else 1 if failed else 0


def print_document(document: dict[str, Any]) -> None:
    """Print one JSON document on stdout; numbers that JSON does not have become null."""
    print_json(json.dumps(_finite(document), ensure_ascii=False, indent=2))


def print_json(text: str) -> None:
    """Print JSON on stdout. A terminal, and a stream that is not Unicode, get escapes for what would harm them."""
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        text = "".join(letter if letter.isascii() else json.dumps(letter)[1:-1] for letter in text)
    print(plain_json(text) if sys.stdout.isatty() else text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
