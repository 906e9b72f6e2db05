"""Token files from a tiny made-up corpus."""

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from layerroute_training.embedded import prepare as module
from layerroute_training.embedded.batches import read_documents
from layerroute_training.embedded.conversations import generate
from layerroute_training.embedded.prepare import PARTS, prepare
from layerroute_training.encoder import ConversationEncoder
from layerroute_training.rows import Part, part_of, row_files


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "VOCAB_SIZE", 900)
    monkeypatch.setattr(module, "TOKENIZER_CHARACTERS", dict.fromkeys(module.TOKENIZER_CHARACTERS, 150_000))
    train = module.train_tokenizer
    monkeypatch.setattr(module, "train_tokenizer", lambda texts: train(texts, 900))
    folder = tmp_path / "data"
    for group, kind in (("toolcall", "everyday_tools"), ("planning", "plan")):
        rows = generate(kind, 0, 40, seed=9)
        records = [
            {"id": r.id, "source": "made", "split": r.split, "tools": r.tools, "messages": r.messages} for r in rows
        ]
        write_lines(folder / group / "made.jsonl.gz", records)
    texts = [f"Story {number}. " + "Once upon a time there was a tokenizer. " * 5 for number in range(60)]
    write_lines(folder / "general" / "tldr-00.jsonl.gz", [{"id": str(i), "text": text} for i, text in enumerate(texts)])
    write_lines(folder / "general" / "unused-00.jsonl.gz", [{"id": "0", "text": "never read"}])
    return folder


def documents(folder: Path, group: str, part: Part) -> list[list[int]]:
    (one,) = [one for one in read_documents(folder, part) if one.name == group]
    return [one.tokens[start:end].tolist() for start, end in pairwise(one.offsets)]


def test_files_hold_the_documents_of_the_index(data_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    index = prepare(data_folder, out, seed=9, generated_rows=60, processes=1)
    assert json.loads((out / "index.json").read_text("utf-8")) == index
    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    encoder = ConversationEncoder(tokenizer)
    rows = list(generate("everyday_tools", 0, 40, seed=9))
    assert {part_of(row) for row in rows} >= {"backbone", "fit"}
    for part in PARTS:
        expected = [[*encoder.encode(row), index["end_of_text"]] for row in rows if part_of(row) == part]
        assert documents(out, "toolcall", part) == expected
        for group in module.GROUPS:
            entry = index["groups"][group][part]
            found = documents(out, group, part)
            assert sum(source["documents"] for source in entry["sources"]) == len(found)
            assert sum(source["tokens"] for source in entry["sources"]) == entry["tokens"] == sum(map(len, found))
            assert all(ids[-1] == index["end_of_text"] and index["end_of_text"] not in ids[:-1] for ids in found)
    general = [tokenizer.decode(ids[:-1]) for part in PARTS for ids in documents(out, "general", part)]
    assert len(general) == 60
    assert not any("never read" in text for text in general)


def test_one_group_again_leaves_the_others(data_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = prepare(data_folder, out, seed=9, generated_rows=20, processes=1)
    write_lines(data_folder / "toolcall" / "made.jsonl.gz", [])
    second = prepare(data_folder, out, seed=9, generated_rows=40, processes=1, groups=["generated"])
    assert list(second["groups"]) == list(first["groups"])
    assert second["groups"]["toolcall"] == first["groups"]["toolcall"]
    assert second["groups"]["generated"] != first["groups"]["generated"]


def test_two_processes_write_the_same_files(data_folder: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        prepare(data_folder, tmp_path / str(processes), seed=9, generated_rows=30, processes=processes)
    names = ["index.json", "backbone/generated.bin.xz", "fit/toolcall.bin.xz", "tokenizer/tokenizer.json"]
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_missing_corpus_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="toolcall"):
        row_files(tmp_path, "toolcall")
