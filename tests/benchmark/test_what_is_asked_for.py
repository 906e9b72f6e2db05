"""Models, shapes and sizes that can be timed, those that cannot, and the document that is printed."""

import json
from dataclasses import fields

import pytest
import torch
from qwen2 import random_model, save
from small_work import STEPS

from layerroute import benchmark
from layerroute.backbone.config import read_config
from layerroute.benchmark import results, suite
from layerroute.cli import main
from layerroute.errors import DeviceError, RequestError


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Qwen2.5-0.5B", (896, 4864, 24, 14, 2, 151936, True)),
        ("Qwen2.5-1.5B", (1536, 8960, 28, 12, 2, 151936, True)),
        ("Qwen2.5-3B", (2048, 11008, 36, 16, 2, 151936, True)),
        ("Qwen2.5-7B", (3584, 18944, 28, 28, 4, 152064, False)),
    ],
)
def test_shapes_are_those_of_the_published_checkpoints(name, published, tmp_path):
    keys = (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("vocab_size", "tie_word_embeddings"),
    )
    config = dict(zip(keys, published, strict=True)) | {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "use_sliding_window": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert benchmark.SHAPES[name] == read_config(tmp_path)


def test_a_shape_is_timed_with_random_weights(folder, monkeypatch):
    monkeypatch.setitem(benchmark.SHAPES, "Small", read_config(folder))
    result = benchmark.run(shape="Small", context=20, steps=STEPS, compare=True)
    assert result.model == "Small (random weights)"
    assert [entry.equal_leading_tokens for entry in result.generation] == [STEPS, STEPS]


def test_a_model_of_one_block_is_timed(tmp_path):
    result = benchmark.run(str(save(random_model(num_hidden_layers=1), tmp_path)), context=20, steps=STEPS)
    assert [entry.blocks for entry in result.programs] == [0, 1]
    assert [entry.blocks for entry in result.engine] == [1, 1]


def test_the_backend_asked_for_is_timed(folder):
    result = benchmark.run(str(folder), context=20, steps=STEPS, backend="eager")
    assert result.backend_reason.startswith("asked for by name; prompts: plain torch")


def test_a_gpu_is_timed_with_a_long_prompt_too():
    assert suite.default_prompts(512, 32768, torch.device("cuda", 0)) == [512, 8192]
    assert suite.default_prompts(8192, 8192, torch.device("cuda")) == [8192]
    assert suite.default_prompts(512, 4096, torch.device("cuda")) == [512]
    assert suite.default_prompts(512, 32768, torch.device("cpu")) == [512]


def test_what_cannot_be_timed_is_refused(folder, monkeypatch):
    with pytest.raises(RequestError, match="context 157 and 100 tokens after it exceed the window of 256"):
        benchmark.run(str(folder), context=157, steps=STEPS)
    with pytest.raises(RequestError, match="at least 1 token, not 0"):
        benchmark.run(str(folder), context=0, steps=STEPS)
    with pytest.raises(RequestError, match="at least 1 token, not -1"):
        benchmark.run(str(folder), context=20, steps=STEPS, prompts=[20, -1])
    with pytest.raises(RequestError, match="a prompt of 257 tokens exceeds the window of 256"):
        benchmark.run(str(folder), context=20, steps=STEPS, prompts=[20, 257])
    for rows in (0, 33):
        with pytest.raises(RequestError, match=f"1 to 32 rows, not {rows}"):
            benchmark.run(str(folder), context=20, steps=STEPS, batches=[4, rows])
    with pytest.raises(RequestError, match="9 steps are too few"):
        benchmark.run(str(folder), context=20, steps=9)
    with pytest.raises(RequestError, match=r"Qwen2\.5-7B"):
        benchmark.run(shape="Qwen9")
    with pytest.raises(RequestError, match="unknown backend 'warp'"):
        benchmark.run(str(folder), context=20, steps=STEPS, backend="warp")
    with pytest.raises(RequestError, match="the device is cpu"):
        benchmark.run(str(folder), context=20, steps=STEPS, backend="graph")


def test_too_little_memory_is_a_clear_line(monkeypatch):
    def draw(*_):
        raise torch.OutOfMemoryError("tried to allocate 14 GiB")

    monkeypatch.setattr(suite, "random_weights", draw)
    with pytest.raises(DeviceError, match=r"memory of cpu is too small .* smaller ones"):
        benchmark.run(shape="Qwen2.5-7B")


def test_command_prints_one_json_document_last(folder, capsys):
    arguments = ["bench", "--model", str(folder), "--context", "16", "--steps", str(STEPS)]
    arguments += ["--batch", "2", "--prompts", "8", "32"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    document = json.loads(out.splitlines()[-1])
    assert document["backend"] == "eager"
    assert "tokens/s" in err
    assert [entry["new_tokens"] for entry in document["prompts"]] == [8, 32]
    assert {entry["batch"] for entry in document["batches"]} == {2}
    assert "left out: transformers" in " ".join(err.split())
    assert main([*arguments, "--json", "--compare-transformers"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert len(json.loads(out)["generation"]) == 2


def test_the_document_has_every_key(folder):
    document = json.loads(json.dumps(benchmark.run(str(folder), context=20, steps=STEPS).to_dict(), allow_nan=False))
    assert set(document) == {field.name for field in fields(results.Benchmark)}
    for key, value in {
        "batches": [],
        "batch_reason": None,
        "failed": {},
        "blocks": 6,
        "context": 20,
        "device": "cpu",
        "dtype": "float32",
    }.items():
        assert document[key] == value
    assert document["shape"]["hidden_size"] == 32
    for key, kind in {
        "programs": results.ProgramTime,
        "prompts": results.PromptTime,
        "engine": results.EngineTime,
        "generation": results.GenerationTime,
    }.items():
        assert all(set(entry) == {field.name for field in fields(kind)} for entry in document[key]), key
    assert {"us_per_token", "tokens_per_second", "gigabytes_per_second", "copy_share"} <= set(document["programs"][-1])
    assert {"prefill_ms", "first_token_ms", "matrix_share"} <= set(document["next_turn"])
