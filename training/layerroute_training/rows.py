"""Canonical conversation rows, and reading them.

A row is one conversation: `tools` are OpenAI function dicts, `messages` have the roles system, user, assistant and
tool; assistant messages may carry `tool_calls` whose `arguments` are objects. Row files are gzipped JSON lines.
"""

import gzip
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "dev"]
Part = Literal["backbone", "fit", "dev"]
"""What a conversation is for when the backbone is ours too: pre-training, the fit of LoRA and routers, evaluation."""

Message = dict[str, Any]
Tool = dict[str, Any]

DEV_SHARE = 200  # of 10,000
FIT_SHARE = 1_200  # of 10,000


@dataclass(frozen=True)
class Row:
    """One conversation in canonical form."""

    id: str
    source: str
    split: Split
    tools: Sequence[Tool]
    messages: Sequence[Message]


def split_of(messages: Sequence[Message]) -> Split:
    """The split of a conversation, decided by the letters and digits of its first user message."""
    return "dev" if _bucket(messages) < DEV_SHARE else "train"


def part_of(row: Row) -> Part:
    """The part of a conversation: its dev split, and of the rest 12 % that the embedded backbone never saw.

    A backbone has memorised some of what it was trained on. LoRA and routers that are fitted to such rows learn what
    holds for them alone, so the embedded model's are fitted to rows of their own.
    """
    if row.split == "dev":
        return "dev"
    return "fit" if _bucket(row.messages) < DEV_SHARE + FIT_SHARE else "backbone"


def _bucket(messages: Sequence[Message]) -> int:
    first = next((message["content"] for message in messages if message["role"] == "user"), "")
    digest = hashlib.sha256(" ".join(words_of(first)).encode()).hexdigest()
    return int(digest[:8], 16) % 10_000


def words_of(text: str) -> list[str]:
    """The letter and digit runs of a text, NFKC-normalised and lower-cased: what it says, without its typography."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower())


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a gzipped JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_rows(path: Path) -> Iterator[Row]:
    """The conversations of one `.jsonl.gz` file, in file order."""
    for record in read_json_lines(path):
        yield Row(record["id"], record["source"], record["split"], record["tools"], record["messages"])


def row_files(data_folder: Path, group: str) -> list[Path]:
    """The `.jsonl.gz` files of one group (`toolcall`, `planning`, `general`), by name.

    Raises:
        FileNotFoundError: the folder holds no file of that group.
    """
    files = sorted((data_folder / group).glob("*.jsonl.gz"))
    if not files:
        raise FileNotFoundError(f"no *.jsonl.gz under {data_folder / group}: pass the folder that holds {group}/")
    return files
