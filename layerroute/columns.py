"""The columns of a run's tables: what a cell says of a step or of a kind of step, and which columns fit a width.

Cells are built of plain numbers and this module's own words, so that any report takes one line, whatever it claims.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Generic, TypeVar

from layerroute.report import KindSummary, StepKind, StepReport

Row = TypeVar("Row", bound=StepReport | KindSummary)

Cell = list[tuple[str, str]]
"""Pieces of text, each with its style, as `rich.text.Text.assemble` takes them. A character takes one column."""

_KIND_STYLES = {StepKind.TOOL_CALL: "cyan", StepKind.PLANNING: "magenta", None: "bold"}
_SHORT_KINDS = {StepKind.TOOL_CALL: "call", StepKind.PLANNING: "plan", None: "all"}


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Marks of a terminal that knows Unicode, or of one that does not."""

    run: str
    skipped: str
    right: str
    wrong: str
    rule: str
    result: str


UNICODE = Glyphs(run="■", skipped="·", right="✓", wrong="✗", rule="─", result="→")
ASCII = Glyphs(run="#", skipped=".", right="=", wrong="!", rule="-", result="->")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table: `cell` shows one row of it. `width` 0 is the width of the block strip."""

    header: str
    width: int
    cell: Callable[[Row, Glyphs], Cell]
    left: bool = False

    def width_for(self, num_blocks: int) -> int:
        """Columns on the screen, beside a strip of so many blocks."""
        return self.width or max(num_blocks, len("blocks"))


def fitting(layouts: Sequence[tuple[Column[Row], ...]], num_blocks: int, room: int | None) -> tuple[Column[Row], ...]:
    """Choose the fullest layout that fits on one line of `room` columns; without a limit the first."""
    for columns in layouts:
        if room is None or sum(column.width_for(num_blocks) + 1 for column in columns) - 1 <= room:
            return columns
    return layouts[-1]


def line(columns: Sequence[Column[Row]], cells: Sequence[Cell], num_blocks: int = 0) -> Cell:
    """Set cells side by side, each as wide as its column."""
    pieces: Cell = []
    for column, cell in zip(columns, cells, strict=True):
        missing = max(0, column.width_for(num_blocks) - sum(len(text) for text, _ in cell))
        padding = (" " * missing, "")
        pieces += [*cell, padding] if column.left else [padding, *cell]
        pieces.append((" ", ""))
    while pieces and not pieces[-1][0].strip():
        pieces.pop()
    return pieces


def _kind(row: StepReport | KindSummary, glyphs: Glyphs) -> Cell:
    return [(row.kind.value.replace("_", " ") if row.kind else "all", _KIND_STYLES[row.kind])]


def _short_kind(row: StepReport | KindSummary, glyphs: Glyphs) -> Cell:
    return [(_SHORT_KINDS[row.kind], _KIND_STYLES[row.kind])]


def _predicted(step: StepReport, glyphs: Glyphs) -> Cell:
    if step.predicted_kind is None:
        return []
    predicted = (step.predicted_kind.value.replace("_", " "), _KIND_STYLES[step.predicted_kind])
    return [*_guess(step, glyphs), (" ", ""), predicted]


def _guess(step: StepReport, glyphs: Glyphs) -> Cell:
    if step.predicted_kind is None:
        return []
    is_right = step.predicted_kind == step.kind
    return [(glyphs.right, "green") if is_right else (glyphs.wrong, "bold red")]


def _predicted_right(group: KindSummary, glyphs: Glyphs) -> Cell:
    return [(f"{group.predicted_right}/{group.predicted} right" if group.predicted else "", "")]


def _strip(step: StepReport, glyphs: Glyphs) -> Cell:
    marks = {0: (glyphs.skipped, "dim"), 1: (glyphs.run, "green")}
    strip: Cell = []
    for visits, blocks in groupby(step.visits_per_block):
        many = str(visits) if 0 < visits < 10 else "+" if visits > 0 else "?"
        mark, style = marks.get(visits, (many, "bold yellow"))
        strip.append((mark * len(list(blocks)), style))
    return strip


def _visits(step: StepReport, glyphs: Glyphs) -> Cell:
    return [(f"{_spell(sum(step.visits_per_block))}/{_spell(step.num_blocks)}", "")]


def _share(share: float) -> Cell:
    return [(f"{share:.0%}" if abs(share) < 10 else f"{share:.0e}", "")]


def _flops(row: StepReport | KindSummary, glyphs: Glyphs) -> Cell:
    percent = round(-100 * row.flops_saved)
    shown = f"{percent:+d}%" if abs(percent) < 1000 else f"{percent / 100:+.0e}"
    return [(shown if percent else "0%", "green" if percent < 0 else "yellow" if percent > 0 else "")]


def _count(number: float) -> Cell:
    return [(_spell(number), "")]


def _spell(number: float) -> str:
    if abs(number) < 100_000:
        return f"{number:.0f}"
    if abs(number) < 999_500:
        return f"{number / 1e3:.0f}k"
    return f"{number / 1e6:.1f}M" if abs(number) < 999_950_000 else f"{number:.0e}"


def _time(milliseconds: float) -> Cell:
    seconds = milliseconds / 1000
    if abs(milliseconds) < 9.95:
        return [(f"{milliseconds:.1f} ms", "")]
    if abs(milliseconds) < 9999.5:
        return [(f"{milliseconds:.0f} ms", "")]
    if abs(seconds) < 999.95:
        return [(f"{seconds:.1f} s", "")]
    return [(f"{seconds:.0f} s" if abs(seconds) < 99_999.5 else f"{seconds:.0e} s", "")]


def _rate(step: StepReport, glyphs: Glyphs) -> Cell:
    return _count(step.tokens_per_second) if step.tokens_per_second else []


def _per_token(group: KindSummary, glyphs: Glyphs) -> Cell:
    tokens = group.generated_tokens - group.steps  # the first token of a step belongs to its prefill
    return _time(group.decode_ms / tokens) if tokens > 0 else []


def _nothing(row: StepReport, glyphs: Glyphs) -> Cell:
    return []


_StepLayout = tuple[Column[StepReport], ...]
_SummaryLayout = tuple[Column[KindSummary], ...]

_BLOCKS = Column[StepReport]("blocks", 0, _strip, left=True)
_VISITS = Column[StepReport]("blocks", 6, _visits)


def _step_layouts() -> tuple[_StepLayout, ...]:
    """From the fullest to the shortest; with 24 blocks they take 119, 103, 80, 58, 46 and 40 columns."""

    def number(header: str, width: int, field: str) -> Column[StepReport]:
        return Column(header, width, lambda step, glyphs: _count(getattr(step, field)))

    step = Column[StepReport]("step", 5, _nothing)
    narrow_step, number_only = replace(step, width=4), replace(step, header="#", width=2)
    kind = Column[StepReport]("kind", 9, _kind, left=True)
    short_kind = Column[StepReport]("kind", 4, _short_kind, left=True)
    predicted = Column[StepReport]("predicted", 11, _predicted, left=True)
    guess = Column[StepReport]("", 1, _guess)
    skips = Column[StepReport]("skips", 5, lambda step, glyphs: _share(step.skip_share))
    tokens = (number("prompt", 6, "prompt_tokens"), number("cached", 6, "cached_tokens"))
    generated = number("generated", 9, "generated_tokens")
    short_generated = replace(generated, header="gen", width=4)
    forwarded = number("fast-fwd", 8, "fast_forwarded_tokens")
    prefill = Column[StepReport]("prefill", 7, lambda step, glyphs: _time(step.milliseconds.prefill))
    decode = Column[StepReport]("decode", 7, lambda step, glyphs: _time(step.milliseconds.decode))
    rate = Column[StepReport]("tok/s", 5, _rate)
    flops = Column[StepReport]("FLOPs", 5, _flops)
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

    def number(header: str, width: int, field: str) -> Column[KindSummary]:
        return Column(header, width, lambda group, glyphs: _count(getattr(group, field)))

    steps = number("steps", 5, "steps")
    kind = Column[KindSummary]("kind", 9, _kind, left=True)
    predicted = Column[KindSummary]("predicted", 11, _predicted_right, left=True)
    skipped = Column[KindSummary]("visits skipped", 14, lambda group, glyphs: _share(group.decode.skip_share))
    flops = Column[KindSummary]("FLOPs", 5, _flops)
    prompt = Column[KindSummary](
        "prefilled", 9, lambda group, glyphs: _count(group.prompt_tokens - group.cached_tokens)
    )
    generated, forwarded = number("generated", 9, "generated_tokens"), number("fast-fwd", 8, "fast_forwarded_tokens")
    prefill = Column[KindSummary]("prefill", 7, lambda group, glyphs: _time(group.prefill_ms))
    decode = Column[KindSummary]("decode", 7, lambda group, glyphs: _time(group.decode_ms))
    per_token = Column[KindSummary]("per token", 9, _per_token)
    return (
        (steps, kind, predicted, skipped, flops, prompt, generated, forwarded, prefill, decode, per_token),
        (steps, kind, predicted, skipped, flops, prompt, generated, per_token),
        (steps, kind, skipped, flops, per_token),
        (steps, kind, skipped, flops),
    )


STEP_LAYOUTS = _step_layouts()
"""Columns of a step's line, from the fullest to the shortest layout."""

SUMMARY_LAYOUTS = _summary_layouts()
"""Columns of the sums by kind of step, likewise."""
