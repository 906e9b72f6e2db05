"""Plots and tables of a real, small evaluation."""

import io
import sys

import pytest
from made_steps import made_model, made_steps
from rich.console import Console

from layerroute_training.evaluation.evaluate import evaluate, seeds_summary
from layerroute_training.evaluation.plots import check_available, plot_report, plot_sweep
from layerroute_training.evaluation.report import ALL, FreeRunning, FreeRunningScore, Interval
from layerroute_training.evaluation.tables import Table, report_tables, sweep_tables, to_markdown, to_rich

PNG = b"\x89PNG\r\n\x1a\n"


def score(condition, group=ALL, value=0.5):
    return FreeRunningScore(
        task="tool_call",
        group=group,
        condition=condition,
        grammar=True,
        steps=7,
        exact_match=Interval(value=value, low=value - 0.125, high=value + 0.125),
        skip=0.25,
        difference=Interval(value=-0.5, low=-0.75, high=0.0),
    )


@pytest.fixture(scope="module")
def reports():
    """Two seeds; the first with baselines and frontier."""
    options = {"sample": 5, "greedy_depth": 1, "targets": (0.2, 0.4), "bundle": "[red]|mine", "published": True}
    dev, train = made_steps(80), made_steps(40, seed=1)
    whole = evaluate(made_model(), dev, train, baselines=True, frontier=True, **options)
    found = FreeRunning(max_tokens=9, seed=0, scores=(score("routed"), score("full")), notes=("left out 2: why",))
    return {0: whole.model_copy(update={"free_running": found}), 1: evaluate(made_model(seed=1), dev)}


@pytest.fixture(scope="module")
def sweeps(reports):
    return {"default": seeds_summary(reports), "paper": seeds_summary({3: reports[1]})}


def test_plots_of_a_report(reports, tmp_path):
    paths = plot_report(reports[0], tmp_path / "plots")
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "plots").iterdir()}
    names = {path.stem for path in paths}
    assert names == {"skip_by_block", "frontier", "skip_by_prompt_length", "skip_by_answer_length"}
    assert all(path.read_bytes().startswith(PNG) for path in paths if path.suffix == ".png")
    frontier = (tmp_path / "plots" / "frontier.svg").read_text()
    for text in (
        "skip of generated-token visits (%)",
        "nats per token",
        *(one.name for one in reports[0].baselines[1:]),
    ):
        assert text in frontier


def test_what_was_not_measured_is_not_drawn(reports, tmp_path):
    calls = evaluate(made_model(), made_steps(20, calls=True))
    assert {path.stem for path in plot_report(calls, tmp_path)} == {"skip_by_block"}
    assert not any(table.title.startswith(("Quality", "Free", "Octiles")) for table in report_tables(calls))


def test_plots_of_sweeps(sweeps, tmp_path):
    paths = plot_sweep(sweeps, tmp_path)
    assert {path.name for path in paths} == {
        f"{name}.{ending}" for name in ("differential_by_seed", "rise_by_seed") for ending in ("png", "svg")
    }
    text = (tmp_path / "differential_by_seed.svg").read_text()
    assert "points" in text
    assert "paper, length-matched" in text


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    check_available()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install .*layerroute\[train\]"):
        check_available()


def table_named(tables, title):
    (table,) = (table for table in tables if table.title == title)
    return table


def test_tables_hold_the_reports_numbers(reports):
    report = reports[0]
    tables = report_tables(report)
    kinds = table_named(tables, "By kind of step: all")
    rows = {row[0]: row[1:] for row in kinds.rows}
    tool_call = report.all.tool_call
    assert kinds.columns == ("", "tool-call", "planning", "both")
    assert rows["steps"][0] == str(tool_call.steps)
    assert rows["skip, generated tokens"][0].startswith(f"{100 * tool_call.skip.value:.1f} % [")
    assert rows["NLL bare backbone"][0].startswith(f"{tool_call.bare.nll.value:.4f} [")
    baselines = table_named(tables, "Baselines at equal skip")
    assert [row[0] for row in baselines.rows] == [one.name for one in report.baselines]
    assert len(table_named(tables, "Quality against skip").rows) == len(report.frontier)
    free = table_named(tables, "Free running")
    assert free.rows[0][:5] == ("tool_call (all): routed", "on", "7", "50.0 % [37.5, 62.5]", "-50.0 [-75.0, +0.0]")
    assert "left out 2: why" in free.note


def test_tables_of_sweeps(sweeps):
    together, default, paper = sweep_tables(sweeps)
    assert together.columns == ("", "default", "paper")
    assert {row[0]: row[1] for row in together.rows}["differential positive"].split(" (")[0].endswith(" of 2")
    assert [row[0] for row in default.rows] == ["0", "1"]
    assert [row[0] for row in paper.rows] == ["3"]


def test_every_cell_has_a_column(reports, sweeps):
    for table in [*report_tables(reports[0]), *sweep_tables(sweeps)]:
        assert {len(row) for row in table.rows} == {len(table.columns)}, table.title


def test_markdown():
    text = to_markdown(Table("A|b", ("", "x"), (("one", "1"), ("t\nwo|", "2")), "note"))
    assert text == "**A\\|b**\n\n|  | x |\n| --- | --: |\n| one | 1 |\n| t wo\\| | 2 |\n\nnote\n"


def test_foreign_names_are_shown_and_not_obeyed(reports):
    console = Console(width=200, record=True, file=io.StringIO())
    for table in report_tables(reports[0]):
        console.print(to_rich(table))
    assert "[red]|mine" in console.export_text()
