"""From plain Python functions to LangChain tools whose every result, failures included, is one line of JSON."""

import functools
import json
import math
import sqlite3
from collections.abc import Callable
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool

MAX_ERROR_CHARACTERS = 300

Reply = dict[str, Any]


class DeskError(Exception):
    """A request that a tool cannot fulfil; its message becomes the tool's `{"error": ...}` result."""


def make_tool(function: Callable[..., Reply], description: str) -> BaseTool:
    """Wrap a typed function as a tool that returns JSON text and never raises for a bad request.

    Args:
        function: returns the reply as a dict, raises `DeskError` for what it cannot do; its name and its annotated
            parameters become the tool's schema.
        description: one short sentence; every prompt carries it.
    """

    @functools.wraps(function)
    def answer(*args: Any, **kwargs: Any) -> str:
        try:
            return to_json(function(*args, **kwargs))
        except DeskError as error:  # it may repeat an argument of any length
            return to_json({"error": str(error)[:MAX_ERROR_CHARACTERS]})
        except UnicodeEncodeError:
            return to_json({"error": "the text holds characters that are not valid Unicode"})
        except sqlite3.Error as error:
            return to_json({"error": f"the database failed: {error}"})

    return StructuredTool.from_function(answer, description=description, handle_validation_error=_bad_arguments)


def _bad_arguments(error: Any) -> str:
    problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    return to_json({"error": f"bad arguments: {problems}"})


def to_json(reply: Reply) -> str:
    """Write a reply on one line, non-ASCII letters kept; what is not valid Unicode becomes "?"."""
    return json.dumps(reply, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")


def tidy(value: float, places: int) -> int | float:
    """Round to `places` decimals, or to four significant digits below 1; whole numbers become ints.

    Raises:
        DeskError: the value is infinite or not a number.
    """
    if not math.isfinite(value):
        raise DeskError("the result is too large")
    rounded = round(value, places) if abs(value) >= 1 else float(f"{value:.4g}")
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e15 else rounded
