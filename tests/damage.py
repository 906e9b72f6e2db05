"""A small complete model folder, and the ways in which its files can be wrong."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from qwen2 import random_model, save

from layerroute.chat.template import encode_rendered, render
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine

BLOCKS = 2


def make_folder(folder: Path, tokenizer, **saving) -> Path:
    """A checkpoint as transformers writes it, with a tokenizer, a chat template and end tokens."""
    model = random_model(vocab_size=len(tokenizer), num_hidden_layers=BLOCKS)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id]
    save(model, folder, **saving)
    tokenizer.save_pretrained(folder)
    return folder


def copy_of(folder: Path, path: Path) -> Path:
    return Path(shutil.copytree(folder, path / "model"))


def open_folder(folder: Path) -> tuple[int, ...]:
    """All that reads a folder before the first token: the ids of a prompt."""
    engine = Engine(EngineConfig(model=str(folder)))
    engine.load()
    return encode_rendered(engine.tokenizer, render(engine.tokenizer, [{"role": "user", "content": "Hello"}]))


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the JSON in a file; `change` edits it in place or returns another."""
    document = json.loads(path.read_text(encoding="utf-8"))
    changed = change(document)
    path.write_text(json.dumps(document if changed is None else changed), encoding="utf-8")


def _write(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data)  # type: ignore[func-returns-value]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(path.parent)  # the whole path may be longer than a socket's name can be
        bound.bind(path.name)
        os.chdir(here)


def _in_place_of(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30)


FORMS: dict[str, Callable[[Path], None]] = {
    "a list": _write(b"[]"),
    "null": _write(b"null"),
    "a string": _write(b'"qwen2"'),
    "a number": _write(b"7"),
    "deep": _write(b"[" * 100_000),
    "deep inside": _write(b'{"x": ' * 100_000),
    "empty": _write(b""),
    "binary": _write(bytes(range(256))),
    "UTF-16": _write('{"model_type": "qwen2"}'.encode("utf-16")),
    "BOM": _write(b"\xef\xbb\xbf{}"),
    "NaN": _write(b'{"rms_norm_eps": NaN}'),
    "a number of 5,000 digits": _write(b'{"eos_token_id": 1' + b"0" * 5_000 + b"}"),
    "a key twice": _write(b'{"x": 1, "x": 2}'),
    "truncated": _truncate,
    "sparse": _sparse,
    "a folder": _in_place_of(Path.mkdir),
    "a pipe": _in_place_of(os.mkfifo),
    "a socket": _socket,
    "a link to itself": _in_place_of(lambda path: path.symlink_to(path.name)),
    "a link to nothing": _in_place_of(lambda path: path.symlink_to("nowhere")),
    "a device": _in_place_of(lambda path: path.symlink_to("/dev/zero")),
}
"""What a file can be instead of the JSON object that belongs there."""


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
"""Any JSON value, and the NaN and Infinity that Python writes."""


def mutate(data: Any, document: Any) -> Any:
    """Put anything in the place of a part of a JSON document, at any depth, or take the part away."""
    holder, key = {"": document}, ""
    while isinstance(holder[key], dict | list) and holder[key] and data.draw(st.booleans() | st.just(True)):
        holder = holder[key]
        key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
    if isinstance(holder, dict) and key and data.draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = data.draw(ANYTHING)
    return holder[""] if key == "" else document
