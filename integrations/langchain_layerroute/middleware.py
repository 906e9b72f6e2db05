"""ComputeReportMiddleware: sums the step reports of an agent's run into the agent's state."""

from typing import Annotated, Any, NotRequired

from langchain_core.messages import AIMessage
from typing_extensions import TypedDict

from langchain_layerroute.callbacks import report_of
from layerroute.report import StepReport, summarise

try:
    from langchain.agents.middleware.types import AgentMiddleware, AgentState, OmitFromInput
except ImportError as error:
    raise ImportError('ComputeReportMiddleware needs langchain: pip install "layerroute[demo]"') from error


class RunReport(TypedDict):
    """What the steps of one run did.

    Attributes:
        steps: step reports in the order of the steps, as JSON-like dicts.
        summary: their sums by step kind and in total (`layerroute.report.RunSummary`), as a JSON-like dict.
    """

    steps: list[dict[str, Any]]
    summary: dict[str, Any]


class ComputeReportState(AgentState[Any]):  # type: ignore[misc]
    """Agent state with the run's report under "layerroute"."""

    layerroute: NotRequired[Annotated[RunReport, OmitFromInput]]  # type: ignore[valid-type]


class ComputeReportMiddleware(AgentMiddleware[ComputeReportState, Any, Any]):  # type: ignore[misc]
    """Adds the report of every model step to `state["layerroute"]`; a new run starts from nothing.

    Example:
        ```python
        agent = create_agent(LayerRouteChatModel(), tools, middleware=[ComputeReportMiddleware()])
        state = agent.invoke({"messages": [("user", "What is 12 * 7?")]})
        state["layerroute"]["summary"]["total"]["decode"]["skipped"]
        ```
    """

    state_schema = ComputeReportState

    def before_agent(self, state: ComputeReportState, runtime: Any) -> dict[str, Any]:
        """Start the run's report: with a checkpointer the state still holds the last run's."""
        return {"layerroute": _run_report([])}

    async def abefore_agent(self, state: ComputeReportState, runtime: Any) -> dict[str, Any]:
        """Like `before_agent`."""
        return self.before_agent(state, runtime)

    def after_model(self, state: ComputeReportState, runtime: Any) -> dict[str, Any] | None:
        """Add the report of the step that has just ended."""
        answer = next((message for message in reversed(state["messages"]) if isinstance(message, AIMessage)), None)
        report = report_of(answer) if answer is not None else None
        if report is None:
            return None
        earlier = state["layerroute"]["steps"] if "layerroute" in state else []
        return {"layerroute": _run_report([*map(StepReport.model_validate, earlier), report])}

    async def aafter_model(self, state: ComputeReportState, runtime: Any) -> dict[str, Any] | None:
        """Like `after_model`."""
        return self.after_model(state, runtime)


def _run_report(steps: list[StepReport]) -> RunReport:
    return RunReport(
        steps=[step.model_dump(mode="json") for step in steps],
        summary=summarise(steps).model_dump(mode="json"),
    )
