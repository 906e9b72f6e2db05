"""How a run looks on a terminal: one line per step, the calls between the steps, and sums by kind of step at the end.

Foreign text (a task, a tool's argument, a field of a ledger) is never read as markup, and nothing in it steers the
terminal: not by control characters, and not by marks that turn the direction of reading.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from layerroute.columns import ASCII, STEP_LAYOUTS, SUMMARY_LAYOUTS, UNICODE, Cell, Column, Row, fitting, line
from layerroute.report import RunSummary, RunSums, StepReport

_INDENT = "      "
_MOST_SHOWN = 10_000
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Make a foreign string safe to show: what could steer a terminal becomes U+FFFD, character by character.

    That is every control character but tab and newline, separators of lines and paragraphs, and bidirectional marks;
    and half a surrogate pair, which nothing could show.
    """
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def plain_json(document: str) -> str:
    """Make a JSON document safe to show: what could steer a terminal is written as escapes, so it means the same."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


class PlainConsole(Console):
    """A console that lets no foreign text steer the terminal, whatever it is that is printed."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as `rich` does, then make every piece of text plain."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)


def _flat(text: str) -> str:
    """Foreign text on one line, and not more of it than anybody would read."""
    shown = plain(" ".join(text[:_MOST_SHOWN].split()))
    return shown if len(text) <= _MOST_SHOWN else f"{shown} ... ({len(text):,} characters)"


class RunView:
    """Shows a run on a console, which should be the one of stderr: stdout belongs to the answers."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._glyphs = ASCII if console.options.ascii_only else UNICODE
        self._status: Status | None = None
        self._num_steps = 0
        self._header: object = None
        self._is_terminal = console.is_terminal

    def title(self, text: str) -> None:
        """Begin a run: its name."""
        self._print([(_flat(text), "bold underline")], wrap=True)

    def heading(self, text: str) -> None:
        """Begin a new task: its text, and steps counted from 1 again."""
        self._num_steps = 0
        self._print([(_flat(text), "bold")], wrap=True)

    def step(self, report: StepReport) -> None:
        """Show one step, as soon as it is over."""
        if self._status is not None:
            self._status.update("working")
        self._num_steps += 1
        num_blocks = len(report.visits_per_block)
        columns = fitting(STEP_LAYOUTS, num_blocks, self._room())
        self._print_header(columns, num_blocks)
        cells = [column.cell(report, self._glyphs) for column in columns[1:]]
        self._print(line(columns, [[(str(self._num_steps), "")], *cells], num_blocks))
        for remark in _remarks(report):
            self.remark(remark)

    def call(self, name: str, arguments: dict[str, Any], result: str) -> None:
        """Show one call of a tool and, dimmed, what came back: a result, or an error in the same place."""
        given = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())
        self._print([(f"{_INDENT}{_flat(name)}({_flat(given)})", "")])
        self._print([(f"{_INDENT}{self._glyphs.result} {_flat(result)}", "dim")])

    def remark(self, text: str) -> None:
        """Say something about the step above, dimmed."""
        for part in plain(text).splitlines():
            parts = [part]
            if self._is_terminal:
                parts = [piece.plain for piece in Text(part).wrap(self._console, self._console.width - len(_INDENT))]
            for piece in parts:
                self._print([(f"{_INDENT}{piece.rstrip()}", "dim")])

    def summary(self, sums: RunSums) -> None:
        """Show sums by kind of step, how they relate, and the conditions they were measured under."""
        summary = sums.summary()
        if not summary.total.steps:
            return
        columns = fitting(SUMMARY_LAYOUTS, 0, self._room())
        groups = summary.by_kind if len(summary.by_kind) == 1 else (*summary.by_kind, summary.total)
        width = sum(column.width + 1 for column in columns) - 1
        self._print([(self._glyphs.rule * width, "dim")])
        self._header = None
        self._print_header(columns)
        for group in groups:
            self._print(line(columns, [column.cell(group, self._glyphs) for column in columns]))
        for text in (*_explanation(summary), _conditions(sums)):
            self._print([(text, "dim")], wrap=True)

    @contextmanager
    def loading(self, text: str) -> Iterator[None]:
        """Show a spinner with a text until the block ends; nothing unless the console is a terminal."""
        if not self._is_terminal or self._console.is_dumb_terminal:
            yield
            return
        spinner = "line" if self._glyphs is ASCII else "dots"
        with self._console.status(
            Text(plain(text), no_wrap=True, overflow="ellipsis"), spinner=spinner
        ) as self._status:
            try:
                yield
            finally:
                self._status = None

    def _room(self) -> int | None:
        """Columns of a terminal; a pipe has no width."""
        return self._console.width if self._is_terminal else None

    def _print_header(self, columns: Sequence[Column[Row]], num_blocks: int = 0) -> None:
        if self._header != (columns, num_blocks):
            self._header = (columns, num_blocks)
            self._print(line(columns, [[(column.header, "dim")] for column in columns], num_blocks))

    def _print(self, pieces: Cell, wrap: bool = False) -> None:
        if not self._is_terminal:
            if not self._console.quiet:  # past rich, which would take ten times as long for the same line
                self._console.file.write("".join(piece for piece, _ in pieces) + "\n")
                self._console.file.flush()
        elif wrap:
            self._console.print(Text.assemble(*pieces))
        else:
            self._console.print(
                Text.assemble(*pieces), no_wrap=True, overflow="crop" if self._glyphs is ASCII else "ellipsis"
            )


def _remarks(step: StepReport) -> Iterator[str]:
    if step.program != step.nominal_program:
        yield f"the router asked for {_flat(step.nominal_program)}, the device ran {_flat(step.program)}"
    if step.finish_reason == "length":
        yield "the answer was cut off at its token limit"
    elif step.finish_reason == "cancelled":
        yield "the answer was cancelled"


def _explanation(summary: RunSummary) -> Iterator[str]:
    """Say why many skipped visits may be few FLOPs saved, and what else makes a token cheap."""
    yield "visits skipped: of generated tokens"
    flops = "FLOPs: against full depth, prompt and LM head included"
    if not summary.total.prefill.skipped:
        flops += "; the prompt runs every block, so a long prompt before a short answer leaves little to save"
    yield flops
    if summary.total.fast_forwarded_tokens:
        yield "per token: decode time, lowered too by tokens the tool grammar left no choice about (fast-fwd)"


def _conditions(sums: RunSums) -> str:
    """Name what the numbers were measured with."""
    of = {name: "/".join(map(_flat, values)) for name, values in sums.conditions.items()}
    return (
        f"{of['model']} on {of['device']}, {of['dtype']}, {of['backend']}; router {of['router']}, scope {of['scope']}"
    )
