"""`layerroute train` from rows to a bundle, and its errors: each one line that names the remedy, and exit code 2."""

import gzip
import json
from dataclasses import asdict
from itertools import product

import pytest
import tiny_runs

from layerroute.bundle import load_bundle
from layerroute.cli import main
from layerroute_training.data import StepData
from layerroute_training.rows import Row


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_runs.checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
    return path


def everything(path):
    return write(path, [*tiny_runs.conversations(10), *tiny_runs.conversations(4, 50, "dev")])


def command(folder, corpus, out, *more):
    words = [word for setting in tiny_runs.settings(folder, *more) for word in ("--set", setting)]
    return ["train", *words, "--data", str(corpus), "--out", str(out), "--quiet"]


def said(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_rows_become_a_bundle(folder, tmp_path, capsys):
    corpus = everything(tmp_path / "data" / "toolcall" / "rows.jsonl.gz").parent.parent
    assert main(command(folder, corpus, tmp_path / "out")) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'bundle'}\n"
    training = load_bundle(tmp_path / "out" / "bundle").metadata.training
    (read,) = training["data"]["corpora"]
    assert (read["name"], read["read"], read["kept"], read["malformed"]) == ("toolcall", 14, 14, {})
    assert training["data"]["counts"]["train"]["steps"] == training["data"]["steps"] == 20
    assert training["data"]["counts"]["dev"]["steps"] == 8


def test_held_out_steps_do_not_follow_the_tools_lent_in_training(folder, tmp_path):
    """Runs that lend tools to another share of their training prompts are measured on the same steps."""
    plain = []
    for split, number in product(("train", "dev"), range(20)):
        question = {"role": "user", "content": f"{split} question {number}"}
        messages = [question, {"role": "assistant", "content": f"answer {number}"}]
        plain.append(Row(f"{split}-{number}", "made", split, [], messages))
    with_tools = [*tiny_runs.conversations(2), *tiny_runs.conversations(2, 50, "dev")]
    corpus = write(tmp_path / "rows.jsonl.gz", [*with_tools, *plain])

    def lent(share):
        words = command(folder, corpus, "-", f"data.unused_tools={share}", "data.dev_unused_tools=0.5")
        out = tmp_path / f"steps-{share}"
        assert main([*words[: words.index("--out")], "--prepare", str(out)]) == 0
        data = StepData.load(out)
        return data.notes["counts"]["train"]["lent_tools"], data.dev.digest(), data.notes["counts"]["dev"]["lent_tools"]

    none, all_of_them = lent(0.0), lent(1.0)
    assert (none[0], all_of_them[0]) == (0, 20)
    assert none[1:] == all_of_them[1:]
    assert 0 < none[2] < 20


def test_of_several_processes_the_first_one_speaks(folder, tmp_path, capsys, monkeypatch):
    corpus = everything(tmp_path / "rows.jsonl.gz")
    straight = [word for word in command(folder, corpus, tmp_path / "out") if word != "--quiet"]
    monkeypatch.setattr("layerroute_training.run.train", lambda *_, quiet, **__: tmp_path / f"bundle-{quiet}")
    monkeypatch.setenv("RANK", "1")
    assert main(straight) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert main(straight) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'bundle-False'}\n"


def test_a_bundle_that_cannot_be_measured_is_named_all_the_same(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("layerroute_training.run.evaluate_model", lambda *_, **__: 1 / 0)
    assert main(command(folder, everything(tmp_path / "rows.jsonl.gz"), tmp_path / "out")) == 1
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'out' / 'bundle'}\n"
    assert "could not be measured (ZeroDivisionError: division by zero)" in err
    assert load_bundle(tmp_path / "out" / "bundle")


def test_prepared_steps_train_to_the_same_bundle(folder, tmp_path, capsys):
    corpus = everything(tmp_path / "rows.jsonl.gz")
    straight = command(folder, corpus, tmp_path / "straight")
    assert main([*straight, "--no-evaluate"]) == 0
    prepare = [*straight[: straight.index("--out")], "--prepare", str(tmp_path / "steps")]
    assert main(prepare) == 0
    assert len(StepData.load(tmp_path / "steps").dev) == 8
    train = tiny_runs.train_command(folder, tmp_path / "steps", tmp_path / "prepared", "--no-evaluate")
    assert main(train) == 0
    made = [tiny_runs.contents(tmp_path / name / "bundle") for name in ("straight", "prepared")]
    assert made[0] == made[1]


def test_two_processes_prepare_the_same_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("layerroute_training.cutting.WORTH_A_PROCESS", 1)
    words = command(folder, everything(tmp_path / "rows.jsonl.gz"), "-")
    for processes in (1, 2):
        prepare = ["--prepare", str(tmp_path / f"by-{processes}"), "--processes", str(processes)]
        assert main([*words[: words.index("--out")], *prepare]) == 0
    one, two = tmp_path / "by-1", tmp_path / "by-2"
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert {path.name for path in names} >= {"tokens.xz", "tool_lists.xz", "data.json"}
    assert [(one / name).read_bytes() for name in names] == [(two / name).read_bytes() for name in names]


def test_what_was_read_is_shown(folder, tmp_path, capsys):
    corpus = everything(tmp_path / "rows.jsonl.gz")
    words = command(folder, corpus, tmp_path / "out")
    words = [*words[: words.index("--out")], "--prepare", str(tmp_path / "steps")]
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "14 of 14 rows" in err
    assert "train: 20 steps of 10 conversations" in err


# Errors


def refused(folder, tmp_path, rows, *more):
    return main(command(folder, write(tmp_path / "rows.jsonl.gz", rows), tmp_path / "out", *more)) == 2


def test_an_empty_corpus(folder, tmp_path, capsys):
    assert refused(folder, tmp_path, [])
    assert "rows.jsonl.gz" in (line := said(capsys))
    assert "Check the path" in line


def test_one_kind_only(folder, tmp_path, capsys):
    plain = [
        Row(row.id, row.source, row.split, [], [row.messages[0], row.messages[-1]])
        for row in tiny_runs.conversations(10)
    ]
    assert refused(folder, tmp_path, plain)
    assert "add a corpus with tool-call steps" in said(capsys)


def test_answers_longer_than_the_window(folder, tmp_path, capsys):
    rows = tiny_runs.conversations(10)
    for row in rows[:5]:
        row.messages[-1]["content"] = "long " * 600
    assert refused(folder, tmp_path, rows, "data.window=400")
    assert "5 of 20 train answers are longer than the window of 400 tokens: raise data.window" in said(capsys)


def test_overlap_with_the_held_out_rows(folder, tmp_path, capsys):
    rows = tiny_runs.conversations(10)
    copy = Row("copy", "made", "dev", rows[6].tools, rows[6].messages)
    assert refused(folder, tmp_path, [*rows, copy])
    assert "1 training rows open like an evaluation row" in (line := said(capsys))
    assert "--set data.drop_overlap=true" in line


def test_rows_that_are_all_held_out(folder, tmp_path, capsys):
    assert refused(folder, tmp_path, tiny_runs.conversations(4, 50, "dev"))
    assert "there are no steps to train on, all are held out" in said(capsys)


def test_held_out_steps_are_prepared_without_others(folder, tmp_path, capsys):
    words = command(folder, write(tmp_path / "rows.jsonl.gz", tiny_runs.conversations(4, 50, "dev")), tmp_path)
    prepare = [*words[: words.index("--out")], "--prepare", str(tmp_path / "steps")]
    assert main(prepare) == 0
    data = StepData.load(tmp_path / "steps")
    assert (len(data.train), len(data.dev)) == (0, 8)
    write(tmp_path / "rows.jsonl.gz", tiny_runs.conversations(10))
    capsys.readouterr()
    assert main(prepare) == 2
    assert f"{tmp_path / 'steps' / 'dev'} holds steps of other data" in capsys.readouterr().err.splitlines()[-1]


def test_a_recipe_whose_mixture_wants_more_corpora(tmp_path, capsys):
    assert main(["train", "--recipe", "embedded", "--out", str(tmp_path / "out"), "--quiet"]) == 2
    line = said(capsys)
    assert "no corpus is of the group corpora: give --data, or shares of what there is by --set data.mixture" in line


def test_overlap_can_be_dropped(folder, tmp_path):
    rows = tiny_runs.conversations(10)
    copy = Row("copy", "made", "dev", rows[6].tools, rows[6].messages)
    corpus = write(tmp_path / "rows.jsonl.gz", [*rows, copy])
    assert main([*command(folder, corpus, tmp_path / "out", "data.drop_overlap=true"), "--no-evaluate"]) == 0
    data = load_bundle(tmp_path / "out" / "bundle").metadata.training["data"]
    assert (data["overlapping_rows_dropped"], data["steps"]) == (1, 18)


def test_a_hub_that_cannot_be_reached(folder, tmp_path, capsys):
    """Sockets are off in tests: the hub's own library fails as it does without a network."""
    assert main(command(folder, "someone/something", tmp_path / "out")) == 2
    line = said(capsys)
    assert "someone/something" in line
    assert "hub cannot be reached" in line
    assert "Download it and give the path" in line


def test_another_architecture(tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')
    assert main(command(other, everything(tmp_path / "rows.jsonl.gz"), tmp_path / "out")) == 2
    assert "is a 'llama' model; LayerRoute runs the Qwen2 family" in said(capsys)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("objective.tool_call.skip=1.5", "less than or equal to 1 (got 1.5)"),
        ("objective.planning.skip=-1", "greater than or equal to 0 (got -1)"),
        ("schedule.speed=3", "schedule.speed: Extra inputs"),
        ("speed=3", "speed: Extra inputs"),
        ('data.mixture={"corpora/tool_calls": 1}', "there are no steps of corpora/tool_calls; known: corpora/planning"),
        ("routers.always_run=[6]", "the model has blocks 0 to 5"),
    ],
)
def test_settings_that_cannot_be(folder, tmp_path, capsys, setting, message):
    corpus = everything(tmp_path / "rows.jsonl.gz")
    assert main(command(folder, corpus, tmp_path / "out", setting)) == 2
    assert message in said(capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --out DIR"),
        (["--out", "a", "--prepare", "b"], "give either --out DIR"),
        (["--out", "a", "--steps", "s", "--data", "d"], "leave out --data"),
        (["--prepare", "b", "--seeds", "2"], "leave out --steps, --seeds and --resume"),
        (["--out", "a", "--seeds", "0"], "at least 1"),
        (["--out", "a", "--processes", "0"], "at least 1"),
        (["--out", "a", "--steps", "s", "--processes", "2"], "leave out --processes"),
        (["--out", "a", "--parallel", "2"], "only with --seeds"),
        (["--out", "a", "--seeds", "2", "--set", "seed=3"], "leave out --set seed"),
        (["--out", "a", "--recipe", "secret"], "default, embedded, paper"),
        (["--out", "a", "--steps", "nowhere"], "nowhere"),
    ],
)
def test_options_that_contradict_each_other(options, message, capsys):
    assert main(["train", *options]) == 2
    assert message in said(capsys)


def test_seeds_and_torchrun_exclude_each_other(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "--out", "a", "--seeds", "2"]) == 2
    assert "without torchrun" in said(capsys)
