"""`layerroute train --seeds`: runs that resume, and what they say together."""

import io
import json

import pytest
import tiny_runs
from rich.console import Console

from layerroute.bundle import load_bundle
from layerroute.cli import main
from layerroute_training.evaluation.evaluate import seeds_summary
from layerroute_training.evaluation.report import EvaluationReport, SeedsSummary
from layerroute_training.sweep import summary_table


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Folder of the checkpoint, of the steps, and of a finished sweep over two seeds."""
    root = tmp_path_factory.mktemp("sweep")
    folder, steps, out = tiny_runs.checkpoint(root / "tiny"), root / "steps", root / "out"
    tiny_runs.data(folder).save(steps)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tiny_runs.environment().items():
            patch.setenv(name, value)
        assert main([*tiny_runs.train_command(folder, steps, out), "--seeds", "2", "--parallel", "2"]) == 0
    return folder, steps, out


def reports(out):
    bundles = {seed: load_bundle(out / f"seed-{seed}" / "bundle") for seed in (0, 1)}
    return {seed: EvaluationReport.model_validate(bundle.metadata.evaluation) for seed, bundle in bundles.items()}


def test_every_seed_is_a_run_of_its_own(sweep):
    *_, out = sweep
    trained = [load_bundle(out / f"seed-{seed}" / "bundle").metadata.training for seed in (0, 1)]
    assert [training["run"]["config"]["seed"] for training in trained] == [0, 1]
    assert trained[0]["run"]["steps"] == trained[1]["run"]["steps"]


def test_again_nothing_is_trained_but_what_is_missing(sweep, capsys, monkeypatch):
    folder, steps, out = sweep
    for name, value in tiny_runs.environment().items():
        monkeypatch.setenv(name, value)
    before = tiny_runs.contents(out / "seed-0" / "bundle")
    lost = tiny_runs.contents(out / "seed-1" / "bundle")
    for path in (out / "seed-1" / "bundle").iterdir():
        path.unlink()
    (out / "seed-1" / "bundle").rmdir()
    command = [*tiny_runs.train_command(folder, steps, out), "--seeds", "2", "--parallel", "2"]
    assert main(command) == 2
    assert "pass --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert tiny_runs.contents(out / "seed-0" / "bundle") == before
    assert tiny_runs.contents(out / "seed-1" / "bundle") == lost
    printed = SeedsSummary.model_validate(json.loads(capsys.readouterr().out))
    assert printed == seeds_summary(reports(out))


def test_a_failing_seed_is_named_with_its_reason(sweep, tmp_path, capsys, monkeypatch):
    folder, _, _ = sweep
    for name, value in tiny_runs.environment().items():
        monkeypatch.setenv(name, value)
    command = tiny_runs.train_command(folder, tmp_path / "none", tmp_path / "out")
    assert main([*command, "--seeds", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 1 seeds failed, first seed 0: layerroute: " in line
    assert "save them again" in line


def test_the_table_shows_every_seed(sweep):
    *_, out = sweep
    shown = io.StringIO()
    summary = seeds_summary(reports(out))
    Console(width=200, file=shown).print(summary_table(summary))
    text = shown.getvalue()
    for result in summary.seeds:
        assert f"{100 * result.differential.value:+.1f} [" in text
    assert f"p = {summary.sign_test:.2g}" in text
