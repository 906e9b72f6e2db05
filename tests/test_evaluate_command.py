"""`layerroute evaluate` end to end on the embedded model, with conversations of the tests' own."""

import gzip
import json
import shutil

import pytest

from layerroute.backbone.config import embedded_folder
from layerroute.bundle import load_bundle, save_bundle
from layerroute.cli import main
from layerroute_training.data import StepData
from layerroute_training.evaluation.report import EvaluationReport

BUNDLE = embedded_folder() / "bundle"
TOOL = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": "Look up an order.",
        "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
    },
}
CITIES = ("Paris", "Oslo", "Rome", "Lima", "Cairo", "Delhi")
WORDS = ("seven", "eleven", "twelve", "twenty", "thirty", "ninety")


def call_row(index, split):
    call = {"type": "function", "function": {"name": "find_order", "arguments": {"order_id": f"A-{1000 + index}"}}}
    messages = [
        {"role": "user", "content": f"Please find the parcel A-{1000 + index} on its way to {CITIES[index % 6]}"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    return {"id": f"call-{index}", "source": "made", "split": split, "tools": [TOOL], "messages": messages}


def plan_row(index, split):
    words = f"{WORDS[index % 6]} and {WORDS[index // 6 % 6]}"
    messages = [
        {"role": "user", "content": f"Say {words} aloud"},
        {"role": "assistant", "content": f"Very well: {words}."},
    ]
    return {"id": f"plan-{index}", "source": "made", "split": split, "tools": [], "messages": messages}


def write(path, rows):
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    made = [(index, "train" if index < 6 else "dev") for index in range(12)]
    rows = [row(*one) for one in made for row in (call_row, plan_row)]
    return write(tmp_path_factory.mktemp("corpus") / "made.jsonl.gz", rows)


@pytest.fixture(scope="module")
def steps(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "steps"
    assert (
        main(
            ["train", "--recipe", "default", "--set", "model=embedded", "--data", str(corpus), "--prepare", str(folder)]
        )
        == 0
    )
    return folder


def test_json_is_one_document_and_plots_are_written(corpus, tmp_path, capsys):
    options = ["--free-running", "1", "--limit", "3", "--plots", str(tmp_path / "plots"), "--device", "cpu"]
    assert main(["evaluate", "embedded", "--data", str(corpus), "--json", *options]) == 0
    out, err = capsys.readouterr()
    report = EvaluationReport.model_validate_json(out)
    assert err == ""
    assert (report.conditions.bundle, report.conditions.backbone, report.conditions.split) == (
        "embedded",
        "embedded",
        "dev",
    )
    assert report.conditions.available == {"corpora/tool_call": 6, "corpora/planning": 6}
    assert (report.all.tool_call.steps, report.all.planning.steps) == (3, 3)
    assert report.all.tool_call.skip.value > report.all.planning.skip.value
    assert {(one.condition, one.grammar) for one in report.free_running.scores if one.group == "all"} == {
        (name, grammar) for name in ("routed", "full", "bare") for grammar in (True, False)
    }
    assert report.baselines == ()
    assert {path.suffix for path in (tmp_path / "plots").iterdir()} == {".png", ".svg"}


def test_tables_go_to_stdout_and_everything_else_to_stderr(steps, tmp_path, capsys):
    assert main(["evaluate", str(BUNDLE), "--steps", str(steps), "--limit", "2", "--plots", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "By kind of step: all" in out
    assert "bundle on embedded, generation scope, dev split" in out
    assert "plot:" not in out
    assert "skip_by_block.png" in err


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


EVALUATION = "layerroute_training.evaluation"


@pytest.mark.parametrize(
    ("owner", "part", "options"),
    [
        (f"{EVALUATION}.bundles.free_running", "free-running answers", ["--free-running", "1"]),
        (f"{EVALUATION}.evaluate.published_report", "published perplexities", []),
        (f"{EVALUATION}.evaluate.removal_order", "order of removal", ["--baselines"]),
        (f"{EVALUATION}.plots.plot_report", "plots", ["--plots", "nowhere"]),
    ],
)
@pytest.mark.parametrize(("error", "code"), [(RuntimeError("broken\nfor good"), 1), (KeyboardInterrupt(), 130)])
def test_what_fails_besides_leaves_the_report(steps, capsys, monkeypatch, owner, part, options, error, code):
    monkeypatch.setattr(owner, failing(error))
    command = ["evaluate", "embedded", "--steps", str(steps), "--limit", "2", *options]
    why = "RuntimeError: broken" if code == 1 else "interrupted"
    assert main([*command, "--json"]) == code
    report = EvaluationReport.model_validate_json(capsys.readouterr().out)
    assert report.all.both.steps == 4
    assert report.failed == ({} if part == "plots" else {part: why})
    assert main(command) == code
    out, err = capsys.readouterr()
    assert "By kind of step: all" in out
    assert f"failed: {part} ({why})" in " ".join(err.split())


def test_a_sweep_is_shown_before_it_is_drawn(steps, tmp_path, capsys, monkeypatch):
    shutil.copytree(BUNDLE, tmp_path / "sweep" / "seed-0" / "bundle")
    monkeypatch.setattr(f"{EVALUATION}.plots.plot_sweep", failing(OSError(28, "No space left on device")))
    assert main(["evaluate", str(tmp_path / "sweep"), "--json", "--plots", str(tmp_path / "plots")]) == 1
    assert list(json.loads(capsys.readouterr().out)) == ["sweep"]


def test_rows_that_the_bundle_was_trained_on_are_refused(steps, tmp_path, capsys):
    bundle = load_bundle(BUNDLE)
    metadata, train = bundle.metadata, StepData.load(steps).train
    save_bundle(
        tmp_path / "mine",
        gates_weight_LD=bundle.gates_weight_LD,
        gates_bias_L=bundle.gates_bias_L,
        kind_weight_D=bundle.kind_weight_D,
        kind_bias=bundle.kind_bias,
        evidence=metadata.evidence,
        normalise=metadata.normalise,
        always_run=metadata.always_run,
        scope=metadata.scope,
        backbone=metadata.backbone,
        training={"run": {"steps": train.digest()}},
    )
    arguments = ["evaluate", str(tmp_path / "mine"), "--steps", str(steps), "--limit", "1"]
    assert main([*arguments, "--split", "train"]) == 2
    assert "was trained on these very steps" in capsys.readouterr().err
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["embedded", "--data", "x"], "give one bundle, or folders"),
        ([], "give either --data"),
        (["--data", "x", "--steps", "y"], "give either --data"),
        (["--data", "x", "--limit", "0"], "at least 1"),
        (["--data", "x", "--free-running", "-1"], "at least 0"),
        (["--data", "x", "--processes", "0"], "at least 1"),
        (["--data", "x", "--static-bundle", "y"], "give --baselines too"),
        (["--steps", "nowhere"], "nowhere"),
        (["--steps", "nowhere", "--backbone", "no/such/model"], "no model 'no/such/model'"),
    ],
)
def test_bad_options_are_one_line(options, message, capsys):
    assert main(["evaluate", "embedded", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_bundles_that_cannot_be_measured(steps, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "none"), "--steps", str(steps)]) == 2
    assert "does not exist" in capsys.readouterr().err
    strange = tmp_path / "strange"
    shutil.copytree(BUNDLE, strange)
    routing = json.loads((strange / "routing.json").read_text())
    (strange / "routing.json").write_text(json.dumps({**routing, "format": 99}))
    assert main(["evaluate", str(strange), "--steps", str(steps)]) == 2
    assert "has format 99" in capsys.readouterr().err
    (strange / "routing.json").write_text(json.dumps({**routing, "backbone": {**routing["backbone"], "name": "moved"}}))
    assert main(["evaluate", str(strange), "--steps", str(steps)]) == 2
    assert "by --backbone" in capsys.readouterr().err


def test_another_architecture_is_refused(steps, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    assert main(["evaluate", "embedded", "--backbone", str(tmp_path), "--steps", str(steps)]) == 2
    assert "Qwen2" in capsys.readouterr().err


def test_data_without_dev_steps(tmp_path, capsys):
    corpus = write(
        tmp_path / "made.jsonl.gz", [row(index, "train") for index in range(3) for row in (call_row, plan_row)]
    )
    assert main(["evaluate", "embedded", "--data", str(corpus)]) == 2
    assert "no dev steps" in capsys.readouterr().err


def test_data_with_dev_steps_only(tmp_path, capsys):
    """Nothing is fitted but baselines: held-out rows are all that a measurement wants."""
    rows = [row(index, "dev") for index in range(3) for row in (call_row, plan_row)]
    evaluate = ["evaluate", "embedded", "--data", str(write(tmp_path / "made.jsonl.gz", rows)), "--json"]
    assert main([*evaluate, "--limit", "2"]) == 0
    report = EvaluationReport.model_validate_json(capsys.readouterr().out)
    assert report.conditions.available == {"corpora/tool_call": 3, "corpora/planning": 3}
    assert main([*evaluate, "--baselines"]) == 2
    assert "leave out --baselines" in capsys.readouterr().err
    assert main([*evaluate, "--split", "train"]) == 2
    assert "no train steps" in capsys.readouterr().err


def test_an_empty_corpus(tmp_path, capsys):
    corpus = write(tmp_path / "made.jsonl.gz", [])
    assert main(["evaluate", "embedded", "--data", str(corpus)]) == 2
    assert str(corpus.name) in capsys.readouterr().err
