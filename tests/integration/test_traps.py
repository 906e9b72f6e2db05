"""One test per trap that LangChain sets for local chat models (numbers as in the project's LangChain notes)."""

import asyncio
import contextlib
import threading
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.messages.ai import add_usage
from langchain_core.tools import tool
from pydantic import BaseModel
from scripted import ScriptedEngine, call_text, saying
from waiting import until

from langchain_layerroute import LayerRouteChatModel
from layerroute.engine.request import GenerationRequest

LONG = "word " * 500


class Weather(BaseModel):
    """What the weather is."""

    city: str
    high_c: int


@tool
def get_weather(city: str) -> str:
    """Look the weather up."""
    return f'{{"city": "{city}", "high_c": 6}}'


def summed(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    return sum(chunks[1:], chunks[0])


def test_t1_model_name_is_streamed_once():
    model = LayerRouteChatModel(engine=ScriptedEngine())
    assert summed(list(model.stream("Hello"))).response_metadata["model_name"] == "embedded"


def test_t2_only_the_last_chunk_carries_metadata():
    model = LayerRouteChatModel(engine=ScriptedEngine())
    chunks = list(model.stream("Hello"))
    assert [chunk.response_metadata for chunk in chunks[:-1]] == [{}] * (len(chunks) - 1)
    assert all(chunk.usage_metadata is None for chunk in chunks[:-1])
    whole = summed(chunks).response_metadata["layerroute"]
    assert whole == chunks[-1].response_metadata["layerroute"]
    assert whole["milliseconds"]["prefill"] == 1.5
    assert whole["tool_call_probability"] == 0.25


async def test_t3_cancelled_ainvoke_stops_the_engine():
    engine = ScriptedEngine(saying(LONG), pauses_after=5)
    task = asyncio.create_task(LayerRouteChatModel(engine=engine).ainvoke("Hello"))
    await asyncio.to_thread(until, lambda: engine.steps == 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(engine.join)
    assert engine.steps <= 5


async def test_t3b_cancelled_astream_stops_the_engine():
    engine = ScriptedEngine(saying(LONG), pauses_after=5)

    async def consume() -> None:
        async for _ in LayerRouteChatModel(engine=engine).astream("Hello"):
            pass

    task = asyncio.create_task(consume())
    await asyncio.to_thread(until, lambda: engine.steps == 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(engine.join)
    assert engine.steps <= 5


async def test_t4_astream_does_not_hop_threads_per_token(monkeypatch: pytest.MonkeyPatch):
    loop = asyncio.get_running_loop()
    hops = 0
    original = loop.run_in_executor

    def counting(*args: Any) -> Any:
        nonlocal hops
        hops += 1
        return original(*args)

    monkeypatch.setattr(loop, "run_in_executor", counting)
    model = LayerRouteChatModel(engine=ScriptedEngine(saying(LONG)), max_tokens=None)
    chunks = [chunk async for chunk in model.astream("Hello")]
    assert len(chunks) > 500
    assert hops == 1  # rendering and encoding the prompt


def test_t6_provider_strategy_sends_an_empty_tool_list():
    engine = ScriptedEngine(saying('{"city": "Oslo", "high_c": 6}'))
    agent = create_agent(LayerRouteChatModel(engine=engine), [], response_format=Weather)
    state = agent.invoke({"messages": [("user", "Weather in Oslo?")]})
    assert state["structured_response"] == Weather(city="Oslo", high_c=6)
    constraint = engine.requests[0].constraint
    assert constraint is not None
    assert constraint.tools == ()
    assert "high_c" in constraint.response_schema


def test_t6_provider_strategy_with_tools_allows_calls_or_the_schema():
    engine = ScriptedEngine(saying(call_text("get_weather", {"city": "Oslo"}), '{"city": "Oslo", "high_c": 6}'))
    agent = create_agent(LayerRouteChatModel(engine=engine), [get_weather], response_format=Weather)
    state = agent.invoke({"messages": [("user", "Weather in Oslo?")]})
    assert state["structured_response"] == Weather(city="Oslo", high_c=6)
    for request in engine.requests:
        assert request.constraint is not None
        assert [spec.name for spec in request.constraint.tools] == ["get_weather"]
        assert request.constraint.tool_choice == "auto"
        assert request.constraint.response_schema is not None


def test_t6_a_stock_model_is_shown_the_schema_as_a_tool():
    """Its profile leads LangChain to the tool strategy: held to a document, it would answer past its tools."""
    engine = ScriptedEngine(
        saying(call_text("get_weather", {"city": "Oslo"}), call_text("Weather", {"city": "Oslo", "high_c": 6}))
    )
    model = LayerRouteChatModel(model="Qwen/Qwen2.5-0.5B-Instruct", engine=engine)
    state = create_agent(model, [get_weather], response_format=Weather).invoke({"messages": [("user", "Oslo?")]})
    assert state["structured_response"] == Weather(city="Oslo", high_c=6)
    assert [request.constraint.tool_choice for request in engine.requests] == ["required", "required"]


def test_t7_tool_strategy_forces_a_call_on_every_step():
    engine = ScriptedEngine(
        saying(call_text("get_weather", {"city": "Oslo"}), call_text("Weather", {"city": "Oslo", "high_c": 6}))
    )
    agent = create_agent(LayerRouteChatModel(engine=engine), [get_weather], response_format=ToolStrategy(Weather))
    state = agent.invoke({"messages": [("user", "Weather in Oslo?")]})
    assert state["structured_response"] == Weather(city="Oslo", high_c=6)
    for request in engine.requests:
        assert request.constraint is not None
        assert [spec.name for spec in request.constraint.tools] == ["get_weather", "Weather"]
        assert request.constraint.tool_choice == "required"


def test_t8_usages_can_be_added():
    model = LayerRouteChatModel(engine=ScriptedEngine())
    first, second = model.invoke("Hello").usage_metadata, model.invoke("Hello").usage_metadata
    assert first is not None
    assert second is not None
    both = add_usage(first, second)
    assert both["input_tokens"] == 2 * first["input_tokens"]
    assert 0 < both["input_token_details"]["cache_read"] < both["input_tokens"]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "embedded@full"},
        {"adapter": "none"},
        {"device": "cpu"},
        {"dtype": "bfloat16"},
        {"context_window": 2048},
        {"router": "full"},
        {"program": "0-22"},
        {"scope": "sequence"},
        {"temperature": 0.7},
        {"top_p": 0.9},
        {"top_k": 5},
        {"seed": 1},
        {"max_tokens": 7},
        {"stop": ["you"]},
    ],
)
def test_t9_langchains_cache_tells_models_apart(change: dict[str, Any]):
    engine = ScriptedEngine(saying("first", "second", "third"))
    cache = InMemoryCache()
    plain = LayerRouteChatModel(engine=engine, cache=cache)
    assert plain.invoke("Hello").content == "first"
    assert plain.invoke("Hello").content == "first"
    assert LayerRouteChatModel(engine=engine, cache=cache, **change).invoke("Hello").content == "second"
    assert plain.invoke("Hello", router="static:0-3").content == "third"


def test_t10_model_settings_reach_the_engine():
    class Deep(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(model_settings={"router": "full", "scope": "sequence"}))

    engine = ScriptedEngine()
    create_agent(LayerRouteChatModel(engine=engine), [], middleware=[Deep()]).invoke({"messages": [("user", "Hi")]})
    assert (engine.requests[0].router, engine.requests[0].scope) == ("full", "sequence")


def test_t11_batch_keeps_answers_apart():
    two_at_once = threading.Barrier(2)

    def echo(request: GenerationRequest, prompt: str) -> str:
        two_at_once.wait()
        return "echo " + prompt.rsplit("user\n", 1)[1].split("<")[0]

    engine = ScriptedEngine(echo)
    questions = [f"question {index}" for index in range(8)]
    answers = LayerRouteChatModel(engine=engine).batch(questions)
    assert [answer.content for answer in answers] == [f"echo {question}" for question in questions]


def test_t12_agents_stream_tokens():
    agent = create_agent(LayerRouteChatModel(engine=ScriptedEngine()), [get_weather])
    question = {"messages": [("user", "What is the weather in 'Oslo'?")]}
    parts = [part for part, _ in agent.stream(question, stream_mode="messages") if isinstance(part, AIMessageChunk)]
    assert sum(bool(part.content) for part in parts) > 10
    assert sum(bool(part.tool_call_chunks) for part in parts) > 3


def test_t13_breaking_out_of_a_stream_stops_the_engine():
    engine = ScriptedEngine(saying(LONG), pauses_after=5)
    stream = LayerRouteChatModel(engine=engine).stream("Hello")
    next(stream)
    stream.close()
    engine.join()
    assert engine.steps <= 5


async def test_t13_breaking_out_of_an_astream_stops_the_engine():
    engine = ScriptedEngine(saying(LONG), pauses_after=5)
    async with contextlib.aclosing(LayerRouteChatModel(engine=engine).astream("Hello")) as stream:
        async for _ in stream:
            break
    await asyncio.to_thread(engine.join)
    assert engine.steps <= 5


async def test_t13_closing_the_models_own_astream_cancels_at_once():
    engine = ScriptedEngine(saying(LONG), pauses_after=5)
    stream = LayerRouteChatModel(engine=engine)._astream([HumanMessage("Hello")])
    await anext(stream)
    await stream.aclose()
    assert engine.generations[0].cancelled


class _Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tokens: list[str] = []

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)


def test_t14_new_token_fires_once_per_chunk_either_way():
    model = LayerRouteChatModel(engine=ScriptedEngine())
    through_stream, direct = _Tokens(), _Tokens()
    chunks = list(model.stream("Hello", config={"callbacks": [through_stream]}))
    manager = CallbackManager([direct])
    (run_manager,) = manager.on_chat_model_start({}, [[HumanMessage("Hello")]])
    list(model._stream([HumanMessage("Hello")], run_manager=run_manager))
    assert through_stream.tokens == [chunk.content for chunk in chunks]
    assert direct.tokens == through_stream.tokens


async def test_t14_new_token_fires_once_per_chunk_in_asyncio():
    model = LayerRouteChatModel(engine=ScriptedEngine())
    handler = _Tokens()
    chunks = [chunk async for chunk in model.astream("Hello", config={"callbacks": [handler]})]
    assert handler.tokens == [chunk.content for chunk in chunks]


def test_threads_interleave_without_mixing():
    engine = ScriptedEngine(lambda request, prompt: prompt.rsplit("user\n", 1)[1].split("<")[0] * 20)
    model = LayerRouteChatModel(engine=engine)
    answers: dict[str, str] = {}

    def ask(question: str) -> None:
        answers[question] = "".join(str(chunk.content) for chunk in model.stream(question))

    threads = [threading.Thread(target=ask, args=(f"number {index} ",)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {f"number {index} ": f"number {index} " * 20 for index in range(6)}
