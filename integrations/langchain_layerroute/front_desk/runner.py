"""One task through a tool-using agent: the answer, the calls that led to it, and the report of every step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool

from langchain_layerroute.callbacks import ComputeReportHandler
from layerroute.errors import RequestError
from layerroute.report import StepReport

OnStep = Callable[[StepReport], None]
OnCall = Callable[[str, dict[str, Any], str], None]

MAX_STEPS = 8
"""Most model calls that one task may take."""


@dataclass(frozen=True, slots=True)
class DemoRun:
    """What came of a task.

    Attributes:
        answer: the last text of the agent, or, if it did not finish, what stopped it.
        tool_calls: `{"name", "arguments"}` of every call, in order.
        steps: report of every step, in order.
        error: why there is no answer, or None.
    """

    answer: str
    tool_calls: list[dict[str, Any]]
    steps: list[StepReport]
    error: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON document that `--json` prints."""
        steps = [step.model_dump(mode="json") for step in self.steps]
        return {"answer": self.answer, "tool_calls": self.tool_calls, "steps": steps}


class ToolAgent:
    """A LangChain agent over a list of tools; runs tasks apart or as one conversation, and never prints.

    Args:
        model: any chat model that can bind tools; step reports come from those that report them.
        tools: what it may call.
        system_prompt: what it is.

    Raises:
        ImportError: langchain is not installed.
    """

    def __init__(self, model: BaseChatModel, tools: Sequence[BaseTool], system_prompt: str) -> None:
        try:
            from langchain.agents import create_agent
        except ImportError as error:
            raise ImportError('the demonstration agents need langchain: pip install "layerroute[demo]"') from error
        self._agent = create_agent(model, tools=list(tools), system_prompt=system_prompt)
        self._history: list[AnyMessage] = []

    def run(
        self, task: str, on_step: OnStep | None = None, on_call: OnCall | None = None, *, keep_history: bool = False
    ) -> DemoRun:
        """Carry out a task.

        Args:
            task: plain words.
            on_step: is handed each step's report as soon as the step is over.
            on_call: is handed name, arguments and result of each call, once the calls of its step are carried out.
            keep_history: continue the conversation of the earlier tasks that were run so. A task without an answer
                is not kept.

        Raises:
            RequestError: an empty task.
            LayerRouteError, ModelError: what the model raises, such as a full context window.
        """
        if not task.strip():
            raise RequestError("the task is empty: say in words what should be done")
        earlier = self._history if keep_history else []
        reports = ComputeReportHandler(on_step)
        # One worker, so that several calls of one step are carried out in the order of the answer.
        config = RunnableConfig(callbacks=[reports], recursion_limit=2 * MAX_STEPS, max_concurrency=1)
        messages, finished = self._messages([*earlier, HumanMessage(task)], config, on_call)
        calls = _tool_calls(messages[len(earlier) :])
        if not finished:
            error = f"no answer after {MAX_STEPS} steps"
            return DemoRun(f"I stopped: {error}.", calls, list(reports.steps), error)
        if keep_history:
            self._history = messages
        return DemoRun(str(messages[-1].text), calls, list(reports.steps))

    def forget(self) -> None:
        """Start a new conversation."""
        self._history = []

    def _messages(
        self, messages: list[AnyMessage], config: RunnableConfig, on_call: OnCall | None
    ) -> tuple[list[AnyMessage], bool]:
        """Run the agent; return all messages, and whether it came to an end by itself."""
        from langgraph.errors import GraphRecursionError

        try:
            for state in self._agent.stream({"messages": messages}, config, stream_mode="values"):
                new = state["messages"][len(messages) :]
                messages = state["messages"]
                if on_call is not None:
                    for name, arguments, result in _results(messages, new):
                        on_call(name, arguments, result)
        except GraphRecursionError:
            return messages, False
        return messages, True


def _results(messages: Sequence[AnyMessage], new: Sequence[AnyMessage]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Name, arguments and result of the calls whose results are among the new messages."""
    asked = {call["id"]: call for message in messages if isinstance(message, AIMessage) for call in message.tool_calls}
    for message in new:
        if isinstance(message, ToolMessage):
            call = asked[message.tool_call_id]
            yield call["name"], call["args"], str(message.text)


def _tool_calls(messages: Sequence[AnyMessage]) -> list[dict[str, Any]]:
    return [
        {"name": call["name"], "arguments": call["args"]}
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
    ]
