"""The eleven tools of the front desk, and their schemas in the order in which every prompt lists them."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_layerroute.front_desk.arithmetic import calculator
from langchain_layerroute.front_desk.currency import convert_currency
from langchain_layerroute.front_desk.database import DeskDatabase
from langchain_layerroute.front_desk.replies import Reply, make_tool
from langchain_layerroute.front_desk.units import convert_units
from langchain_layerroute.front_desk.weather import get_weather


class FrontDeskTools:
    """The tools over one database.

    Results are one line of JSON each; what cannot be done is a result too: `{"error": "no order A-9999"}`.
    Not covered: the tools trust whoever may open the folder, and the weather and exchange rates are fixed
    demonstration data.

    Args:
        folder: folder of the database, created and filled with bundled rows if new; None for a temporary one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.database = DeskDatabase(folder)

    def tools(self) -> list[BaseTool]:
        """All eleven tools, in prompt order. Opens nothing: the database is opened by the first call that needs it."""
        desk = self.database
        described: tuple[tuple[Callable[..., Reply], str], ...] = (
            (calculator, "Evaluate arithmetic, e.g. 12 * 7"),
            (convert_units, "Convert between units, e.g. km to mi"),
            (convert_currency, "Convert money by ISO codes"),
            (get_weather, "Weather of a city"),
            (desk.find_order, "Look up an order"),
            (desk.list_orders, "Orders of a customer"),
            (desk.update_order, "Set an order's status"),
            (desk.add_note, "Save a note"),
            (desk.search_notes, "Search the notes"),
            (desk.add_event, "Add a calendar event (YYYY-MM-DD, HH:MM)"),
            (desk.list_events, "Calendar events of a day (YYYY-MM-DD)"),
        )
        return [make_tool(function, description) for function, description in described]

    def close(self) -> None:
        """Close the database; a temporary folder is deleted."""
        self.database.close()

    def __enter__(self) -> "FrontDeskTools":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def tool_schemas() -> list[dict[str, Any]]:
    """OpenAI dicts of the eleven tools, in prompt order."""
    return [convert_to_openai_tool(tool) for tool in FrontDeskTools().tools()]
