"""Ask the front-desk agent every request of a file and count how many lead to exactly the expected tool calls.

    python demos/check_requests.py                              the 80 held-out requests, embedded model
    python demos/check_requests.py --router full --json         the same at full depth, as one JSON document

A request file holds one JSON object per line: `{"id", "task", "expected": [{"name", "arguments"}, ...]}`. The files
were written by hand, apart from the training generator; `requests.jsonl` is never used for tuning.

Conventions of the expected calls (the system prompt says that today is 2026-11-22):

- One call per thing asked, in the order of mention. A call that needs an earlier one's result comes after it and takes
  the number or name that the tool returned. A greeting, thanks or a question about the assistant expects no call.
- Names, order ids, search words, note texts and titles are copied letter by letter from the request; what follows a
  colon or stands in quotes is the whole text.
- Dates are ISO ("tomorrow" is 2026-11-23), times are 24-hour HH:MM, currencies ISO codes, units short symbols.
- Expressions have spaces around binary operators and numbers in the order of mention; "x% of y" is "y * x / 100".
  White space within an expression does not count, nor does 5 against 5.0.
- "Will it rain tomorrow" is `day="tomorrow"`; asking whether a day is free lists its events.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from rich.progress import track
from rich.table import Table
from rich.text import Text

from langchain_layerroute.front_desk.agent import FrontDesk
from layerroute.commands.parser import refuse_unencodable
from layerroute.commands.shared import make_chat_model, print_document, telling
from layerroute.console import PlainConsole
from layerroute.errors import RequestError
from layerroute.parts import Parts
from layerroute.process import run_alone

REQUESTS = Path(__file__).with_name("requests.jsonl")

Call = dict[str, Any]
"""A tool call: `{"name": str, "arguments": dict}`."""


@dataclass(frozen=True, slots=True)
class Request:
    """A task and the tool calls it must lead to, in order."""

    id: str
    task: str
    expected: list[Call]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the agent did about one request; `error` tells why it did not finish."""

    request: Request
    calls: list[Call]
    answer: str
    error: str | None = None

    @property
    def right(self) -> bool:
        """Whether the agent finished with exactly the expected calls."""
        return self.error is None and score(self.request.expected, self.calls)


def read_requests(path: Path) -> list[Request]:
    """Read a request file.

    Raises:
        RequestError: it cannot be read, or a line of it is no request.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [Request(**json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(
            f"cannot read the requests in {path} ({error}): give a file of one request per line"
        ) from error


def score(expected: Sequence[Call], actual: Sequence[Call]) -> bool:
    """Whether `actual` are the expected calls: same names, same arguments, same order."""
    return [_normal(call) for call in expected] == [_normal(call) for call in actual]


def _normal(call: Call) -> tuple[str, dict[str, tuple[str, Any]]]:
    return call["name"], {name: _normal_value(name, value) for name, value in call["arguments"].items()}


def _normal_value(name: str, value: Any) -> tuple[str, Any]:
    """Tag a value with its sort, so that 5 equals 5.0 but neither "5" nor True."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return "json", json.dumps(value, sort_keys=True)
    if isinstance(value, str):
        return "text", "".join(value.split()) if name == "expression" else value
    return "number", value


def ask(model: BaseChatModel, request: Request) -> Outcome:
    """Run one request on a fresh database."""
    with FrontDesk(model) as desk:
        try:
            run = desk.run(request.task)
        except ContextOverflowError as error:
            return Outcome(request, [], "", str(error))
    return Outcome(request, run.tool_calls, run.answer, run.error)


@telling
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; 0 if the share of right requests reaches `--at-least`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--file", type=Path, default=REQUESTS, help="request file (default: %(default)s)")
    parser.add_argument("--model", default="embedded", help='"embedded", a folder or a hub id (default: %(default)s)')
    parser.add_argument("--router", default=None, help="router of every step (default: the model's own)")
    parser.add_argument("--at-least", type=float, default=0.9, help="share that must be right (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args(arguments)

    refuse_unencodable(parser, options)
    model = make_chat_model(model=options.model, router=options.router)
    console = PlainConsole(stderr=True)
    requests = read_requests(options.file)
    outcomes, interrupted = _ask_all(model, requests, console)
    share = sum(outcome.right for outcome in outcomes) / max(1, len(outcomes))
    if options.json:
        rows = [{**asdict(outcome), "right": outcome.right} for outcome in outcomes]
        print_document({"share": share, "requests": len(outcomes), "outcomes": rows})
    else:
        PlainConsole().print(_misses(outcomes))
        print(f"{sum(outcome.right for outcome in outcomes)} of {len(outcomes)} right ({share:.1%})")
    if interrupted:
        console.print(f"interrupted: {len(outcomes)} of {len(requests)} requests were asked")
        return 130
    return 0 if share >= options.at_least else 1


def _ask_all(model: BaseChatModel, requests: Sequence[Request], console: PlainConsole) -> tuple[list[Outcome], bool]:
    """The outcome of every request, and whether the user ended the check before the last.

    What goes wrong with the first request goes wrong with all of them and is raised; after that it is this request's.
    """
    outcomes: list[Outcome] = []
    parts = Parts()
    for request in track(requests, "asking", console=console, transient=True):
        outcome = parts.attempt(request.id, partial(ask, model, request)) if outcomes else ask(model, request)
        if parts.interrupted:
            break
        outcomes.append(outcome or Outcome(request, [], "", parts.failed[request.id]))
    return outcomes, parts.interrupted


def _misses(outcomes: Sequence[Outcome]) -> Table:
    table = Table("id", "task", "expected", "called", title="misses", show_lines=True)
    for outcome in outcomes:
        if not outcome.right:
            request = outcome.request
            called = "\n".join(filter(None, (_spell(outcome.calls), outcome.error)))
            table.add_row(request.id, *map(Text, (request.task, _spell(request.expected), called)))
    return table


def _spell(calls: Sequence[Call]) -> str:
    lines = (f"{call['name']}({json.dumps(call['arguments'], ensure_ascii=False)})" for call in calls)
    return "\n".join(lines) or "no call"


if __name__ == "__main__":
    sys.exit(run_alone(main))
