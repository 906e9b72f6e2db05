"""Several seeds of one recipe: each a run of its own in a process of its own, and what they say together."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from layerroute.bundle import load_bundle
from layerroute.errors import BundleError
from layerroute.files import replace_text
from layerroute_training.config import TrainConfig
from layerroute_training.data import StepData
from layerroute_training.errors import CheckpointError, ConfigError, TrainingError
from layerroute_training.evaluation.evaluate import seeds_summary
from layerroute_training.evaluation.report import EvaluationReport, SeedsSummary
from layerroute_training.run import BUNDLE

_LOG = "log.txt"
_STEPS = "steps"
_ASKED = "steps.json"


def seed_folder(out: Path, seed: int) -> Path:
    """Where the run of a seed is."""
    return out / f"seed-{seed}"


def has_steps(out: Path, config: TrainConfig) -> bool:
    """Whether the folder of a sweep holds the steps of this configuration's data, finished.

    Raises:
        CheckpointError: it holds the steps of other data.
    """
    try:
        found = json.loads((out / _ASKED).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    if found != _asked_of(config):
        raise CheckpointError(
            f"{out / _STEPS} holds steps of other data ({', '.join(found['corpora'])}), or steps that were cut "
            "otherwise: resume with the same --data, model and data settings, or choose another folder"
        )
    return True


def save_steps(data: StepData, out: Path, config: TrainConfig) -> None:
    """Keep the steps that a configuration asks for in the folder of its sweep."""
    data.save(steps_folder(out))
    replace_text(out / _ASKED, json.dumps(_asked_of(config), indent=2) + "\n")  # last: then the steps are complete


def steps_folder(out: Path) -> Path:
    """Where the steps of a sweep are that read its corpora itself."""
    return out / _STEPS


def _asked_of(config: TrainConfig) -> dict[str, Any]:
    """What decides the steps, as JSON values. Paths are absolute: the record stays in the folder of the sweep."""
    values = config.data.model_dump(mode="json", exclude={"corpora", "mixture"})
    corpora = {
        _absolute(corpus.name): corpus.model_dump(mode="json", exclude={"name"}) for corpus in config.data.corpora
    }
    return {**values, "model": _absolute(config.model), "corpora": corpora}


def _absolute(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


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


def summarise(sweep: Path, seeds: Iterable[int]) -> SeedsSummary:
    """What the evaluations in the bundles of these seeds say together.

    Raises:
        BundleError: a bundle is missing or damaged.
        TrainingError: one was not evaluated, not on both kinds of steps, or not on the same steps as the others.
    """
    return seeds_summary({seed: _report(sweep, seed) for seed in seeds})


def is_sweep(folder: Path) -> bool:
    """Whether a folder holds runs of seeds."""
    return bool(_seeds_in(folder))


def read_sweeps(folders: Sequence[Path]) -> dict[str, SeedsSummary]:
    """What the finished seeds of every sweep say together, by the folder's name; the others are named as left out.

    Raises:
        ConfigError: a folder is no sweep, or two have one name.
        TrainingError: a sweep has no finished seed; and as `summarise`.
    """
    sweeps: dict[str, SeedsSummary] = {}
    for folder in folders:
        name = folder.resolve().name
        if not is_sweep(folder):
            raise ConfigError(f"{folder} is no sweep: give folders of `layerroute train --seeds`, or one bundle")
        if name in sweeps:
            raise ConfigError(f"two of the sweeps are called {name}: rename one of the folders")
        sweeps[name] = _read_sweep(folder)
    return sweeps


def _read_sweep(folder: Path) -> SeedsSummary:
    reports, left_out = {}, []
    for seed in _seeds_in(folder):
        try:
            reports[seed] = _report(folder, seed)
        except BundleError:
            left_out.append(seed)
    if not reports:
        raise TrainingError(f"no seed of {folder} has a whole bundle: go on with `layerroute train --seeds N --resume`")
    return seeds_summary(reports).model_copy(update={"left_out": tuple(left_out)})


def _seeds_in(folder: Path) -> list[int]:
    names = (path.name for path in folder.glob("seed-*") if path.is_dir())
    return sorted(int(number) for name in names if (number := name.removeprefix("seed-")).isdecimal())


def _report(sweep: Path, seed: int) -> EvaluationReport:
    folder = seed_folder(sweep, seed)
    evaluation = load_bundle(folder / BUNDLE).metadata.evaluation
    if not evaluation:
        raise TrainingError(
            f"the bundle in {folder} was not evaluated: prepare data with dev steps, and leave out --no-evaluate"
        )
    try:
        return EvaluationReport.model_validate(evaluation)
    except ValidationError as error:
        raise TrainingError(
            f"the evaluation in the bundle in {folder} is of another version of layerroute: train the seed again"
        ) from error


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
