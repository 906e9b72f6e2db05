"""The front desk: a demonstration agent with eleven real tools."""

from langchain_layerroute.front_desk.prompts import FRONT_DESK_PROMPT, PLANNER_PROMPT, TODAY
from langchain_layerroute.front_desk.tools import FrontDeskTools, tool_schemas

__all__ = ["FRONT_DESK_PROMPT", "PLANNER_PROMPT", "TODAY", "FrontDeskTools", "tool_schemas"]
