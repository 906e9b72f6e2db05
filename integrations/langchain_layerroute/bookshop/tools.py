"""The analyst's three tools over the bookshop, and their schemas in prompt order."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_layerroute.bookshop.database import BookshopDatabase
from langchain_layerroute.front_desk.replies import Reply, make_tool

ANALYST_PROMPT = "You are a data analyst. Answer from the database with the tools."


class BookshopTools:
    """The tools over one bookshop database, which they can only read.

    Args:
        folder: folder of the database, created and filled with the bundled rows if new; None for a temporary one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.database = BookshopDatabase(folder)

    def tools(self) -> list[BaseTool]:
        """All three tools, in prompt order. Opens nothing: the first call opens the database."""
        described: tuple[tuple[Callable[..., Reply], str], ...] = (
            (self.database.list_tables, "Names of the tables"),
            (self.database.describe_table, "Columns of a table"),
            (self.database.run_query, "Run one SQLite SELECT"),
        )
        return [make_tool(function, description) for function, description in described]

    def close(self) -> None:
        """Close the database; a temporary folder is deleted."""
        self.database.close()

    def __enter__(self) -> "BookshopTools":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def analyst_schemas() -> list[dict[str, Any]]:
    """OpenAI dicts of the three tools, in prompt order."""
    return [convert_to_openai_tool(tool) for tool in BookshopTools().tools()]
