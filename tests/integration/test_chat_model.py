"""LayerRouteChatModel over the scripted engine: what a call sends, what it returns, what it refuses."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelTimeoutError,
)
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import ConfigurableField
from langchain_tests.utils.stream_lifecycle import assert_valid_event_stream
from pydantic import ValidationError
from scripted import ScriptedEngine, call_text, saying

from langchain_layerroute import ChatLayerRoute, LayerRouteChatModel
from langchain_layerroute.messages import to_chat_messages
from layerroute.chat.template import render
from layerroute.errors import BackboneNotFoundError, ContextWindowError, RequestError, RouterError
from layerroute.report import StepReport

TOOL = {"name": "find_order", "description": "Find.", "input_schema": {"type": "object", "properties": {}}}
CALLS = "Two looks.\n" + call_text("find_order", {}) + "\n" + call_text("find_order", {"id": "Ä-1"})
ANSWERS = {
    "text": "Just a few words, ünïcödé 🚀 included.\n",
    "call": call_text("find_order", {"order_id": "A-1042", "note": '日本 "quoted" \\ {x}'}),
    "text and calls": CALLS,
    "cut call": '<tool_call>\n{"name": "find_order", "arguments": {"order_id": "A-10',
    "nameless call": "<tool_call>\nnonsense\n</tool_call>",
    "broken between sound": "\n".join([call_text("a", {}), "<tool_call>\nnonsense\n</tool_call>", call_text("b", {})]),
}


def model_saying(*answers: str, **fields: Any) -> LayerRouteChatModel:
    return LayerRouteChatModel(engine=ScriptedEngine(saying(*answers)), **fields)


def summed(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    return sum(chunks[1:], chunks[0])


def gist(message: AIMessage) -> dict[str, Any]:
    """What two ways of asking must agree on (ids are random, broken calls end differently in a stream)."""
    return {
        "content": message.content,
        "calls": [(call["name"], call["args"]) for call in message.tool_calls],
        "broken": [call["name"] for call in message.invalid_tool_calls],
        "output_tokens": message.usage_metadata and message.usage_metadata["output_tokens"],
        "finish": message.response_metadata["finish_reason"],
        "program": message.response_metadata["layerroute"]["program"],
    }


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_stream_is_invoke(answer: str):
    model = model_saying(answer)
    invoked = model.bind_tools([TOOL]).invoke("Hello")
    assert gist(summed(list(model.bind_tools([TOOL]).stream("Hello")))) == gist(invoked)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_async_is_sync(answer: str):
    model = model_saying(answer).bind_tools([TOOL])
    invoked = model.invoke("Hello")
    assert gist(await model.ainvoke("Hello")) == gist(invoked)
    assert gist(summed([chunk async for chunk in model.astream("Hello")])) == gist(invoked)


def test_calls_are_parsed():
    message = model_saying(CALLS).bind_tools([TOOL]).invoke("Hello")
    assert message.content == "Two looks."
    assert [call["args"] for call in message.tool_calls] == [{}, {"id": "Ä-1"}]
    assert len({call["id"] for call in message.tool_calls}) == 2
    assert message.response_metadata["finish_reason"] == "tool_calls"


def test_a_call_cut_off_is_never_carried_out():
    model = model_saying(ANSWERS["cut call"])
    for message in (model.invoke("Hello"), summed(list(model.stream("Hello")))):
        assert message.tool_calls == []
        assert [call["name"] for call in message.invalid_tool_calls] == ["find_order"]


def test_calls_stream_name_first_then_arguments():
    chunks = list(model_saying(CALLS).bind_tools([TOOL]).stream("Hello"))
    pieces = [piece for chunk in chunks for piece in chunk.tool_call_chunks]
    first = [piece for piece in pieces if piece["name"]]
    assert [(piece["name"], piece["args"]) for piece in first] == [("find_order", "")] * 2
    assert all(piece["id"] is None for piece in pieces if not piece["name"])
    assert len(pieces) > 4


@pytest.mark.parametrize("answer", ["text and calls", "broken between sound"])
def test_v1_content_keeps_text_and_calls_apart(answer: str):
    model = model_saying(ANSWERS[answer], output_version="v1")
    invoked = model.invoke("Hello")
    streamed = summed(list(model.stream("Hello")))
    for message in (invoked, streamed):
        assert [block["type"] for block in message.content_blocks if block["type"] == "text"] == (
            ["text"] if "Two" in ANSWERS[answer] else []
        )
        blocks = [block for block in message.content_blocks if block["type"] == "tool_call"]
        assert [block["args"] for block in blocks] == [call["args"] for call in invoked.tool_calls]


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_events_add_up_to_the_message(answer: str):
    model = model_saying(answer)
    invoked = model.invoke("Hello")
    stream = model.stream_events("Hello", version="v3")
    assert_valid_event_stream(list(stream))
    assert {**gist(stream.output), "content": stream.output.text} == gist(invoked)


def test_report_and_usage():
    engine = ScriptedEngine()
    model = LayerRouteChatModel(engine=engine)
    message = model.invoke("Hello")
    report = StepReport.model_validate(message.response_metadata["layerroute"])
    assert message.response_metadata["model_provider"] == "layerroute"
    assert message.usage_metadata == {
        "input_tokens": report.prompt_tokens,
        "output_tokens": report.generated_tokens,
        "total_tokens": report.prompt_tokens + report.generated_tokens,
        "input_token_details": {"cache_read": 0},
    }
    assert json.loads(json.dumps(message.response_metadata)) == message.response_metadata


def test_call_options_win_over_fields():
    engine = ScriptedEngine()
    model = LayerRouteChatModel(engine=engine, temperature=0.5, top_p=0.9, top_k=3, seed=1, max_tokens=5, stop=["a"])
    model.invoke("Hello")
    model.invoke("Hello", stop=["b"], temperature=0, top_p=0.5, top_k=9, seed=2, max_tokens=6, scope="sequence")
    first, second = engine.requests
    assert (first.sampling.temperature, first.sampling.top_p, first.sampling.top_k, first.sampling.seed) == (
        0.5,
        0.9,
        3,
        1,
    )
    assert (first.max_tokens, first.stop, first.scope) == (5, ("a",), "generation")
    assert (second.sampling.temperature, second.sampling.top_p, second.sampling.top_k, second.sampling.seed) == (
        0,
        0.5,
        9,
        2,
    )
    assert (second.max_tokens, second.stop, second.scope) == (6, ("b",), "sequence")


@pytest.mark.parametrize(
    ("fields", "call", "expected"),
    [
        ({}, {}, (None, None)),
        ({"router": "full"}, {}, ("full", None)),
        ({"model": "embedded@full"}, {}, ("full", None)),
        ({"model": "embedded@full"}, {"router": "gates"}, ("gates", None)),
        ({"router": "full"}, {"model": "embedded@static:0-7,9-23"}, ("static:0-7,9-23", None)),
        ({"program": "0-3"}, {"model": "embedded@full"}, ("full", None)),
        ({"program": "0-3"}, {"router": "full"}, ("full", None)),
        ({"program": "0-3"}, {}, (None, "0-3")),
        ({"router": "full"}, {"program": "0-3"}, (None, "0-3")),
    ],
)
def test_routing_of_a_call(fields: dict[str, Any], call: dict[str, Any], expected: tuple[str | None, str | None]):
    engine = ScriptedEngine()
    LayerRouteChatModel(engine=engine, **fields).invoke("Hello", **call)
    assert (engine.requests[0].router, engine.requests[0].program) == expected


def test_preset_is_the_reported_model_name():
    message = model_saying("Hi").invoke("Hello", model="embedded@full")
    assert message.response_metadata["model_name"] == "embedded@full"
    assert message.response_metadata["layerroute"]["program"] == "0-23"


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.invoke("Hello", temprature=0.5),
        lambda model: list(model.stream("Hello", temprature=0.5)),
        lambda model: model.bind_tools([], temprature=0.5),
    ],
)
def test_unknown_options_are_refused(ask: Callable[[LayerRouteChatModel], Any]):
    with pytest.raises(ModelInvalidRequestError, match=r"temprature.*temperature.*tool_choice"):
        ask(model_saying("Hi"))


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match="temprature"):
        LayerRouteChatModel(temprature=0.5)


def test_overflow_is_an_error_and_not_a_truncation():
    model = LayerRouteChatModel(engine=ScriptedEngine(context_window=40))
    with pytest.raises(ContextOverflowError, match="shorten") as caught:
        model.invoke("word " * 50)
    assert isinstance(caught.value.__cause__, ContextWindowError)
    with pytest.raises(ContextOverflowError):
        list(model.stream("word " * 50))


async def test_overflow_in_asyncio():
    model = LayerRouteChatModel(engine=ScriptedEngine(context_window=40))
    with pytest.raises(ContextOverflowError):
        await model.ainvoke("word " * 50)
    with pytest.raises(ContextOverflowError):
        [chunk async for chunk in model.astream("word " * 50)]


def test_missing_checkpoint():
    with pytest.raises(ModelNotFoundError) as caught:
        LayerRouteChatModel(model="./no/such/folder").invoke("Hello")
    assert isinstance(caught.value.__cause__, BackboneNotFoundError)


def test_unknown_router():
    with pytest.raises(ModelInvalidRequestError, match="gates or full") as caught:
        model_saying("Hi").invoke("Hello", router="crystal ball")
    assert isinstance(caught.value.__cause__, RouterError)


def test_timeout_cancels_and_raises():
    engine = ScriptedEngine(saying("word " * 500), pauses_after=5)
    with pytest.raises(ModelTimeoutError, match=r"timeout=0\.05") as caught:
        LayerRouteChatModel(engine=engine, timeout=0.05).invoke("Hello")
    assert caught.value.is_retryable
    engine.join()
    assert engine.steps <= 5


async def test_timeout_in_asyncio():
    engine = ScriptedEngine(saying("word " * 500), pauses_after=5)
    with pytest.raises(ModelTimeoutError):
        [chunk async for chunk in LayerRouteChatModel(engine=engine).astream("Hello", timeout=0.05)]
    await asyncio.to_thread(engine.join)
    assert engine.steps <= 5


@pytest.mark.parametrize("stop", [["two"], "two", ["three", "two"]])
def test_stop_is_cut_off(stop: Any):
    message = model_saying("one two three").invoke("Hello", stop=stop)
    assert message.content == "one "
    assert message.response_metadata["finish_reason"] == "stop"


def test_empty_conversation():
    with pytest.raises(ModelInvalidRequestError, match="at least one message"):
        model_saying("Hi").invoke([])


# What the model has answered is sent back as the token ids it wrote.


def test_a_second_turn_keeps_the_ids_of_the_first():
    engine = ScriptedEngine(saying("Sure.\n" + call_text("find_order", {"id": 1.50}), "It has shipped."))
    model = LayerRouteChatModel(engine=engine).bind_tools([TOOL])
    history: list[BaseMessage] = [SystemMessage("Be brief."), HumanMessage("Where is A-1042?")]
    answer = model.invoke(history)
    history += [answer, ToolMessage("shipped", tool_call_id=answer.tool_calls[0]["id"])]
    model.invoke(history)
    first, second = (request.prompt_ids for request in engine.requests)
    end = engine.tokenizer.eos_token_id
    written = engine.tokenizer.encode("Sure.\n" + call_text("find_order", {"id": 1.50}), add_special_tokens=False)
    assert second[: len(first) + len(written) + 1] == (*first, *written, end)


def test_odd_spellings_are_kept():
    """An answer in other tokens than the tokenizer would pick comes back as it was written."""

    class Spelling(ScriptedEngine):
        def _answer(self, request: Any, generation: Any) -> Any:
            result = super()._answer(request, generation)
            spelled = [i for letter in "Hello." for i in self.tokenizer.encode(letter, add_special_tokens=False)]
            return type(result)((*spelled, self.tokenizer.eos_token_id), result.text, "stop", result.report)

    engine = Spelling(saying("Hello."))
    model = LayerRouteChatModel(engine=engine)
    model.invoke([HumanMessage("Hi"), model.invoke("Hi"), HumanMessage("And?")])
    spelled = [i for letter in "Hello." for i in engine.tokenizer.encode(letter, add_special_tokens=False)]
    first, second = (request.prompt_ids for request in engine.requests)
    assert second[len(first) : len(first) + len(spelled)] == tuple(spelled)


@pytest.mark.parametrize("output_version", ["v0", "v1"])
def test_streamed_turns_are_kept_too(output_version: str):
    engine = ScriptedEngine(saying("Hello."))
    model = LayerRouteChatModel(engine=engine, output_version=output_version)
    answer = summed(list(model.stream("Hi")))
    again = model.invoke([HumanMessage("Hi"), answer, HumanMessage("And?")])
    assert again.usage_metadata is not None
    assert again.usage_metadata["input_token_details"]["cache_read"] > len(engine.requests[0].prompt_ids)


# Messages.


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"},
        {"type": "file", "base64": "AAAA", "mime_type": "application/pdf"},
        {"type": "tool_use", "id": "x", "name": "f", "input": {}},
    ],
)
def test_blocks_that_a_text_model_cannot_read(block: dict[str, Any]):
    with pytest.raises(ModelInvalidRequestError, match="send text blocks") as caught:
        model_saying("Hi").invoke([HumanMessage([{"type": "text", "text": "Look:"}, block])])
    assert isinstance(caught.value, RequestError)


def test_messages_become_template_messages():
    call = {"name": "f", "args": {"x": 1}, "id": "1", "type": "tool_call"}
    thought = {"type": "thinking", "thinking": "hm"}
    use = {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}
    messages = [
        SystemMessage("s"),
        HumanMessage(["a", {"type": "text", "text": "b", "cache_control": {}}], name="Mara"),
        AIMessage([thought, {"type": "text", "text": "c"}, use], tool_calls=[call]),
        ToolMessage([{"type": "text", "text": "r"}], tool_call_id="1", status="error"),
        ChatMessage("d", role="developer"),
    ]
    assert to_chat_messages(messages) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "ab"},
        {
            "role": "assistant",
            "content": "c",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
        },
        {"role": "tool", "name": "f", "content": "r"},
        {"role": "system", "content": "d"},
    ]


def test_a_broken_call_can_be_sent_back():
    engine = ScriptedEngine(saying(ANSWERS["cut call"], "Sorry."))
    model = LayerRouteChatModel(engine=engine)
    broken = model.invoke("Hi")
    error = ToolMessage("cut off", tool_call_id=broken.invalid_tool_calls[0]["id"])
    model.invoke([HumanMessage("Hi"), broken, error])
    assert '"arguments": {"order_id": "A-10' in engine.prompt_text()


@pytest.mark.parametrize("message", [ChatMessage("x", role="critic"), RemoveMessage(id="1")])
def test_messages_that_are_no_turns(message: BaseMessage):
    with pytest.raises(ModelInvalidRequestError):
        to_chat_messages([message])


# What LangChain asks about.


def test_profile_and_names():
    model = ChatLayerRoute(engine=ScriptedEngine(context_window=777))
    assert model.profile is not None
    assert model.profile["max_input_tokens"] == 777
    assert model.profile["tool_calling"]
    params = model._get_ls_params(stop=["x"], model="other")
    assert params["ls_provider"] == "layerroute"
    assert (params["ls_model_name"], params["ls_stop"], params["ls_temperature"]) == ("other", ["x"], 0.0)


def test_profile_of_a_hub_model_needs_no_network():
    model = LayerRouteChatModel(model="Qwen/Qwen2.5-0.5B-Instruct")
    assert model.profile is not None
    assert "max_input_tokens" not in model.profile


def test_fields_can_be_configured_after_a_call():
    engine = ScriptedEngine()
    model = LayerRouteChatModel(engine=engine)
    model.invoke("Hello")
    configurable = model.configurable_fields(router=ConfigurableField(id="router"))
    configurable.with_config(configurable={"router": "full"}).invoke("Hello")
    assert [request.router for request in engine.requests] == [None, "full"]


def test_tokens_are_counted_with_the_models_own_tokenizer():
    engine = ScriptedEngine()
    model = LayerRouteChatModel(engine=engine)
    assert model.get_num_tokens("Hello there") == len(engine.tokenizer.encode("Hello there"))
    model.bind_tools([TOOL]).invoke("Hello there")
    assert model.get_num_tokens_from_messages([HumanMessage("Hello there")], [TOOL]) == len(
        engine.requests[0].prompt_ids
    )


def test_the_prompt_is_the_rendered_template():
    engine = ScriptedEngine()
    LayerRouteChatModel(engine=engine).invoke("Hello")
    assert engine.prompt_text() == render(engine.tokenizer, [{"role": "user", "content": "Hello"}])


def test_importing_the_chat_model_needs_no_langchain():
    program = (
        "import sys; sys.modules['langchain'] = None\n"
        "from langchain_layerroute import LayerRouteChatModel, ComputeReportHandler\n"
        "LayerRouteChatModel()\n"
        "try:\n"
        "    from langchain_layerroute import ComputeReportMiddleware\n"
        "except ImportError as error:\n"
        "    assert 'layerroute[demo]' in str(error), error\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
