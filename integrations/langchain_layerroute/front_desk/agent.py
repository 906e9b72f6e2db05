"""The front desk as an agent: `FrontDesk(model).run("Cancel order A-1059")`."""

from pathlib import Path
from types import TracebackType

from langchain_core.language_models import BaseChatModel

from langchain_layerroute.front_desk.prompts import FRONT_DESK_PROMPT
from langchain_layerroute.front_desk.runner import DemoRun, ToolAgent
from langchain_layerroute.front_desk.tools import FrontDeskTools

__all__ = ["DEFAULT_TASKS", "DemoRun", "FrontDesk"]

DEFAULT_TASKS: tuple[str, ...] = (
    "Look up order A-1066 and mark it as shipped.",
    "What's the weather in Oslo today and in Lisbon tomorrow?",
    "Add 140 and 65, then convert the result from euros to US dollars.",
    "Who placed order A-1042? List all orders of that customer.",
    'Search my notes for parking and save a note saying "ask about the parking permits".',
    'Convert 18 km to miles, show my calendar for tomorrow, and add "Piano lesson" tomorrow at 17:30.',
)
"""What `layerroute demo` asks: each task takes one to three calls, together they use all eleven tools."""


class FrontDesk(ToolAgent):
    """The front-desk agent and the database its tools work on.

    Args:
        model: the chat model, usually `LayerRouteChatModel()`.
        folder: folder of the database, created and filled if new; None for a temporary one.

    Raises:
        ImportError: langchain is not installed.
    """

    def __init__(self, model: BaseChatModel, folder: Path | None = None) -> None:
        self._desk = FrontDeskTools(folder)
        super().__init__(model, self._desk.tools(), FRONT_DESK_PROMPT)

    def close(self) -> None:
        """Close the database; a temporary folder is deleted."""
        self._desk.close()

    def __enter__(self) -> "FrontDesk":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
