"""Stop strings end an answer's text, and leave its calls alone."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from scripted import ScriptedEngine, call_text, saying

from langchain_layerroute import LayerRouteChatModel

TOOL: dict[str, Any] = {"name": "find_order", "description": "Find.", "parameters": {"type": "object"}}
CALLS = "Two looks.\n" + call_text("find_order", {}) + "\n" + call_text("find_order", {"id": "Ä-1", "of": [1, {}]})


def answer(script: str, stop: list[str], **options: Any) -> AIMessage:
    model = LayerRouteChatModel(engine=ScriptedEngine(saying(script)))
    return model.bind_tools([TOOL]).invoke("Hello", stop=stop, **options)


def gist(message: AIMessage) -> Any:
    return message.content, [(call["name"], call["args"]) for call in message.tool_calls], message.invalid_tool_calls


@pytest.mark.parametrize("stop", ["\n", "}", '"', "{", "find_order", "name", "\n<tool_call>", "</tool_call>", ", "])
def test_calls_survive_a_stop_string_that_they_hold(stop: str):
    assert gist(answer(CALLS, [stop])) == gist(answer(CALLS, []))


arguments = st.dictionaries(st.text(max_size=4), st.none() | st.integers() | st.text(max_size=6), max_size=3)
stop_strings = st.lists(st.text(st.sampled_from('{}":,\\ \nabnmest<>tool_cé'), min_size=1, max_size=4), min_size=1)


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("ab \né"), max_size=8), st.lists(arguments, min_size=1, max_size=3), stop_strings)
def test_no_stop_string_changes_a_call(content: str, calls: list[dict[str, Any]], stop: list[str]):
    content = "" if any(text in content for text in stop) else content
    script = "\n".join([content] * bool(content) + [call_text("find_order", arguments) for arguments in calls])
    assert gist(answer(script, stop)) == gist(answer(script, []))


def test_the_stop_string_that_ended_an_answer_is_named():
    message = answer("one two three", ["three", "two"])
    assert message.content == "one "
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["stop_sequence"] == "two"
    assert answer("one two three", ["four"]).response_metadata["stop_sequence"] is None


def test_a_stop_string_in_the_last_token_that_fits_is_still_one():
    whole = answer("Sure.\n", [])
    message = answer("Sure.\n", ["\n"], max_tokens=whole.usage_metadata["output_tokens"] - 1)
    assert message.content == "Sure."
    assert (message.response_metadata["finish_reason"], message.response_metadata["stop_sequence"]) == ("stop", "\n")


def test_what_a_stop_string_cut_off_is_not_in_the_next_prompt():
    engine = ScriptedEngine(saying("Sure.\n", "Fine."))
    model = LayerRouteChatModel(engine=engine, stop=["\n"])
    model.invoke([HumanMessage("Hi"), model.invoke("Hi"), HumanMessage("And?")])
    assert "Sure.<|im_end|>" in engine.prompt_text()
