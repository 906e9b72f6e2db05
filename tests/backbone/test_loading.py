"""Checkpoints in every form transformers writes, and what is refused."""

import json

import pytest
import torch
from qwen2 import load, random_model, save

from layerroute.backbone.config import read_config, resolve_checkpoint
from layerroute.backbone.kv_cache import visits_of
from layerroute.errors import BackboneNotFoundError, UnsupportedArchitectureError, WeightsError
from layerroute.program import LayerProgram


def logits(backbone):
    n = backbone.config.num_blocks
    with torch.inference_mode():
        hidden = backbone.forward(
            torch.arange(9), 0, visits_of(LayerProgram.identity(n), "generation"), backbone.new_cache(n, 9)
        )
        return backbone.logits(hidden)


@pytest.mark.parametrize("tied", [True, False])
def test_sharded_equals_single_file(tmp_path, tied):
    model = random_model(tie_word_embeddings=tied)
    single = load(save(model, tmp_path / "single"))
    sharded = load(save(model, tmp_path / "sharded", max_shard_size="20KB"))
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert torch.equal(logits(single), logits(sharded))
    assert (single.weights.lm_head_VD is single.weights.embed_VD) == tied


def test_bfloat16_weights_take_half_the_bytes(tmp_path):
    folder = save(random_model(), tmp_path)
    assert load(folder, torch.bfloat16).weights.num_bytes * 2 == load(folder).weights.num_bytes


def test_old_and_new_config_forms_agree(tmp_path):
    new = save(random_model(rope_parameters={"rope_theta": 5e4, "rope_type": "default"}), tmp_path)
    raw = json.loads((new / "config.json").read_text())
    expected = read_config(new)
    raw["rope_theta"] = raw.pop("rope_parameters")["rope_theta"]
    raw.pop("head_dim", None)
    (new / "config.json").write_text(json.dumps(raw))
    assert read_config(new) == expected
    assert expected.rope_theta == 5e4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "Qwen2 family"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "RoPE scaling 'yarn'"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
    ],
)
def test_unsupported_checkpoints_are_refused(tmp_path, change, message):
    folder = save(random_model(), tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | change))
    with pytest.raises(UnsupportedArchitectureError, match=message):
        read_config(folder)


def test_truncated_safetensors(tmp_path):
    folder = save(random_model(), tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="truncated or damaged"):
        load(folder)


def test_missing_shard(tmp_path):
    folder = save(random_model(), tmp_path, max_shard_size="20KB")
    sorted(folder.glob("*.safetensors"))[1].unlink()
    with pytest.raises(WeightsError, match="a weight file is missing"):
        load(folder)


def test_weights_of_another_shape(tmp_path):
    folder = save(random_model(), tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"intermediate_size": 64}))
    with pytest.raises(WeightsError, match=r"config\.json asks for"):
        load(folder)


def test_no_safetensors_and_no_config(tmp_path):
    with pytest.raises(BackboneNotFoundError, match=r"config\.json"):
        read_config(tmp_path)
    folder = save(random_model(), tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BackboneNotFoundError, match="safetensors form"):
        load(folder)


@pytest.mark.parametrize("name", ["no-such-model", "./missing/folder", "a/b/c"])
def test_unknown_model_names_the_remedy(name):
    with pytest.raises(BackboneNotFoundError, match=r"Qwen/Qwen2\.5-0\.5B-Instruct"):
        resolve_checkpoint(name)


def test_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BackboneNotFoundError, match="give its folder"):
        resolve_checkpoint("nobody/no-such-model")
