"""Bundles and their PEFT adapters in every damaged form: read, or told by file and field; nothing hangs."""

import json
import shutil
import struct
from contextlib import suppress

import pytest
import torch
from damage import FORMS, mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from tiny_bundles import save_tiny

from layerroute.bundle import load_bundle
from layerroute.errors import BundleError
from layerroute.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LoraModule, parse_adapter, serialise_adapter

NAME = "model.layers.0.self_attn.q_proj"
FILES = serialise_adapter({NAME: LoraModule(torch.ones(2, 8), torch.ones(8, 2), 2.0)}, 3, "tiny")
CONFIG = json.loads(FILES[ADAPTER_CONFIG])


def read(config, weights=FILES[ADAPTER_WEIGHTS]):
    return parse_adapter(config if isinstance(config, bytes) else json.dumps(config).encode(), weights)


@pytest.mark.parametrize(
    "config",
    [
        *(b"", b"[]", b"null", b"7", b'"LORA"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"r": ' * 100_000),
        *(
            b'{"r": 1' + b"0" * 5_000,
            b'{"r": 1, "r": 2}',
            b'{"peft_type": "LORA", "r": NaN}',
            b'{"peft_type": ["LORA"]}',
        ),
    ],
    ids=range(13),
)
def test_configurations_that_are_none(config):
    with pytest.raises(BundleError, match=r"adapter_config\.json .*: "):
        read(config)


@pytest.mark.parametrize("value", [None, True, 0, -1, 1.0, 10**12, 10**400, "2", [2], {}])
def test_ranks_that_are_none(value):
    with pytest.raises(BundleError, match=r"adapter_config\.json .*\br\b"):
        read(CONFIG | {"r": value})


@pytest.mark.parametrize("value", [None, True, 10**400, 1e300, float("inf"), "16", [16], {}])
def test_alphas_that_are_none(value):
    text = json.dumps(CONFIG | {"lora_alpha": value}).replace("Infinity", "1e999")
    with pytest.raises(BundleError, match=r"adapter_config\.json .*lora_alpha"):
        read(text.encode())


def nested(depth):
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize("value", [{"a": 1}, ["none"], "some", 1.5, nested(300), "x" * 10_000], ids=range(6))
@pytest.mark.parametrize("field", ["bias", "use_dora", "rank_pattern", "never_heard_of"])
def test_fields_that_would_change_what_it_computes(field, value):
    with pytest.raises(BundleError, match=f"asks for {field} = ") as caught:
        read(CONFIG | {field: value})
    assert len(str(caught.value)) < 400


def safetensors(dtype):
    entry = {"dtype": dtype, "shape": [4], "data_offsets": [0, 4]}
    header = json.dumps({f"base_model.model.{NAME}.lora_A.weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


@pytest.mark.parametrize(
    "weights",
    [
        *(b"", b"x" * 100, FILES[ADAPTER_WEIGHTS][:-1], struct.pack("<Q", 2**40)),
        *map(safetensors, ("F4", "X1", "F8_E8M0", "U8", "I8", "BOOL")),
        save({f"base_model.model.{NAME}.lora_A.weight": torch.ones(2, 8)}),
        save({"x": torch.ones(1)}),
        save({f"base_model.model.model.layers.{'9' * 5_000}.mlp.up_proj.lora_A.weight": torch.ones(2, 8)}),
        save({f"base_model.model.{NAME}.lora_{half}.weight": torch.ones(2, 2, dtype=torch.int8) for half in "AB"}),
        save({f"base_model.model.{NAME}.lora_{half}.weight": torch.full((2, 2), torch.nan) for half in "AB"}),
    ],
    ids=range(15),
)
def test_weights_that_are_no_lora(weights):
    with pytest.raises(BundleError) as caught:
        read(CONFIG, weights)
    assert len(str(caught.value)) < 500


@settings(max_examples=300)
@given(st.data())
def test_any_change_of_the_configuration_is_read_or_told(data):
    with suppress(BundleError):
        read(mutate(data, json.loads(FILES[ADAPTER_CONFIG])))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "bundle"
    save_tiny(folder)
    return folder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["routing.json", "routers.safetensors", ADAPTER_CONFIG, ADAPTER_WEIGHTS])
def test_files_of_other_kinds(whole, tmp_path, name, form):
    if form == "sparse" and name != "routing.json":
        pytest.skip("weights may be that large")
    folder = shutil.copytree(whole, tmp_path / "bundle")
    FORMS[form](folder / name)
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        load_bundle(folder)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_of_the_routing_is_read_or_told(whole, tmp_path, data):
    folder = shutil.copytree(whole, tmp_path / "bundle", dirs_exist_ok=True)
    (folder / "routing.json").write_text(json.dumps(mutate(data, json.loads((whole / "routing.json").read_text()))))
    with suppress(BundleError):
        load_bundle(folder)
