"""A small phrase grammar: `[a|b|]` picks one alternative (they nest), `{slot}` takes a value."""

import functools
import random
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")
Node = str | tuple[tuple["Node", ...], ...]
_PIECE = re.compile(r"[\[\]|]|[^\[\]|]+")
_SLOT = re.compile(r"\{(\w+)\}")


@functools.cache
def _parse(template: str) -> tuple[tuple[Node, ...], ...]:
    stack: list[list[list[Node]]] = [[[]]]
    for piece in _PIECE.findall(template):
        if piece == "[":
            stack.append([[]])
        elif piece == "|":
            stack[-1].append([])
        elif piece == "]":
            options = stack.pop()
            stack[-1][-1].append(tuple(tuple(option) for option in options))
        else:
            stack[-1][-1].append(piece)
    if len(stack) != 1:
        raise ValueError(f"unbalanced brackets: {template!r}")
    return tuple(tuple(option) for option in stack[0])


def _sample(rng: random.Random, options: tuple[tuple[Node, ...], ...], out: list[str]) -> None:
    option = options[0] if len(options) == 1 else options[int(rng.random() * len(options))]
    for node in option:
        if isinstance(node, str):
            out.append(node)
        else:
            _sample(rng, node, out)


def expand(rng: random.Random, template: str, **slots: object) -> str:
    """One sentence of a template with its slots filled; top-level `|` separates whole alternatives."""
    return fill(draw(rng, template, slots), slots)


def draw(rng: random.Random, template: str, slots: Mapping[str, object]) -> str:
    """One sentence of a template, single-spaced, its slots still open, those that are to be empty gone."""
    out: list[str] = []
    _sample(rng, _parse(template), out)
    text = "".join(out)
    for name, value in slots.items():
        if value == "":
            text = text.replace(f"{{{name}}}", "")
    text = re.sub(r" +", " ", text).strip()
    return re.sub(r" ([,.?!])", r"\1", text)


def fill(text: str, slots: Mapping[str, object]) -> str:
    """The text with `{name}` replaced by the slots' values."""
    return _SLOT.sub(lambda match: str(slots[match[1]]), text)


def add_typos(rng: random.Random, text: str) -> str:
    """Misspell about one word in eight; slots keep their spelling."""
    words = text.split(" ")
    for index, word in enumerate(words):
        if word.isalpha() and len(word) > 3 and rng.random() < 0.13:
            at = rng.randrange(1, len(word) - 1)
            how = rng.random()
            if how < 0.45:
                word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
            elif how < 0.8:
                word = word[:at] + word[at + 1 :]
            else:
                word = word[:at] + word[at] + word[at:]
            words[index] = word
    return " ".join(words)


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options."""
    return options[int(rng.random() * len(options))]


def capitalise(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def listing(parts: Sequence[str]) -> str:
    """Words joined as in "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
