"""What is read of LangChain messages, and what is refused."""

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from scripted import ScriptedEngine, call_text, saying

from langchain_layerroute import LayerRouteChatModel
from langchain_layerroute.messages import to_chat_messages
from langchain_layerroute.steps import _spoiler
from layerroute.errors import RequestError

HALF = "half \ud83d of it"


def calls(*ids: str | None, name: str = "f", args: Any = None) -> AIMessage:
    made = [{"name": f"{name}{place}", "args": args or {}, "id": i, "type": "tool_call"} for place, i in enumerate(ids)]
    return AIMessage("", tool_calls=made)


def result(call_id: str, content: str = "") -> ToolMessage:
    return ToolMessage(content or f"of {call_id}", tool_call_id=call_id)


def results_of(*messages: BaseMessage) -> list[str]:
    turns = to_chat_messages([HumanMessage("?"), *messages])
    return [turn["content"] for turn in turns if turn["role"] == "tool"]


# Results of tools.


@given(st.permutations(["a", "b", "c", "d"]), st.integers(1, 4))
def test_results_stand_in_the_order_of_their_calls(arrived: list[str], count: int):
    answered = arrived[:count]
    assert results_of(calls("a", "b", "c", "d"), *map(result, answered)) == [f"of {i}" for i in sorted(answered)]


def test_every_turn_has_calls_of_its_own():
    turns = [calls("1", "2"), result("2"), result("1"), calls("2", "1"), result("1"), result("2")]
    assert results_of(*turns) == ["of 1", "of 2", "of 2", "of 1"]


def test_results_may_be_split_by_a_message():
    assert results_of(calls("1", "2"), result("2"), HumanMessage("Go on."), result("1")) == ["of 2", "of 1"]


def test_a_result_bears_the_name_of_its_call():
    turns = to_chat_messages([HumanMessage("?"), calls("1", "2"), result("2"), result("1")])
    assert [turn["name"] for turn in turns[2:]] == ["f0", "f1"]


def test_calls_without_an_id_take_the_results_that_fit_no_other():
    assert results_of(calls(None, "b", None), result("x"), result("y"), result("b")) == ["of x", "of b", "of y"]


def test_calls_of_one_id_take_their_results_in_turn():
    answers = [result("a", "first"), result("a", "second")]
    assert results_of(calls("a", "a"), *answers) == ["first", "second"]


def test_a_call_that_could_not_be_read_is_answered_in_its_place():
    broken = {"name": "g", "args": '{"x', "id": "0", "error": "cut", "type": "invalid_tool_call"}
    turn = AIMessage("", invalid_tool_calls=[broken], tool_calls=calls("1").tool_calls)
    assert results_of(turn, result("1"), result("0")) == ["of 0", "of 1"]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([calls("a", "b"), result("c")], r"'c', but the calls of the turn before it are 'a', 'b'"),
        ([calls("a"), result("a"), result("a")], "two tool results answer the call 'a'"),
        ([calls("a"), result("a"), calls("b"), result("a")], "'a', but the calls of the turn before it are 'b'"),
        ([result("a")], "'a', but no call is before it"),
        ([AIMessage("Done."), result("a")], "'a', but no call is before it"),
        ([calls("a"), ChatMessage("Done.", role="assistant"), result("a")], "no call is before it"),
        ([calls(None), result("a"), result("b")], "'b', but the calls of the turn before it are None"),
        ([FunctionMessage("x", name="f")], "send a ToolMessage"),
        ([calls("a")], "calls that nothing has answered: add a ToolMessage"),
    ],
)
def test_results_and_calls_that_do_not_belong_together(messages: list[BaseMessage], reason: str):
    with pytest.raises(ModelInvalidRequestError, match=reason) as caught:
        LayerRouteChatModel(engine=ScriptedEngine()).invoke([HumanMessage("?"), *messages])
    assert isinstance(caught.value, RequestError)


def test_parts_of_a_conversation_can_be_counted():
    """LangChain counts any part of a history to trim it."""
    model = LayerRouteChatModel(engine=ScriptedEngine())
    history = [HumanMessage("?"), calls("a", "b"), result("b"), result("a"), AIMessage("Done."), HumanMessage("And?")]
    for start in range(len(history)):
        for end in range(start + 1, len(history) + 1):
            assert model.get_num_tokens_from_messages(history[start:end]) > 0
    kept = trim_messages(history, max_tokens=60, token_counter=model, strategy="last", start_on="human")
    assert kept == history[-1:]


# An answer at the end.


@pytest.mark.parametrize("begun", [AIMessage("Once upon"), ChatMessage("Once upon", role="assistant")])
def test_an_answer_at_the_end_is_gone_on_with(begun: BaseMessage):
    engine = ScriptedEngine(saying(" a time."))
    message = LayerRouteChatModel(engine=engine).invoke([HumanMessage("A tale!"), begun])
    assert message.content == " a time."
    assert engine.prompt_text().endswith("A tale!<|im_end|>\n<|im_start|>assistant\nOnce upon")


@pytest.mark.parametrize("script", [" a time.", "\n" + call_text("f", {"x": 1})])
def test_what_was_gone_on_with_keeps_its_ids(script: str):
    engine = ScriptedEngine(saying(script, "Yes."))
    model = LayerRouteChatModel(engine=engine)
    answer = model.invoke([HumanMessage("A tale!"), AIMessage("Once upo")])
    whole = AIMessage("Once upo" + answer.content, tool_calls=answer.tool_calls)
    replies = [result(call["id"]) for call in answer.tool_calls]
    model.invoke([HumanMessage("A tale!"), whole, *replies, HumanMessage("And?")])
    first, second = (request.prompt_ids for request in engine.requests)
    written = (*engine.tokenizer.encode(script), engine.tokenizer.eos_token_id)
    assert second[: len(first) + len(written)] == (*first, *written)


def test_control_strings_in_an_answer_at_the_end_stay_text():
    engine = ScriptedEngine(saying("."))
    LayerRouteChatModel(engine=engine).invoke([HumanMessage("?"), AIMessage("Say <|im_end|> or <tool_call>")])
    end = engine.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<tool_call>"])
    assert not set(end) & set(engine.requests[0].prompt_ids[-12:])


def test_a_document_cannot_begin_in_the_middle_of_an_answer():
    model = LayerRouteChatModel(engine=ScriptedEngine())
    with pytest.raises(ModelInvalidRequestError, match="human message"):
        model.invoke([HumanMessage("?"), AIMessage("{")], response_format={"type": "json_object"})


# Answers of other providers.

OTHERS: dict[str, list[Any]] = {
    "anthropic": [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "text", "text": "Paris."},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
    ],
    "openai": [
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "output_text", "text": "Paris.", "annotations": []},
        {"type": "image_generation_call", "result": "AAAA"},
    ],
    "google": [{"type": "executable_code", "executable_code": "1"}, "Paris.", {"type": "image_url", "image_url": "x"}],
    "v1": [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "Paris."}, {"type": "non_standard"}],
    "unknown": [{"type": "of tomorrow", "text": 5}, {"type": "text", "text": "Paris."}, {"no": "type"}],
    "refusal": [{"type": "refusal", "refusal": "Paris."}],
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS.keys())
def test_text_is_what_is_read_of_another_providers_answer(content: list[Any]):
    turns = to_chat_messages([HumanMessage("?"), AIMessage(content), HumanMessage("And?")])
    assert turns[1] == {"role": "assistant", "content": "Paris."}


@pytest.mark.parametrize("kind", ["tool_use", "tool_call", "function_call"])
def test_a_call_that_only_a_block_tells_of_is_not_lost(kind: str):
    with pytest.raises(ModelInvalidRequestError, match=rf"an AI message .* {kind!r} .*`tool_calls`"):
        to_chat_messages([AIMessage([{"type": kind, "id": "1", "name": "f"}]), HumanMessage("?")])


@pytest.mark.parametrize("block", [{"type": "text", "text": None}, {"type": "text"}, {"type": None}, {"text": "x"}])
@pytest.mark.parametrize(
    "message", [HumanMessage, SystemMessage, lambda content: ToolMessage(content, tool_call_id="a")]
)
def test_blocks_without_text_are_refused_elsewhere(message: Any, block: dict[str, Any]):
    with pytest.raises(ModelInvalidRequestError, match="send text blocks"):
        to_chat_messages([calls("a"), message([block]), HumanMessage("?")])


# Calls that are sent back.


@pytest.mark.parametrize(
    ("args", "place"),
    [
        ({"when": date(2026, 1, 2)}, "'when' of the call 'book0' is of type date"),
        ({"a": [1, {"b": {2}}]}, "'a.1.b' of the call 'book0' is of type set"),
        ({"a": b"x"}, "is of type bytes"),
        ({"a": float("nan")}, "'a' .* is a number that JSON cannot hold"),
        ({"a": 10**5000}, "'a' .* is a number that JSON cannot hold"),
        ({"a": {1: 2}}, "has the key 1"),
        ({"a": HALF}, "'a' of the call 'book0' holds .* half of a surrogate pair"),
        ({HALF: 1}, "half of a surrogate pair"),
        ({"a": json.loads('{"b":' * 300 + "1" + "}" * 300)}, "nested more than 100 levels"),
    ],
)
def test_arguments_that_are_no_json_are_refused_by_name(args: dict[str, Any], place: str):
    # pydantic would mend some of them in a constructor
    turn = calls("a", name="book", args={"x": 1})
    turn.tool_calls[0]["args"] = args
    with pytest.raises(ModelInvalidRequestError, match=place):
        LayerRouteChatModel(engine=ScriptedEngine()).invoke([HumanMessage("?"), turn, result("a")])


@pytest.mark.parametrize(
    ("name", "args", "shown"),
    [
        ("f", '{"x": ', '{"name": "f", "arguments": {"x": '),
        ('f"', None, '{"name": "f\\"", "arguments": '),
        (None, "{'name': f}", "{'name': f}"),
        ("", "{'name': f}", "{'name': f}"),
        (None, None, ""),
    ],
)
def test_calls_that_could_not_be_read_are_shown_as_they_were_written(name: Any, args: Any, shown: str):
    broken = {"name": name, "args": args, "id": "0", "error": "cut", "type": "invalid_tool_call"}
    turns = to_chat_messages([AIMessage("", invalid_tool_calls=[broken]), result("0")])
    assert turns[0] == {"role": "assistant", "content": shown}


# Text that cannot be encoded.


@pytest.mark.parametrize(
    "messages",
    [
        [HumanMessage(HALF)],
        [SystemMessage(HALF), HumanMessage("?")],
        [HumanMessage([{"type": "text", "text": HALF}])],
        [ChatMessage(HALF, role="user")],
        [ChatMessage("?", role=HALF)],
        [HumanMessage("?"), AIMessage(HALF), HumanMessage("?")],
        [HumanMessage("?"), AIMessage(HALF)],
        [HumanMessage("?"), calls("a", name=HALF), result("a")],
        [HumanMessage("?"), calls("a"), result(HALF)],
    ],
)
def test_text_that_cannot_be_encoded_is_refused(messages: list[BaseMessage]):
    model = LayerRouteChatModel(engine=ScriptedEngine())
    with pytest.raises(ModelInvalidRequestError):
        model.invoke(messages)
    with pytest.raises(RequestError):
        model.get_num_tokens(HALF)


def test_the_message_that_cannot_be_encoded_is_named():
    with pytest.raises(ModelInvalidRequestError, match=r"the text of an assistant message holds '\\ud83d'"):
        LayerRouteChatModel(engine=ScriptedEngine()).invoke([AIMessage(HALF), HumanMessage("?")])


@pytest.mark.parametrize("function", [{"description": HALF}, {"parameters": {"type": "object", "title": HALF}}])
def test_a_tool_that_cannot_be_encoded_is_named(function: dict[str, Any]):
    tool = {"name": "look_up", "description": "", "parameters": {"type": "object", "properties": {}}, **function}
    with pytest.raises(ModelInvalidRequestError, match="look_up"):
        LayerRouteChatModel(engine=ScriptedEngine()).bind_tools([tool]).invoke("?")


def test_output_of_tools_is_mended():
    engine = ScriptedEngine()
    LayerRouteChatModel(engine=engine).invoke([HumanMessage("?"), calls("a"), result("a", HALF)])
    assert "half \ufffd of it" in engine.prompt_text()


def test_names_and_ids_that_cannot_be_encoded_are_no_part_of_the_prompt():
    question = HumanMessage("?")
    question.name = question.id = HALF  # pydantic's older releases refuse them in the constructor
    messages = [question, calls(HALF), result(HALF, "x")]
    assert LayerRouteChatModel(engine=ScriptedEngine(saying("Fine."))).invoke(messages).content == "Fine."


# Calls that were cut off, as merged chunks.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('a"\\{[}],:\n'), max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from('a"\\'), max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200)
@given(st.dictionaries(st.text(max_size=2), json_values, max_size=3), st.data())
def test_no_part_of_a_call_reads_as_a_call(arguments: dict[str, Any], data: st.DataObject):
    written = json.dumps(arguments, ensure_ascii=data.draw(st.booleans()))
    cut = written[: data.draw(st.integers(0, len(written)))]
    chunk = {"name": "f", "args": cut + _spoiler(cut), "id": "a", "index": 1, "type": "tool_call_chunk"}
    assert AIMessageChunk("", tool_call_chunks=[chunk]).tool_calls == []


def test_a_call_that_is_nested_deeply_and_cut_off_is_invalid():
    deep = '{"a":' * 1500
    engine = ScriptedEngine(saying(f'<tool_call>\n{{"name": "f", "arguments": {deep}1'))
    model = LayerRouteChatModel(engine=engine, max_tokens=None)
    streamed: Any = sum(list(model.stream("?"))[1:], AIMessageChunk(""))
    for message in (model.invoke("?"), streamed):
        assert message.tool_calls == []
        assert len(message.invalid_tool_calls) == 1
    assert len(_spoiler('{"a":' * 200_000)) == 1


@pytest.mark.parametrize(("levels", "sound"), [(90, True), (150, False)])
def test_a_call_that_could_not_be_sent_back_is_invalid(levels: int, sound: bool):
    deep = json.loads('{"a":' * levels + "1" + "}" * levels)
    model = LayerRouteChatModel(engine=ScriptedEngine(saying(call_text("f", deep), "Done.")), max_tokens=None)
    answer = model.invoke("?")
    assert [bool(answer.tool_calls), bool(answer.invalid_tool_calls)] == [sound, not sound]
    call = (answer.tool_calls or answer.invalid_tool_calls)[0]
    assert model.invoke([HumanMessage("?"), answer, result(call["id"])]).content == "Done."
