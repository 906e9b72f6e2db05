"""How far long work is: a bar with a rate on a terminal, a line every ten seconds in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

Progress = Callable[[str, int, int | None], None]
"""Told what is being done, how much of it is done so far, and how much there is to do, if that is known."""

SECONDS = 10.0
"""Between two lines of a log."""
MOMENT = 0.1
"""Seconds that a bar stands still, however often it is told."""


def no_progress(what: str, done: int, total: int | None) -> None:
    """Shows nothing."""


@contextmanager
def show_progress(console: Console) -> Iterator[Progress]:
    """Show on a console what one is told; nothing of it stays on a terminal."""
    if not console.is_terminal:
        yield _Log(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}
        shown = -1.0

        def progress(what: str, done: int, total: int | None) -> None:
            nonlocal shown
            now = time.monotonic()
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            elif now - shown < MOMENT and done != total:
                return
            shown = now
            bars.update(tasks[what], completed=done, total=total)

        yield progress


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


class _Log:
    """Writes lines; work that is done before the first one is due leaves none."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._what = ""
        self._began = self._last = time.monotonic()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._began = what, now
        if now - self._last < SECONDS:
            return
        self._last = now
        so_far = _so_far(done, total, now - self._began)
        self._console.print(what + so_far, highlight=False, markup=False, soft_wrap=True)


def _so_far(done: int, total: int | None, seconds: float) -> str:
    if not done:
        return ""
    text = f": {done:,}" if total is None else f": {done:,} of {total:,} ({done / total:.0%})"
    if seconds <= 0:
        return text
    rate = done / seconds
    left = "" if total is None else f", {(total - done) / rate:,.0f} s left"
    return f"{text}, {rate:,.0f} a second{left}"
