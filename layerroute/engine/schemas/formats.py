"""Formats of text: which of them a grammar holds, how, and which are checked on a finished value.

Times may leave out their offset: JSON Schema demands one, but what tools are written with (pydantic, `datetime`) takes
naive times too, and models write them. Formats that are named nowhere here are annotations.
"""

import ipaddress
import re
import uuid
from collections.abc import Callable
from datetime import date, time
from typing import Any

GRAMMAR_FORMATS = frozenset({"date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"})
"""Formats that llguidance knows by name."""

_DATE = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?"
GRAMMAR_PATTERNS = {"date-time": f"^{_DATE}T{_TIME}$", "time": f"^{_TIME}$"}
"""Formats that are held as a pattern."""

_LOOSE_TIME = re.compile(r"\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_FRACTION = re.compile(r"(\.\d{6})\d+")


def fits(form: str, text: str) -> bool:
    """Whether the text has the format, as far as formats are checked."""
    read = _READERS.get(form)
    try:
        return read is None or read(text) is not False
    except ValueError:
        return False


def _date(text: str) -> Any:
    return re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) is not None and date.fromisoformat(text)


def _time(text: str) -> Any:
    if _LOOSE_TIME.fullmatch(text) is None:
        return False
    return time.fromisoformat(_FRACTION.sub(r"\1", text.upper()))


def _date_time(text: str) -> Any:
    day, clock = text[:10], text[11:]
    return text[10:11] in ("T", "t", " ") and _date(day) is not False and _time(clock) is not False


def _uuid(text: str) -> Any:
    return str(uuid.UUID(text)) == text.lower()


_READERS: dict[str, Callable[[str], Any]] = {
    "date": _date,
    "time": _time,
    "date-time": _date_time,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uuid": _uuid,
}
