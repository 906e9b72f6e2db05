"""Whatever is wrong with a model folder is an error that names the file, the field and a remedy; nothing hangs."""

import json

import pytest
from damage import FORMS, copy_of, edit, make_folder, mutate, open_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qwen2 import load

from layerroute.engine.loading import end_ids_of
from layerroute.engine.tokenizer import load_tokenizer
from layerroute.errors import BackboneError, UnsupportedArchitectureError

JSON_FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer):
    return make_folder(tmp_path_factory.mktemp("whole") / "model", tokenizer)


@pytest.fixture
def folder(whole, tmp_path):
    return copy_of(whole, tmp_path)


def error_of(folder) -> str:
    with pytest.raises(BackboneError) as caught:
        open_folder(folder)
    message = str(caught.value)
    assert ": " in message  # what is wrong, and the remedy
    assert len(message) < 1000
    return message


def test_a_whole_folder_opens(folder):
    assert len(open_folder(folder)) > 5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", JSON_FILES)
def test_a_file_that_is_no_json_object(folder, name, form):
    FORMS[form](folder / name)
    assert name in error_of(folder)


BAD_SIZES = [None, True, -1, 0, 2.5, 32.0, "32", [32], {}, 10**9, 10**12, 10**400]
SIZES = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
OPTIONAL_SIZES = ["num_key_value_heads", "head_dim", "max_position_embeddings"]


@pytest.mark.parametrize("value", BAD_SIZES, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("field", SIZES + OPTIONAL_SIZES)
def test_sizes_that_are_none(folder, field, value):
    if value is None and field in OPTIONAL_SIZES:
        pytest.skip("a default")
    edit(folder / "config.json", lambda config: config.update({field: value}))
    message = error_of(folder)
    assert "config.json" in message
    assert field in message


@pytest.mark.parametrize("field", SIZES)
def test_sizes_that_are_missing(folder, field):
    edit(folder / "config.json", lambda config: {name: value for name, value in config.items() if name != field})
    assert f"lacks the field {field!r}" in error_of(folder)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"num_attention_heads": 5, "head_dim": None}, "num_attention_heads"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "num_key_value_heads"),
        ({"num_key_value_heads": 8}, "num_key_value_heads"),
        ({"head_dim": 7}, "head_dim"),
        ({"hidden_size": 64}, "model.embed_tokens.weight"),
        ({"vocab_size": 2**20}, "model.embed_tokens.weight"),
        ({"intermediate_size": 2**24}, "mlp.gate_proj.weight"),
        ({"num_hidden_layers": 3}, "model.layers.2."),
        ({"num_hidden_layers": 2**24}, "model.layers.2."),
        ({"num_hidden_layers": 1}, "num_hidden_layers"),
        ({"tie_word_embeddings": False}, "lm_head.weight"),
    ],
)
def test_sizes_that_contradict_each_other_or_the_weights(folder, change, fragment):
    edit(folder / "config.json", lambda config: config.update(change))
    assert fragment in error_of(folder)


BAD_RATES = [None, True, 0, -1.0, float("inf"), float("nan"), "1e-6", [], {}, 10**400]


@pytest.mark.parametrize("value", BAD_RATES, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("field", ["rms_norm_eps", "rope_theta"])
def test_constants_that_are_no_positive_numbers(folder, field, value):
    def change(config):
        config.pop("rope_parameters", None)
        return config | {field: value}

    if value is None:
        pytest.skip("a default")
    edit(folder / "config.json", change)
    assert "config.json" in error_of(folder)


@pytest.mark.parametrize("value", [1e-3, 1.0, 1e3])
def test_an_epsilon_of_the_size_of_what_it_is_added_to(folder, value):
    edit(folder / "config.json", lambda config: config.update({"rms_norm_eps": value}))
    if value < 1:
        open_folder(folder)
    else:
        assert "rms_norm_eps" in error_of(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": []},
        {"rope_parameters": "default"},
        {"rope_parameters": {"rope_theta": 0}},
        {"rope_parameters": {"rope_theta": -10000.0}},
        {"rope_parameters": {"rope_theta": 0.5}},
        {"rope_parameters": {"rope_theta": "10000"}},
        {"rope_parameters": {"rope_type": 5}},
        {"rope_scaling": "yarn"},
        {"rope_scaling": [1]},
        {"rope_scaling": {"type": ["yarn"]}},
        {"tie_word_embeddings": "no"},
        {"tie_word_embeddings": None},
        {"tie_word_embeddings": 1},
        {"use_sliding_window": "false"},
        {"hidden_act": 3},
        {"layer_types": "full_attention"},
    ],
    ids=str,
)
def test_other_fields_that_say_nothing(folder, change):
    edit(folder / "config.json", lambda config: config.update(change))
    message = error_of(folder)
    assert "config.json" in message
    assert next(iter(change)) in message


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llama", "hidden_size": "none of ours"},
        {"model_type": None},
        {"model_type": []},
        {"model_type": {"a": 1}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0}},
        {"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_type": "yarn"}},
        {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
        {"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"hidden_act": "gelu"},
        {"quantization_config": {}},
    ],
    ids=str,
)
def test_what_this_runtime_does_not_compute_is_refused(folder, change):
    edit(folder / "config.json", lambda config: config.update(change))
    with pytest.raises(UnsupportedArchitectureError, match="Qwen2"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architectures", 5),
        ("architectures", [None]),
        ("torch_dtype", "int8"),
        ("dtype", []),
        ("sliding_window", "x"),
        ("id2label", "x"),
        ("auto_map", {"AutoConfig": "code.Config", "AutoTokenizer": ["code.T", None]}),
        ("tokenizer_class", 7),
        ("transformers_version", {}),
        ("eos_token_id", -5),
        ("num_labels", "many"),
    ],
)
def test_fields_that_nobody_reads_may_say_anything(folder, field, value):
    expected = open_folder(folder)
    edit(folder / "config.json", lambda config: config.update({field: value}))
    assert open_folder(folder) == expected


@pytest.mark.parametrize(
    "value", ["x", ["x"], [1, None], -1, [-1], 10**12, 2048, True, [True], {}, {"a": 1}, 1.0, [[1]], list(range(99))]
)
def test_end_tokens_that_are_none(folder, value):
    edit(folder / "generation_config.json", lambda config: config.update({"eos_token_id": value}))
    message = error_of(folder)
    assert "generation_config.json" in message
    assert "eos_token_id" in message


def test_a_folder_without_generation_config_opens(folder):
    (folder / "generation_config.json").unlink()
    open_folder(folder)


def test_the_remedy_is_named(folder):
    edit(folder / "config.json", lambda config: config.update({"hidden_size": -1}))
    assert "hidden_size = -1" in error_of(folder)
    assert "fetch the checkpoint again" in error_of(folder)


def test_messages_show_no_long_values(folder):
    edit(folder / "config.json", lambda config: config.update({"hidden_size": "x" * 10_000}))
    assert len(error_of(folder)) < 400


def test_a_number_beyond_every_float(folder):
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"rms_norm_eps": 0}).replace(
            '"rms_norm_eps": 0', '"rms_norm_eps": 1e400'
        )
    )
    assert "rms_norm_eps" in error_of(folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["config.json", "generation_config.json"]))
def test_any_change_loads_or_is_told(folder, data, name):
    path = folder / name
    whole = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(mutate(data, json.loads(whole))), encoding="utf-8")
    try:
        load(folder)
        end_ids_of(folder, load_tokenizer(folder, 4096))
    except BackboneError:
        pass
    finally:
        path.write_text(whole, encoding="utf-8")
