"""What is shown of long work."""

from io import StringIO

import pytest
from rich.console import Console

from layerroute_training import progress
from layerroute_training.progress import show_progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(clock):
    console = Console(file=StringIO(), width=60)
    with show_progress(console) as report:
        for second in range(31):
            clock[0] = float(second)
            report("reading rows", 50 * second, None)
        clock[0] = 40.0
        report("looking for text", 0, None)
        for second in range(41, 62):
            clock[0] = float(second)
            report("cutting conversations into steps", 100 * (second - 41), 8_000)
    assert console.file.getvalue().splitlines() == [
        "reading rows: 500, 50 a second",
        "reading rows: 1,000, 50 a second",
        "reading rows: 1,500, 50 a second",
        "looking for text",
        "cutting conversations into steps: 900 of 8,000 (11%), 100 a second, 71 s left",
        "cutting conversations into steps: 1,900 of 8,000 (24%), 100 a second, 61 s left",
    ]


def test_short_work_leaves_no_line(clock):
    console = Console(file=StringIO(), width=60)
    with show_progress(console) as report:
        report("reading rows", 14, None)
        clock[0] = 9.0
        report("reading rows", 20, None)
    assert console.file.getvalue() == ""


def test_a_terminal_gets_a_bar_with_a_rate(monkeypatch):
    monkeypatch.setattr(progress, "MOMENT", 0.0)
    console = Console(file=StringIO(), width=120, force_terminal=True, color_system=None)
    with show_progress(console) as report:
        for done in range(0, 401, 100):
            report("cutting", done, 400)
    shown = console.file.getvalue()
    assert "cutting" in shown
    assert "400/400" in shown
    assert "/s" in shown
