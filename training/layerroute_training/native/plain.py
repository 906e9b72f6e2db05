"""Canonical conversation rows, and corpora of questions and answers (openai/gsm8k, Turing-Open-Reasoning)."""

from collections.abc import Mapping, Sequence
from typing import Any

from layerroute_training.native.pieces import Conversation, Malformed, Record, column, listed, mapping, tool, tool_call
from layerroute_training.rows import Message


def read_canonical(record: Record) -> Conversation:
    """Tools and messages of a canonical row (see `layerroute_training.rows`)."""
    tools = [tool(value) for value in listed(record.get("tools") or [])]
    messages: list[Message] = []
    for raw in listed(column(record, "messages", list, str)):
        if not isinstance(raw, Mapping):
            raise Malformed("a message is no object")
        message = {key: raw[key] for key in ("role", "name", "content") if raw.get(key) is not None}
        calls = [tool_call(mapping(call).get("function")) for call in raw.get("tool_calls") or ()]
        messages.append({"content": "", **message, **({"tool_calls": calls} if calls else {})})
    return tools, messages


def read_gsm8k(record: Record) -> Conversation:
    """The messages of a record `{"question", "answer"}`; the answer keeps its `####` line."""
    return [], _exchange(column(record, "question", str), column(record, "answer", str))


def read_turing(record: Record) -> Conversation:
    """The messages of a record with a question and an answer; where a column has the way to the answer, it leads."""
    question = _first(record, ("question", "problem", "prompt"))
    answer = _first(record, ("answer", "final_answer", "golden_answer", "solution"))
    reasons = _first(record, ("rationale", "reasoning", "solution", "explanation"))
    if question is None or answer is None:
        raise Malformed("no question column or no answer column")
    if reasons is not None:
        answer = reasons if answer in reasons else f"{reasons}\n\n{answer}"
    return [], _exchange(question, answer)


def _exchange(question: str, answer: str) -> list[Message]:
    if not question.strip():
        raise Malformed("an empty question")
    return [{"role": "user", "content": question.strip()}, {"role": "assistant", "content": answer.strip()}]


def _first(record: Record, names: Sequence[str]) -> str | None:
    """Text of the first of these columns that has any; numbers become text."""
    values: list[Any] = [record.get(name) for name in names]
    return next((str(value).strip() for value in values if value is not None and str(value).strip()), None)
