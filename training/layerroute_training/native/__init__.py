"""Readers of the corpora's native records: a record becomes a canonical row, or is refused with a reason.

Pure functions. True roles are kept: tool results are messages of role "tool", and function definitions leave the system
text for the row's `tools`, together with the sentences that only introduced them.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from layerroute_training.native.glaive import read_glaive
from layerroute_training.native.hermes import read_hermes
from layerroute_training.native.pieces import Conversation, Malformed, Record, asked
from layerroute_training.native.plain import read_canonical, read_gsm8k, read_turing
from layerroute_training.rows import Message, Row, Split, Tool, split_of

__all__ = ["Malformed", "NativeFormat", "Record", "detect", "read_record"]

NativeFormat = Literal["canonical", "hermes", "glaive", "gsm8k", "turing"]

_READERS: dict[NativeFormat, Callable[[Record], Conversation]] = {
    "canonical": read_canonical,
    "hermes": read_hermes,
    "glaive": read_glaive,
    "gsm8k": read_gsm8k,
    "turing": read_turing,
}


def detect(record: Record) -> NativeFormat | None:
    """The format with these columns, or None."""
    columns = set(record)
    if "messages" in columns:
        return "canonical"
    if "conversations" in columns:
        return "hermes"
    if {"system", "chat"} <= columns:
        return "glaive"
    if {"question", "answer"} <= columns:
        return "gsm8k" if columns == {"question", "answer"} else "turing"
    return None


def read_record(record: Record, native: NativeFormat, *, fallback_id: str, split: Split | None = None) -> Row:
    """The row of a record.

    Args:
        record: as its corpus stores it.
        native: the corpus's format.
        fallback_id: the id of a record without one.
        split: of the file or hub split that the record is from, or None where the corpus has no held-out part: then
            the first user message decides. Canonical rows say it themselves.

    Raises:
        Malformed: the record is not of this format, or one of its calls names no function of the row or has arguments
            that are no object.
    """
    tools, messages = _READERS[native](record)
    _check(tools, messages)
    source: str = native
    if native == "canonical":
        source = str(record.get("source", native))
        split = _own_split(record) or split
    own_id = record.get("id", record.get("conversation_id"))
    return Row(fallback_id if own_id is None else str(own_id), source, split or split_of(messages), tools, messages)


def _own_split(record: Record) -> Split | None:
    split: Split | None = record.get("split")
    if split not in ("train", "dev", None):
        raise Malformed("split is neither train nor dev")
    return split


def _check(tools: Sequence[Tool], messages: Sequence[Message]) -> None:
    names = {tool["function"]["name"] for tool in tools}
    roles = [message.get("role") for message in messages]
    if not set(roles) <= {"system", "user", "assistant", "tool"}:
        raise Malformed("a role that the format does not know")
    if "system" in roles[1:]:
        raise Malformed("a system turn after the first")
    if "user" not in roles or "assistant" not in roles:
        raise Malformed("no user turn or no assistant turn")
    for position, message in enumerate(messages):
        calls = message.get("tool_calls", ())
        if not isinstance(message["content"], str):
            raise Malformed("a message whose content is no text")
        if message["role"] == "tool":
            asked(messages[:position])
        if message["role"] == "assistant" and not calls and not message["content"].strip():
            raise Malformed("an empty assistant turn")
        if any(call["function"]["name"] not in names for call in calls):
            raise Malformed("a call names none of the row's tools")
