"""Bundled demonstration data: weather, exchange rates, and what a new front-desk database starts with."""

import json
import unicodedata
from importlib import resources
from typing import Any


def load(name: str) -> dict[str, Any]:
    """Read one of the JSON documents of this folder."""
    document: dict[str, Any] = json.loads(resources.files(__name__).joinpath(name).read_text(encoding="utf-8"))
    return document


def fold(text: str) -> str:
    """Spell a name for comparison: no case, no accents, single spaces."""
    # Letter by letter: a whole text is put into canonical order as well, which takes the square of many accents.
    parts = "".join(unicodedata.normalize("NFKD", letter) for letter in text)
    plain = "".join(letter for letter in parts if not unicodedata.combining(letter))
    return " ".join(plain.casefold().split())
