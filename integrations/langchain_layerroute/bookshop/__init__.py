"""The bookshop: a SQLite database that an analyst agent may read and nothing more."""

from langchain_layerroute.bookshop.tools import ANALYST_PROMPT, BookshopTools, analyst_schemas

__all__ = ["ANALYST_PROMPT", "BookshopTools", "analyst_schemas"]
