"""Messages and tools to prompt text, through the tokenizer's own chat template.

Control strings (`<|im_end|>`, `<tool_call>`, ...) inside messages and tools are foreign text and must not become
control tokens. `render` breaks each of them with a private-use character, the seam; `encode_rendered` encodes the text
on both sides of a seam apart, so that the string comes out as ordinary tokens and the seam itself not at all.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from layerroute.errors import RequestError

SEAM = "\ue0a5"
"""Breaks a control string; a seam that foreign text brings along is doubled."""

_SINGLE_SEAM = re.compile(f"(?<!{SEAM}){SEAM}(?!{SEAM})")
_ROLES = ("system", "user", "assistant", "tool")
_ANSWER_START = "<|im_start|>assistant\n"

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
    """The prompt text of a step, up to where the answer begins, with seams in foreign control strings.

    Args:
        tokenizer: tokenizer with a chat template.
        messages: dicts with "role" and "content"; of the assistant also "tool_calls", of a tool also "name".
        tools: OpenAI tool dicts.

    Raises:
        RequestError: no message, or one that is not of the form above.
    """
    if not messages:
        raise RequestError("there are no messages: send at least one, such as {'role': 'user', 'content': 'Hello'}")
    escape = _escaper(tokenizer)
    return _apply(
        tokenizer, [_escape_message(message, escape) for message in messages], [escape(tool) for tool in tools]
    )


def render_answer(tokenizer: PreTrainedTokenizerBase, message: Message) -> str:
    """An assistant message as later prompts show it: from behind "<|im_start|>assistant\\n" up to "<|im_end|>".

    Raises:
        RequestError: not an assistant message.
    """
    if message.get("role") != "assistant":
        raise RequestError(f"an answer must have the role 'assistant', not {message.get('role')!r}")
    escaped = _escape_message(message, _escaper(tokenizer))
    text = _apply(tokenizer, [{"role": "user", "content": ""}, escaped], [], add_generation_prompt=False)
    return text.rpartition(_ANSWER_START)[2].removesuffix("\n")


def encode_rendered(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of rendered text; control strings broken by a seam become ordinary tokens."""
    backend = tokenizer.backend_tokenizer  # the wrapper around it is not safe to call from several threads
    if SEAM not in text:
        return tuple(backend.encode(text, add_special_tokens=False).ids)
    pieces = [piece.replace(SEAM + SEAM, SEAM) for piece in _SINGLE_SEAM.split(text)]
    return tuple(token_id for piece in pieces for token_id in backend.encode(piece, add_special_tokens=False).ids)


@lru_cache(maxsize=4)
def control_strings(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Matches every string that the tokenizer would turn into one of its added tokens."""
    strings = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, strings)) or r"(?!)")


class _Escaper:
    """Puts seams into the strings of a JSON-like value."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._pattern.sub(lambda match: match[0][:1] + SEAM + match[0][1:], value.replace(SEAM, SEAM + SEAM))
        if isinstance(value, Mapping):
            return {self(key): self(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self(part) for part in value]
        return value


def _escaper(tokenizer: PreTrainedTokenizerBase) -> _Escaper:
    return _Escaper(control_strings(tokenizer))


def _escape_message(message: Message, escape: _Escaper) -> dict[str, Any]:
    role = message.get("role")
    if role not in _ROLES:
        raise RequestError(f"unknown message role {role!r}: use one of {', '.join(_ROLES)}")
    content = message.get("content")
    if content is None and role == "assistant":
        content = ""
    if not isinstance(content, str):
        raise RequestError(f"the content of a {role} message must be text, not {type(content).__name__}: send a string")
    escaped: dict[str, Any] = {"role": role, "content": escape(content)}
    calls = message.get("tool_calls") or ()
    if calls and role != "assistant":
        raise RequestError(f"a {role} message cannot hold tool calls: put them into an assistant message")
    if calls:
        escaped["tool_calls"] = [_escape_call(call, escape) for call in calls]
    return escaped


def _escape_call(call: Mapping[str, Any], escape: _Escaper) -> dict[str, Any]:
    function = call.get("function", call)
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise RequestError("a tool call needs a 'name' (text) and 'arguments' (a dict): " + repr(dict(function))[:120])
    # The template puts the name between quotes as it stands.
    quoted = json.dumps(name, ensure_ascii=False)[1:-1]
    return {"type": "function", "function": {"name": escape(quoted), "arguments": escape(arguments)}}


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    tools: list[Any],
    add_generation_prompt: bool = True,
) -> str:
    if tokenizer.chat_template is None:
        raise RequestError("this model's tokenizer has no chat template: use an instruct model")
    text: str = tokenizer.apply_chat_template(
        messages, tools=tools or None, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return text
