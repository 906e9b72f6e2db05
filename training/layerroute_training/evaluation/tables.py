"""The tables of a report and of a sweep: one model of a table, shown on a terminal or written as Markdown."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import rich.table
from rich.console import Console
from rich.text import Text

from layerroute.console import plain
from layerroute_training.evaluation.report import (
    ALL,
    EvaluationReport,
    FreeRunningScore,
    GroupReport,
    Interval,
    KindReport,
    Outcome,
    SeedsSummary,
    Spread,
)

NOTHING = "–"
_PAGE = 160  # columns where there is no terminal


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the rows. `note` says under what it was measured, or how to read it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def report_tables(report: EvaluationReport) -> list[Table]:
    """The tables of one evaluation, those without content left out."""
    tables = [*_kind_tables(report), _differential_table(report), *_length_tables(report.all)]
    tables += [_baseline_table(report), _frontier_table(report), _published_table(report), _free_running_table(report)]
    return [table for table in tables if table.rows]


def sweep_tables(sweeps: Mapping[str, SeedsSummary]) -> list[Table]:
    """The tables of one or more sweeps over seeds, by name: one with all of them, then one each."""
    rows = tuple((label, *(cell(sweep) for sweep in sweeps.values())) for label, cell in _SWEEP_ROWS)
    note = "Mean (lowest to highest) over seeds; p of a two-sided sign test. NLL rise is relative to full depth."
    if len({sweep.data for sweep in sweeps.values()}) > 1:
        note += " The sweeps were measured on different steps: their numbers do not compare."
    return [Table("Seeds", ("", *sweeps), rows, note), *(_seed_table(*item) for item in sweeps.items())]


def show(tables: Iterable[Table], console: Console) -> None:
    """Print tables; where the console is no terminal, on a page that is wide enough for them."""
    page = console if console.is_terminal else Console(file=console.file, width=_PAGE, quiet=console.quiet)
    for table in tables:
        page.print(to_rich(table), "")


def to_rich(table: Table) -> rich.table.Table:
    """The table for a terminal; foreign names cannot steer it."""
    shown = rich.table.Table(
        title=Text(plain(table.title), style="bold"),
        caption=Text(plain(table.note)) if table.note else None,
        title_justify="left",
        caption_justify="left",
        box=None,
    )
    for index, column in enumerate(table.columns):
        shown.add_column(Text(plain(column)), justify="left" if index == 0 else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(plain(cell)) for cell in row))
    return shown


def to_markdown(table: Table) -> str:
    """The table as Markdown, with its title in bold before it and its note behind."""
    rule = ["---", *["--:"] * (len(table.columns) - 1)]
    lines = [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in (table.columns, rule, *table.rows)]
    parts = [f"**{_cell(table.title)}**", "\n".join(lines), _cell(table.note)]
    return "\n\n".join(part for part in parts if part) + "\n"


def share(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * value:.1f} %"


def signed_share(value: float) -> str:
    """A relative change as a percentage."""
    return f"{100 * value:+.2f} %"


def points(value: float) -> str:
    """A difference of two shares in percentage points."""
    return f"{100 * value:+.1f}"


def _nll(value: float) -> str:
    return f"{value:.4f}"


def _signed_nll(value: float) -> str:
    return f"{value:+.4f}"


def _count(value: int) -> str:
    return f"{value:,}"


def _with_ends(found: Interval | None, shown: Callable[[float], str]) -> str:
    return NOTHING if found is None else f"{shown(found.value)} [{_bare(shown, found.low)}, {_bare(shown, found.high)}]"


def _bare(shown: Callable[[float], str], value: float) -> str:
    return shown(value).removesuffix(" %")


def _spread(found: Spread | None, shown: Callable[[float], str]) -> str:
    return (
        NOTHING if found is None else f"{shown(found.mean)} ({_bare(shown, found.low)} to {_bare(shown, found.high)})"
    )


def _cell(text: str) -> str:
    return plain(text).replace("|", "\\|").replace("\n", " ")


_KIND_ROWS: tuple[tuple[str, Callable[[KindReport], str]], ...] = (
    ("steps", lambda kind: _count(kind.steps)),
    ("answer tokens", lambda kind: _count(kind.tokens)),
    ("skip, generated tokens", lambda kind: _with_ends(kind.skip, share)),
    ("skip, all tokens", lambda kind: _with_ends(kind.skip_all, share)),
    ("FLOPs of full depth", lambda kind: _with_ends(kind.flops, share)),
    ("NLL routed", lambda kind: _with_ends(kind.routed.nll, _nll)),
    ("NLL full depth", lambda kind: _with_ends(kind.full.nll, _nll)),
    ("NLL bare backbone", lambda kind: _with_ends(kind.bare.nll, _nll)),
    ("rise over full depth", lambda kind: _with_ends(kind.rise_relative, signed_share)),
    ("bare minus routed", lambda kind: _with_ends(kind.gain_over_bare, _signed_nll)),
    ("perplexity routed", lambda kind: _with_ends(kind.routed.perplexity, _nll)),
    ("perplexity full depth", lambda kind: _with_ends(kind.full.perplexity, _nll)),
    ("perplexity bare backbone", lambda kind: _with_ends(kind.bare.perplexity, _nll)),
)


_SWEEP_ROWS: tuple[tuple[str, Callable[[SeedsSummary], str]], ...] = (
    ("seeds", lambda sweep: _seeds(sweep)),
    ("differential, points", lambda sweep: _spread(sweep.differential, points)),
    ("differential positive", lambda sweep: f"{_of_seeds(sweep.positive, sweep)} (p = {sweep.sign_test:.2g})"),
    ("length-matched, points", lambda sweep: _spread(sweep.matched, points)),
    ("length-matched interval above zero", lambda sweep: _of_seeds(sweep.matched_excludes_zero, sweep)),
    ("skip, tool-call", lambda sweep: _spread(sweep.skip_tool_call, share)),
    ("skip, planning", lambda sweep: _spread(sweep.skip_planning, share)),
    ("NLL rise, tool-call", lambda sweep: _spread(sweep.rise_tool_call, signed_share)),
    ("NLL rise, planning", lambda sweep: _spread(sweep.rise_planning, signed_share)),
    ("NLL below bare backbone, tool-call", lambda sweep: _of_seeds(sweep.below_bare_tool_call, sweep)),
    ("NLL below bare backbone, planning", lambda sweep: _of_seeds(sweep.below_bare_planning, sweep)),
)


def _seeds(sweep: SeedsSummary) -> str:
    left_out = ", ".join(map(str, sweep.left_out))
    return f"{len(sweep.seeds)}, without {left_out}: unfinished" if left_out else str(len(sweep.seeds))


def _of_seeds(count: int, sweep: SeedsSummary) -> str:
    return f"{count} of {len(sweep.seeds)}"


def _kind_tables(report: EvaluationReport) -> Iterator[Table]:
    under = report.conditions
    note = (
        f"{under.bundle} on {under.backbone}, {under.scope} scope, {under.split} split, {under.device}, {under.dtype}. "
        "NLL in nats per answer token; 95 % intervals by bootstrap over conversations."
    )
    groups = report.groups if len(report.groups) > 2 else {ALL: report.all}  # one group and "all" are the same steps
    for name, group in groups.items():
        kinds = {"tool-call": group.tool_call, "planning": group.planning, "both": group.both}
        found = {kind: entry for kind, entry in kinds.items() if entry is not None}
        rows = tuple((label, *(cell(entry) for entry in found.values())) for label, cell in _KIND_ROWS)
        yield Table(f"By kind of step: {name}", ("", *found), rows, note)


def _differential_table(report: EvaluationReport) -> Table:
    columns = {name: _differential_column(group) for name, group in report.groups.items() if group.differential}
    labels = dict.fromkeys(label for column in columns.values() for label in column)
    rows = tuple((label, *(column.get(label, NOTHING) for column in columns.values())) for label in labels)
    note = "The differential is the skip of tool-call steps minus that of planning steps, of generated-token visits."
    return Table("Differential, length control and predicted kind", ("", *columns), rows, note)


def _differential_column(group: GroupReport) -> dict[str, str]:
    column = {"differential, points": _with_ends(group.differential, points)}
    control, prediction = group.length_control, group.prediction
    if control is not None:
        for name, matched, swapped in (
            ("prompt", control.by_prompt, control.swapped_prompt),
            ("answer", control.by_answer, control.swapped_answer),
        ):
            column[f"matched by {name} length"] = _with_ends(matched.differential if matched else None, points)
            column[f"tool calls with long {name}s, planning with short"] = _with_ends(swapped.long_tool_calls, points)
            column[f"tool calls with short {name}s, planning with long"] = _with_ends(swapped.short_tool_calls, points)
        column["correlation of skip and kind"] = _number(control.correlation)
        column["the same, given both lengths"] = _number(control.partial_correlation)
    if prediction is not None:
        column["kind foreseen, AUC"] = _number(prediction.auc)
        column["kind foreseen, accuracy"] = share(prediction.accuracy)
        column["calibration error (ECE)"] = _number(prediction.ece)
        column["Brier score"] = _number(prediction.brier)
    return column


def _length_tables(group: GroupReport) -> Iterator[Table]:
    control = group.length_control
    for label, found in (("prompt", control and control.by_prompt), ("answer", control and control.by_answer)):
        octiles = found.octiles if found else ()
        rows = tuple(
            (
                f"{octile.low:.0f} to {octile.high:.0f}",
                _count(octile.tool_calls),
                _count(octile.plannings),
                _share_or_nothing(octile.skip_tool_call),
                _share_or_nothing(octile.skip_planning),
                NOTHING
                if octile.skip_tool_call is None or octile.skip_planning is None
                else points(octile.skip_tool_call - octile.skip_planning),
            )
            for octile in octiles
        )
        columns = ("tokens", "tool-call steps", "planning steps", "skip, tool-call", "skip, planning", "differential")
        yield Table(f"Octiles of {label} length", columns, rows)


def _baseline_table(report: EvaluationReport) -> Table:
    columns = ("", "mean skip", "skip, tool-call", "skip, planning", "NLL, tool-call", "NLL, planning", "behind routed")
    note = "All at the routed model's mean skip over both kinds. Behind: mean NLL minus the routed model's, paired."
    rows = tuple(
        (
            outcome.name,
            share(outcome.mean_skip),
            share(outcome.tool_call.skip),
            share(outcome.planning.skip),
            _nll(outcome.tool_call.nll.value),
            _nll(outcome.planning.nll.value),
            _with_ends(outcome.behind, _signed_nll),
        )
        for outcome in report.baselines
    )
    return Table("Baselines at equal skip", columns, rows, note)


def _frontier_table(report: EvaluationReport) -> Table:
    def cells(outcome: Outcome) -> tuple[str, ...]:
        return (_signed_nll(outcome.tool_call.rise.value), _signed_nll(outcome.planning.rise.value))

    rows = tuple(
        (
            share(point.target),
            share(point.routed.tool_call.skip),
            share(point.routed.planning.skip),
            *cells(point.routed),
            *cells(point.static),
            *cells(point.random),
        )
        for point in report.frontier
    )
    ways = (f"{way}, {kind}" for way in ("routed", "static", "random") for kind in ("call", "plan"))
    columns = ("target", "skip, call", "skip, plan", *ways)
    note = "Rise of NLL over full depth, nats per token; static and random at the mean skip of the routed model."
    return Table("Quality against skip", columns, rows, note)


def _published_table(report: EvaluationReport) -> Table:
    rows = tuple(
        (
            found.kind.value,
            *(_nll(value) for value in (found.paper_full, found.paper_routed, found.full, found.routed)),
            _count(found.unchanged),
            *(NOTHING if value is None else _signed_nll(value) for value in (found.paper_change, found.change)),
        )
        for found in report.published
    )
    ways = ("paper, full", "paper, routed", "ours, full", "ours, routed")
    columns = ("perplexity", *ways, "unchanged steps", "paper's change there", "our change there")
    note = "The paper's formula holds the gate penalty, so it changes even where every block runs in both passes."
    return Table("Published perplexity", columns, rows, note)


def _free_running_table(report: EvaluationReport) -> Table:
    found = report.free_running
    columns = ("", "grammar", "steps", "exact match", "minus full", "functions", "argument F1", "calls", "skip")
    if found is None:
        return Table("Free running", columns, ())
    groups = {score.group for score in found.scores}
    shown = [score for score in found.scores if len(groups) > 2 or score.group == ALL]
    note = f"Greedy; minus full in points, paired. {'; '.join(found.notes)}".strip()
    return Table("Free running", columns, tuple(_free_running_row(score) for score in shown), note)


def _free_running_row(score: FreeRunningScore) -> tuple[str, ...]:
    return (
        f"{score.task} ({score.group}): {score.condition}",
        "on" if score.grammar else "off",
        _count(score.steps),
        _with_ends(score.exact_match, share),
        _with_ends(score.difference, points),
        _value(score.function_match),
        _value(score.argument_f1),
        _value(score.calls),
        share(score.skip),
    )


def _seed_table(name: str, sweep: SeedsSummary) -> Table:
    rows = tuple(
        (
            str(seed.seed),
            _with_ends(seed.differential, points),
            _with_ends(seed.matched, points),
            share(seed.skip_tool_call),
            share(seed.skip_planning),
            signed_share(seed.rise_tool_call),
            signed_share(seed.rise_planning),
            _signed_nll(seed.gain_tool_call),
            _signed_nll(seed.gain_planning),
        )
        for seed in sweep.seeds
    )
    measured = ("differential", "length-matched", "skip, call", "plan", "NLL rise, call", "plan")
    columns = ("seed", *measured, "bare minus routed, call", "plan")
    note = "Differentials in points, with 95 % intervals. Bare minus routed: NLL, nats per answer token."
    return Table(f"Seeds of {name}", columns, rows, note)


def _value(found: Interval | None) -> str:
    return NOTHING if found is None else share(found.value)


def _share_or_nothing(value: float | None) -> str:
    return NOTHING if value is None else share(value)


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"
