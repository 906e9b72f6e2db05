"""Messages and tools to prompt text, through the tokenizer's own chat template.

Control strings (`<|im_end|>`, `<tool_call>`, ...) inside messages and tools are foreign text and must not become
control tokens. `render` breaks each of them with a private-use character, the seam; `encode_rendered` encodes the text
on both sides of a seam apart, so that the string comes out as ordinary tokens and the seam itself not at all.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from layerroute.engine.json_values import MAX_LEVELS
from layerroute.errors import BackboneError, RequestError, shown
from layerroute.text import is_encodable, replace_unencodable, require_encodable

SEAM = "\ue0a5"
"""Breaks a control string; a seam that foreign text brings along is doubled."""

_SINGLE_SEAM = re.compile(f"(?<!{SEAM}){SEAM}(?!{SEAM})")
_ROLES = ("system", "user", "assistant", "tool")
_ANSWER_START = "<|im_start|>assistant\n"
_MOST_BITS = 10_000  # of an integer; Python writes out no longer ones

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
        BackboneError: the model has no chat template, or one that fails on these messages.
    """
    if not messages:
        raise RequestError("there are no messages: send at least one, such as {'role': 'user', 'content': 'Hello'}")
    escape = _escaper(tokenizer)
    offered = [escape.json(tool, f"the tool {shown(_name_of(tool))}") for tool in tools]
    return _apply(tokenizer, [_escape_message(message, escape) for message in messages], offered)


def render_answer(tokenizer: PreTrainedTokenizerBase, message: Message) -> str:
    """An assistant message as later prompts show it: from behind "<|im_start|>assistant\\n" up to "<|im_end|>".

    Raises:
        RequestError: not an assistant message.
    """
    if message.get("role") != "assistant":
        raise RequestError(f"an answer must have the role 'assistant', not {shown(message.get('role'))}")
    escaped = _escape_message(message, _escaper(tokenizer))
    text = _apply(tokenizer, [{"role": "user", "content": ""}, escaped], [], add_generation_prompt=False)
    return text.rpartition(_ANSWER_START)[2].removesuffix("\n")


def render_beginning(tokenizer: PreTrainedTokenizerBase, message: Message) -> str:
    """The text of an assistant message that is to be gone on with; it follows what `render` gives.

    Raises:
        RequestError: not an assistant message, or one with calls: nothing goes on behind these.
    """
    if message.get("role") != "assistant" or message.get("tool_calls"):
        raise RequestError("only text of the assistant can be gone on with: end with a user's or a tool's message")
    text: str = _escape_message(message, _escaper(tokenizer))["content"]
    return text


def encode_rendered(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of rendered text; control strings broken by a seam become ordinary tokens.

    Raises:
        RequestError: text that cannot be encoded.
    """
    require_encodable(text, "the text")
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


class _NoJSON(Exception):
    """Something inside a value that JSON has not; `path` leads to it, the innermost key first."""

    def __init__(self, value: Any, reason: str) -> None:
        self.value, self.reason = value, reason
        self.path: list[str] = []


class _Escaper:
    """Puts seams into text, and into all text of a JSON value."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern

    def text(self, text: str) -> str:
        """Escape text that can be encoded."""
        return self._pattern.sub(lambda match: match[0][:1] + SEAM + match[0][1:], text.replace(SEAM, SEAM + SEAM))

    def json(self, value: Any, owner: str) -> Any:
        """Escape a JSON value.

        Raises:
            RequestError: it holds what JSON has not, as datetimes and NaN, or what cannot be encoded; the message names
                the owner and the place.
        """
        try:
            return self._json(value, 0)
        except _NoJSON as error:
            path = ".".join(reversed(error.path))
            where = f"{path!r} of {owner}" if 0 < len(path) <= 200 else owner
            if isinstance(error.value, str):
                require_encodable(error.value, where)
            raise RequestError(f"{where} {error.reason}") from None

    def _json(self, value: Any, depth: int) -> Any:
        if depth > MAX_LEVELS:
            raise _NoJSON(None, f"is nested more than {MAX_LEVELS} levels deep: flatten it")
        if isinstance(value, str):
            if not is_encodable(value):
                raise _NoJSON(value, "cannot be encoded")
            return self.text(value)
        if isinstance(value, Mapping):
            return {self._key(key): self._part(part, str(key), depth) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self._part(part, str(index), depth) for index, part in enumerate(value)]
        if value is None or (isinstance(value, int) and value.bit_length() < _MOST_BITS):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        kind = "a number that JSON cannot hold" if isinstance(value, int | float) else f"of type {type(value).__name__}"
        raise _NoJSON(None, f"is {kind}: send what JSON has (text, numbers, booleans, None, lists, dicts)")

    def _part(self, part: Any, key: str, depth: int) -> Any:
        try:
            return self._json(part, depth + 1)
        except _NoJSON as error:
            error.path.append(key)
            raise

    def _key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise _NoJSON(None, f"has the key {shown(key)}: JSON takes text as keys only")
        if not is_encodable(key):
            raise _NoJSON(key, "cannot be encoded")
        return self.text(key)


def _escaper(tokenizer: PreTrainedTokenizerBase) -> _Escaper:
    return _Escaper(control_strings(tokenizer))


def _name_of(tool: Tool) -> Any:
    function = tool.get("function", tool)
    return function.get("name") if isinstance(function, Mapping) else None


def _escape_message(message: Message, escape: _Escaper) -> dict[str, Any]:
    role = message.get("role")
    if role not in _ROLES:
        raise RequestError(f"unknown message role {shown(role)}: use one of {', '.join(_ROLES)}")
    owner = f"{'an' if role == 'assistant' else 'a'} {role} message"
    content = message.get("content")
    if content is None and role == "assistant":
        content = ""
    if not isinstance(content, str):
        raise RequestError(f"the content of {owner} must be text, not {type(content).__name__}: send a string")
    if role == "tool":  # whoever called the tool cannot mend what it puts out
        content = replace_unencodable(content)
    escaped: dict[str, Any] = {"role": role, "content": escape.text(require_encodable(content, f"the text of {owner}"))}
    calls = message.get("tool_calls") or ()
    if calls and role != "assistant":
        raise RequestError(f"{owner} cannot hold tool calls: put them into an assistant message")
    if calls:
        if not isinstance(calls, list | tuple):
            raise RequestError(f"the tool calls of a message are a list, not {shown(calls)}: send one of dicts")
        escaped["tool_calls"] = [_escape_call(call, escape) for call in calls]
    return escaped


def _escape_call(call: Any, escape: _Escaper) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name, arguments = (function.get("name"), function.get("arguments")) if isinstance(function, Mapping) else (None, {})
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise RequestError(f"a tool call needs a 'name' (text) and 'arguments' (a dict), unlike {shown(call)}")
    # The template puts the name between quotes as it stands.
    quoted = json.dumps(require_encodable(name, "the name of a call"), ensure_ascii=False)[1:-1]
    escaped = escape.json(arguments, f"the call {name!r}")
    return {"type": "function", "function": {"name": escape.text(quoted), "arguments": escaped}}


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    tools: list[Any],
    add_generation_prompt: bool = True,
) -> str:
    if tokenizer.chat_template is None:
        raise BackboneError(
            "this model's tokenizer has no chat_template: use an instruct model, or put the chat_template.jinja of the "
            "model beside its weights"
        )
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tools=tools or None, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except Exception as error:  # a template can raise anything
        raise BackboneError(
            f"the model's chat_template fails ({type(error).__name__}: {str(error)[:200]!a}): fetch "
            "chat_template.jinja and tokenizer_config.json of the model again, or send messages that it can show"
        ) from error
    return text
