"""Model folders: a small one with anything wrong with its files loads and answers, or is refused in words."""

import atexit
import copy
import json
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from layerroute.bundle import BackboneIdentity, fingerprint, save_bundle
from layerroute.chat.template import encode_rendered, render
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine
from layerroute.engine.request import GenerationRequest, OutputConstraint, ToolSpec
from layerroute.errors import LayerRouteError
from tests.fuzz import inputs

TOKENIZER = Path(__file__).parents[1] / "data" / "tokenizer"
NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    7,
    16,
    10**6,
    10**9,
    10**12,
    2**63,
    0.5,
    -1e-6,
    1e308,
    float("nan"),
    float("inf"),
    True,
    "16",
)
CALL = OutputConstraint((ToolSpec("f", '{"type": "object", "properties": {}}'),), "required")

Damage = dict[str, bytes | None]
"""Files by name that are written instead of the sound ones; None for none, b"/" for a folder, b"@" for a dead link."""

_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
ROOT = Path(tempfile.mkdtemp(prefix="layerroute-fuzz-", dir=_MEMORY))
atexit.register(shutil.rmtree, ROOT, ignore_errors=True)


@cache
def sound() -> dict[str, bytes]:
    """The files of a random model of two blocks, with a tokenizer of bytes and a bundle."""
    folder = ROOT / f"sound-{os.getpid()}"
    folder.mkdir()
    raw = json.loads((TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
    moved = {token["id"]: 256 + number for number, token in enumerate(raw["added_tokens"])}
    raw["model"] |= {"vocab": {text: byte for byte, text in bytes_to_unicode().items()}, "merges": []}
    for token in raw["added_tokens"]:
        token["id"] = moved[token["id"]]
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    config = json.loads((TOKENIZER / "tokenizer_config.json").read_text(encoding="utf-8"))
    listed = config.get("added_tokens_decoder")
    if listed:
        config["added_tokens_decoder"] = {str(moved[int(number)]): token for number, token in listed.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(TOKENIZER / "chat_template.jinja", folder)
    _save_model(folder, vocab_size=256 + len(moved) + 6)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _save_model(folder: Path, vocab_size: int) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=vocab_size, num_key_value_heads=1, **sizes, max_position_embeddings=512)
    )
    model.save_pretrained(folder)
    save_bundle(
        folder / "bundle",
        gates_weight_LD=torch.randn(2, 16),
        gates_bias_L=torch.zeros(2),
        kind_weight_D=torch.randn(16),
        kind_bias=torch.zeros(1),
        evidence="last",
        reads="own_block",
        normalise=True,
        always_run=(0,),
        scope="generation",
        backbone=BackboneIdentity(name="random", fingerprint=fingerprint(folder)),
    )


def make(rng: Random) -> Damage:
    """One or two files with something wrong; in half of the folders there is no bundle."""
    files = sound()
    damage: Damage = {name: None for name in files if name.startswith("bundle/")} if rng.random() < 0.5 else {}
    for name in rng.choices([name for name in files if name not in damage], k=rng.choice((1, 1, 2))):
        damage[name] = _damaged(rng, name, files[name])
    if rng.random() < 0.02:
        damage[rng.choice(("model.safetensors.index.json", "added_tokens.json", "extra"))] = inputs.text(rng).encode(
            "utf-8", "surrogatepass"
        )
    return damage


def _damaged(rng: Random, name: str, data: bytes) -> bytes | None:
    kind = rng.random()
    if kind < 0.1:
        return rng.choice((None, b"/", b"@", b"", b"{}", b"[]", b"null", b"[" * 5000))
    if name.endswith(".json") and kind < 0.8:
        return _changed_json(rng, json.loads(data))
    if name.endswith(".safetensors") and kind < 0.5:
        size = int.from_bytes(data[:8], "little")
        head = _changed_json(rng, json.loads(data[8 : 8 + size]))
        return len(head).to_bytes(8, "little") + head + data[8 + size :]
    return inputs.damaged(rng, data)


def _changed_json(rng: Random, whole: Any) -> bytes:
    """The document with a field somewhere in it taken out, added or changed."""
    for _ in range(rng.choice((1, 1, 1, 2))):
        part, depth = whole, rng.randrange(5)
        while depth and part:
            inner = [
                value
                for value in (part.values() if isinstance(part, dict) else part)
                if value and isinstance(value, dict | list)
            ]
            if not inner:
                break
            part, depth = rng.choice(inner), depth - 1
        keys: list[Any] = list(part) if isinstance(part, dict) else list(range(len(part)))
        if not keys:
            continue
        key = rng.choice(keys)
        match rng.randrange(6):
            case 0:
                del part[key]
            case 1:
                part[key] = copy.deepcopy(part[rng.choice(keys)])
            case 2:
                part[key] = inputs.value(rng, 2)
            case 3 if isinstance(part, dict):
                part[rng.choice(("head_dim", "rope_scaling", "layer_types", "dropout", inputs.text(rng, 1)))] = (
                    inputs.value(rng, 2)
                )
            case _:
                part[key] = rng.choice(NUMBERS)
    return json.dumps(whole).encode()


def check(damage: Damage) -> str:
    """It answers, or is refused by an error of this project on one line."""
    folder = ROOT / f"model-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "bundle").mkdir(parents=True)
    for name, data in (sound() | damage).items():
        path = folder / name
        if data == b"/":
            path.mkdir()
        elif data == b"@":
            path.symlink_to(folder / "nowhere")
        elif data is not None:
            path.write_bytes(data)
    if not any((folder / "bundle").iterdir()):
        (folder / "bundle").rmdir()
    try:
        return _answer(folder)
    except LayerRouteError as error:
        refusal = error
    assert len(str(refusal).splitlines()) == 1, f"not an error of one line: {refusal}"
    return f"refused ({type(refusal).__name__})"


def _answer(folder: Path) -> str:
    engine = Engine(EngineConfig(model=str(folder), device="cpu"))
    try:
        prompt = encode_rendered(engine.tokenizer, render(engine.tokenizer, [{"role": "user", "content": "Hi"}]))
        for constraint in (None, CALL):
            request = GenerationRequest(prompt, max_tokens=3, constraint=constraint)
            assert len(engine.submit(request).result().token_ids) <= 3
    finally:
        engine.close()
    return "answers"
