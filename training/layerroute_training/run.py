"""A run: from a configuration and steps to a bundle.

The folder of a run holds `bundle/`, `metrics.jsonl`, `checkpoints/` and, with TensorBoard installed, `tensorboard/`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import distributed
from transformers.utils import logging

from layerroute.backbone.config import resolve_checkpoint
from layerroute.bundle import BackboneIdentity, fingerprint, load_bundle
from layerroute.errors import BundleError
from layerroute.parts import reason
from layerroute_training.checkpoints import has_checkpoints, refuse_other_run
from layerroute_training.config import TrainConfig
from layerroute_training.data import StepData, check_steps, portable_name
from layerroute_training.errors import CheckpointError, CorpusError, NotMeasuredError
from layerroute_training.evaluation.evaluate import evaluate as evaluate_model
from layerroute_training.export import save_routed
from layerroute_training.objectives import make_objective
from layerroute_training.routed_model import RoutedModel
from layerroute_training.steps import StepSet
from layerroute_training.trainer import CHECKPOINTS, LayerRouteTrainer

BUNDLE = "bundle"
"""Name of the bundle in a run's folder."""

_NOT_DECISIVE = {"checkpoint_every", "log_every"}


def train(
    config: TrainConfig,
    data: StepData,
    out: Path,
    *,
    resume: bool = False,
    evaluate: bool = True,
    quiet: bool = False,
) -> Path:
    """Train gates and LoRA, measure them on the dev steps, and save a bundle.

    Under `torchrun` every process calls it; the first one writes.

    Args:
        config: of the run.
        data: its steps.
        out: folder of the run.
        resume: go on from the newest checkpoint in `out`; a finished run is left as it is, unless its bundle was to be
            measured and could not be.
        evaluate: whether to measure the bundle on the dev steps, if there are any.
        quiet: show no progress.

    Returns:
        The bundle's folder.

    Raises:
        CheckpointError: `out` holds another run, or one to be resumed, or cannot be written to.
        CorpusError: no steps, or steps that fit neither the model, nor the mixture, nor the objective.
        BackboneError: no checkpoint of the Qwen2 family under the model's name.
        NotMeasuredError: the bundle is saved, and could not be measured.
    """
    if quiet:
        logging.disable_progress_bar()  # transformers' own, while weights are read
    if not len(data.train):
        raise CorpusError("there are no steps to train on, all are held out: give data with training rows")
    folder = resolve_checkpoint(config.model)
    check_steps(data, config, folder)
    bundle = out / BUNDLE
    run = _identity(config, data)
    dev = data.dev if evaluate else None
    if _is_finished(bundle, out, run, resume, dev is not None):
        return bundle
    model = RoutedModel.from_config(config, folder)
    steps = data.train
    objective = make_objective(config.objective, steps.groups, steps.is_tool_call, len(model.gates_bias_L))
    trainer = LayerRouteTrainer(model, objective, config, steps, out, run, quiet=quiet)
    if trainer.done < config.schedule.updates:
        trainer.train()
    is_first = trainer.is_world_process_zero()
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()  # the first process measures and writes, the others are done
    if is_first:
        _write_bundle(bundle, model, config, folder, _training_notes(trainer, data, run), dev)
    return bundle


def _write_bundle(
    bundle: Path, model: RoutedModel, config: TrainConfig, folder: Path, notes: Mapping[str, Any], dev: StepSet | None
) -> None:
    name = portable_name(config.model)
    title = f"{config.objective.name}, seed {config.seed}"  # not the folder: equal runs give equal bundles
    evaluation: dict[str, Any] = {}
    failure = None
    try:
        if dev is not None:
            evaluation = evaluate_model(model, dev, bundle=title, backbone=name).model_dump(mode="json")
    except Exception as error:  # what was trained is kept, whatever becomes of measuring it
        failure = error
    identity = BackboneIdentity(name=name, fingerprint=fingerprint(folder))
    try:
        # A bundle that is there is of this very run, and was not measured.
        save_routed(model, bundle, backbone=identity, training=notes, evaluation=evaluation, overwrite=True)
    except BundleError as error:
        raise CheckpointError(f"{error}, and go on with --resume") from error
    if failure is not None:
        raise NotMeasuredError(
            f"the bundle is saved in {bundle}, but could not be measured ({reason(failure)}): mend that and go on with "
            "--resume, or measure it with `layerroute evaluate`"
        ) from failure


def _identity(config: TrainConfig, data: StepData) -> dict[str, Any]:
    """What decides the result of a run, as JSON values without paths of this machine."""
    values = config.model_dump(mode="json", exclude=_NOT_DECISIVE)
    values["model"] = portable_name(config.model)
    values["data"] = {"mixture": dict(config.data.mixture)}  # the digest of the steps stands for the rest
    return {
        "config": values,
        "steps": data.train.digest(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _is_finished(bundle: Path, out: Path, run: Mapping[str, Any], resume: bool, measures: bool) -> bool:
    if not resume and (bundle.exists() or has_checkpoints(out / CHECKPOINTS)):
        raise CheckpointError(f"{out} holds a run already: pass --resume to go on with it, or choose another folder")
    if not bundle.exists():
        return False
    metadata = load_bundle(bundle).metadata
    refuse_other_run(bundle, metadata.training["run"], run)
    return bool(metadata.evaluation) or not measures or not has_checkpoints(out / CHECKPOINTS)


def _training_notes(trainer: LayerRouteTrainer, data: StepData, run: Mapping[str, Any]) -> dict[str, Any]:
    """What the bundle says of its training."""
    objective = {name: value.tolist() for name, value in trainer.objective.state_dict().items()}
    trainable = {name: parameter.numel() for name, parameter in trainer.routed.trainable().items()}
    return {
        "run": dict(run),
        "data": {**data.notes, "steps": len(data.train), "dev": data.dev.digest() if data.dev is not None else None},
        "objective": {"cells": list(trainer.objective.cells), **objective},
        "skipped_updates": trainer.skipped_updates,
        "trainable_parameters": {
            "lora": sum(count for name, count in trainable.items() if "lora_" in name),
            "routers": sum(count for name, count in trainable.items() if "lora_" not in name),
        },
    }
