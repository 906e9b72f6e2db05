"""ComputeReportHandler and ComputeReportMiddleware on agents of `create_agent`."""

import threading
from typing import Any

from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from scripted import ScriptedEngine, call_text, saying

from langchain_layerroute import ComputeReportHandler, ComputeReportMiddleware, LayerRouteChatModel
from layerroute.report import StepKind, StepReport, summarise

QUESTION: dict[str, Any] = {"messages": [("user", "Weather in Oslo and Rome?")]}


@tool
def get_weather(city: str) -> str:
    """Look the weather up."""
    return f"rain in {city}"


def two_calls_and_an_answer() -> LayerRouteChatModel:
    oslo, rome = call_text("get_weather", {"city": "Oslo"}), call_text("get_weather", {"city": "Rome"})
    return LayerRouteChatModel(engine=ScriptedEngine(saying(oslo, rome, "Rain in both.")))


def test_middleware_sums_the_run():
    handler = ComputeReportHandler()
    agent = create_agent(two_calls_and_an_answer(), [get_weather], middleware=[ComputeReportMiddleware()])
    state = agent.invoke(QUESTION, config={"callbacks": [handler]})
    steps = [StepReport.model_validate(step) for step in state["layerroute"]["steps"]]
    assert [step.kind for step in steps] == [StepKind.TOOL_CALL, StepKind.TOOL_CALL, StepKind.PLANNING]
    assert steps == handler.steps
    assert state["layerroute"]["summary"] == summarise(steps).model_dump(mode="json")
    assert state["layerroute"]["summary"]["total"]["generated_tokens"] == sum(step.generated_tokens for step in steps)
    assert state["layerroute"]["summary"]["total"]["decode"]["skipped"] > 0


async def test_middleware_in_asyncio():
    agent = create_agent(two_calls_and_an_answer(), [get_weather], middleware=[ComputeReportMiddleware()])
    state = await agent.ainvoke(QUESTION)
    assert state["layerroute"]["summary"]["total"]["steps"] == 3


def test_middleware_while_tokens_are_streamed():
    agent = create_agent(two_calls_and_an_answer(), [get_weather], middleware=[ComputeReportMiddleware()])
    states = [part for mode, part in agent.stream(QUESTION, stream_mode=["messages", "values"]) if mode == "values"]
    assert states[-1]["layerroute"]["summary"]["total"]["steps"] == 3


def test_a_new_run_of_a_thread_starts_from_nothing():
    agent = create_agent(
        two_calls_and_an_answer(),
        [get_weather],
        middleware=[ComputeReportMiddleware()],
        checkpointer=InMemorySaver(),
    )
    thread = {"configurable": {"thread_id": "1"}}
    assert len(agent.invoke(QUESTION, config=thread)["layerroute"]["steps"]) == 3
    assert len(agent.invoke(QUESTION, config=thread)["layerroute"]["steps"]) == 1


def test_middleware_passes_other_models_by():
    model = GenericFakeChatModel(messages=iter([AIMessage("Hi")]))
    state = create_agent(model, [], middleware=[ComputeReportMiddleware()]).invoke(QUESTION)
    assert state["layerroute"]["steps"] == []


def test_handler_hears_of_every_way_to_call():
    heard: list[StepReport] = []
    handler = ComputeReportHandler(heard.append)
    model = LayerRouteChatModel(engine=ScriptedEngine(), callbacks=[handler])
    model.invoke("a")
    list(model.stream("b"))
    model.batch(["c", "d"])
    assert len(heard) == 4
    assert heard == handler.steps


async def test_handler_is_called_on_the_event_loops_thread():
    threads: list[int] = []
    handler = ComputeReportHandler(lambda report: threads.append(threading.get_ident()))
    model = LayerRouteChatModel(engine=ScriptedEngine(), callbacks=[handler])
    await model.ainvoke("a")
    [chunk async for chunk in model.astream("b")]
    assert threads == [threading.get_ident()] * 2


def test_a_hit_in_langchains_cache_is_no_step():
    handler = ComputeReportHandler()
    model = LayerRouteChatModel(engine=ScriptedEngine(), cache=InMemoryCache(), callbacks=[handler])
    model.invoke("a")
    model.invoke("a")
    assert len(handler.steps) == 1
