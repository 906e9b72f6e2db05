"""Callback handler that hands the report of every step to a function, as soon as the step has ended."""

from collections.abc import Callable, Iterator
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from layerroute.report import StepReport


def report_of(message: BaseMessage) -> StepReport | None:
    """Return the report that came with an answer, or None if no LayerRoute engine ran for it.

    An answer from LangChain's cache still carries the report of the call that made it, but nothing ran this time:
    None as well.
    """
    if not isinstance(message, AIMessage) or "layerroute" not in message.response_metadata:
        return None
    if message.usage_metadata is not None and "total_cost" in message.usage_metadata:  # LangChain's mark of a hit
        return None
    return StepReport.model_validate(message.response_metadata["layerroute"])


class ComputeReportHandler(BaseCallbackHandler):
    """Collects step reports and passes each on, in the order in which the steps end.

    Attributes:
        steps: reports so far.

    Args:
        on_step: called with each report, on the thread or event loop of the call.
    """

    # Otherwise asyncio programs would hear of steps from worker threads, perhaps out of order.
    run_inline = True

    def __init__(self, on_step: Callable[[StepReport], None] | None = None) -> None:
        self.steps: list[StepReport] = []
        self._on_step = on_step

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Take the reports out of an ended call."""
        for report in _reports_of(response):
            self.steps.append(report)
            if self._on_step is not None:
                self._on_step(report)


def _reports_of(response: LLMResult) -> Iterator[StepReport]:
    for generations in response.generations:
        for generation in generations:
            if isinstance(generation, ChatGeneration):
                report = report_of(generation.message)
                if report is not None:
                    yield report
