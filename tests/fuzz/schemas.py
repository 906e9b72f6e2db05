"""Schemas: whatever stands in one, it is refused by a message or used, and an answer under it is one call or none."""

import json
from random import Random
from typing import Any

from layerroute.chat.parser import AnswerParser
from layerroute.engine.detokenizer import Detokenizer
from layerroute.engine.grammar import Grammar
from layerroute.engine.request import OutputConstraint, ToolSpec
from layerroute.engine.schemas.keywords import LISTS_OF_SCHEMAS, MAPS_OF_SCHEMAS, SINGLE_SCHEMAS, TYPES
from layerroute.errors import LayerRouteError, ToolSchemaError
from tests.fuzz import inputs
from tests.grammars import CLOSE, END, FACTORY, OPEN, TOKENIZER, allowed, closing_rank

NAMES = ("a", "b", "c", "a\nb", *inputs.KEYS)
PATTERNS = (
    *("^a+$", "b", "^(?!x)", r"\bq\b", "[", "(a|b)*c", ".", "^$", r"^\d{2,4}$", r"(?<n>a)\k<n>", "a{0,50}", r"\p{L}"),
    *("^a{100000}$", "((a{99}){99}){99}", r"^(a|aa)+$", "(", r"[^\n]+$", "^[a$]$", "(?<=a)b"),
)
FORMATS = ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "regex", "x")
BOUNDS = (*inputs.NUMBERS, 2, 3, 5, 2**53 + 1, 2**64, 1e20, 1e300, 1e-7, 0.01)
COUNTS = (0, 1, 1, 2, 3, 10, 1000, 10**9, 10**12, 1.0)
REFERENCES = ("#", "#/$defs/a", "#/$defs/b", "#/properties/a", "#x", "http://x", "#/$defs/~0", "#/anyOf/0")
LIKELY = (*(3 * TYPES), ["string", "null"], ["object", "array"], "strin", [])

Case = tuple[ToolSpec, int, bool]
"""A tool, the seed of the answer, and whether forced tokens are taken without a draw."""


def make(rng: Random) -> Case:
    """A tool with a schema of any keywords, most of them in their right place."""
    schema = _schema(rng, 3)
    if isinstance(schema, dict) and rng.random() < 0.7:
        schema.setdefault("$defs", {"a": _schema(rng, 2), "b": _schema(rng, 2)})
    if rng.random() < 0.6:
        schema = {"type": "object", "properties": {"a": schema, "b": _schema(rng, 2)}, "required": ["a"]}
    text = json.dumps(schema)
    if rng.random() < 0.02:
        levels = rng.choice((20, 40, 60, 400, 5000))
        text = '{"properties": {"a": ' * levels + text + "}}" * levels
    return ToolSpec(inputs.text(rng, 2, 0.0), text), rng.randrange(2**32), rng.random() < 0.5


def _schema(rng: Random, depth: int) -> Any:
    if rng.random() < 0.04:
        return rng.choice((True, False))
    return {key: _keyword(rng, key, depth) for key in rng.choices(_KEYWORDS, k=rng.randrange(5 if depth else 2))}


def _keyword(rng: Random, key: str, depth: int) -> Any:
    if rng.random() < 0.02:
        return inputs.value(rng, 2)
    if key in MAPS_OF_SCHEMAS or key in ("$defs", "definitions", "dependencies"):
        names = PATTERNS if key == "patternProperties" else NAMES
        return {rng.choice(names): _schema(rng, depth - 1) if depth else {} for _ in range(rng.randrange(3))}
    if key in LISTS_OF_SCHEMAS:
        return [_schema(rng, depth - 1) if depth else {} for _ in range(rng.randint(1, 3))]
    if key in SINGLE_SCHEMAS or key == "additionalItems":
        return _schema(rng, depth - 1) if depth else {}
    return _ASSERTIONS[key](rng)


_ASSERTIONS: dict[str, Any] = {
    "type": lambda rng: rng.choice(LIKELY),
    "enum": lambda rng: [inputs.value(rng, 2) for _ in range(rng.randint(1, 4))],
    "const": lambda rng: inputs.value(rng, 2),
    "required": lambda rng: rng.sample(NAMES, rng.randrange(3)),
    "dependentRequired": lambda rng: {rng.choice(NAMES): rng.sample(NAMES, 1)},
    "pattern": lambda rng: rng.choice(PATTERNS),
    "format": lambda rng: rng.choice(FORMATS),
    "uniqueItems": lambda rng: rng.random() < 0.8,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), lambda rng: rng.choice(BOUNDS)),
    "multipleOf": lambda rng: rng.choice((1, 2, 7, 0.01, 0.5, 1e-30, 10, 997)),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), lambda rng: rng.choice(COUNTS)),
    **dict.fromkeys(("minProperties", "maxProperties", "minContains"), lambda rng: rng.choice(COUNTS)),
    **dict.fromkeys(("$ref", "$dynamicRef"), lambda rng: rng.choice(REFERENCES)),
    **dict.fromkeys(("$anchor", "$id", "$schema", "title", "x-guidance"), lambda rng: inputs.text(rng, 1)),
}
_KEYWORDS = (*_ASSERTIONS, *MAPS_OF_SCHEMAS, *LISTS_OF_SCHEMAS, *SINGLE_SCHEMAS, "$defs", "dependencies", "definitions")


def check(case: Case) -> str:
    """A message on one line, or a grammar with a way out at every step and a call that its schema admits."""
    tool, seed, fast_forward = case
    try:
        grammar = FACTORY.build(OutputConstraint((tool,), "required", parallel=False))
    except ToolSchemaError as error:
        message = str(error)
        message.encode()
        assert "\n" not in message, "a message of several lines"
        assert len(message) < 800, "a message that nobody reads"
        return "refused"
    assert grammar is not None
    try:
        ids = _answer(grammar, Random(seed), fast_forward)
    except LayerRouteError as error:
        if "followed further" not in str(error):
            raise
        return "not followed"
    parser = AnswerParser(TOKENIZER, (tool,))
    detokenizer = Detokenizer(TOKENIZER, (), frozenset((OPEN, CLOSE)), frozenset((END,)))
    for delta in [delta for token in ids for delta in detokenizer.add(token)] + detokenizer.flush():
        parser.feed(delta)
    answer = parser.finish()
    assert answer.content == "", "text beside a call that is demanded"
    assert len(answer.tool_calls) + len(answer.invalid_tool_calls) == 1, "not one call"
    if ids[-1] != END:
        return "long"
    if answer.invalid_tool_calls:
        reason = answer.invalid_tool_calls[0].error
        known = ("do not fit", "number", "more than one", "surrogates", "levels")
        assert any(part in reason for part in known), reason
        return "a call that does not fit"
    assert answer.tool_calls[0].name == tool.name, "a call of no tool"
    return "a call"


def _answer(grammar: Grammar, rng: Random, fast_forward: bool) -> list[int]:
    """Tokens at random at first, then those that close soonest."""
    ids: list[int] = []
    free = rng.choice((0, 5, 20, 40))
    while len(ids) < 400 and END not in ids:
        forced = grammar.forced() if fast_forward else ()
        choices = allowed(grammar) if not forced else list(forced)
        assert choices, "no way out"
        if not forced:
            forced = (rng.choice(choices) if len(ids) < free else min(choices, key=closing_rank),)
        for token in forced:
            grammar.accept(token)
        ids += forced
    return ids
