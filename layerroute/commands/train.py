"""Train the routers and the LoRA of a frozen backbone on conversations, and save them as a bundle."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from layerroute.commands.shared import print_document, print_path, show_error, tell_failed
from layerroute.console import PlainConsole
from layerroute.files import replace_text
from layerroute.parts import Parts

if TYPE_CHECKING:  # torch loads only when something is trained
    from layerroute_training.config import TrainConfig
    from layerroute_training.data import StepData

HELP = "train a bundle for a model, or one per seed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    what = parser.add_argument_group("what is trained")
    what.add_argument("--recipe", default="default", help="default, embedded or paper (default: %(default)s)")
    what.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="CORPUS",
        help="hub ids, files or folders in place of the recipe's own corpora",
    )
    what.add_argument("--steps", type=Path, metavar="DIR", help="train on what --prepare wrote there")
    what.add_argument(
        "--processes", type=int, metavar="P", help="most processes that read --data (default: a core each)"
    )
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting of the recipe, such as schedule.updates=300; may be repeated",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, metavar="DIR", help="folder of the run; the bundle is DIR/bundle")
    output.add_argument("--prepare", type=Path, metavar="DIR", help="write the steps of the corpora there, and stop")
    output.add_argument("--resume", action="store_true", help="go on from the last checkpoint in DIR")
    output.add_argument("--no-evaluate", action="store_true", help="do not measure the bundle on the dev split")
    output.add_argument("--quiet", action="store_true", help="show no progress")
    seeds = parser.add_argument_group("several seeds")
    seeds.add_argument("--seeds", type=int, metavar="N", help="train seeds 0 to N-1 in DIR/seed-K and compare them")
    seeds.add_argument("--parallel", type=int, default=1, metavar="N", help="runs at a time (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Train, and print the bundle's folder, or the summary over seeds as JSON."""
    _check_usage(args)
    from layerroute_training.config import override
    from layerroute_training.recipes import recipe

    console = PlainConsole(stderr=True, quiet=args.quiet)
    config = override(recipe(args.recipe, args.data), args.set)
    if args.prepare is not None:
        return _prepare(args, config, console)
    if args.seeds is not None:
        return _train_seeds(args, config, console)
    return _train_one(args, config)


def _prepare(args: argparse.Namespace, config: "TrainConfig", console: PlainConsole) -> int:
    data = _data(args, config, console)
    with console.status("writing the steps"):
        data.save(args.prepare)
    print_path(args.prepare)
    return 0


def _train_one(args: argparse.Namespace, config: "TrainConfig") -> int:
    from layerroute_training.errors import NotMeasuredError
    from layerroute_training.run import BUNDLE, train

    is_first = os.environ.get("RANK", "0") == "0"  # torchrun starts this command once per GPU
    quiet = args.quiet or not is_first
    data = _data(args, config, PlainConsole(stderr=True, quiet=quiet))
    failure: NotMeasuredError | None = None
    try:
        bundle = train(config, data, args.out, resume=args.resume, evaluate=not args.no_evaluate, quiet=quiet)
    except NotMeasuredError as error:
        bundle, failure = args.out / BUNDLE, error
    if is_first:
        print_path(bundle)
    if failure is not None:
        show_error(failure)
        return 1
    return 0


def _train_seeds(args: argparse.Namespace, config: "TrainConfig", console: PlainConsole) -> int:
    from layerroute_training.errors import CheckpointError
    from layerroute_training.sweep import has_steps, run_seeds, save_steps, seed_folder, steps_folder

    if not args.resume and any(seed_folder(args.out, seed).exists() for seed in range(args.seeds)):
        raise CheckpointError(f"{args.out} holds a sweep: pass --resume to go on with it, or choose another folder")
    steps = args.steps or steps_folder(args.out)
    if args.steps is None and not (args.resume and has_steps(args.out, config)):
        save_steps(_data(args, config, console), args.out, config)
    options = ["--recipe", args.recipe, "--steps", str(steps)]
    options += [word for setting in args.set for word in ("--set", setting)]
    options += ["--no-evaluate"] if args.no_evaluate else []
    run_seeds(options, args.out, args.seeds, args.parallel, console)
    if not args.no_evaluate:
        return _summarise(args, console)
    return 0


def _summarise(args: argparse.Namespace, console: PlainConsole) -> int:
    """Print what the seeds say together, and keep it in the sweep's folder, drawn if it can be drawn."""
    from layerroute_training.evaluation.plots import check_available, plot_sweep
    from layerroute_training.evaluation.tables import show, sweep_tables
    from layerroute_training.sweep import summarise

    summary = summarise(args.out, range(args.seeds))
    sweeps = {args.out.resolve().name: summary}
    show(sweep_tables(sweeps), console)
    print_document(summary.model_dump(mode="json"))
    parts, file = Parts(), args.out / "summary.json"
    parts.attempt(file.name, lambda: replace_text(file, summary.model_dump_json(indent=2) + "\n"))
    try:
        check_available()
    except ImportError as error:
        console.print(f"no plots: {error}", markup=False, highlight=False)
    else:
        plots = parts.attempt("plots", lambda: plot_sweep(sweeps, args.out / "plots"))
        for path in plots or ():
            console.print(f"plot: {path}", markup=False, highlight=False)
    return tell_failed(parts.failed, console)


def _data(args: argparse.Namespace, config: "TrainConfig", console: PlainConsole) -> "StepData":
    from layerroute_training.data import StepData, build_data
    from layerroute_training.progress import show_progress
    from layerroute_training.workers import available_cores

    if args.steps is not None:
        return StepData.load(args.steps)
    with show_progress(console) as progress:
        data = build_data(config, processes=args.processes or available_cores(), progress=progress)
    for line in data.describe():
        console.print(line, highlight=False, markup=False)
    return data


def _check_usage(args: argparse.Namespace) -> None:
    from layerroute_training.errors import ConfigError

    if (args.out is None) == (args.prepare is None):
        raise ConfigError("give either --out DIR, the folder of the run, or --prepare DIR")
    if args.prepare is not None and (args.steps is not None or args.seeds is not None or args.resume):
        raise ConfigError("--prepare only writes steps: leave out --steps, --seeds and --resume")
    if args.steps is not None and args.data:
        raise ConfigError("--steps holds what was read from corpora before: leave out --data")
    if args.processes is not None and args.processes < 1:
        raise ConfigError("--processes needs a number of at least 1")
    if args.processes is not None and args.steps is not None:
        raise ConfigError("--steps are read by one process: leave out --processes")
    if args.seeds is not None and args.seeds < 1:
        raise ConfigError("--seeds needs a number of at least 1")
    if args.parallel < 1 or (args.parallel > 1 and args.seeds is None):
        raise ConfigError("--parallel needs a number of at least 1, and more than 1 only with --seeds")
    if args.seeds is not None and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("--seeds starts a process per seed: start it without torchrun")
    if args.seeds is not None and any(setting.startswith("seed=") for setting in args.set):
        raise ConfigError("--seeds chooses the seeds: leave out --set seed")
