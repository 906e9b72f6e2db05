"""Measure a bundle on conversations that it was not trained on, or compare sweeps over seeds that were measured.

What is measured besides the bundle itself stands alone: a part that fails is named, and the exit code is 1.
"""

import argparse
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerroute.commands.shared import print_document, tell_failed
from layerroute.console import PlainConsole
from layerroute.parts import Parts

if TYPE_CHECKING:  # torch loads only when something is measured
    from layerroute_training.data import StepData
    from layerroute_training.evaluation.bundles import Subject

HELP = "measure a bundle: skip, quality, baselines, free-running answers; or compare sweeps over seeds"

_MEASURING: dict[str, Any] = {
    "backbone": None,
    "device": "auto",
    "data": (),
    "steps": None,
    "split": "dev",
    "limit": None,
    "baselines": False,
    "static_bundle": None,
    "free_running": 0,
    "processes": 1,
}
"""Options of a measurement, with their defaults. Sweeps are not measured: the reports in their bundles are read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "bundles",
        nargs="+",
        metavar="BUNDLE",
        help='a bundle\'s folder, or "embedded" for the shipped one; or folders that `layerroute train --seeds` wrote: '
        "these are compared by the reports in their bundles, without data",
    )
    parser.add_argument("--backbone", metavar="MODEL", help="folder or hub id (default: the one the bundle names)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    data = parser.add_argument_group("data (one of --data and --steps)")
    data.add_argument("--data", nargs="+", metavar="PATH", help="hub ids, files or folders of conversations")
    data.add_argument("--steps", type=Path, metavar="DIR", help="steps that `layerroute train --prepare` wrote")
    data.add_argument("--split", choices=("dev", "train"), help="of the data (default: %(default)s)")
    data.add_argument("--limit", type=int, metavar="N", help="most steps per group and kind (default: 1500)")
    more = parser.add_argument_group("what is measured besides")
    more.add_argument(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        help="other ways to skip as much, and quality against skip; wants a GPU (default: no)",
    )
    more.add_argument("--static-bundle", type=Path, metavar="DIR", help="bundle of a static program, as a baseline")
    more.add_argument(
        "--free-running", type=int, metavar="N", help="answer up to N tool-call steps and GSM8K questions"
    )
    more.add_argument("--processes", type=int, metavar="P", help="if more than 1, they answer on the CPU")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print the report as one JSON document, and no tables")
    output.add_argument("--plots", type=Path, metavar="DIR", help="draw plots into this folder (PNG and SVG)")
    parser.set_defaults(**_MEASURING)


def run(args: argparse.Namespace) -> int:
    """Measure a bundle or compare sweeps, and print the report on stdout."""
    from layerroute_training.sweep import is_sweep

    folders = [Path(name).expanduser() for name in args.bundles]
    if any(is_sweep(folder) for folder in folders):
        return _compare(args, folders)
    _check_usage(args)
    return _measure(args)


def _compare(args: argparse.Namespace, folders: list[Path]) -> int:
    from layerroute_training.errors import ConfigError
    from layerroute_training.evaluation.plots import check_available, plot_sweep
    from layerroute_training.evaluation.tables import show, sweep_tables
    from layerroute_training.sweep import read_sweeps

    given = [f"--{name.replace('_', '-')}" for name, default in _MEASURING.items() if getattr(args, name) != default]
    if given:
        raise ConfigError(f"sweeps are compared by the reports in their bundles: leave out {', '.join(given)}")
    if args.plots is not None:
        check_available()
    sweeps = read_sweeps(folders)
    if args.json:
        print_document({name: sweep.model_dump(mode="json") for name, sweep in sweeps.items()})
    else:
        show(sweep_tables(sweeps), PlainConsole())
    console, parts = PlainConsole(stderr=True, quiet=args.json), Parts()
    if args.plots is not None:
        parts.attempt("plots", lambda: _show_plots(plot_sweep(sweeps, args.plots), console))
    return tell_failed(parts.failed, console)


def _measure(args: argparse.Namespace) -> int:
    from layerroute_training.evaluation.bundles import Options, evaluate_bundle, find
    from layerroute_training.evaluation.plots import check_available, plot_report
    from layerroute_training.evaluation.tables import report_tables, show

    if args.plots is not None:
        check_available()
    console = PlainConsole(stderr=True, quiet=args.json)
    subject = find(args.bundles[0], args.backbone)
    options = Options(
        split=args.split,
        limit=args.limit,
        baselines=args.baselines,
        static=args.static_bundle,
        free_running=args.free_running,
        processes=args.processes,
        device=args.device,
    )
    data = _data(args, subject, console)
    with nullcontext() if args.json else console.status("measuring") as status:
        report = evaluate_bundle(subject, data, options, status.update if status else lambda text: None)
    if args.json:
        print_document(report.model_dump(mode="json"))
    else:
        show(report_tables(report), PlainConsole())
    parts = Parts()
    if args.plots is not None:
        parts.attempt("plots", lambda: _show_plots(plot_report(report, args.plots), console))
    return tell_failed({**report.failed, **parts.failed}, console)


def _show_plots(paths: Iterable[Path], console: PlainConsole) -> None:
    for path in paths:
        console.print(f"plot: {path}", markup=False, highlight=False)


def _data(args: argparse.Namespace, subject: "Subject", console: PlainConsole) -> "StepData":
    from layerroute_training.config import DataConfig, TrainConfig
    from layerroute_training.data import StepData, build_data
    from layerroute_training.progress import show_progress
    from layerroute_training.recipes import corpora_of
    from layerroute_training.workers import available_cores

    if args.steps is not None:
        return StepData.load(args.steps)
    # Baselines are fitted on training rows, and those that share text with what is measured would help them.
    data = DataConfig(corpora=corpora_of(args.data), drop_overlap=True)
    config = TrainConfig(model=subject.backbone, data=data)
    with show_progress(console) as progress:
        return build_data(config, processes=available_cores(), progress=progress)


def _check_usage(args: argparse.Namespace) -> None:
    from layerroute_training.errors import ConfigError

    if len(args.bundles) > 1:
        raise ConfigError("give one bundle, or folders that `layerroute train --seeds` wrote")
    if bool(args.data) == (args.steps is not None):
        raise ConfigError("give either --data, corpora to evaluate on, or --steps, a folder of prepared steps")
    if args.static_bundle is not None and not args.baselines:
        raise ConfigError("--static-bundle is one more baseline: give --baselines too")
    if args.limit is not None and args.limit < 1:
        raise ConfigError("--limit needs a number of at least 1")
    if args.free_running < 0 or args.processes < 1:
        raise ConfigError("--free-running needs a number of at least 0, and --processes of at least 1")
