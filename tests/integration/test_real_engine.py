"""LayerRouteChatModel over the real engine: a random Qwen2 with real files, so answers are noise but rules hold."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.exceptions import ContextOverflowError, ModelInvalidRequestError
from langchain_core.messages import HumanMessage, ToolMessage
from pydantic import BaseModel
from qwen2 import random_model, save

from langchain_layerroute import LayerRouteChatModel
from layerroute.engine.generation import Generation
from layerroute.engine.request import GenerationRequest
from layerroute.errors import GenerationCancelledError
from layerroute.report import StepReport


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> str:
    folder: Path = tmp_path_factory.mktemp("chat-model")
    save(random_model(seed=5, vocab_size=len(tokenizer), max_position_embeddings=1024), folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def model(checkpoint: str) -> LayerRouteChatModel:
    return LayerRouteChatModel(model=checkpoint, device="cpu", max_tokens=24, seed=1)


class Forecast(BaseModel):
    """What to look up."""

    city: Literal["Oslo", "Rome"]
    day: Literal["today", "tomorrow"]


class Note(BaseModel):
    """What to write down."""

    kind: Literal["memo", "list"]


def test_making_one_loads_nothing(checkpoint: str):
    model = LayerRouteChatModel(model=checkpoint, device="cpu", dtype="float16")
    assert model.profile is not None
    assert model.profile["max_input_tokens"] == 1024
    assert model._engine_for(checkpoint)._runner is None  # type: ignore[attr-defined]


def test_equal_models_share_an_engine(checkpoint: str, model: LayerRouteChatModel):
    other = LayerRouteChatModel(model=f"{checkpoint}@full", device="cpu", temperature=1.0)
    assert other._engine_for(checkpoint) is model._engine_for(checkpoint)


def together(model: LayerRouteChatModel, calls: int) -> list[int]:
    """Hold the engine until so many calls wait in it; return the rows of each step from then on."""
    engine = model._engine_for(model.model)
    runner, sizes, waiting = engine.load(), [], threading.Semaphore(0)  # type: ignore[attr-defined]
    submit, start, step = engine.submit, runner.start, runner.batch_stepper.step

    def submitting(request: GenerationRequest) -> Generation:
        generation = submit(request)
        waiting.release()
        return generation

    def starting(*args: Any) -> Any:
        runner.start = start
        for _ in range(calls):
            waiting.acquire()
        return start(*args)

    def stepping(rows: Any, visits: Any) -> Any:
        sizes.append(len(rows))
        return step(rows, visits)

    engine.submit, runner.start, runner.batch_stepper.step = submitting, starting, stepping  # type: ignore[method-assign]
    return sizes


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_a_batch_decodes_as_rows(model: LayerRouteChatModel, way: str):
    """More calls than LangChain's own pool would run at once on this machine; answers as if each were alone."""
    rows = 6 + (os.cpu_count() or 1)
    batched = LayerRouteChatModel(model=model.model, device="cpu", max_tokens=12, max_batch_size=rows)
    questions: list[Any] = [f"Question {index}?" for index in range(rows + 2)]
    sizes = together(batched, rows)
    answers = batched.batch(questions) if way == "batch" else asyncio.run(batched.abatch(questions))
    alone = model.model_copy(update={"max_tokens": 12, "seed": None})
    assert [answer.content for answer in answers] == [alone.invoke(question).content for question in questions]
    assert max(sizes) == rows
    batched._engine_for(model.model).close()  # type: ignore[attr-defined]


def test_max_concurrency_of_a_batch_is_obeyed(model: LayerRouteChatModel):
    batched = LayerRouteChatModel(model=model.model, device="cpu", max_batch_size=3)
    sizes = together(batched, 2)
    answers = batched.bind(max_tokens=12).batch(["One", "Two", "Three", "Four"], {"max_concurrency": 2})
    assert [answer.usage_metadata["output_tokens"] for answer in answers] == [12] * 4
    assert max(sizes) == 2
    assert batched.batch([]) == []
    batched._engine_for(model.model).close()  # type: ignore[attr-defined]


def test_closing_the_engine_ends_a_call_with_its_own_error(model: LayerRouteChatModel):
    batched = LayerRouteChatModel(model=model.model, device="cpu", max_tokens=None, max_batch_size=2)
    stream = batched.stream("Hello")
    next(stream)
    batched._engine_for(model.model).close()  # type: ignore[attr-defined]
    with pytest.raises(GenerationCancelledError, match="the engine was closed"):
        list(stream)


def test_a_batch_too_large_for_the_memory_is_refused(checkpoint: str):
    with pytest.raises(ModelInvalidRequestError, match="lower max_batch_size"):
        LayerRouteChatModel(model=checkpoint, device="cpu", max_batch_size=10**9).invoke("Hello")


def test_every_way_to_call_gives_the_same_answer(model: LayerRouteChatModel):
    async def both() -> tuple[str, str]:
        streamed = [chunk.content async for chunk in model.astream("Hello")]
        return str((await model.ainvoke("Hello")).content), "".join(map(str, streamed))

    answer = model.invoke("Hello")
    assert answer.content == "".join(str(chunk.content) for chunk in model.stream("Hello"))
    assert asyncio.run(both()) == (answer.content, answer.content)


@pytest.mark.parametrize("seed", range(4))
def test_forced_calls_are_obeyed_whatever_the_model_would_say(model: LayerRouteChatModel, seed: int):
    sampled = {"temperature": 1.5, "seed": seed, "max_tokens": 200, "parallel_tool_calls": False}
    message = model.bind_tools([Forecast, Note], tool_choice="any", **sampled).invoke("Hello")
    (call,) = message.tool_calls
    {"Forecast": Forecast, "Note": Note}[call["name"]].model_validate(call["args"])
    named = model.bind_tools([Forecast, Note], tool_choice="Note", **sampled).invoke("Hello")
    assert [call["name"] for call in named.tool_calls] == ["Note"]
    assert named.response_metadata["layerroute"]["fast_forwarded_tokens"] > 0


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_always_validates(model: LayerRouteChatModel, method: Any):
    structured = model.model_copy(update={"max_tokens": 200}).with_structured_output(Forecast, method=method)
    assert isinstance(structured.invoke("Hello"), Forecast)


def test_a_second_turn_prefills_only_what_is_new(model: LayerRouteChatModel):
    bound = model.bind_tools([Note], tool_choice="any", parallel_tool_calls=False, max_tokens=200)
    question = HumanMessage("Write it down, please.")
    first = bound.invoke([question])
    result = ToolMessage("done", tool_call_id=first.tool_calls[0]["id"])
    second = StepReport.model_validate(bound.invoke([question, first, result]).response_metadata["layerroute"])
    once = StepReport.model_validate(first.response_metadata["layerroute"])
    assert second.cached_tokens >= once.prompt_tokens - 1
    assert second.prompt_tokens > once.prompt_tokens + once.generated_tokens


def test_program_of_a_call_is_what_ran(model: LayerRouteChatModel):
    report = model.invoke("Hello", program="0-2,5").response_metadata["layerroute"]
    assert report["program"] == "0-2,5"
    assert report["decode"]["skipped"] == 2 * report["decode_steps"]


@pytest.mark.parametrize("option", [{"router": "crystal ball"}, {"program": "0-99"}, {"router": "gates"}])
def test_what_the_engine_refuses(model: LayerRouteChatModel, option: dict[str, str]):
    with pytest.raises(ModelInvalidRequestError):
        model.invoke("Hello", **option)


def test_broken_tool_schemas_are_refused(model: LayerRouteChatModel):
    broken = {"name": "f", "input_schema": {"type": "object", "properties": {"x": {"type": "nonsense"}}}}
    with pytest.raises(ModelInvalidRequestError, match="'f'"):
        model.bind_tools([broken]).invoke("Hello")


def test_a_prompt_over_the_window(model: LayerRouteChatModel):
    with pytest.raises(ContextOverflowError):
        model.invoke("word " * 2000)
