"""Asking llguidance whether it builds a grammar; needs no tokenizer."""

import json
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher, LLParserLimits

LIMITS = LLParserLimits(max_items_in_row=50_000, verbose_errors=False)
"""Room for objects of thousands of optional properties."""


@lru_cache(maxsize=1024)
def why_not_held(text: str) -> str | None:
    """Why no grammar holds a schema (JSON text), or None if one does."""
    failed, messages = LLMatcher.validate_grammar_with_warnings(
        LLMatcher.grammar_from_json_schema(text), None, limits=LIMITS
    )
    return messages[0].strip().partition("\n")[0] if failed else None


def is_held(schema: dict[str, Any]) -> bool:
    """Whether a grammar holds a schema."""
    return why_not_held(json.dumps(schema)) is None


def is_empty(schema: dict[str, Any]) -> bool:
    """Whether no grammar holds it because no value fits it."""
    return says_empty(why_not_held(json.dumps(schema)))


def says_empty(reason: str | None) -> bool:
    """Whether the reason of `why_not_held` is that no value fits."""
    return reason is not None and "nsatisfiable" in reason
