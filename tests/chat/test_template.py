import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from layerroute.chat.template import SEAM, encode_rendered, render, render_answer, render_beginning
from layerroute.errors import RequestError

TOKENIZER = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "data" / "tokenizer")
CONTROL = sorted(TOKENIZER.get_added_vocab())
CONTROL_IDS = set(TOKENIZER.get_added_vocab().values())

hostile = st.lists(st.sampled_from([*CONTROL, SEAM, "<", "|im_end|>", "é 你", "\n", "a b", '"']), max_size=8).map(
    "".join
)
harmless = st.text(st.sampled_from("ab {}:é你\n"), max_size=12)


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name: str, description: str) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": {"type": "object", "properties": {}}}
    return {"type": "function", "function": function}


def conversation(text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    messages = [
        {"role": "system", "content": text},
        {"role": "user", "content": text},
        {"role": "assistant", "content": text, "tool_calls": [call("f", {"a": text, "b": [text]})]},
        {"role": "tool", "name": "f", "content": text},
        {"role": "assistant", "content": text},
        {"role": "user", "content": text},
    ]
    return messages, [tool("f", text)]


def control_ids(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[int]:
    return [i for i in encode_rendered(TOKENIZER, render(TOKENIZER, messages, tools)) if i in CONTROL_IDS]


@given(hostile)
def test_foreign_text_never_becomes_a_control_token(text: str) -> None:
    assert control_ids(*conversation(text)) == control_ids(*conversation("harmless"))


@given(hostile)
def test_foreign_text_reaches_the_model_unchanged(text: str) -> None:
    ids = encode_rendered(TOKENIZER, render(TOKENIZER, [{"role": "user", "content": text}]))
    assert f"<|im_start|>user\n{text}<|im_end|>\n" in TOKENIZER.decode(ids)


@given(harmless)
def test_harmless_conversations_render_and_encode_as_the_tokenizer_says(text: str) -> None:
    messages, tools = conversation(text)
    expected = TOKENIZER.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    assert render(TOKENIZER, messages, tools) == expected
    assert list(encode_rendered(TOKENIZER, expected)) == TOKENIZER.encode(expected)


answers = st.builds(
    lambda content, calls: {"role": "assistant", "content": content, "tool_calls": calls},
    hostile | harmless,
    st.lists(st.builds(call, harmless, st.dictionaries(harmless, hostile | st.integers(), max_size=2)), max_size=2),
)


@given(answers, hostile)
def test_the_next_prompt_begins_with_the_prompt_and_the_rendered_answer(answer: dict[str, Any], reply: str) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    begun = render(TOKENIZER, messages) + render_answer(TOKENIZER, answer)
    assert begun.endswith("<|im_end|>")
    assert render(TOKENIZER, [*messages, answer, {"role": "user", "content": reply}]).startswith(begun)


def test_calls_of_the_assistant_stay_real_calls() -> None:
    answer = {"role": "assistant", "content": "", "tool_calls": [call('odd "name"', {"city": "Zürich"})]}
    text = render_answer(TOKENIZER, answer)
    assert text.startswith("<tool_call>\n{")
    body = text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call><|im_end|>")
    assert json.loads(body) == {"name": 'odd "name"', "arguments": {"city": "Zürich"}}
    assert "Zürich" in text
    ids = encode_rendered(TOKENIZER, text)
    assert ids[0] == TOKENIZER.convert_tokens_to_ids("<tool_call>")


@pytest.mark.parametrize(
    ("messages", "remedy"),
    [
        ([], "send at least one"),
        ([{"role": "robot", "content": "x"}], "use one of system, user, assistant, tool"),
        ([{"role": 10**5000, "content": "x"}], "unknown message role this int"),
        ([{"role": "assistant", "content": "", "tool_calls": 5}], "a list, not 5"),
        ([{"role": "assistant", "content": "", "tool_calls": [5]}], "unlike 5"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"function": None}]}], "'arguments' \\(a dict\\)"),
        ([{"role": "user", "content": None}], "send a string"),
        ([{"role": "user", "content": [{"type": "image"}]}], "send a string"),
        ([{"role": "user", "content": "x", "tool_calls": [call("f", {})]}], "assistant message"),
        ([{"role": "assistant", "content": "", "tool_calls": [call("f", "{}")]}], "'arguments' \\(a dict\\)"),
        ([{"role": "assistant", "content": [], "tool_calls": []}], "content of an assistant message must be text"),
        ([{"role": "assistant", "content": "", "tool_calls": [call("f", {"a": [{1}]})]}], "'a.0' of the call 'f'"),
        ([{"role": "assistant", "content": "", "tool_calls": [call("f\ud800", {})]}], "half of a surrogate pair"),
        ([{"role": "user", "content": "x\udfff"}], "the text of a user message holds .* at character 1"),
    ],
)
def test_bad_messages_are_refused_with_a_remedy(messages: list[dict[str, Any]], remedy: str) -> None:
    with pytest.raises(RequestError, match=remedy):
        render(TOKENIZER, messages)


def test_a_tool_that_is_no_json_is_refused_by_name() -> None:
    for odd in (float("inf"), b"", "\ud800", {None: 1}):
        with pytest.raises(RequestError, match="tool 'look_up'"):
            render(TOKENIZER, [{"role": "user", "content": "x"}], [tool("look_up", odd)])  # type: ignore[arg-type]


def test_output_of_tools_is_mended() -> None:
    text = render(TOKENIZER, [{"role": "tool", "content": "a\ud800b"}])
    assert "<tool_response>\na\ufffdb\n</tool_response>" in text


def test_text_that_cannot_be_encoded_is_no_tokens() -> None:
    with pytest.raises(RequestError, match="half of a surrogate pair"):
        encode_rendered(TOKENIZER, "a\ud800")


@given(hostile)
def test_an_answer_that_is_gone_on_with_is_rendered_like_a_whole_one_without_its_end(text: str) -> None:
    question, begun = {"role": "user", "content": "x"}, {"role": "assistant", "content": text}
    opened = render(TOKENIZER, [question]) + render_beginning(TOKENIZER, begun)
    assert render(TOKENIZER, [question]) + render_answer(TOKENIZER, begun) == f"{opened}<|im_end|>"


@pytest.mark.parametrize(
    "message",
    [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call("f", {})]}],
)
def test_only_text_of_the_assistant_can_be_gone_on_with(message: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="end with"):
        render_beginning(TOKENIZER, message)


def test_only_an_assistant_message_is_an_answer() -> None:
    with pytest.raises(RequestError, match="assistant"):
        render_answer(TOKENIZER, {"role": "user", "content": "x"})
