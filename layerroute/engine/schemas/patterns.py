"""Regular expressions of schemas (ECMA 262, as far as people use it): checked once, searched under a deadline.

They come from strangers and meet text that a model wrote, so neither their size nor their backtracking is trusted.
"""

import re
import time
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import regex

MAX_SIZE = 10_000
"""Most positions that a pattern may spell out, counted repetitions multiplied."""

SECONDS = 2.0
"""Most time that all patterns together take over one value."""

_ATOM = re.compile(r"\\k<\w+>|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_COUNTS = re.compile(r"\{(\d+)(?:,(\d*))?\}|[*+?]")
_deadline: ContextVar[float] = ContextVar("_deadline")


def start_clock() -> None:
    """Begin to count the time of `search`, for one value."""
    _deadline.set(time.monotonic() + SECONDS)


def search(pattern: str, text: str) -> bool:
    """Whether the pattern occurs in the text; one that is not searchable is taken to.

    Raises:
        TimeoutError: the time that `start_clock` allows is over.
    """
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return why_not_searchable(pattern) is not None or _compiled(pattern).search(text, timeout=left) is not None


def require_size(pattern: str) -> None:
    """Check that a pattern spells out no more than can be followed.

    Raises:
        ValueError: it does.
    """
    size = _size(pattern)
    if size > MAX_SIZE:
        raise ValueError(f"{pattern[:40]!r} spells out {size:,} characters: repeat {MAX_SIZE:,} times at most")


def why_not_searchable(pattern: str) -> str | None:
    """Why `search` does not take a pattern of a fair size, or None if it does."""
    try:
        _compiled(pattern)
    except (regex.error, ValueError, OverflowError, RecursionError) as error:
        return str(error)
    return None


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> Any:
    return regex.compile("".join(_as_python(atom[0]) for atom in _ATOM.finditer(pattern)))


def _as_python(atom: str) -> str:
    """One atom of a pattern, where Python spells it otherwise than ECMA."""
    if atom == "$":  # in Python also before a last line break
        return r"\Z"
    if atom.startswith(r"\k<"):
        return f"(?P={atom[3:-1]})"
    return atom


def _size(pattern: str) -> int:
    """How many characters a pattern spells out; brackets that do not balance are for the compiler to tell."""
    sizes, position = [0], 0
    while position < len(pattern):
        atom = _ATOM.match(pattern, position)
        assert atom is not None  # it matches any character
        position, size = atom.end(), 1
        if atom[0] == "(":
            sizes.append(0)
            continue
        if atom[0] == ")" and len(sizes) > 1:
            size += sizes.pop()
        while (counts := _COUNTS.match(pattern, position)) is not None:
            size *= max(1, int(counts[2] or counts[1] or 1))
            position = counts.end()
        sizes[-1] += size
    return sum(sizes)
