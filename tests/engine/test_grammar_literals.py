"""Literals of a schema (constants, names) come out as they are, whatever they spell and however they are forced."""

import json
import random
from typing import Any

import pytest
from grammars import ADDED, CLOSE, END, FACTORY, OPEN, TOKENIZER, allowed

from layerroute.chat.parser import AnswerParser, ParsedToolCall
from layerroute.engine.detokenizer import Detokenizer
from layerroute.engine.request import OutputConstraint, ToolSpec

MARKERS = frozenset([OPEN, CLOSE])
ADDED_VOCAB = TOKENIZER.get_added_vocab()


def decoded(constraint: OutputConstraint, fast_forward: bool) -> tuple[ParsedToolCall, list[int]]:
    """The only call of an answer made at random, and its tokens."""
    grammar, rng = FACTORY.build(constraint), random.Random(0)
    assert grammar is not None
    ids: list[int] = []
    while not grammar.finished:
        forced = grammar.forced() if fast_forward else ()
        if not forced:
            forced = (rng.choice(allowed(grammar)),)
        for token_id in forced:
            grammar.accept(token_id)
        ids += forced
        assert len(ids) < 2000
    detokenizer, parser = Detokenizer(TOKENIZER, (), MARKERS, frozenset([END])), AnswerParser(TOKENIZER)
    for token_id in ids:
        for delta in detokenizer.add(token_id):
            parser.feed(delta)
    (call,) = parser.finish().tool_calls
    return call, ids


def required(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": schema, "required": list(schema)}


@pytest.mark.parametrize("fast_forward", [True, False])
@pytest.mark.parametrize("control", sorted(ADDED_VOCAB))
def test_literals_that_spell_control_strings_are_text(control: str, fast_forward: bool) -> None:
    literal = f"x {control} y{control}"
    properties = {
        literal: {"const": 1},
        "const": {"const": literal},
        "enum": {"enum": [literal]},
        "inner": {"const": {control: [control]}},
    }
    tool = ToolSpec(control + literal, json.dumps(required(properties)))
    call, ids = decoded(OutputConstraint((tool,), "required", parallel=False), fast_forward)
    assert call.name == tool.name
    assert call.arguments == {literal: 1, "const": literal, "enum": literal, "inner": {control: [control]}}
    assert [token_id for token_id in ids if token_id in ADDED] == [OPEN, CLOSE]


ODD = [
    "e\u0301 \u212b",
    "\uac00 \u1100\u1161",
    "".join(map(chr, range(256))),
    "\u2028\ufeff\ufffd\U0001f600\U0010ffff",
    "  \\u0041",
]


@pytest.mark.parametrize("fast_forward", [True, False])
@pytest.mark.parametrize("literal", ODD, ids=["decomposed", "jamo", "every byte", "separators", "escapes"])
def test_literals_keep_every_character(literal: str, fast_forward: bool) -> None:
    """Neither composed anew, as the tokenizer would, nor lost to the syntax of grammars."""
    tool = ToolSpec(literal, json.dumps(required({literal: {"const": literal}})))
    call, _ = decoded(OutputConstraint((tool,), "required", parallel=False), fast_forward)
    assert (call.name, call.arguments) == (literal, {literal: literal})
