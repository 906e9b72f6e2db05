"""Sizes and names: tokens are counted as prompts have them, and folders may have any name."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError, ModelNotFoundError
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage, trim_messages
from langchain_core.tools import tool
from scripted import ScriptedEngine, saying

from langchain_layerroute import LayerRouteChatModel
from langchain_layerroute.errors import InvalidRequestError
from layerroute.errors import BundleError


def model(**fields: Any) -> LayerRouteChatModel:
    return LayerRouteChatModel(engine=ScriptedEngine(saying("Hi")), **fields)


@tool
def get_weather(city: str) -> str:
    """Look the weather up."""
    return city


# Counting tokens.


def test_no_messages_have_no_tokens_and_tools_alone_have_theirs():
    chat = model()
    assert chat.get_num_tokens_from_messages([]) == 0
    hello = [HumanMessage("Hello")]
    with_tools = chat.get_num_tokens_from_messages(hello, [get_weather])
    assert chat.get_num_tokens_from_messages([], [get_weather]) == with_tools - chat.get_num_tokens_from_messages(hello)


@pytest.mark.parametrize("strategy", ["first", "last"])
@pytest.mark.parametrize("most", [0, 1, 30, 60, 10_000])
@pytest.mark.parametrize("allow_partial", [False, True])
def test_a_history_is_trimmed_with_the_model_as_its_counter(strategy: Any, most: int, allow_partial: bool):
    chat = model()
    call = {"name": "get_weather", "args": {"city": "Oslo"}, "id": "1", "type": "tool_call"}
    history: list[BaseMessage] = [
        SystemMessage("Be brief."),
        HumanMessage("What is the weather?\nIn Oslo, please."),
        AIMessage("", tool_calls=[call]),
        ToolMessage("6 degrees", tool_call_id="1"),
        HumanMessage("And in Rome?\nAnd in Bonn?"),
    ]
    kept = trim_messages(history, max_tokens=most, token_counter=chat, strategy=strategy, allow_partial=allow_partial)
    assert len(kept) <= len(history)
    assert not kept or chat.get_num_tokens_from_messages(kept) <= most
    if most == 10_000:
        assert kept == history


def test_an_encoder_of_the_user_s_own_counts():
    def letters(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    chat = model(custom_get_token_ids=letters)
    assert chat.get_token_ids("abc") == [97, 98, 99]
    assert chat.get_num_tokens("abc") == 3
    chat.invoke("Hello")
    assert chat.get_num_tokens_from_messages([HumanMessage("Hello")]) == len(chat.engine.prompt_text())


# Folders with an "@" in their name.


@pytest.mark.parametrize("suffix", ["", "@full", "@static:0-7,9-23", "@gates"])
def test_a_folder_may_have_an_at_in_its_name(tmp_path: Path, suffix: str):
    folder = tmp_path / "me@home" / "checkpoint@full"
    folder.mkdir(parents=True)
    chat = model(model=f"{folder}{suffix}")
    chat.invoke("Hello")
    assert chat.engine.requests[-1].router == (suffix[1:] or None)
    elsewhere = LayerRouteChatModel(model=f"{folder}{suffix}")
    assert elsewhere._own_engine.config.model == str(folder)


def test_a_router_that_is_none_is_named_and_a_folder_that_is_none_too():
    with pytest.raises(InvalidRequestError, match="cannot read router 'ful'"):
        LayerRouteChatModel(model="embedded@ful", device="cpu").invoke("Hello")
    with pytest.raises(InvalidRequestError, match="router must be"):
        model(model="embedded@").invoke("Hello")


@pytest.mark.parametrize(
    "name", ["~nobody-of-this-name/x", "x" * 5000, f"/tmp/{'y' * 300}", "a\0b", "@", "embedded@@full"]
)
def test_what_can_be_no_path_names_no_model_and_no_bundle(name: str):
    with pytest.raises(ModelNotFoundError, match="path of an existing"):
        LayerRouteChatModel(model=name).invoke("Hello")
    with pytest.raises(BundleError):
        LayerRouteChatModel(adapter=name, device="cpu").invoke("Hello")


# Tools that fill the window.


def test_tools_that_fill_the_window_are_named():
    tools = [
        {"name": f"tool_{i}", "description": "word " * 20, "parameters": {"type": "object", "properties": {}}}
        for i in range(60)
    ]
    chat = LayerRouteChatModel(engine=ScriptedEngine(context_window=1024))
    size = chat.get_num_tokens_from_messages([], tools)
    with pytest.raises(ContextOverflowError, match=rf"60 tools alone take {size} .*bind fewer"):
        chat.bind_tools(tools).invoke("Hello")
    with pytest.raises(ContextOverflowError, match="shorten the conversation") as caught:
        chat.bind_tools(tools[:3]).invoke("word " * 500)
    assert "tools" not in str(caught.value)
