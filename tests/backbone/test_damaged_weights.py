"""Weight files: what they hold is compared with config.json before any memory is taken for it."""

import json
import os
import struct

import pytest
import torch
from damage import FORMS, copy_of, edit, make_folder, open_folder
from safetensors.torch import load_file, save_file

from layerroute.bundle import fingerprint
from layerroute.errors import BackboneError, WeightsError

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def single(tmp_path_factory, tokenizer):
    return make_folder(tmp_path_factory.mktemp("single") / "model", tokenizer)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, tokenizer):
    folder = make_folder(tmp_path_factory.mktemp("sharded") / "model", tokenizer, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def error_of(folder) -> str:
    with pytest.raises(BackboneError) as caught:
        open_folder(folder)
    return str(caught.value)


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(begin, end, dtype="F32", shape=(1,)):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def header(**tensors) -> bytes:
    return json.dumps(tensors).encode()


LIES = {
    "a header longer than the file": safetensors(b"{}", length=2**40),
    "a header of negative length": safetensors(b"{}", length=2**64 - 1),
    "a header that is no object": safetensors(b"[1, 2]"),
    "a header that is deep": safetensors(b'{"x": ' * 50_000),
    "a header that is no text": safetensors(b"\xff\xfe\xfd\xfc"),
    "offsets beyond the file": safetensors(header(x=entry(0, 2**40)), bytes(4)),
    "negative offsets": safetensors(header(x=entry(-4, 0)), bytes(4)),
    "offsets backwards": safetensors(header(x=entry(4, 0)), bytes(4)),
    "tensors that overlap": safetensors(header(x=entry(0, 4), y=entry(0, 4)), bytes(4)),
    "a shape of other size": safetensors(header(x=entry(0, 4, shape=(2**40,))), bytes(4)),
    "a shape beyond all numbers": safetensors(header(x=entry(0, 4, shape=(2**62, 2**62))), bytes(4)),
    "an unknown dtype": safetensors(header(x=entry(0, 4, dtype="X32")), bytes(4)),
    "a dtype of several lines": safetensors(header(x=entry(0, 4, dtype="X\n\x1b[31m")), bytes(4)),
    "no tensor": safetensors(b"{}"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies(single, tmp_path, lie):
    folder = copy_of(single, tmp_path)
    (folder / "model.safetensors").write_bytes(LIES[lie])
    assert str(folder) in error_of(folder)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["model.safetensors", INDEX])
def test_files_of_other_kinds(request, tmp_path, name, form):
    folder = copy_of(request.getfixturevalue("sharded" if name == INDEX else "single"), tmp_path)
    FORMS[form](folder / name)
    assert name in error_of(folder)


@pytest.mark.parametrize("length", [0, 4, 8, 100, -1])
def test_files_cut_anywhere(single, tmp_path, length):
    folder = copy_of(single, tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert "model.safetensors is truncated or damaged" in error_of(folder)


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda t: t.pop("model.norm.weight"), "lacks the tensor 'model.norm.weight'"),
        (lambda t: t.pop("model.layers.1.self_attn.q_proj.bias"), "lacks the tensor 'model.layers.1.self_attn.q_proj"),
        (lambda t: t.update({"model.norm.weight": torch.ones(31)}), r"'model.norm.weight'.* has shape (31,)"),
        (lambda t: t.update({"model.norm.weight": torch.ones(1, 32)}), "(1, 32), but config.json asks for (32,)"),
        (lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}), "is of dtype I8"),
        (lambda t: t.update({"model.norm.weight": torch.ones(32).to(torch.float8_e4m3fn)}), "is of dtype F8_E4M3"),
        (lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.bool)}), "is of dtype BOOL"),
        (lambda t: t.update({"model.layers.2.input_layernorm.weight": torch.ones(32)}), "num_hidden_layers = 2"),
    ],
)
def test_tensors_that_config_json_does_not_ask_for(single, tmp_path, change, fragment):
    folder = copy_of(single, tmp_path)
    change_tensors(folder, change)
    assert all(part in error_of(folder) for part in fragment.split(".* "))


def test_other_tensors_than_the_models_are_left_alone(single, tmp_path):
    folder = copy_of(single, tmp_path)
    change_tensors(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    open_folder(folder)


@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("model-00009-of-00009.safetensors", "lacks model-00009-of-00009.safetensors"),
        ("../single/model.safetensors", "no weight file here"),
        ("/etc/passwd", "no weight file here"),
        ("..", "no weight file here"),
        ("", "no weight file here"),
        ("tokenizer.json", "no weight file here"),
        ("pytorch_model.bin", "no weight file here"),
        ("sub/model.safetensors", "no weight file here"),
        ("model\x00.safetensors", "no weight file here"),
        (None, "weight_map"),
        (7, "weight_map"),
        (["model.safetensors"], "weight_map"),
    ],
)
def test_an_index_that_names_what_is_no_weight_file(sharded, tmp_path, name, fragment):
    folder = copy_of(sharded, tmp_path)
    edit(folder / INDEX, lambda index: index["weight_map"].update({"model.norm.weight": name}))
    message = error_of(folder)
    assert fragment in message
    assert INDEX in message


@pytest.mark.parametrize("value", [None, [], "model.safetensors", 0, {}])
def test_an_index_without_a_map(sharded, tmp_path, value):
    folder = copy_of(sharded, tmp_path)
    edit(folder / INDEX, lambda index: index.update({"weight_map": value}))
    error_of(folder)


def test_a_shard_of_another_save_is_not_read(sharded, tmp_path):
    folder = copy_of(sharded, tmp_path)
    expected = open_folder(folder)
    save_file({"model.norm.weight": torch.ones(3)}, folder / "model-00001-of-00099.safetensors")
    assert open_folder(folder) == expected


def test_a_tensor_in_two_shards(sharded, tmp_path):
    folder = copy_of(sharded, tmp_path)
    names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    tensors = load_file(folder / names[0]) | load_file(folder / names[1])
    save_file(tensors, folder / names[1])
    assert "as another file does" in error_of(folder)


def test_a_shard_that_is_a_pipe(sharded, tmp_path):
    folder = copy_of(sharded, tmp_path)
    shard = min(folder.glob("model-*.safetensors"))
    shard.unlink()
    os.mkfifo(shard)
    assert "no regular file" in error_of(folder)


def test_nothing_is_allocated_for_sizes_that_the_files_do_not_have(single, tmp_path, monkeypatch):
    folder = copy_of(single, tmp_path)
    edit(folder / "config.json", lambda config: config.update({"intermediate_size": 2**24}))
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("memory was taken"))
    with pytest.raises(WeightsError, match=r"config\.json asks for"):
        open_folder(folder)


@pytest.mark.parametrize(("dtype", "shape"), [("F4", [8]), ("F6_E2M3", [4])])
def test_a_vector_that_torch_cannot_read(single, tmp_path, dtype, shape):
    folder = copy_of(single, tmp_path)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    found = json.loads(whole[8 : 8 + length])
    end = max(entry["data_offsets"][1] for name, entry in found.items() if name != "__metadata__")
    header = json.dumps(found | {"odd": entry(end, end + (4 if dtype == "F4" else 3), dtype, shape)}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + whole[8 + length :] + bytes(4 if dtype == "F4" else 3))
    with pytest.raises(WeightsError, match=r"'odd' in .* cannot be read|model\.safetensors is truncated or damaged"):
        fingerprint(folder)
