"""Conversations: whatever they hold, a prompt has the roles of its messages, in order, and their text, unchanged."""

import json
import re
import unicodedata
from pathlib import Path
from random import Random
from typing import Any

from transformers import AutoTokenizer

from layerroute.chat.template import encode_rendered, render
from layerroute.engine.detokenizer import token_bytes
from layerroute.errors import LayerRouteError
from layerroute.text import replace_unencodable
from tests.fuzz import inputs

TOKENIZER = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "data" / "tokenizer")
START, END, OPEN, CLOSE = TOKENIZER.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"])
CONTROL = set(TOKENIZER.get_added_vocab().values())
BYTES = token_bytes(TOKENIZER)

Conversation = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def make(rng: Random) -> Conversation:
    """Messages and tools; one in eight has something of the wrong type or too deep."""
    odd = 0.2 if rng.random() < 0.06 else 0.0
    messages = [_message(rng, odd) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4, 6)))]
    tools = [_tool(rng, odd) for _ in range(rng.choice((0, 0, 0, 1, 2)))]
    if rng.random() < 0.01 and messages:
        messages[0]["tool_calls"] = [_call("f", {"deep": inputs.nested(rng)})]
        messages[0]["role"] = "assistant"
    return messages, tools


def _message(rng: Random, odd: float) -> dict[str, Any]:
    role = rng.choice(("system", "user", "user", "assistant", "assistant", "tool", "tool"))
    message: dict[str, Any] = {"role": role, "content": inputs.text(rng)}
    if role == "assistant" and rng.random() < 0.6:
        message["tool_calls"] = [
            _call(
                inputs.text(rng, 2), {inputs.text(rng, 2): inputs.value(rng, 2, odd) for _ in range(rng.randrange(3))}
            )
            for _ in range(rng.randrange(3))
        ]
    if role == "tool" and rng.random() < 0.5:
        message["name"] = inputs.text(rng, 2)
    if rng.random() < odd:
        message[rng.choice(("role", "content", "name", "tool_calls"))] = inputs.value(rng, 2, 0.5)
    return message


def _call(name: Any, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _tool(rng: Random, odd: float) -> dict[str, Any]:
    parameters = {"type": "object", "properties": inputs.value(rng, 3, odd), "description": inputs.text(rng, 3)}
    function = {"name": inputs.text(rng, 2), "description": inputs.text(rng), "parameters": parameters}
    return {"type": "function", "function": function}


def check(conversation: Conversation) -> str:
    """The blocks of the prompt's ids are those of the messages."""
    messages, tools = conversation
    try:
        ids = encode_rendered(TOKENIZER, render(TOKENIZER, messages, tools))
    except LayerRouteError:
        return "refused"
    blocks = _blocks(list(ids))
    assert blocks.pop() == [_piece("assistant\n")], "the prompt does not end where the answer begins"
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": None}, *messages]
    system, *rest = messages
    _compare_system(blocks[0], system["content"], tools)
    expected = [_spoken(message) for message in rest]
    grouped: list[list[Any]] = []
    for message, block in zip(rest, expected, strict=True):
        follows = grouped and message["role"] == "tool" and grouped[-1][0][0] == "tool"
        grouped[-1].append((message["role"], block)) if follows else grouped.append([(message["role"], block)])
    assert len(blocks) == 1 + len(grouped), "another number of turns than messages"
    for block, group in zip(blocks[1:], grouped, strict=True):
        if group[0][0] == "tool":
            answers = "".join(f"\n<tool_response>\n{part[0]}\n</tool_response>" for _, part in group)
            assert block == [_piece("user" + answers)], "tool results are not as they were sent"
        else:
            _compare_turn(block, group[0][0], group[0][1])
    return "rendered"


def _blocks(ids: list[int]) -> list[list[Any]]:
    """Between `<|im_start|>` and `<|im_end|>`: texts in NFC, and the ids of other control tokens."""
    blocks: list[list[Any]] = []
    inside = False
    text = b""
    for token in [*ids, END]:  # the answer's block is open
        if token not in CONTROL:
            assert inside or BYTES[token] == b"\n", "text between the turns"
            text += BYTES[token] if inside else b""
            continue
        if text:
            blocks[-1].append(_piece(text.decode()))
            text = b""
        if token in (START, END):
            assert inside == (token == END), "turns within turns"
            inside = token == START
            blocks += [[]] * inside
            if inside:
                blocks[-1] = []
        else:
            assert inside, "a control token between the turns"
            blocks[-1].append(token)
    return blocks


def _piece(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _spoken(message: dict[str, Any]) -> list[Any]:
    """Content and calls as they were sent."""
    content = message.get("content")
    if message["role"] == "tool":
        content = replace_unencodable(content)
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return [content or "", *((call["name"], call["arguments"]) for call in calls)]


def _compare_system(block: list[Any], content: str | None, tools: list[dict[str, Any]]) -> None:
    if not tools:
        expected = [_piece(f"system\n{content}")] if content is not None else block
        assert block == expected, "the system message is not as it was sent"
        return
    before, *explanation = block
    markers = [piece for piece in explanation if piece in CONTROL]
    assert markers == [OPEN, CLOSE, OPEN, CLOSE], "other control tokens in the system message"
    beginning = re.escape("" if content is None else _piece(content))
    found = re.fullmatch(
        rf"system\n{beginning or '.*?'}\n\n# Tools\n.*?\n<tools>\n(.*)\n</tools>\n.*", before, re.DOTALL
    )
    assert found, "the system message is not as it was sent"
    _same_json(found[1].split("\n"), tools)


def _compare_turn(block: list[Any], role: str, spoken: list[Any]) -> None:
    content, *calls = spoken
    texts, markers = block[::2], block[1::2]
    assert markers == [OPEN, CLOSE] * len(calls), f"other control tokens in the turn of {role}"
    if not calls:
        assert block == [_piece(f"{role}\n{content}")], f"the turn of {role} is not as it was sent"
        return
    assert texts[0] == _piece(f"{role}\n{content}\n" if content else f"{role}\n"), "content before calls has changed"
    assert set(texts[2::2]) <= {"\n"}, "text between calls"
    _same_json(texts[1::2], [{"name": name, "arguments": arguments} for name, arguments in calls])


def _same_json(texts: list[str], values: list[Any]) -> None:
    assert [_canonical(json.loads(text)) for text in texts] == [_canonical(value) for value in values], (
        "JSON has changed"
    )


def _canonical(value: Any) -> str:
    return json.dumps(json.loads(_piece(json.dumps(value, ensure_ascii=False))), sort_keys=True)
