"""Stand-ins for the agent and the chat model that the commands run."""

import pytest
from langchain_core.messages import AIMessageChunk
from step_reports import make_step

from langchain_layerroute.front_desk.agent import DemoRun
from layerroute.report import StepKind


class FakeDesk:
    """Stands in for FrontDesk: answers every task with one call and two steps."""

    call = {"name": "find_order", "arguments": {"order_id": "A-1042"}}  # noqa: RUF012
    made: "list[FakeDesk]"
    error: BaseException | None = None
    unfinished: str | None = None

    def __init__(self, model):
        self.model, self.tasks, self.closed = model, [], False
        FakeDesk.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True

    def forget(self):
        self.tasks.append("forget")

    def run(self, task, on_step=None, on_call=None, *, keep_history=False):
        self.tasks.append((task, keep_history))
        if self.error:
            raise self.error
        steps = [make_step(), make_step(kind=StepKind.PLANNING, finish_reason="stop")]
        on_step(steps[0])
        on_call(self.call["name"], self.call["arguments"], '{"error": "no order A-1042"}')
        on_step(steps[1])
        return DemoRun(f"answer to {task}", [self.call], steps, self.unfinished)


@pytest.fixture
def desk(monkeypatch):
    monkeypatch.setattr(FakeDesk, "made", [], raising=False)
    monkeypatch.setattr("langchain_layerroute.front_desk.agent.FrontDesk", FakeDesk)
    return FakeDesk


class FakeModel:
    """Stands in for LayerRouteChatModel: streams an answer in pieces, the report on the last."""

    heard: "list[list[object]]"

    def __init__(self, **options):
        self.options = options

    def stream(self, messages):
        FakeModel.heard.append(list(messages))
        yield AIMessageChunk("Hel")
        yield AIMessageChunk("lo")
        yield AIMessageChunk("", response_metadata={"layerroute": make_step().model_dump(mode="json")})


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(FakeModel, "heard", [], raising=False)
    monkeypatch.setattr("langchain_layerroute.LayerRouteChatModel", FakeModel, raising=False)
    return FakeModel
