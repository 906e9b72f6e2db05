"""Canonical conversation rows: reading them, and their token ids under the Qwen2.5 chat template.

A row is one conversation: `tools` are OpenAI function dicts, `messages` have the roles system, user, assistant and
tool; assistant messages may carry `tool_calls` whose `arguments` are objects. Row files are gzipped JSON lines.
"""

import gzip
import hashlib
import json
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

Split = Literal["train", "dev"]
Part = Literal["backbone", "fit", "dev"]
"""What a conversation is for when the backbone is ours too: pre-training, the fit of LoRA and routers, evaluation."""

Message = dict[str, Any]
Tool = dict[str, Any]

DEV_SHARE = 200  # of 10,000
FIT_SHARE = 1_200  # of 10,000
_SEGMENT = re.compile(r"(?=<\|im_start\|>)")


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


class ConversationEncoder:
    """Token ids of conversations, with repeated system blocks encoded once.

    The rendered conversation is cut before every `<|im_start|>`. That is a special token, so encoding the segments one
    by one gives the ids of the whole text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, cache_size: int = 4096) -> None:
        """Encode with `tokenizer`, keeping the ids of up to `cache_size` system blocks."""
        self._tokenizer = tokenizer
        self._cache_size = cache_size
        self._system_ids: OrderedDict[str, list[int]] = OrderedDict()

    def render(self, row: Row) -> str:
        """The conversation as chat-template text."""
        messages = [_tidy(message) for message in row.messages]
        text: str = self._tokenizer.apply_chat_template(messages, tools=list(row.tools) or None, tokenize=False)
        return text

    def encode(self, row: Row) -> list[int]:
        """Token ids of the whole conversation, ending with `<|im_end|>` and a line break."""
        first, *rest = _SEGMENT.split(self.render(row).lstrip("\n"))[1:]
        ids = list(self._system_block(first))
        if rest:
            for segment in self._tokenizer(rest, add_special_tokens=False)["input_ids"]:
                ids.extend(segment)
        return ids

    def _system_block(self, text: str) -> list[int]:
        ids = self._system_ids.get(text)
        if ids is None:
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            self._system_ids[text] = ids
            if len(self._system_ids) > self._cache_size:
                self._system_ids.popitem(last=False)
        else:
            self._system_ids.move_to_end(text)
        return ids


def encode_conversation(tokenizer: PreTrainedTokenizerBase, row: Row) -> list[int]:
    """Token ids of one conversation. Use a `ConversationEncoder` for many."""
    return ConversationEncoder(tokenizer).encode(row)


def answer_mask(ids: Sequence[int], header: Sequence[int], end: int) -> list[bool]:
    """Which tokens an assistant generated: those after a `header` up to and including the next `end`.

    Args:
        ids: token ids of a conversation.
        header: ids of `<|im_start|>assistant` and the line break.
        end: id of `<|im_end|>`.
    """
    mask = [False] * len(ids)
    width, inside, position = len(header), False, 0
    opening = list(header)
    while position < len(ids):
        if not inside and ids[position] == opening[0] and list(ids[position : position + width]) == opening:
            inside = True
            position += width
            continue
        if inside:
            mask[position] = True
            inside = ids[position] != end
        position += 1
    return mask


def answer_header(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int]:
    """The header ids and the end id that `answer_mask` wants."""
    header: list[int] = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    return header, int(tokenizer.convert_tokens_to_ids("<|im_end|>"))


def _tidy(message: Message) -> Message:
    content = message["content"]
    return message if content == content.strip() else {**message, "content": content.strip()}
