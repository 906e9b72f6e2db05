"""The whole path on the embedded model, shortened: conversations, steps, training, evaluation, an agent's answer."""

import gzip
import json
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import tiny_runs

from langchain_layerroute import LayerRouteChatModel
from layerroute.bundle import load_bundle
from layerroute.cli import main
from layerroute.report import StepReport
from layerroute_training.data import StepData
from layerroute_training.evaluation import bundles
from layerroute_training.evaluation.evaluate import evaluate
from layerroute_training.evaluation.report import EvaluationReport
from layerroute_training.rows import part_of

SETTINGS = ("data.window=512", "schedule.updates=3", "schedule.batch=4", "routers.run_bias=0")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Arguments of the embedded recipe on canonical rows, in a folder of their own, and a few generated ones."""
    folder = tmp_path_factory.mktemp("rows") / "toolcall"
    folder.mkdir()
    kept_back = [row for row in tiny_runs.conversations(90) if part_of(row) == "fit"][:4]
    made = [*kept_back, *tiny_runs.conversations(3, 100, "dev")]
    with gzip.open(folder / "made.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(asdict(row)) + "\n" for row in made)
    corpora = [
        {"name": str(folder), "format": "canonical"},
        {"name": "generated", "group": "generated", "limit": 50},
    ]
    settings = (f"data.corpora={json.dumps(corpora)}", *SETTINGS)
    return ["train", "--recipe", "embedded", "--quiet", *(word for one in settings for word in ("--set", one))]


def shortest(steps, count):
    """The shortest steps, so many of each kind."""
    order = np.argsort(steps.lengths, kind="stable")
    of_kind = [order[steps.is_tool_call[order] == calls][:count] for calls in (True, False)]
    return steps.select(np.concatenate(of_kind))


@pytest.fixture(scope="module")
def steps(recipe, tmp_path_factory):
    """What --prepare wrote, cut down to few dev steps, and in `few` to one training step of each kind for baselines."""
    folder = tmp_path_factory.mktemp("steps")
    assert main([*recipe, "--prepare", str(folder / "prepared")]) == 0
    data = StepData.load(folder / "prepared")
    dev = shortest(data.dev, 2)
    StepData(data.train, dev, data.notes).save(folder / "all")
    StepData(shortest(data.train, 1), dev, data.notes).save(folder / "few")
    return folder


@pytest.fixture(scope="module")
def bundle(recipe, steps, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert main([*recipe, "--steps", str(steps / "all"), "--out", str(out)]) == 0
    return out / "bundle"


def test_evaluating_the_bundle_gives_its_report_and_what_was_asked_for_besides(bundle, steps, capsys, monkeypatch):
    """By default the baselines take some 500 passes over the training steps; here one round and one target."""
    monkeypatch.setattr(bundles, "evaluate", partial(evaluate, greedy_depth=1, targets=(0.3,)))
    capsys.readouterr()
    options = ["--baselines", "--free-running", "1", "--device", "cpu", "--json"]
    assert main(["evaluate", str(bundle), "--steps", str(steps / "few"), *options]) == 0
    report = EvaluationReport.model_validate_json(capsys.readouterr().out)
    within = EvaluationReport.model_validate(load_bundle(bundle).metadata.evaluation)
    assert report.conditions.available == within.conditions.available
    assert report.all.differential is not None
    assert report.all.both.skip == within.all.both.skip
    assert report.all.both.routed.nll.value == pytest.approx(within.all.both.routed.nll.value, rel=1e-5)
    routed, *others = report.baselines
    assert routed.name == "routed"
    assert len(others) >= 5
    assert all(other.mean_skip == pytest.approx(routed.mean_skip, abs=0.05) for other in others)
    assert [point.target for point in report.frontier] == [0.3]
    assert {score.condition for score in report.free_running.scores} >= {"routed", "full", "bare", others[0].name}


def test_an_agent_calls_a_tool_under_the_trained_gates(bundle):
    model = LayerRouteChatModel(model="embedded", adapter=str(bundle), device="cpu", max_tokens=64)
    answer = model.bind_tools([tiny_runs.TOOL], tool_choice="add").invoke("add 7, please")
    assert [call["name"] for call in answer.tool_calls] == ["add"]
    report = StepReport.model_validate(answer.response_metadata["layerroute"])
    assert report.router == "gates"
    assert len(report.run_probabilities) == len(load_bundle(bundle).gates_bias_L)


def test_the_chat_command_answers_with_the_bundle(bundle, capsys):
    assert main(["chat", "--message", "What time is it in Oslo?", "--adapter", str(bundle), "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    report = StepReport.model_validate(step)
    assert (report.router, report.model) == ("gates", "embedded")
