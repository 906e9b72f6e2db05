"""The whole path on the embedded model, shortened: conversations, training, evaluation, chat."""

import json

import numpy as np
import pytest

from layerroute.backbone.config import embedded_folder
from layerroute.bundle import load_bundle
from layerroute.cli import main
from layerroute.report import StepReport
from layerroute_training.data import StepData, load_tokenizer, tokenizer_digest
from layerroute_training.embedded.conversations import generate
from layerroute_training.evaluation.report import EvaluationReport
from layerroute_training.steps import build_steps


def short_steps(first):
    """Four steps of each kind, the shortest of some generated conversations."""
    rows = [row for kind in ("synthetic_tools", "everyday_tools") for row in generate(kind, first, first + 15)]
    steps, _ = build_steps({"generated": rows}, load_tokenizer(embedded_folder()), window=2048)
    order = np.argsort(steps.lengths, kind="stable")
    of_kind = [order[steps.is_tool_call[order] == is_call][:4] for is_call in (True, False)]
    return steps.select(np.concatenate(of_kind))


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    StepData(short_steps(0), short_steps(500), {"tokenizer": tokenizer_digest(embedded_folder())}).save(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(steps, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    settings = ("schedule.updates=3", "schedule.batch=4", "data.mixture={}", "routers.run_bias=0")
    words = [word for setting in settings for word in ("--set", setting)]
    command = ["train", "--recipe", "embedded", "--steps", str(steps), "--out", str(out), "--quiet"]
    assert main([*command, *words]) == 0
    return out / "bundle"


def test_a_trained_bundle_answers_in_the_chat_model(bundle, capsys):
    assert main(["chat", "--message", "What time is it in Oslo?", "--adapter", str(bundle), "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    report = StepReport.model_validate(step)
    assert report.router == "gates"
    assert report.model == "embedded"
    expected = load_bundle(bundle)
    assert len(report.run_probabilities) == len(expected.gates_bias_L)


def test_evaluating_it_again_gives_the_report_in_the_bundle(bundle, steps, capsys):
    within = EvaluationReport.model_validate(load_bundle(bundle).metadata.evaluation)
    assert within.all.differential is not None
    assert main(["evaluate", str(bundle), "--steps", str(steps), "--json"]) == 0
    again = EvaluationReport.model_validate(json.loads(capsys.readouterr().out))
    assert again.all.both.skip == within.all.both.skip
    assert again.all.both.routed.nll.value == pytest.approx(within.all.both.routed.nll.value, rel=1e-5)
