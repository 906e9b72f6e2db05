"""How a run looks on a terminal: one line per step, the calls between the steps, and sums by kind of step at the end.

Everything here is written with `Text` objects: a foreign string (a task, a tool's argument) is never read as markup,
and its control characters never reach the terminal.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.status import Status
from rich.text import Text

from layerroute.report import KindSummary, StepKind, StepReport, summarise

Row = TypeVar("Row", bound=StepReport | KindSummary)

_INDENT = "      "
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_KIND_STYLES = {StepKind.TOOL_CALL: "cyan", StepKind.PLANNING: "magenta", None: "bold"}
_SHORT_KINDS = {StepKind.TOOL_CALL: "call", StepKind.PLANNING: "plan", None: "all"}


def plain(text: str) -> str:
    """Make a foreign string safe to show: control characters, other than tab and newline, become U+FFFD."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _flat(text: str) -> str:
    return " ".join(plain(text).split())


@dataclass(frozen=True, slots=True)
class _Glyphs:
    run: str
    skipped: str
    right: str
    wrong: str
    rule: str
    result: str


_UNICODE = _Glyphs(run="■", skipped="·", right="✓", wrong="✗", rule="─", result="→")
_ASCII = _Glyphs(run="#", skipped=".", right="=", wrong="!", rule="-", result="->")


@dataclass(frozen=True)
class _Column(Generic[Row]):
    """A column of a table: `cell` shows one row of it. `width` 0 is the width of the block strip."""

    header: str
    width: int
    cell: Callable[[Row, _Glyphs], Text]
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
        self._print(Text(_flat(text), style="bold"), wrap=True)

    def step(self, report: StepReport) -> None:
        """Show one step, as soon as it is over."""
        if self._status is not None:
            self._status.update("working")
        self._num_steps += 1
        columns = self._fitting(_STEP_LAYOUTS, report.num_blocks)
        self._print_header(columns, report.num_blocks)
        number = Text(str(self._num_steps))
        self._print(_line(columns, [number, *self._cells(columns[1:], report)], report.num_blocks))
        for remark in _remarks(report):
            self.remark(remark)

    def call(self, name: str, arguments: dict[str, Any], result: str) -> None:
        """Show one call of a tool and, dimmed, what came back: a result, or an error in the same place."""
        given = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in arguments.items())
        self._print(Text(f"{_INDENT}{_flat(name)}({_flat(given)})"))
        self._print(Text(f"{_INDENT}{self._glyphs.result} {_flat(result)}", style="dim"))

    def remark(self, text: str) -> None:
        """Say something about the step above, dimmed."""
        for line in plain(text).splitlines():
            parts = [Text(line)]
            if self._console.is_terminal:
                parts = list(parts[0].wrap(self._console, self._console.width - len(_INDENT)))
            for part in parts:
                self._print(Text(f"{_INDENT}{part.plain.rstrip()}", style="dim"))

    def summary(self, steps: Sequence[StepReport]) -> None:
        """Show sums by kind of step, how they relate, and the conditions they were measured under."""
        if not steps:
            return
        columns = self._fitting(_SUMMARY_LAYOUTS)
        summary = summarise(steps)
        groups = summary.by_kind if len(summary.by_kind) == 1 else (*summary.by_kind, summary.total)
        width = sum(column.width + 1 for column in columns) - 1
        self._print(Text(self._glyphs.rule * width, style="dim"))
        self._header = ""
        self._print_header(columns)
        for group in groups:
            self._print(_line(columns, self._cells(columns, group)))
        for line in (*_explanation(steps), _conditions(steps)):
            self._print(Text(line, style="dim"), wrap=True)

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

    def _fitting(self, layouts: Sequence[tuple[_Column[Row], ...]], num_blocks: int = 0) -> tuple[_Column[Row], ...]:
        """Choose the fullest layout that fits on one line; a pipe has no width and takes the first."""
        room = self._console.width if self._console.is_terminal else None
        for columns in layouts:
            if room is None or sum(_width(column, num_blocks) + 1 for column in columns) - 1 <= room:
                return columns
        return layouts[-1]

    def _cells(self, columns: tuple[_Column[Row], ...], row: Row) -> list[Text]:
        return [column.cell(row, self._glyphs) for column in columns]

    def _print_header(self, columns: tuple[_Column[Row], ...], num_blocks: int = 0) -> None:
        line = _line(columns, [Text(column.header) for column in columns], num_blocks)
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


def _width(column: _Column[Row], num_blocks: int) -> int:
    return column.width or max(num_blocks, len("blocks"))


def _line(columns: Sequence[_Column[Row]], cells: Sequence[Text], num_blocks: int = 0) -> Text:
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


def _kind(row: StepReport | KindSummary, glyphs: _Glyphs) -> Text:
    return Text(row.kind.value.replace("_", " ") if row.kind else "all", style=_KIND_STYLES[row.kind])


def _short_kind(row: StepReport | KindSummary, glyphs: _Glyphs) -> Text:
    return Text(_SHORT_KINDS[row.kind], style=_KIND_STYLES[row.kind])


def _predicted(step: StepReport, glyphs: _Glyphs) -> Text:
    if step.predicted_kind is None:
        return Text()
    predicted = Text(step.predicted_kind.value.replace("_", " "), style=_KIND_STYLES[step.predicted_kind])
    return Text(" ").join([_guess(step, glyphs), predicted])


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


def _share(share: float) -> Text:
    return Text(f"{share:.0%}")


def _flops(row: StepReport | KindSummary, glyphs: _Glyphs) -> Text:
    percent = round(-100 * row.flops_saved)
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


def _rate(step: StepReport, glyphs: _Glyphs) -> Text:
    return _count(round(step.tokens_per_second)) if step.tokens_per_second else Text()


def _per_token(group: KindSummary, glyphs: _Glyphs) -> Text:
    tokens = group.generated_tokens - group.steps  # the first token of a step belongs to its prefill
    return _time(group.decode_ms / tokens) if tokens > 0 else Text()


def _nothing(row: StepReport, glyphs: _Glyphs) -> Text:
    return Text()


_StepLayout = tuple[_Column[StepReport], ...]
_SummaryLayout = tuple[_Column[KindSummary], ...]

_BLOCKS = _Column[StepReport]("blocks", 0, _strip, left=True)
_VISITS = _Column[StepReport]("blocks", 6, _visits)


def _step_layouts() -> tuple[_StepLayout, ...]:
    """From the fullest to the shortest; with 24 blocks they take 119, 103, 80, 58, 46 and 40 columns."""

    def number(header: str, width: int, field: str) -> _Column[StepReport]:
        return _Column(header, width, lambda step, glyphs: _count(getattr(step, field)))

    step = _Column[StepReport]("step", 5, _nothing)
    narrow_step, number_only = replace(step, width=4), replace(step, header="#", width=2)
    kind = _Column[StepReport]("kind", 9, _kind, left=True)
    short_kind = _Column[StepReport]("kind", 4, _short_kind, left=True)
    predicted = _Column[StepReport]("predicted", 11, _predicted, left=True)
    guess = _Column[StepReport]("", 1, _guess)
    skips = _Column[StepReport](
        "skips", 5, lambda step, glyphs: _share(step.visits_per_block.count(0) / step.num_blocks)
    )
    tokens = (number("prompt", 6, "prompt_tokens"), number("cached", 6, "cached_tokens"))
    generated = number("generated", 9, "generated_tokens")
    short_generated = replace(generated, header="gen", width=4)
    forwarded = number("fast-fwd", 8, "fast_forwarded_tokens")
    prefill = _Column[StepReport]("prefill", 7, lambda step, glyphs: _time(step.milliseconds.prefill))
    decode = _Column[StepReport]("decode", 7, lambda step, glyphs: _time(step.milliseconds.decode))
    rate = _Column[StepReport]("tok/s", 5, _rate)
    flops = _Column[StepReport]("FLOPs", 5, _flops)
    layouts: tuple[_StepLayout, ...] = (
        (step, kind, predicted, _BLOCKS, skips, *tokens, generated, forwarded, prefill, decode, rate, flops),
        (narrow_step, kind, guess, _BLOCKS, skips, *tokens, short_generated, forwarded, prefill, decode, rate, flops),
        (narrow_step, kind, guess, _BLOCKS, skips, *tokens, short_generated, decode, flops),
        (narrow_step, kind, guess, _BLOCKS, skips, short_generated, flops),
        (number_only, short_kind, guess, _BLOCKS, skips, flops),
        (number_only, short_kind, guess, _BLOCKS, flops),
    )
    counted = (tuple(_VISITS if column is _BLOCKS else column for column in layout) for layout in layouts)
    return (*layouts, *counted)  # a strip that fits nowhere becomes a count


def _summary_layouts() -> tuple[_SummaryLayout, ...]:
    """From the fullest to the shortest: 103, 78, 46 and 36 columns."""

    def number(header: str, width: int, field: str) -> _Column[KindSummary]:
        return _Column(header, width, lambda group, glyphs: _count(getattr(group, field)))

    steps = number("steps", 5, "steps")
    kind = _Column[KindSummary]("kind", 9, _kind, left=True)
    predicted = _Column[KindSummary]("predicted", 11, _predicted_right, left=True)
    skipped = _Column[KindSummary]("visits skipped", 14, lambda group, glyphs: _share(group.decode.skip_share))
    flops = _Column[KindSummary]("FLOPs", 5, _flops)
    prompt = _Column[KindSummary](
        "prefilled", 9, lambda group, glyphs: _count(group.prompt_tokens - group.cached_tokens)
    )
    generated, forwarded = number("generated", 9, "generated_tokens"), number("fast-fwd", 8, "fast_forwarded_tokens")
    prefill = _Column[KindSummary]("prefill", 7, lambda group, glyphs: _time(group.prefill_ms))
    decode = _Column[KindSummary]("decode", 7, lambda group, glyphs: _time(group.decode_ms))
    per_token = _Column[KindSummary]("per token", 9, _per_token)
    return (
        (steps, kind, predicted, skipped, flops, prompt, generated, forwarded, prefill, decode, per_token),
        (steps, kind, predicted, skipped, flops, prompt, generated, per_token),
        (steps, kind, skipped, flops, per_token),
        (steps, kind, skipped, flops),
    )


_STEP_LAYOUTS = _step_layouts()
_SUMMARY_LAYOUTS = _summary_layouts()


def _remarks(step: StepReport) -> Iterator[str]:
    if step.program != step.nominal_program:
        yield f"the router asked for {step.nominal_program}, the device ran {step.program}"
    if step.finish_reason == "length":
        yield "the answer was cut off at its token limit"
    elif step.finish_reason == "cancelled":
        yield "the answer was cancelled"


def _explanation(steps: Sequence[StepReport]) -> Iterator[str]:
    """Say why many skipped visits may be few FLOPs saved, and what else makes a token cheap."""
    yield "visits skipped: of generated tokens"
    flops = "FLOPs: against full depth, prompt and LM head included"
    if not any(step.prefill.skipped for step in steps):
        flops += "; the prompt runs every block, so a long prompt before a short answer leaves little to save"
    yield flops
    if any(step.fast_forwarded_tokens for step in steps):
        yield "per token: decode time, lowered too by tokens the tool grammar left no choice about (fast-fwd)"


def _conditions(steps: Sequence[StepReport]) -> str:
    """Name what the numbers were measured with."""

    def all_of(field: str) -> str:
        return "/".join(dict.fromkeys(plain(str(getattr(step, field))) for step in steps))

    return (
        f"{all_of('model')} on {all_of('device')}, {all_of('dtype')}, {all_of('backend')}; "
        f"router {all_of('router')}, scope {all_of('scope')}"
    )
