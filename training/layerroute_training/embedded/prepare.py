"""From corpora and generated conversations to token files that travel.

    data folder + generator -> tokenizer -> token ids -> {backbone,fit,dev}/<group>.bin.xz + index.json

A `.bin.xz` is xz-compressed little-endian uint16: the documents of a group one after the other, each followed by
`<|endoftext|>`. `index.json` says where the documents start and from which source they come.
`batches.read_documents` reads both.
"""

import argparse
import itertools
import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from layerroute_training.embedded import conversations
from layerroute_training.embedded.tokenizer import (
    CONTEXT_WINDOW,
    END_OF_TEXT,
    VOCAB_SIZE,
    save_tokenizer,
    train_tokenizer,
)
from layerroute_training.encoder import ConversationEncoder
from layerroute_training.rows import (
    Part,
    Row,
    part_of,
    read_json_lines,
    read_rows,
    row_files,
    split_of,
)
from layerroute_training.workers import in_order

GROUPS = ("toolcall", "planning", "general", "generated")
PARTS: tuple[Part, ...] = ("backbone", "fit", "dev")
GENERAL_CHARACTERS = {"tldr": 3_600_000, "openstax": 16_000_000, "standardebooks": 15_000_000, "peps": 6_000_000}
"""Characters of general text to take from each source; sources that are not named are left out."""
TOKENIZER_CHARACTERS = {"toolcall": 14_000_000, "planning": 8_000_000, "general": 10_000_000, "generated": 10_000_000}
"""Characters of each group that the tokenizer is trained on."""
ROWS_PER_TASK = 500
_XZ: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA2, "preset": 5, "dict_size": 1 << 26, "lc": 3, "lp": 1, "pb": 1}]


@dataclass(frozen=True)
class Task:
    """A piece of work for one process: a corpus file, or a range of generated rows."""

    group: str
    source: str
    path: Path | None = None
    start: int = 0
    stop: int = 0


@dataclass(frozen=True)
class Encoded:
    """The documents of one task: token ids and lengths per split, and how many were too long."""

    task: Task
    tokens: dict[Part, bytes]
    lengths: dict[Part, list[int]]
    too_long: int


def prepare(
    data_folder: Path,
    out_folder: Path,
    seed: int = 0,
    generated_rows: int = 90_000,
    processes: int = 2,
    groups: Sequence[str] = GROUPS,
) -> dict[str, Any]:
    """Train (or load) the tokenizer, encode everything, write the token files.

    Args:
        data_folder: holds `toolcall/`, `planning/` and `general/` with `.jsonl.gz` files.
        out_folder: gets `tokenizer/`, `backbone/`, `fit/`, `dev/` and `index.json`; a tokenizer that is there is kept.
        seed: of the generated conversations.
        generated_rows: how many conversations to generate.
        processes: how many processes encode.
        groups: which groups to encode; the files and index entries of the others stay as they are.

    Returns:
        The index, as in `index.json`.
    """
    tokenizer_folder = out_folder / "tokenizer"
    if not (tokenizer_folder / "tokenizer.json").exists():
        save_tokenizer(train_tokenizer(tokenizer_sample(data_folder, seed)), tokenizer_folder)
    tasks = [task for task in _tasks(data_folder, generated_rows) if task.group in groups]
    index_file = out_folder / "index.json"
    kept = json.loads(index_file.read_text(encoding="utf-8"))["groups"] if index_file.exists() else {}
    index: dict[str, Any] = {"format": 1, "seed": seed, "vocab_size": VOCAB_SIZE, "groups": kept}
    index["end_of_text"] = AutoTokenizer.from_pretrained(tokenizer_folder).convert_tokens_to_ids(END_OF_TEXT)
    with in_order(_Encoder, (tokenizer_folder, seed), tasks, processes) as encoded:
        for group, pieces in itertools.groupby(encoded, lambda piece: piece.task.group):
            whole = list(pieces)
            index["groups"][group] = {part: _write(out_folder, group, part, whole) for part in PARTS}
    index_file.write_text(json.dumps(index), encoding="utf-8")
    return index


def tokenizer_sample(data_folder: Path, seed: int) -> Iterator[str]:
    """Text that the tokenizer is trained on: every group, evenly from all of its files."""
    for group in ("toolcall", "planning"):
        files = row_files(data_folder, group)
        for path in files:
            yield from _until(TOKENIZER_CHARACTERS[group] // len(files) * 2, map(_plain_text, read_rows(path)))
    for path in row_files(data_folder, "general"):
        if _general_source(path) in GENERAL_CHARACTERS:
            texts = (record["text"] for record in read_json_lines(path))
            yield from _until(TOKENIZER_CHARACTERS["general"] // len(GENERAL_CHARACTERS), texts)
    for kind, share in conversations.SHARES.items():
        rows = conversations.generate(kind, 0, 10**9, seed)
        yield from _until(int(TOKENIZER_CHARACTERS["generated"] * share), map(_plain_text, rows))


def _until(characters: int, texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return


def _plain_text(row: Row) -> str:
    parts = [json.dumps(tool, ensure_ascii=False) for tool in row.tools if len(row.id) % 4 == 0]
    for message in row.messages:
        parts.append(f"{message['role']}\n{message['content']}")
        parts += [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join(parts)


def _general_source(path: Path) -> str:
    return path.name.removesuffix(".jsonl.gz").rsplit("-", 1)[0]


def _tasks(data_folder: Path, generated_rows: int) -> Iterator[Task]:
    for group in ("toolcall", "planning"):
        for path in row_files(data_folder, group):
            yield Task(group, path.name.removesuffix(".jsonl.gz"), path)
    for path in row_files(data_folder, "general"):
        if _general_source(path) in GENERAL_CHARACTERS:
            yield Task("general", _general_source(path), path)
    for kind, share in conversations.SHARES.items():
        count = round(generated_rows * share)
        for start in range(0, count, ROWS_PER_TASK):
            yield Task("generated", kind, None, start, min(start + ROWS_PER_TASK, count))


class _Encoder:
    """Encodes the documents of tasks."""

    def __init__(self, tokenizer_folder: Path, seed: int) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        self._conversations = ConversationEncoder(self._tokenizer)
        self._seed = seed

    def __call__(self, task: Task) -> Encoded:
        end_of_text = self._tokenizer.convert_tokens_to_ids(END_OF_TEXT)
        tokens: dict[Part, list[bytes]] = {part: [] for part in PARTS}
        lengths: dict[Part, list[int]] = {part: [] for part in PARTS}
        too_long = 0
        for part, ids in self._documents(task):
            if len(ids) >= CONTEXT_WINDOW:
                too_long += 1
                continue
            tokens[part].append(np.array([*ids, end_of_text], dtype="<u2").tobytes())
            lengths[part].append(len(ids) + 1)
        return Encoded(task, {part: b"".join(documents) for part, documents in tokens.items()}, lengths, too_long)

    def _documents(self, task: Task) -> Iterator[tuple[Part, Sequence[int]]]:
        if task.group == "general":
            assert task.path is not None
            for text in _spread(task.path, GENERAL_CHARACTERS[task.source]):
                is_dev = split_of([{"role": "user", "content": text}]) == "dev"
                yield "dev" if is_dev else "backbone", self._tokenizer(text, add_special_tokens=False)["input_ids"]
            return
        rows: Iterator[Row] = (
            read_rows(task.path)
            if task.path
            else conversations.generate(task.source, task.start, task.stop, self._seed)
        )
        for row in rows:
            yield part_of(row), self._conversations.encode(row).tolist()


def _spread(path: Path, characters: int) -> list[str]:
    """Texts of a file, evenly spaced, up to a number of characters."""
    texts = [record["text"] for record in read_json_lines(path)]
    share = min(1.0, characters / max(1, sum(map(len, texts))))
    return [text for number, text in enumerate(texts) if int((number + 1) * share) > int(number * share)]


def _write(out_folder: Path, group: str, part: Part, encoded: list[Encoded]) -> dict[str, Any]:
    (out_folder / part).mkdir(parents=True, exist_ok=True)
    file = f"{part}/{group}.bin.xz"
    data = b"".join(piece.tokens[part] for piece in encoded)
    (out_folder / file).write_bytes(lzma.compress(data, format=lzma.FORMAT_XZ, filters=_XZ))
    lengths = [length for piece in encoded for length in piece.lengths[part]]
    sources: dict[str, dict[str, Any]] = {}
    for piece in encoded:
        source = piece.task.source
        entry = sources.setdefault(source, {"source": source, "documents": 0, "tokens": 0, "too_long": 0})
        entry["documents"] += len(piece.lengths[part])
        entry["tokens"] += sum(piece.lengths[part])
        entry["too_long"] += piece.too_long
    offsets = [0, *np.cumsum(np.array(lengths, dtype=np.int64)).tolist()]
    return {"file": file, "tokens": offsets[-1], "offsets": offsets, "sources": list(sources.values())}


def main() -> None:
    """Prepare from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_folder", type=Path)
    parser.add_argument("out_folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generated-rows", type=int, default=90_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS)
    options = parser.parse_args()
    index = prepare(
        options.data_folder,
        options.out_folder,
        options.seed,
        options.generated_rows,
        options.processes,
        options.groups,
    )
    for group, parts in index["groups"].items():
        for part, entry in parts.items():
            print(f"{group:10} {part:8} {entry['tokens']:>12,} tokens in {len(entry['offsets']) - 1:>7,} documents")


if __name__ == "__main__":
    main()
