# ruff: noqa: E501 (phrase templates are one line each)
"""What stands before the first user turn: the system prompt and the list of tools."""

import copy
import functools
import random
from collections.abc import Sequence
from typing import Any

from langchain_layerroute.front_desk.prompts import FRONT_DESK_PROMPT, TODAY
from langchain_layerroute.front_desk.tools import tool_schemas
from layerroute_training.embedded.conversations.text import expand, pick
from layerroute_training.embedded.conversations.values import WEEKDAYS, Day

Tool = dict[str, Any]


@functools.cache
def desk_tools() -> tuple[Tool, ...]:
    """The front desk's schemas in prompt order."""
    return tuple(tool_schemas())


def desk_prompt(rng: random.Random, today: Day) -> str:
    """The front desk's system prompt on a day, now and then in other words."""
    if rng.random() < 0.75:
        return FRONT_DESK_PROMPT.replace(TODAY, today.isoformat())
    return expand(
        rng,
        "You are [a|the] [front desk|reception|office|hotel|helpful] assistant. [Today is {iso}.|Today is {day}, {iso}.|Date: {iso}.|The date is {iso}.] "
        "[Use the tools.|Call a tool when you need one.|Answer with the help of the tools.|] [Be brief.|Answer briefly.|Keep it short.|]|"
        "Today is {iso}. [You help the guests of a small hotel.|You work at a reception.|You are an assistant with tools.]|"
        "You help with orders, notes and the calendar. Today is {iso}.|The current date is {iso}. Use tools where needed.",
        iso=today.isoformat(),
        day=WEEKDAYS[today.weekday()],
    )


def desk_tool_list(rng: random.Random, needed: Sequence[str], distractors: Sequence[Tool]) -> list[Tool]:
    """The tools of one prompt: all in order (mostly), or some with all that are needed, shuffled, with others mixed in."""
    roll = rng.random()
    tools = list(desk_tools())
    if roll < 0.62:
        return tools
    if roll < 0.87:
        share = rng.uniform(0.1, 0.7)
        tools = [tool for tool in tools if tool["function"]["name"] in needed or rng.random() < share]
    if roll > 0.7:
        tools += [tool for tool in distractors if tool["function"]["name"] not in _DESCRIPTIONS]
        rng.shuffle(tools)
    if roll > 0.93:
        tools = [_reworded(rng, tool) for tool in tools]
    return tools or [tools_of(needed)[0] if needed else desk_tools()[0]]


def tools_of(names: Sequence[str]) -> list[Tool]:
    """The front desk's schemas of these names, in prompt order."""
    return [tool for tool in desk_tools() if tool["function"]["name"] in names]


_DESCRIPTIONS = {
    "calculator": ("Evaluates an arithmetic expression", "Calculate", "Do the maths of an expression such as 3 + 4"),
    "convert_units": ("Convert a value from one unit to another", "Unit conversion (short unit names)"),
    "convert_currency": ("Convert an amount of money (ISO 4217 codes)", "Exchange rates"),
    "get_weather": ("Get the weather forecast of a city", "Weather today or tomorrow"),
    "find_order": ("Find an order by its number", "Details of an order"),
    "list_orders": ("List all orders of a customer", "A customer's orders"),
    "update_order": ("Change the status of an order", "Update an order"),
    "add_note": ("Write down a note", "Adds a note"),
    "search_notes": ("Find notes by words", "Looks for notes"),
    "add_event": ("Add an event to the calendar: ISO date, 24 h time", "New calendar event (YYYY-MM-DD, HH:MM)"),
    "list_events": ("List the events of a date (YYYY-MM-DD)", "Show the calendar of a day"),
}


def _reworded(rng: random.Random, tool: Tool) -> Tool:
    name = tool["function"]["name"]
    if name not in _DESCRIPTIONS or rng.random() < 0.4:
        return tool
    changed = copy.deepcopy(tool)
    changed["function"]["description"] = pick(rng, _DESCRIPTIONS[name])
    return changed
