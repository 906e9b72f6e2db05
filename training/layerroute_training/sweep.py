"""Several seeds of one recipe: each a run of its own in a process of its own, and what they say together."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from layerroute.bundle import load_bundle
from layerroute_training.errors import TrainingError
from layerroute_training.evaluation.evaluate import seeds_summary
from layerroute_training.evaluation.report import EvaluationReport, Interval, SeedsSummary, Spread
from layerroute_training.run import BUNDLE

_LOG = "log.txt"


def seed_folder(out: Path, seed: int) -> Path:
    """Where the run of a seed is."""
    return out / f"seed-{seed}"


def run_seeds(options: Sequence[str], out: Path, seeds: int, parallel: int, console: Console) -> None:
    """Run `layerroute train` with these options for every seed; runs that are there are resumed, or left if finished.

    Args:
        options: of the command line, less the seed and the folder.
        out: the runs are in `out/seed-K`, each with what it printed in `log.txt`.
        seeds: how many, from 0 on.
        parallel: runs at a time.
        console: told of every run that ends.

    Raises:
        TrainingError: a run failed; the others have been finished.
    """
    waiting = list(range(seeds))
    running: dict[int, subprocess.Popen[bytes]] = {}
    failed: list[int] = []
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                seed = waiting.pop(0)
                running[seed] = _start(options, out, seed)
            seed = _first_to_end(running)
            if running.pop(seed).returncode:
                failed.append(seed)
            console.print(f"seed {seed} {'failed' if seed in failed else 'done'}")
    finally:
        for process in running.values():
            process.terminate()
    if failed:
        log = seed_folder(out, failed[0]) / _LOG
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise TrainingError(
            f"{len(failed)} of {seeds} seeds failed, first seed {failed[0]}: {said[-1] if said else 'it said nothing'} "
            f"(all of it in {log}): mend that and go on with --resume"
        )


def summarise(out: Path, seeds: int) -> SeedsSummary:
    """What the evaluations in the bundles of all seeds say together.

    Raises:
        BundleError: a bundle is missing or damaged.
        CorpusError: one was not evaluated on both kinds of steps.
    """
    reports = {}
    for seed in range(seeds):
        evaluation = load_bundle(seed_folder(out, seed) / BUNDLE).metadata.evaluation
        if not evaluation:
            raise TrainingError(
                f"the bundle of seed {seed} was not evaluated: prepare data with dev steps, and leave out --no-evaluate"
            )
        reports[seed] = EvaluationReport.model_validate(evaluation)
    return seeds_summary(reports)


def summary_table(summary: SeedsSummary) -> Table:
    """A row per seed, and one for all of them."""
    caption = (
        f"differential above zero in {summary.positive} of {len(summary.seeds)} seeds (sign test, two-sided "
        f"p = {summary.sign_test:.2g}), length-matched interval above zero in {summary.matched_excludes_zero}"
    )
    table = Table(caption=caption)
    table.add_column("seed")
    for name in (
        "differential",
        "length-matched",
        "skip tool call",
        "skip planning",
        "rise tool call",
        "rise planning",
    ):
        table.add_column(name, justify="right")
    for result in summary.seeds:
        table.add_row(
            str(result.seed),
            _points(result.differential),
            _points(result.matched),
            f"{result.skip_tool_call:.1%}",
            f"{result.skip_planning:.1%}",
            f"{result.rise_tool_call:+.2%}",
            f"{result.rise_planning:+.2%}",
        )
    table.add_section()
    table.add_row(
        "mean",
        _range(summary.differential, "+.1f", 100),
        _range(summary.matched, "+.1f", 100),
        _range(summary.skip_tool_call, ".1%"),
        _range(summary.skip_planning, ".1%"),
        _range(summary.rise_tool_call, "+.2%"),
        _range(summary.rise_planning, "+.2%"),
    )
    return table


def _start(options: Sequence[str], out: Path, seed: int) -> subprocess.Popen[bytes]:
    folder = seed_folder(out, seed)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "layerroute.cli", "train", *options]
    command += ["--set", f"seed={seed}", "--out", str(folder), "--resume", "--quiet"]
    with (folder / _LOG).open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def _first_to_end(running: dict[int, subprocess.Popen[bytes]]) -> int:
    while True:
        for seed, process in running.items():
            try:
                process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            return seed


def _points(interval: Interval | None) -> str:
    if interval is None:
        return "none"
    return f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def _range(spread: Spread | None, form: str, scale: float = 1.0) -> str:
    if spread is None:
        return "none"
    mean, low, high = (format(value * scale, form) for value in (spread.mean, spread.low, spread.high))
    return f"{mean} ({low} to {high})"
