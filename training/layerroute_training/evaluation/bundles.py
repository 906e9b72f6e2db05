"""The whole evaluation of a bundle: found with its backbone, measured teacher-forced, and free-running."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from layerroute.backbone.config import EMBEDDED, embedded_folder, resolve_checkpoint
from layerroute.bundle import RoutingMetadata, load_bundle
from layerroute.engine.config import EngineConfig
from layerroute.engine.loading import resolve_device
from layerroute.errors import BackboneNotFoundError
from layerroute.parts import Parts
from layerroute.report import Scope
from layerroute_training.config import TrainConfig
from layerroute_training.data import StepData, check_steps
from layerroute_training.errors import ConfigError, CorpusError, OverlapError
from layerroute_training.evaluation.answering import Condition
from layerroute_training.evaluation.baselines import STATIC_BUNDLE, StaticBundle
from layerroute_training.evaluation.equal_skip import choose
from layerroute_training.evaluation.evaluate import LIMIT, evaluate
from layerroute_training.evaluation.free_running import FULL, free_running, programs_of
from layerroute_training.evaluation.report import EvaluationReport, FreeRunning
from layerroute_training.evaluation.statistics import BoolArray
from layerroute_training.export import load_routed
from layerroute_training.rows import Split
from layerroute_training.steps import StepSet


@dataclass(frozen=True)
class Subject:
    """A bundle and the backbone that it was trained for.

    Attributes:
        name: as reports show it. folder: the bundle's. backbone: name, folder or hub id; backbone_folder: where it is.
    """

    name: str
    folder: Path
    metadata: RoutingMetadata
    backbone: str
    backbone_folder: Path


@dataclass(frozen=True)
class Options:
    """What is measured beside the routed model itself, and how.

    Attributes:
        split: of the data that is measured.
        limit: most steps per group and kind; None for `evaluate.LIMIT`.
        baselines: whether baselines and the frontier are measured too, and answer too if anything answers.
        static: folder of a bundle trained for one static program, as one more baseline.
        free_running: steps of each task that are answered freely; 0 for none.
        processes: 1 answers on the device; more are worker processes that answer on the CPU.
        device: as in `EngineConfig`.
    """

    split: Split = "dev"
    limit: int | None = None
    baselines: bool = False
    static: Path | None = None
    free_running: int = 0
    processes: int = 1
    device: str = "auto"


def find(bundle: str, backbone: str | None = None) -> Subject:
    """The bundle in a folder, or "embedded", the shipped one, with the backbone that it names (or `backbone`).

    Raises:
        BundleError: missing, damaged, or of an unknown format.
        BackboneError: its backbone cannot be found.
    """
    folder = embedded_folder() / "bundle" if bundle == EMBEDDED else Path(bundle).expanduser()
    metadata = load_bundle(folder).metadata
    name = backbone or metadata.backbone.name
    try:
        backbone_folder = resolve_checkpoint(name)
    except BackboneNotFoundError as error:
        if backbone is not None:
            raise
        raise BackboneNotFoundError(
            f"{bundle} was trained for a backbone called {name!r}, which is not to be found here ({error}): "
            "give its folder or hub id by --backbone"
        ) from error
    shown = EMBEDDED if bundle == EMBEDDED else folder.resolve().name
    return Subject(shown, folder, metadata, name, backbone_folder)


def evaluate_bundle(
    subject: Subject, data: StepData, options: Options, status: Callable[[str], None] = lambda text: None
) -> EvaluationReport:
    """Measure a bundle; of what is measured besides, parts that fail are named in the report.

    Args:
        subject: of `find`.
        data: steps for its backbone; baselines are fitted on its training steps.
        options: what is measured.
        status: told what is going on.

    Raises:
        CorpusError: no steps to measure, or steps of another tokenizer.
        OverlapError: the bundle was trained on these very steps.
        ConfigError: a static bundle that is none, or options that contradict each other.
        BundleError: the bundle, or the static one, was made for another backbone.
    """
    steps = _steps(subject, data, options)
    device = resolve_device(options.device)
    precision = "bfloat16" if device.type == "cuda" else "float32"

    def load(folder: Path) -> Any:
        return load_routed(folder, subject.backbone_folder, precision).to(device)

    status("loading the bundle and its backbone")
    logging.disable_progress_bar()  # transformers' own, which would run through the status
    model, static = load(subject.folder), None
    if options.static is not None:
        static = StaticBundle(options.static.resolve().name, load(options.static), _skipped_of(options.static))
    status("measuring: answers as they stand in the data")
    limit = LIMIT if options.limit is None else options.limit
    programs: dict[str, BoolArray] = {}
    parts = Parts()
    report = evaluate(
        model,
        steps,
        data.train,
        baselines=options.baselines,
        frontier=options.baselines,
        published=True,
        limit=limit,
        static=static,
        programs=programs,
        parts=parts,
        bundle=subject.name,
        backbone=subject.metadata.backbone.name,
        split=options.split,
    )
    if not options.free_running:
        return report
    del model, static  # the engine loads its own
    measured = steps.select(choose(steps, limit, report.conditions.seed))
    baselines = {name: programs[name] for name in programs if report.baselines}

    def answer() -> FreeRunning:
        return free_running(
            EngineConfig(model=str(subject.backbone_folder), device="cpu" if options.processes > 1 else options.device),
            conditions(subject.folder, subject.metadata.scope, baselines, options.static),
            measured,
            limit=options.free_running,
            processes=options.processes,
            progress=lambda done, of: status(f"answering freely: {done} of {of} steps"),
        )

    found = parts.attempt("free-running answers", answer)
    return report.model_copy(update={"free_running": found, "failed": dict(parts.failed)})


def conditions(
    bundle: Path, scope: Scope, programs: Mapping[str, BoolArray], static: Path | None = None
) -> tuple[Condition, ...]:
    """The ways of answering that a report compares: routed, full depth and bare, with grammar and without; baselines.

    Args:
        bundle: whose LoRA answers. scope: of its programs.
        programs: blocks that every step takes, by baseline; these answer with grammar.
        static: bundle whose LoRA answers for the baseline `STATIC_BUNDLE`.
    """
    ways = [("routed", str(bundle), "gates"), (FULL, str(bundle), "full"), ("bare", "none", "full")]
    plain = [Condition(*way, grammar=grammar, scope=scope) for grammar in (True, False) for way in ways]
    others = [
        Condition(
            name,
            str(static if name == STATIC_BUNDLE and static else bundle),
            "full",
            programs=programs_of(run_NL),
            scope=scope,
        )
        for name, run_NL in programs.items()
    ]
    return (*plain, *others)


def _steps(subject: Subject, data: StepData, options: Options) -> StepSet:
    steps = data.train if options.split == "train" else data.dev
    if steps is None or not len(steps):
        raise CorpusError(f"the data have no {options.split} steps: give data of that split, or another --split")
    if options.baselines and not len(data.train):
        raise CorpusError("baselines are fitted on training steps, and all steps are held out: leave out --baselines")
    check_steps(data, TrainConfig(model=subject.backbone), subject.backbone_folder)
    trained_on = subject.metadata.training.get("run", {}).get("steps")
    if trained_on is not None and trained_on == steps.digest():
        raise OverlapError(
            f"{subject.name} was trained on these very steps: evaluate it on others, such as --split dev"
        )
    return steps


def _skipped_of(folder: Path) -> tuple[int, ...]:
    """The order of removal that a static bundle was trained for."""
    objective = load_bundle(folder).metadata.training.get("run", {}).get("config", {}).get("objective", {})
    if objective.get("name") != "static":
        raise ConfigError(
            f"{folder} was not trained for a static program: train one with the static objective, or leave it out"
        )
    return tuple(objective["skipped"])
