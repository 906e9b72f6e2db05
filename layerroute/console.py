"""How a run looks on a terminal: one line per step, and sums by kind of step in the same columns at the end.

Everything here is written with `Text` objects: a foreign string (a task, a tool's argument) is never read as markup,
and its control characters never reach the terminal.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

from layerroute.report import KindSummary, StepKind, StepReport, summarise

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_KIND_STYLES = {StepKind.TOOL_CALL: "cyan", StepKind.PLANNING: "magenta", None: "bold"}
_SHORT_KINDS = {StepKind.TOOL_CALL: "call", StepKind.PLANNING: "plan", None: "all"}


def plain(text: str) -> str:
    """Make a foreign string safe to show: control characters, other than tab and newline, become U+FFFD."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


@dataclass(frozen=True, slots=True)
class _Glyphs:
    run: str
    skipped: str
    right: str
    wrong: str
    rule: str


_UNICODE = _Glyphs(run="■", skipped="·", right="✓", wrong="✗", rule="─")
_ASCII = _Glyphs(run="#", skipped=".", right="=", wrong="!", rule="-")


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of both tables: `step` shows one step, `total` a sum. `width` 0 is the width of the block strip."""

    header: str
    width: int
    step: Callable[[StepReport, _Glyphs], Text]
    total: Callable[[KindSummary, _Glyphs], Text]
    left: bool = False


class RunView:
    """Shows a run on a console, which should be the one of stderr: stdout belongs to the answers."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._glyphs = _ASCII if console.options.ascii_only else _UNICODE
        self._status: Status | None = None
        self._num_steps = 0
        self._header = ""

    def heading(self, text: str) -> None:
        """Begin a new task: its text, and steps counted from 1 again."""
        self._num_steps = 0
        self._print(Text(" ".join(plain(text).split()), style="bold"), wrap=True)

    def step(self, report: StepReport) -> None:
        """Show one step, as soon as it is over."""
        if self._status is not None:
            self._status.update("working")
        self._num_steps += 1
        columns = self._columns(report.num_blocks)
        self._print_header(columns, report.num_blocks, "step")
        cells = [column.step(report, self._glyphs) for column in columns]
        self._print(_line(columns, [Text(str(self._num_steps)), *cells[1:]], report.num_blocks))
        for remark in _remarks(report):
            self._print(Text(f"     {remark}", style="dim"), wrap=True)

    def calls(self, tool_calls: Iterable[dict[str, Any]]) -> None:
        """Show which tools were called: `{"name", "arguments"}` each."""
        for call in tool_calls:
            arguments = ", ".join(
                f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in call["arguments"].items()
            )
            self._print(Text(f"     {plain(call['name'])}({plain(arguments)})", style="dim"))

    def summary(self, steps: Sequence[StepReport]) -> None:
        """Show sums by kind of step, and the conditions they were measured under."""
        if not steps:
            return
        num_blocks = max(step.num_blocks for step in steps)
        columns = self._columns(num_blocks)
        summary = summarise(steps)
        groups = summary.by_kind if len(summary.by_kind) == 1 else (*summary.by_kind, summary.total)
        width = sum(_width(column, num_blocks) + 1 for column in columns) - 1
        self._print(Text(self._glyphs.rule * width, style="dim"))
        self._header = ""
        self._print_header(columns, num_blocks, "steps")
        for group in groups:
            self._print(_line(columns, [column.total(group, self._glyphs) for column in columns], num_blocks))
        self._print(Text(_conditions(steps), style="dim"), wrap=True)

    @contextmanager
    def loading(self, text: str) -> Iterator[None]:
        """Show a spinner with a text until the block ends; nothing unless the console is a terminal."""
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            yield
            return
        spinner = "line" if self._glyphs is _ASCII else "dots"
        with self._console.status(
            Text(plain(text), no_wrap=True, overflow="ellipsis"), spinner=spinner
        ) as self._status:
            try:
                yield
            finally:
                self._status = None

    def _columns(self, num_blocks: int) -> Sequence[_Column]:
        """Choose the fullest layout that fits on one line; a pipe has no width and takes the first."""
        layouts = (*_LAYOUTS, *(_without_strip(layout) for layout in _LAYOUTS))
        room = self._console.width if self._console.is_terminal else None
        for columns in layouts:
            if room is None or sum(_width(column, num_blocks) + 1 for column in columns) - 1 <= room:
                return columns
        return layouts[-1]

    def _print_header(self, columns: Sequence[_Column], num_blocks: int, first: str) -> None:
        headers = [
            Text(first[: columns[0].width] if columns[0].width >= 4 else "#"),
            *(Text(column.header) for column in columns[1:]),
        ]
        line = _line(columns, headers, num_blocks)
        if line.plain != self._header:
            self._header = line.plain
            line.stylize("dim")
            self._print(line)

    def _print(self, text: Text, wrap: bool = False) -> None:
        if not self._console.is_terminal:
            self._console.print(text, soft_wrap=True)
        elif wrap:
            self._console.print(text)
        else:
            self._console.print(text, no_wrap=True, overflow="crop" if self._glyphs is _ASCII else "ellipsis")


def _width(column: _Column, num_blocks: int) -> int:
    return column.width or max(num_blocks, len("blocks"))


def _line(columns: Sequence[_Column], cells: Sequence[Text], num_blocks: int) -> Text:
    padded = []
    for column, cell in zip(columns, cells, strict=True):
        cell = cell.copy()
        missing = max(0, _width(column, num_blocks) - cell.cell_len)
        (cell.pad_right if column.left else cell.pad_left)(missing)
        padded.append(cell)
    line = Text(" ").join(padded)
    line.rstrip()
    return line


# What the columns say.


def _kind(kind: StepKind | None) -> Text:
    return Text(kind.value.replace("_", " ") if kind else "all", style=_KIND_STYLES[kind])


def _short_kind(kind: StepKind | None) -> Text:
    return Text(_SHORT_KINDS[kind], style=_KIND_STYLES[kind])


def _predicted(step: StepReport, glyphs: _Glyphs) -> Text:
    if step.predicted_kind is None:
        return Text()
    return Text(" ").join([_guess(step, glyphs), _kind(step.predicted_kind)])


def _guess(step: StepReport, glyphs: _Glyphs) -> Text:
    if step.predicted_kind is None:
        return Text()
    is_right = step.predicted_kind == step.kind
    return Text(glyphs.right, style="green") if is_right else Text(glyphs.wrong, style="bold red")


def _predicted_right(group: KindSummary, glyphs: _Glyphs) -> Text:
    return Text(f"{group.predicted_right}/{group.predicted} right" if group.predicted else "")


def _strip(step: StepReport, glyphs: _Glyphs) -> Text:
    strip = Text()
    for visits in step.visits_per_block:
        if visits == 0:
            strip.append(glyphs.skipped, style="dim")
        elif visits == 1:
            strip.append(glyphs.run, style="green")
        else:
            strip.append(str(visits) if visits < 10 else "+", style="bold yellow")
    return strip


def _visits(step: StepReport, glyphs: _Glyphs) -> Text:
    return Text(f"{sum(step.visits_per_block)}/{step.num_blocks}")


def _skipped(group: KindSummary, glyphs: _Glyphs) -> Text:
    return Text(f"skips {group.decode.skip_share:.0%}")


def _skip_share(group: KindSummary, glyphs: _Glyphs) -> Text:
    return Text(f"-{group.decode.skip_share:.0%}")


def _flops(saved: float) -> Text:
    percent = round(-100 * saved)
    return Text(
        f"{percent:+d}%" if percent else "0%", style="green" if percent < 0 else "yellow" if percent > 0 else ""
    )


def _count(number: int) -> Text:
    if number < 100_000:
        return Text(str(number))
    return Text(f"{number / 1e3:.0f}k" if number < 999_500 else f"{number / 1e6:.1f}M")


def _time(milliseconds: float) -> Text:
    if milliseconds >= 9999.5:
        seconds = milliseconds / 1000
        return Text(f"{seconds:.1f} s" if seconds < 999.95 else f"{seconds:.0f} s")
    return Text(f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms")


def _rate(tokens_per_second: float) -> Text:
    return _count(round(tokens_per_second)) if tokens_per_second else Text()


def _group_rate(group: KindSummary) -> float:
    tokens = group.generated_tokens - group.steps  # the first token of a step belongs to its prefill
    return 1000 * tokens / group.decode_ms if tokens > 0 and group.decode_ms > 0 else 0.0


def _nothing(row: StepReport | KindSummary, glyphs: _Glyphs) -> Text:
    return Text()


def _number(header: str, width: int, field: str) -> _Column:
    return _Column(header, width, lambda s, g: _count(getattr(s, field)), lambda k, g: _count(getattr(k, field)))


def _index(width: int) -> _Column:
    return _Column("", width, _nothing, lambda group, glyphs: Text(str(group.steps)))


_KIND = _Column("kind", 9, lambda s, g: _kind(s.kind), lambda k, g: _kind(k.kind), left=True)
_SHORT_KIND = _Column("kind", 4, lambda s, g: _short_kind(s.kind), lambda k, g: _short_kind(k.kind), left=True)
_PREDICTED = _Column("predicted", 11, _predicted, _predicted_right, left=True)
_GUESS = _Column("", 1, _guess, _nothing)
_BLOCKS = _Column("blocks", 0, _strip, _skipped, left=True)
_VISITS = _Column("blocks", 6, _visits, _skip_share)
_PROMPT = _number("prompt", 6, "prompt_tokens")
_CACHED = _number("cached", 6, "cached_tokens")
_GENERATED = _number("generated", 9, "generated_tokens")
_SHORT_GENERATED = _number("gen", 4, "generated_tokens")
_FORWARDED = _number("fast-fwd", 8, "fast_forwarded_tokens")
_PREFILL = _Column("prefill", 7, lambda s, g: _time(s.milliseconds.prefill), lambda k, g: _time(k.prefill_ms))
_DECODE = _Column("decode", 7, lambda s, g: _time(s.milliseconds.decode), lambda k, g: _time(k.decode_ms))
_RATE = _Column("tok/s", 5, lambda s, g: _rate(s.tokens_per_second), lambda k, g: _rate(_group_rate(k)))
_FLOPS = _Column("FLOPs", 5, lambda s, g: _flops(s.flops_saved), lambda k, g: _flops(k.flops_saved))
_TIMES = (_PREFILL, _DECODE, _RATE, _FLOPS)

_LAYOUTS: tuple[tuple[_Column, ...], ...] = (
    (_index(5), _KIND, _PREDICTED, _BLOCKS, _PROMPT, _CACHED, _GENERATED, _FORWARDED, *_TIMES),
    (_index(4), _KIND, _GUESS, _BLOCKS, _PROMPT, _CACHED, _SHORT_GENERATED, _FORWARDED, *_TIMES),
    (_index(4), _KIND, _GUESS, _BLOCKS, _PROMPT, _CACHED, _SHORT_GENERATED, _DECODE, _RATE, _FLOPS),
    (_index(4), _KIND, _GUESS, _BLOCKS, _SHORT_GENERATED, _RATE, _FLOPS),
    (_index(2), _SHORT_KIND, _GUESS, _BLOCKS, _SHORT_GENERATED, _FLOPS),
    (_index(2), _SHORT_KIND, _GUESS, _BLOCKS, _FLOPS),
)
"""From the fullest to the shortest; with 24 blocks they take 113, 97, 80, 58, 45 and 40 columns."""


def _without_strip(columns: tuple[_Column, ...]) -> tuple[_Column, ...]:
    return tuple(_VISITS if column is _BLOCKS else column for column in columns)


def _remarks(step: StepReport) -> Iterator[str]:
    if step.program != step.nominal_program:
        yield f"the router asked for {step.nominal_program}, the device ran {step.program}"
    if step.finish_reason == "length":
        yield "the answer was cut off at its token limit"
    elif step.finish_reason == "cancelled":
        yield "the answer was cancelled"


def _conditions(steps: Sequence[StepReport]) -> str:
    """Name what the numbers were measured with."""

    def all_of(field: str) -> str:
        return "/".join(dict.fromkeys(plain(str(getattr(step, field))) for step in steps))

    return (
        f"{all_of('model')} on {all_of('device')}, {all_of('dtype')}, {all_of('backend')}; "
        f"router {all_of('router')}, scope {all_of('scope')}; FLOPs against full depth, skips of generated tokens"
    )
