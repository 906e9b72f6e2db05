"""JSON as an answer holds it: how it is read, which numbers are too long for it, and when two values are the same."""

import json
import math
import re
from typing import Any

MAX_DIGITS = 24
"""Most digits of a whole number, more than 64 bits have; a fraction is cut off there, beyond what a float can tell."""

MAX_ZEROS = 64
"""Most zeros before the first other digit; where a fraction is cut off among them, the number is refused."""

MAX_EXPONENT_DIGITS = 3

MAX_LEVELS = 100
"""Most levels of nesting, far below where readers and writers of JSON run out of stack."""

_TURN = re.compile(rb'["\\]')
_DIGITS = frozenset(b"0123456789")


def read_json(text: str) -> Any:
    """The value of JSON as in RFC 8259, but with raw line breaks allowed in strings, as models write them.

    What readers would disagree about is no JSON here: a name that an object holds twice, a number that a float cannot
    hold, one of so many digits that a grammar has cut it off, half a surrogate pair, nesting without an end.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(
        text,
        strict=False,
        parse_constant=_no_constant,
        parse_int=_integer,
        parse_float=_number,
        object_pairs_hook=_object,
    )
    if _is_deep(value):
        raise ValueError(f"it is nested more than {MAX_LEVELS} levels deep")
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _is_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(MAX_LEVELS + 1):
        layer = [
            part
            for whole in layer
            if isinstance(whole, dict | list)
            for part in (whole.values() if isinstance(whole, dict) else whole)
        ]
        if not layer:
            return False
    return True


def identity(value: Any) -> str:
    """A text that two JSON values share if and only if they are equal: 1 is 1.0, order counts in arrays alone."""
    return json.dumps(json.loads(json.dumps(value), parse_float=_whole), sort_keys=True)


class NumberScanner:
    """Follows JSON text as it is written, to tell when a number has become too long."""

    __slots__ = ("_digits", "_escaped", "_exponent", "_in_string", "_last", "_zeros")

    def __init__(self) -> None:
        self._in_string = False
        self._escaped = False
        self._zeros = 0  # that the number begins with which the text ends in
        self._digits = 0  # of that number after these, or of its exponent if it has one
        self._exponent = False
        self._last = 0

    @property
    def too_long(self) -> bool:
        """Whether the text ends in a number of more digits than it may have, and in a digit."""
        if self._last not in _DIGITS:
            return False
        if self._exponent:
            return self._digits > MAX_EXPONENT_DIGITS
        return self._digits > MAX_DIGITS or self._zeros > MAX_ZEROS

    def feed(self, data: bytes) -> None:
        """Read on."""
        position = 0
        while position < len(data):
            if self._in_string:
                position = self._read_string(data, position)
            else:
                self._read_byte(data[position])
                position += 1

    def _read_string(self, data: bytes, position: int) -> int:
        """Read up to the end of the string or of the data; returns where that is."""
        if self._escaped:
            self._escaped = False
            return position + 1
        turn = _TURN.search(data, position)
        if turn is None:
            return len(data)
        self._escaped = turn[0] == b"\\"
        self._in_string = self._escaped
        return turn.end()

    def _read_byte(self, byte: int) -> None:
        self._last = byte
        if byte == ord("0") and not self._digits and not self._exponent:
            self._zeros += 1
        elif byte in _DIGITS:
            self._digits += 1
        elif byte in b"eE" and self._zeros + self._digits:
            self._zeros, self._digits, self._exponent = 0, 0, True
        elif byte not in b".+-":
            self._zeros, self._digits, self._exponent = 0, 0, False
            self._in_string = byte == ord('"')


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _integer(text: str) -> int:
    _require_short(text)
    return int(text)


def _number(text: str) -> float:
    mantissa, _, exponent = text.lower().lstrip("-").partition("e")
    _require_short(mantissa.partition(".")[0])
    digits = mantissa.replace(".", "")
    value = float(text)
    vanished = len(digits) - len(digits.lstrip("0")) > MAX_ZEROS or (value == 0 and digits.strip("0"))
    if vanished or not math.isfinite(value) or len(exponent.lstrip("+-")) > MAX_EXPONENT_DIGITS:
        raise ValueError(f"the number {text[:20]} is too large or too close to 0")
    return value


def _require_short(text: str) -> None:
    digits = sum(character.isdigit() for character in text)
    if digits > MAX_DIGITS:
        raise ValueError(f"the number {text[:20]}... has more than {MAX_DIGITS} digits")


def _whole(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() else value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has more than one {twice!r}")
    return values
