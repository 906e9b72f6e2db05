"""Weather of two days from a bundled demonstration file (`data/weather.json`)."""

import functools
from typing import Any, Literal

from langchain_layerroute.front_desk.data import fold, load
from langchain_layerroute.front_desk.replies import DeskError, Reply

Day = Literal["today", "tomorrow"]


@functools.cache
def _forecasts() -> dict[str, tuple[str, dict[str, Any]]]:
    return {fold(city): (city, days) for city, days in load("weather.json")["cities"].items()}


def get_weather(city: str, day: Day) -> Reply:
    """Look a city up, in any case and with or without accents."""
    entry = _forecasts().get(fold(city))
    if entry is None:
        raise DeskError(f"no weather for {city}")
    name, days = entry
    condition, high_c, low_c = days[day]
    return {"city": name, "day": day, "condition": condition, "high_c": high_c, "low_c": low_c}
