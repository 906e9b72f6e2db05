"""The check of a finished value against all of its schema: jsonschema, with patterns under a deadline."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.validators import extend

from layerroute.engine.schemas import formats
from layerroute.engine.schemas.patterns import search, start_clock

_MOST_ERRORS = 50


class Checker:
    """Checks values against a schema of `reading`. Safe to use from several threads."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._validator = _Validator(schema)

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, and where, or None if it fits."""
        start_clock()
        try:
            errors = self._validator.iter_errors(value)
            first = next(errors, None)
            if first is None:
                return None
            worst = best_match(chain([first], islice(errors, _MOST_ERRORS)))
        except RecursionError:
            return "it is nested too deeply to be checked"
        except TimeoutError:
            return "a pattern of its schema takes too long to be searched for"
        place = worst.json_path.removeprefix("$").removeprefix(".")
        message = worst.message if len(worst.message) <= 200 else worst.message[:200] + "..."
        return f"{place}: {message}" if place else message


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and not search(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    for pattern, part in patterns.items() if isinstance(value, dict) else ():
        for name in filter(lambda name: search(pattern, name), value):
            yield from validator.descend(value[name], part, path=name, schema_path=pattern)


def _additional_properties(validator: Any, part: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    listed, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name in value:
        if name in listed or any(search(pattern, name) for pattern in patterns):
            continue
        if part is False:
            yield ValidationError(f"a property {name!r} is not allowed")
        else:
            yield from validator.descend(value[name], part, path=name)


def _multiple_of(validator: Any, factor: float, value: Any, schema: Any) -> Iterator[ValidationError]:
    """As both are written: in floats 0.07 is no multiple of 0.01."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    fits = (Fraction(repr(value)) / Fraction(repr(factor))).denominator == 1
    if not fits:
        yield ValidationError(f"{value!r} is not a multiple of {factor!r}")


def _format(validator: Any, form: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and not formats.fits(form, value):
        yield ValidationError(f"{value!r} is no {form}")


_Validator = extend(
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "multipleOf": _multiple_of,
        "format": _format,
    },
)
