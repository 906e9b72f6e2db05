"""`layerroute train --seeds`: runs that resume, and what they say together."""

import json
import shutil

import pytest
import tiny_runs

from layerroute.bundle import load_bundle
from layerroute.cli import main
from layerroute_training.config import override
from layerroute_training.errors import CorpusError
from layerroute_training.evaluation.evaluate import seeds_summary
from layerroute_training.evaluation.report import EvaluationReport, SeedsSummary
from layerroute_training.evaluation.tables import sweep_tables
from layerroute_training.recipes import recipe
from layerroute_training.sweep import has_steps, save_steps


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
    printed = SeedsSummary.model_validate_json(capsys.readouterr().out)
    assert printed == seeds_summary(reports(out))
    assert SeedsSummary.model_validate_json((out / "summary.json").read_text()) == printed
    assert {"differential_by_seed.png", "rise_by_seed.svg"} < {path.name for path in (out / "plots").iterdir()}


def test_a_failing_seed_is_named_with_its_reason(sweep, tmp_path, capsys, monkeypatch):
    folder, _, _ = sweep
    for name, value in tiny_runs.environment().items():
        monkeypatch.setenv(name, value)
    command = tiny_runs.train_command(folder, tmp_path / "none", tmp_path / "out")
    assert main([*command, "--seeds", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 1 seeds failed, first seed 0: layerroute: " in line
    assert "save them again" in line


# Resumed with other data


@pytest.mark.parametrize(
    ("data", "setting", "refused"),
    [
        ("same", "data.mixture={}", False),
        ("other", "data.mixture={}", True),
        ("same", "data.window=700", True),
        ("same", "data.drop_overlap=true", True),
    ],
)
def test_a_sweep_keeps_to_the_data_that_it_began_with(sweep, tmp_path, capsys, data, setting, refused):
    folder, *_ = sweep
    corpora = {name: tmp_path / name for name in ("same", "other")}
    for path in corpora.values():
        path.mkdir()
    settings, out = tiny_runs.settings(folder), tmp_path / "out"
    save_steps(tiny_runs.data(folder), out, override(recipe("default", [str(corpora["same"])]), settings))
    settings = [*settings, setting]
    config = override(recipe("default", [str(corpora[data])]), settings)
    if not refused:
        assert has_steps(out, config)
        return
    words = [word for one in settings for word in ("--set", one)]
    command = ["train", *words, "--data", str(corpora[data]), "--out", str(out), "--seeds", "1", "--resume"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"holds steps of other data ({corpora['same']})" in said
    assert "resume with the same --data, model and data settings, or choose another folder" in said
    assert not (out / "seed-0").exists()


def test_steps_that_were_not_finished_are_no_steps(sweep, tmp_path):
    folder, *_ = sweep
    tiny_runs.data(folder).save(tmp_path / "out" / "steps")
    assert not has_steps(tmp_path / "out", tiny_runs.config(folder))


# Compared


@pytest.fixture
def sweeps(sweep, tmp_path):
    """Two sweeps side by side: the one that was trained, and one whose second seed was cut off."""
    *_, out = sweep
    for name in ("whole", "cut"):
        shutil.copytree(out, tmp_path / name)
    (tmp_path / "cut" / "seed-1" / "bundle" / "routing.json").unlink()
    return tmp_path / "whole", tmp_path / "cut"


def test_sweeps_are_compared_without_data(sweep, sweeps, tmp_path, capsys):
    found = reports(sweep[-1])
    assert main(["evaluate", *map(str, sweeps), "--plots", str(tmp_path / "plots")]) == 0
    out, err = capsys.readouterr()
    rows = {line.split("  ")[0].strip(): line for line in out.split("Seeds of")[0].splitlines()}
    assert rows["Seeds"]
    assert rows["seeds"].split() == ["seeds", "2", "1,", "without", "1:", "unfinished"]
    assert rows["skip, tool-call"].endswith(f"{100 * found[0].all.tool_call.skip.value:.1f}) ")
    for report in found.values():
        assert f"{100 * report.all.differential.value:+.1f} [" in out
    assert err.count("plot: ") == 4
    assert "cut, planning" in (tmp_path / "plots" / "rise_by_seed.svg").read_text()


def test_compared_sweeps_as_json(sweep, sweeps, capsys):
    assert main(["evaluate", *map(str, sweeps), "--json"]) == 0
    out, err = capsys.readouterr()
    found = {name: SeedsSummary.model_validate(value) for name, value in json.loads(out).items()}
    both = reports(sweep[-1])
    assert err == ""
    assert found["whole"] == seeds_summary(both)
    assert found["cut"] == seeds_summary({0: both[0]}).model_copy(update={"left_out": (1,)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "x", "--baselines"], "leave out --data, --baselines"),
        (["--static-bundle", "x"], "leave out --static-bundle"),
        (["--limit", "3", "--split", "train"], "leave out --split, --limit"),
        (["embedded"], "embedded is no sweep"),
        (["{whole}"], "two of the sweeps are called whole"),
    ],
)
def test_what_cannot_be_compared_is_refused(sweeps, options, message, capsys):
    whole, _ = sweeps
    assert main(["evaluate", str(whole), *(option.format(whole=whole) for option in options)]) == 2
    assert message in capsys.readouterr().err


def test_a_sweep_that_says_nothing(sweep, sweeps, tmp_path, capsys, monkeypatch):
    folder, steps, _ = sweep
    _, cut = sweeps
    shutil.rmtree(cut / "seed-0" / "bundle")
    assert main(["evaluate", str(cut)]) == 2
    assert "no seed of" in capsys.readouterr().err
    out = tmp_path / "unmeasured" / "seed-0"
    assert main(tiny_runs.train_command(folder, steps, out, "--no-evaluate")) == 0
    assert main(["evaluate", str(tmp_path / "unmeasured")]) == 2
    assert "leave out --no-evaluate" in capsys.readouterr().err


def test_seeds_on_different_steps_do_not_compare(sweep):
    one, two = reports(sweep[-1]).values()
    other = two.model_copy(update={"conditions": two.conditions.model_copy(update={"data": "0" * 64})})
    with pytest.raises(CorpusError, match="different steps: train them all with the same --steps"):
        seeds_summary({0: one, 1: other})
    table, *_ = sweep_tables({"one": seeds_summary({0: one}), "other": seeds_summary({1: other})})
    assert "do not compare" in table.note
    table, *_ = sweep_tables({"one": seeds_summary({0: one}), "two": seeds_summary({1: two})})
    assert "do not compare" not in table.note
