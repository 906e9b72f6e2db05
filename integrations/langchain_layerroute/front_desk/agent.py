"""The front desk as an agent: `FrontDesk(model).run("Cancel order A-1059")`."""

from pathlib import Path
from types import TracebackType

from langchain_core.language_models import BaseChatModel

from langchain_layerroute.front_desk.prompts import FRONT_DESK_PROMPT
from langchain_layerroute.front_desk.runner import DemoRun, ToolAgent
from langchain_layerroute.front_desk.tools import FrontDeskTools

__all__ = ["DEFAULT_TASKS", "DemoRun", "FrontDesk"]

DEFAULT_TASKS: tuple[str, ...] = (
    "Find order A-1101, then list all orders of its customer.",
    "Multiply 189 by 6, then convert the result from euros to Norwegian kroner.",
    'How is the weather in Bergen tomorrow? Put "Buy umbrella" on my calendar for tomorrow at 08:15.',
    "List the orders of Li Wei, then mark A-1008 as shipped.",
    "What do my notes say about the printer, and what is on my calendar on 2026-11-24?",
    'Convert 42 km to miles and save a note saying "marathon training on Sunday".',
)
"""What `layerroute demo` asks: each task takes two calls; together they use all eleven tools."""


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
