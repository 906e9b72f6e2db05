"""A run on the CPU: its bundle, its metrics, what it does not depend on, and what it refuses."""

import json
from collections import Counter

import numpy as np
import peft
import pytest
import tiny_runs
import torch
from transformers import Qwen2ForCausalLM

from layerroute import __version__
from layerroute.bundle import load_bundle
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine
from layerroute.engine.request import GenerationRequest
from layerroute.errors import UnsupportedArchitectureError
from layerroute_training.batching import StepBatches
from layerroute_training.checkpoints import newest_checkpoint
from layerroute_training.config import ScheduleConfig
from layerroute_training.data import StepData
from layerroute_training.errors import CheckpointError, CorpusError
from layerroute_training.evaluation.report import EvaluationReport
from layerroute_training.objectives import Constrained
from layerroute_training.optimizer import ClippedAdamW
from layerroute_training.recipes import default
from layerroute_training.run import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_runs.checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def data(folder):
    return tiny_runs.data(folder)


@pytest.fixture(scope="module")
def out(folder, data, tmp_path_factory):
    """A finished run, evaluated."""
    out = tmp_path_factory.mktemp("run")
    train(tiny_runs.config(folder), data, out, quiet=True)
    return out


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def run(folder, data, out, *settings):
    """The bundle's files after a run without evaluation."""
    return tiny_runs.contents(train(tiny_runs.config(folder, *settings), data, out, evaluate=False, quiet=True))


def test_the_bundle_says_how_it_was_made(out, data):
    bundle = load_bundle(out / "bundle")
    training = bundle.metadata.training
    assert bundle.metadata.package_version == __version__
    assert bundle.metadata.backbone.name == "tiny"
    assert training["run"]["config"]["seed"] == 0
    assert training["run"]["steps"] == data.train.digest()
    assert training["data"]["dev"] == data.dev.digest()
    assert training["trainable_parameters"] == {
        "lora": 2
        * sum(tensor.numel() for module in bundle.lora.values() for tensor in (module.a_RI, module.b_OR))
        // 2,
        "routers": bundle.gates_weight_LD.numel() + 6 + 32 + 1,
    }
    assert training["objective"]["cells"] == ["corpora/planning", "corpora/tool_call"]
    assert len(training["objective"]["multiplier_C"]) == 2
    report = EvaluationReport.model_validate(bundle.metadata.evaluation)
    assert report.all.differential is not None
    assert report.conditions.split == "dev"


def test_nothing_in_the_bundle_names_a_folder_of_this_machine(out, folder):
    assert str(folder.parent).encode() not in b"".join(tiny_runs.contents(out / "bundle").values())


def test_training_changed_lora_and_gates(out):
    bundle = load_bundle(out / "bundle")
    assert bundle.gates_weight_LD.abs().sum() > 0
    assert bundle.kind_weight_D.abs().sum() > 0
    assert all(module.b_OR.abs().sum() > 0 for module in bundle.lora.values())


def test_the_engine_loads_the_bundle(out, folder):
    engine = Engine(EngineConfig(model=str(folder), adapter=str(out / "bundle"), device="cpu"))
    ids = engine.tokenizer.encode("<|im_start|>user\nadd 3<|im_end|>\n<|im_start|>assistant\n")
    result = engine.submit(GenerationRequest(prompt_ids=tuple(ids), max_tokens=4)).result()
    engine.close()
    assert result.report.router == "gates"


def test_peft_opens_the_bundle(out, folder):
    model = peft.PeftModel.from_pretrained(Qwen2ForCausalLM.from_pretrained(folder), out / "bundle")
    assert model.peft_config["default"].r == 2


def test_metrics_of_every_update(out, data, folder):
    records = metrics(out)
    assert [record["update"] for record in records] == list(range(1, 7))
    expected = {"loss", "kind_nll", "gradient_norm", "skipped_updates", "lora_rate", "gate_rate", "tokens"}
    cells = {f"{name}/corpora/{kind}" for name in ("nll", "skip", "multiplier") for kind in ("tool_call", "planning")}
    assert expected | cells <= set(records[0])
    batches = StepBatches(data.train, 2, {}, 0)
    counted = np.cumsum([data.train.lengths[batches[index]].sum() for index in range(12)])[1::2]
    assert [record["tokens"] for record in records] == counted.tolist()  # without padding
    peak = default().schedule.lora_rate
    assert [record["lora_rate"] for record in records][:2] == [peak / 2, peak]


def test_throughput_is_reported_after_the_warm_up(folder, data, tmp_path):
    run(folder, data, tmp_path, "schedule.updates=13")
    assert [record["update"] for record in metrics(tmp_path) if "tokens_per_second" in record] == [11, 12, 13]


def test_the_result_does_not_depend_on_the_global_generator(folder, data, tmp_path, monkeypatch):
    plain = run(folder, data, tmp_path / "plain")
    loss = Constrained.loss

    def draws(self, *args):
        torch.rand(3)
        return loss(self, *args)

    monkeypatch.setattr(Constrained, "loss", draws)
    assert run(folder, data, tmp_path / "drawing") == plain


def test_seeds_differ(folder, data, tmp_path):
    a, b = (run(folder, data, tmp_path / str(seed), "schedule.updates=2", f"seed={seed}") for seed in (0, 1))
    assert a["routers.safetensors"] != b["routers.safetensors"]
    assert a["adapter_model.safetensors"] != b["adapter_model.safetensors"]


def test_accumulated_gradients_are_means_over_micro_batches(folder, data, tmp_path):
    """Of one and the same micro-batch, however often it is accumulated, the gradient is one and the same."""
    same = tiny_runs.only(data, np.array([0, 1]))
    plain = ("schedule.updates=1", "schedule.batch=2", "lora.dropout=0", "routers.noise=false")
    norms = []
    for accumulation in (1, 4):
        out = tmp_path / str(accumulation)
        run(folder, same, out, *plain, f"schedule.accumulation={accumulation}")
        norms.append(metrics(out)[-1]["gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_an_update_that_is_not_finite_is_left_out_and_counted(folder, data, tmp_path, monkeypatch):
    calls = Counter()
    loss = Constrained.loss

    def broken_once(self, *args):
        value, values = loss(self, *args)
        calls["loss"] += 1
        return value * (float("nan") if calls["loss"] == 4 else 1.0), values

    monkeypatch.setattr(Constrained, "loss", broken_once)
    run(folder, data, tmp_path)
    assert [record["skipped_updates"] for record in metrics(tmp_path)] == [0, 1, 1, 1, 1, 1]
    assert load_bundle(tmp_path / "bundle").metadata.training["skipped_updates"] == 1


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(broken):
    parameters = {"x.lora_A": torch.nn.Parameter(torch.ones(3)), "gates": torch.nn.Parameter(torch.ones(2))}
    optimizer = ClippedAdamW(parameters, ScheduleConfig())

    def update(value):
        for parameter in parameters.values():
            parameter.grad = torch.full_like(parameter, 0.5)
        parameters["gates"].grad[0] = value
        optimizer.step()
        return [tensor.clone() for tensor in (*parameters.values(), *optimizer.named_state().values())]

    *before, _ = update(1.0)
    *after, skipped = update(broken)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert skipped == 1
    assert not all(torch.equal(a, b) for a, b in zip(after, update(1.0), strict=False))


def test_both_rates_are_used_and_gradients_are_clipped():
    parameters = {"x.lora_A": torch.nn.Parameter(torch.zeros(1)), "gates": torch.nn.Parameter(torch.zeros(1))}
    optimizer = ClippedAdamW(parameters, ScheduleConfig(lora_rate=0.1, gate_rate=0.2, weight_decay=0.0, clip=1.0))
    for parameter in parameters.values():
        parameter.grad = torch.full_like(parameter, 3.0)
    optimizer.step()
    assert [parameter.item() for parameter in parameters.values()] == pytest.approx([-0.1, -0.2])
    assert optimizer.gradient_norm == pytest.approx(18**0.5)
    assert parameters["gates"].grad.norm() == pytest.approx(0.5**0.5)


# What is refused


def test_a_folder_with_a_run_is_not_trained_over(out, folder, data):
    with pytest.raises(CheckpointError, match="--resume"):
        train(tiny_runs.config(folder), data, out, quiet=True)


def test_a_finished_run_is_left_as_it_is(out, folder, data):
    before = tiny_runs.contents(out / "bundle")
    train(tiny_runs.config(folder), data, out, resume=True, quiet=True)
    assert tiny_runs.contents(out / "bundle") == before


@pytest.mark.parametrize("setting", ["seed=1", "lora.rank=4", "objective.planning.skip=0.1"])
def test_another_run_is_not_resumed(out, folder, data, setting):
    key = setting.partition("=")[0]
    with pytest.raises(CheckpointError, match=rf"config\.{key} was .* and is .* now"):
        train(tiny_runs.config(folder, setting), data, out, resume=True, quiet=True)
    checkpoint = newest_checkpoint(out / "checkpoints", load_bundle(out / "bundle").metadata.training["run"])
    assert checkpoint.update == 6


def test_other_steps_are_not_resumed(out, folder, data):
    fewer = tiny_runs.only(data, np.arange(20))
    with pytest.raises(CheckpointError, match="steps was"):
        train(tiny_runs.config(folder), fewer, out, resume=True, quiet=True)


def test_one_kind_only_is_refused(folder, data, tmp_path):
    planning = tiny_runs.only(data, ~data.train.is_tool_call)
    with pytest.raises(CorpusError, match="add a corpus with tool-call steps"):
        train(tiny_runs.config(folder), planning, tmp_path, quiet=True)


def test_another_architecture_is_refused(data, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UnsupportedArchitectureError, match="Qwen2 family"):
        train(tiny_runs.config(tmp_path), data, tmp_path / "out", quiet=True)


def test_steps_of_another_tokenizer_are_refused(folder, data, tmp_path):
    other = StepData(data.train, data.dev, {"tokenizer": "0" * 64})
    with pytest.raises(CorpusError, match=r"another tokenizer.*prepare them again"):
        train(tiny_runs.config(folder), other, tmp_path, quiet=True)


def test_prepared_steps_need_no_tokenizer(folder, data, tmp_path):
    """As with random weights of a real shape, to measure throughput."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).symlink_to(folder / name)
    assert run(bare, StepData(data.train), tmp_path / "out", "schedule.updates=1")
