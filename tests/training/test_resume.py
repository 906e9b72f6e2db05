"""Killed runs, damaged checkpoints, full disks and several processes: the bundle is right, or there is none."""

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import tiny_runs
import torch

from layerroute.bundle import load_bundle
from layerroute_training import run as training_run
from layerroute_training.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from layerroute_training.data import StepData
from layerroute_training.errors import CheckpointError, NotMeasuredError
from layerroute_training.run import train

RUN = {"config": {"seed": 0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_runs.checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def steps(folder, tmp_path_factory):
    steps = tmp_path_factory.mktemp("steps")
    tiny_runs.data(folder).save(steps)
    return steps


@contextmanager
def files_of_at_most(num_bytes):
    """As on a full disk: no file can grow beyond this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Killed(BaseException):
    """Stands for a process that is killed."""


# Runs

KILLED_AFTER_10 = """
import os, signal, sys
from layerroute.cli import main
from layerroute_training.trainer import LayerRouteTrainer
after_update = LayerRouteTrainer.after_update
def dies(trainer, update):
    after_update(trainer, update)
    if update == 10:
        os.kill(os.getpid(), signal.SIGKILL)
LayerRouteTrainer.after_update = dies
main(sys.argv[1:])
"""


def test_a_killed_run_resumes_to_the_same_bundle(folder, steps, tmp_path):
    """A real SIGKILL of a real process between two checkpoints; drop-out, noise and accumulation are on."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    changes = ("schedule.updates=24", "checkpoint_every=4")
    words = [word for setting in changes for word in ("--set", setting)]
    command = tiny_runs.train_command(folder, steps, killed, *words)
    process = subprocess.run(
        [sys.executable, "-c", KILLED_AFTER_10, *command], env=tiny_runs.environment(), check=False
    )
    assert process.returncode == -signal.SIGKILL
    metrics = killed / "metrics.jsonl"
    assert metrics.read_bytes().count(b"\n") == 10
    assert not (killed / "bundle").exists()
    assert (killed / "checkpoints" / "update-000008").exists()

    config, data = tiny_runs.config(folder, *changes), StepData.load(steps)
    torch.set_num_threads(1)  # as in the process that was killed
    resumed = train(config, data, killed, resume=True, quiet=True)
    assert tiny_runs.contents(resumed) == tiny_runs.contents(train(config, data, whole, quiet=True))
    updates = [json.loads(line)["update"] for line in metrics.read_text().splitlines()]
    assert updates == list(range(1, 25))


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over(folder, steps, tmp_path, monkeypatch, file):
    config, data = tiny_runs.config(folder), StepData.load(steps)
    bundle = train(config, data, tmp_path, evaluate=False, quiet=True)
    expected = tiny_runs.contents(bundle)
    for path in bundle.iterdir():
        path.unlink()
    bundle.rmdir()
    last = tmp_path / "checkpoints" / "update-000006" / file
    os.truncate(last, last.stat().st_size - 3)
    assert tiny_runs.contents(train(config, data, tmp_path, resume=True, evaluate=False, quiet=True)) == expected


def test_a_run_without_checkpoints_starts_over(folder, steps, tmp_path):
    config, data = tiny_runs.config(folder, "schedule.updates=1"), StepData.load(steps)
    assert load_bundle(train(config, data, tmp_path, resume=True, evaluate=False, quiet=True))


def test_a_bundle_that_cannot_be_written_is_not_there(folder, steps, tmp_path, monkeypatch):
    config, data = tiny_runs.config(folder), StepData.load(steps)
    save = training_run.save_routed

    def on_a_full_disk(*args, **options):
        with files_of_at_most(1_000):
            save(*args, **options)

    monkeypatch.setattr(training_run, "save_routed", on_a_full_disk)
    with pytest.raises(CheckpointError, match=r"cannot write the bundle .*make room"):
        train(config, data, tmp_path, evaluate=False, quiet=True)
    assert not (tmp_path / "bundle").exists()
    monkeypatch.undo()
    assert load_bundle(train(config, data, tmp_path, resume=True, evaluate=False, quiet=True))


def test_a_bundle_that_cannot_be_measured_is_there_and_measured_later(folder, steps, tmp_path, monkeypatch):
    config, data = tiny_runs.config(folder), StepData.load(steps)
    whole = tiny_runs.contents(train(config, data, tmp_path / "whole", quiet=True))

    def fail(*_, **__):
        raise RuntimeError("no memory\nand a long trace")

    monkeypatch.setattr(training_run, "evaluate_model", fail)
    with pytest.raises(NotMeasuredError, match=r"saved in .*bundle.* \(RuntimeError: no memory\): .*--resume"):
        train(config, data, tmp_path / "run", quiet=True)
    assert load_bundle(tmp_path / "run" / "bundle").metadata.evaluation == {}
    kept = train(config, data, tmp_path / "run", resume=True, evaluate=False, quiet=True)
    assert load_bundle(kept).metadata.evaluation == {}
    monkeypatch.undo()
    assert tiny_runs.contents(train(config, data, tmp_path / "run", resume=True, quiet=True)) == whole


# Checkpoints


def checkpoint(update):
    return Checkpoint(update, {"x": torch.full((500,), float(update))}, RUN)


def test_the_last_two_are_kept(tmp_path):
    for update in (2, 4, 6, 10):
        save_checkpoint(tmp_path, checkpoint(update))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-000006", "update-000010"]
    newest = newest_checkpoint(tmp_path, RUN)
    assert newest.update == 10
    assert torch.equal(newest.tensors["x"], torch.full((500,), 10.0))


def test_a_full_disk_leaves_the_one_before(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1))
    with (
        files_of_at_most(1_500),
        pytest.raises(CheckpointError, match=r"make room on the disk and go on with --resume"),
    ):
        save_checkpoint(tmp_path, checkpoint(2))
    assert newest_checkpoint(tmp_path, RUN).update == 1
    save_checkpoint(tmp_path, checkpoint(3))
    assert newest_checkpoint(tmp_path, RUN).update == 3


@pytest.mark.parametrize("call", range(6))
def test_a_save_killed_at_any_point_leaves_a_whole_one(tmp_path, monkeypatch, call):
    """Killed at each of the five times that a save waits for the disk, or (last) not at all."""
    save_checkpoint(tmp_path, checkpoint(1))
    calls = iter(range(100))
    fsync = os.fsync

    def dies(handle):
        if next(calls) == call:
            raise Killed
        fsync(handle)

    monkeypatch.setattr(os, "fsync", dies)
    try:
        save_checkpoint(tmp_path, checkpoint(2))
        survived = True
    except Killed:
        survived = False
    assert survived == (call == 5)
    assert newest_checkpoint(tmp_path, RUN).update == (1 if call < 4 else 2)  # the fifth comes after the rename


def test_only_damaged_ones_are_no_start(tmp_path):
    path = save_checkpoint(tmp_path, checkpoint(1))
    (path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"every checkpoint .* is damaged: remove that folder"):
        newest_checkpoint(tmp_path, RUN)


def test_none_yet(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere", RUN) is None


# Several processes

WORKER = """
import json, os, sys
from pathlib import Path
import tiny_runs
from layerroute_training import run
from layerroute_training.data import StepData

made = []
make = run.make_objective
run.make_objective = lambda *args: made.append(make(*args)) or made[0]
folder, steps, out = map(Path, sys.argv[1:])
run.train(tiny_runs.config(folder), StepData.load(steps), out, evaluate=False, quiet=True)
rank = os.environ["RANK"]
(out / f"rank-{rank}.json").write_text(json.dumps(made[0].multiplier_C.tolist()))
"""


def test_two_processes_agree(folder, steps, tmp_path):
    script, out = tmp_path / "worker.py", tmp_path / "out"
    script.write_text(WORKER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    subprocess.run([*launcher, str(folder), str(steps), str(out)], env=tiny_runs.environment(), check=True)
    first, second = (json.loads((out / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert any(first)
    training = load_bundle(out / "bundle").metadata.training
    assert training["objective"]["multiplier_C"] == first
    assert training["run"]["processes"] == 2
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == list(range(1, 7))
    with pytest.raises(CheckpointError, match="processes was 2 and is 1 now"):
        train(tiny_runs.config(folder), StepData.load(steps), out, resume=True, quiet=True)
