"""Bundles: what is saved is loaded, what was touched is refused, and a bundle fits one backbone."""

import hashlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_bundles import HIDDEN, NUM_BLOCKS, save_tiny, tiny_lora
from transformers import Qwen2Config, Qwen2ForCausalLM

from layerroute.bundle import BackboneIdentity, check_fits, fingerprint, load_bundle
from layerroute.errors import BackboneError, BundleError, WeightsError
from layerroute.flops import BackboneShape
from layerroute.lora import parse_adapter

SHAPE = BackboneShape(64, HIDDEN, 48, NUM_BLOCKS, 4, 2, 8, bytes_per_weight=4)


def tiny_model(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 64, "hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": NUM_BLOCKS}
    config = Qwen2Config(**(sizes | {"num_attention_heads": 4, "num_key_value_heads": 2} | changes))
    model = Qwen2ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
    return model


def rewrite(folder, name, change, update_digest=True):
    """Change a file of a bundle, keeping its sha256 honest so that later checks are reached."""
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    if update_digest and name != "routing.json":
        routing = json.loads((folder / "routing.json").read_text())
        routing["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "routing.json").write_text(json.dumps(routing))


def edit_json(folder, name, **changes):
    rewrite(folder, name, lambda data: json.dumps(json.loads(data) | changes).encode())


def edit_tensors(folder, name, change):
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    rewrite(folder, name, lambda data: data)


# What is saved is loaded.


@pytest.mark.parametrize("with_lora", [True, False])
def test_round_trip(tmp_path, with_lora):
    saved = save_tiny(tmp_path / "bundle", lora=tiny_lora() if with_lora else None)
    loaded = load_bundle(tmp_path / "bundle")
    assert loaded.metadata == saved.metadata
    for name in ("gates_weight_LD", "gates_bias_L", "kind_weight_D", "kind_bias"):
        assert torch.equal(getattr(loaded, name), getattr(saved, name))
    assert set(loaded.lora) == (set(tiny_lora()) if with_lora else set())
    for name, delta in loaded.lora_deltas().items():
        wanted = tiny_lora()[name]
        assert torch.equal(delta, 2.0 * wanted.b_OR @ wanted.a_RI)
    assert (tmp_path / "bundle" / "adapter_config.json").exists() == with_lora


def test_nothing_is_left_beside_the_bundle(tmp_path):
    save_tiny(tmp_path / "bundle")
    save_tiny(tmp_path / "bundle", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("blocks", [range(NUM_BLOCKS), [1]], ids=["every block", "one block"])
def test_peft_opens_the_adapter_and_computes_the_same(tmp_path, blocks):
    lora = tiny_lora(blocks, scale=0.5)
    bundle = save_tiny(tmp_path / "bundle", lora=lora)
    stock = tiny_model()
    by_hand = tiny_model()
    for name, delta in bundle.lora_deltas().items():
        by_hand.get_submodule(name).weight.data += delta
    ids = torch.arange(10)[None]
    with torch.no_grad():
        before = stock(ids).logits
        adapted = PeftModel.from_pretrained(stock, tmp_path / "bundle").eval()
        torch.testing.assert_close(adapted(ids).logits, by_hand(ids).logits, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(adapted(ids).logits, before, atol=1e-2)
    adapters = {name for name, module in adapted.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert adapters == set(lora)


def test_an_adapter_that_peft_saved_is_read(tmp_path):
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(tiny_model(), config)
    model.save_pretrained(tmp_path)
    lora = parse_adapter(
        (tmp_path / "adapter_config.json").read_bytes(), (tmp_path / "adapter_model.safetensors").read_bytes()
    )
    bare = tiny_model()
    merged = model.merge_and_unload()
    for name, module in lora.items():
        torch.testing.assert_close(bare.get_submodule(name).weight + module.delta(), merged.get_submodule(name).weight)
    assert len(lora) == 2 * NUM_BLOCKS


# What was touched is refused.


@pytest.mark.parametrize("name", ["routers.safetensors", "adapter_model.safetensors", "adapter_config.json"])
def test_truncated_tampered_and_missing_files_are_refused(tmp_path, name):
    for damage in (lambda data: data[:-1], lambda data: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]):
        save_tiny(tmp_path / "bundle", overwrite=True)
        rewrite(tmp_path / "bundle", name, damage, update_digest=False)
        with pytest.raises(BundleError, match=rf"{name} is truncated or was changed.*again"):
            load_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / name).unlink()
    with pytest.raises(BundleError, match=rf"lacks .*{name}.*again"):
        load_bundle(tmp_path / "bundle")


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("b") / "bundle"
    save_tiny(folder)
    name = data.draw(st.sampled_from(["routers.safetensors", "adapter_model.safetensors", "adapter_config.json"]))
    content = bytearray((folder / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError):
        load_bundle(folder)


def test_missing_folder_and_missing_routing_file(tmp_path):
    with pytest.raises(BundleError, match="does not exist: give the folder"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"holds no routing.json: give the folder"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "~nobody-of-this-name/x", "\udcff", "a\nb"])
def test_odd_paths_are_refused_by_name_or_work(tmp_path, name):
    odd = name if name.startswith("~") else tmp_path / name
    with pytest.raises(BundleError):
        load_bundle(odd)
    if name in ("\udcff", "a\nb"):
        save_tiny(odd)
        assert load_bundle(odd).metadata.training == {"seed": 0}
    else:
        with pytest.raises(BundleError):
            save_tiny(odd)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, and layerroute .* reads format 1: install the version"),
        ({"format": None}, "format None"),
        ({"color": "red"}, "invalid at 'color'"),
        ({"evidence": "first"}, "invalid at 'evidence'"),
        ({"reads": "first_block"}, "invalid at 'reads'"),
        ({"backbone": {"name": "x", "fingerprint": "y", "size": 1}}, "invalid at 'backbone.size'"),
        ({"always_run": [NUM_BLOCKS]}, "always_run names blocks that do not exist"),
        ({"files": {}}, "which make no bundle"),
        ({"files": {"routers.safetensors": "0", "../../etc/passwd": "0"}}, "which make no bundle"),
        ({"num_blocks": 4}, r"gates.weight .* not float32 \(4, 32\)"),
        ({"hidden_size": 16}, r"gates.weight .* not float32 \(3, 16\)"),
    ],
)
def test_bad_metadata_is_refused(tmp_path, changes, message):
    save_tiny(tmp_path / "bundle")
    edit_json(tmp_path / "bundle", "routing.json", **changes)
    with pytest.raises(BundleError, match=message):
        load_bundle(tmp_path / "bundle")


def test_gates_of_a_bundle_that_does_not_say_what_they_read_read_their_own_block(tmp_path):
    """Bundles were written without it while there was no other way."""
    save_tiny(tmp_path / "bundle")
    routing = tmp_path / "bundle" / "routing.json"
    metadata = json.loads(routing.read_text())
    del metadata["reads"]
    routing.write_text(json.dumps(metadata))
    assert load_bundle(tmp_path / "bundle").metadata.reads == "own_block"


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"format": 1}', "\xff"])
def test_a_routing_file_that_is_no_metadata_is_refused(tmp_path, text):
    save_tiny(tmp_path / "bundle")
    (tmp_path / "bundle" / "routing.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError):
        load_bundle(tmp_path / "bundle")


def test_unlisted_adapter_is_refused_and_unrelated_files_are_not(tmp_path):
    save_tiny(tmp_path / "bundle", lora=None)
    (tmp_path / "bundle" / "README.md").write_text("notes")
    load_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match=r"not listed in routing.json"):
        load_bundle(tmp_path / "bundle")


def set_nan(tensors):
    tensors["gates.bias"][1] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("kind.bias"), "instead of"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "instead of"),
        (lambda tensors: tensors.update({"kind.weight": torch.zeros(HIDDEN + 1)}), "kind.weight"),
        (lambda tensors: tensors.update({"gates.bias": torch.zeros(NUM_BLOCKS).half()}), "float16"),
        (set_nan, "NaN"),
    ],
)
def test_wrong_router_tensors_are_refused(tmp_path, change, message):
    save_tiny(tmp_path / "bundle")
    edit_tensors(tmp_path / "bundle", "routers.safetensors", change)
    with pytest.raises(BundleError, match=message):
        load_bundle(tmp_path / "bundle")


Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(Q0), "half of the LoRA"),
        (lambda tensors: tensors.update({Q0: torch.zeros(5, HIDDEN)}), "do not fit rank 4"),
        (lambda tensors: tensors.update({Q0: torch.full((4, HIDDEN), float("inf"))}), "NaN or infinite"),
        (
            lambda tensors: tensors.update({Q0.replace("q_proj", "x_proj"): torch.zeros(4, 4)}),
            "only LoRA on the linear",
        ),
        (lambda tensors: tensors.update({"base_model.model.lm_head.weight": torch.zeros(4, 4)}), "only LoRA on"),
    ],
)
def test_wrong_adapter_tensors_are_refused(tmp_path, change, message):
    save_tiny(tmp_path / "bundle")
    edit_tensors(tmp_path / "bundle", "adapter_model.safetensors", change)
    with pytest.raises(BundleError, match=message):
        load_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"peft_type": "IA3"},
        {"bias": "all"},
        {"alpha_pattern": {"q_proj": 3}},
        {"init_lora_weights": "pissa"},
        {"layer_replication": [[0, 2], [1, 3]]},
        {"r": 0},
        {"lora_alpha": "much"},
        {"some_future_option": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_adapters_that_are_no_plain_lora_are_refused(tmp_path, changes):
    save_tiny(tmp_path / "bundle")
    edit_json(tmp_path / "bundle", "adapter_config.json", **changes)
    with pytest.raises(BundleError, match=r"plain LoRA|LoRA adapter|rank r|number lora_alpha"):
        load_bundle(tmp_path / "bundle")


# A bundle fits one backbone.


def test_a_bundle_fits_its_own_backbone_only(tmp_path):
    tiny_model(0).save_pretrained(tmp_path / "own")
    tiny_model(1).save_pretrained(tmp_path / "other")
    identity = BackboneIdentity(name="tiny", fingerprint=fingerprint(tmp_path / "own"))
    bundle = save_tiny(tmp_path / "bundle", backbone=identity)
    check_fits(bundle, fingerprint(tmp_path / "own"), SHAPE)
    with pytest.raises(BundleError, match=r"was trained for 'tiny'.*adapter 'none'"):
        check_fits(bundle, fingerprint(tmp_path / "other"), SHAPE)
    deeper = BackboneShape(64, HIDDEN, 48, NUM_BLOCKS + 1, 4, 2, 8, bytes_per_weight=4)
    with pytest.raises(BundleError, match=r"3 blocks .* has 4 blocks"):
        check_fits(bundle, identity.fingerprint, deeper)
    odd = save_tiny(tmp_path / "odd", backbone=BackboneIdentity(name="a", fingerprint="a\nb"))
    with pytest.raises(BundleError, match=r"fingerprint 'a\\nb'") as caught:
        check_fits(odd, "c", SHAPE)
    assert "\n" not in str(caught.value)
    fewer_kv_heads = BackboneShape(64, HIDDEN, 48, NUM_BLOCKS, 4, 1, 8, bytes_per_weight=4)
    with pytest.raises(BundleError, match="k_proj maps 32 to 8"):
        check_fits(bundle, identity.fingerprint, fewer_kv_heads)


def test_fingerprint_ignores_sharding_and_dtype_but_not_content(tmp_path):
    model = tiny_model().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "bf16")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="5KB")
    model.float().save_pretrained(tmp_path / "f32")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert fingerprint(tmp_path / "bf16") == fingerprint(tmp_path / "sharded") == fingerprint(tmp_path / "f32")
    model.model.norm.weight.data[5] += 0.01
    model.save_pretrained(tmp_path / "changed")
    assert fingerprint(tmp_path / "changed") != fingerprint(tmp_path / "f32")
    before = fingerprint(tmp_path / "f32")
    config = json.loads((tmp_path / "f32" / "config.json").read_text()) | {"num_attention_heads": 2, "head_dim": 16}
    config |= {"num_key_value_heads": 1}  # the same tensors, cut into fewer heads
    (tmp_path / "f32" / "config.json").write_text(json.dumps(config))
    assert fingerprint(tmp_path / "f32") != before


def test_fingerprint_of_damaged_or_missing_weights(tmp_path):
    with pytest.raises(BackboneError):
        fingerprint(tmp_path / "nowhere")
    tiny_model().save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="truncated"):
        fingerprint(tmp_path / "model")
    weights.unlink()
    with pytest.raises(BackboneError, match=r"holds neither model\.safetensors"):
        fingerprint(tmp_path / "model")
