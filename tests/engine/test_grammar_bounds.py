"""What a model could repeat for ever comes to an end: the digits of a number, and calls."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from grammars import END, FACTORY, OPEN, TOKENIZER, accept_text, allowed, build, tool

from layerroute.engine.grammar import Grammar
from layerroute.engine.json_values import MAX_DIGITS, MAX_ZEROS, NumberScanner, read_json
from layerroute.engine.request import OutputConstraint
from layerroute.errors import LayerRouteError, RequestError


def answer(constraint: OutputConstraint, prefer: Callable[[str, str], Any], fast_forward: bool = True) -> str:
    """What a model writes that likes the tokens best for which `prefer(text so far, token)` is greatest."""
    grammar = FACTORY.build(constraint)
    assert grammar is not None
    text = ""
    for _ in range(2000):
        tokens = list(grammar.forced()) if fast_forward else []
        if not tokens:
            tokens = [max(allowed(grammar), key=lambda token: (prefer(text, TOKENIZER.decode([token])), -token))]
        for token in tokens:
            grammar.accept(token)
        if tokens == [END]:
            assert grammar.finished
            return text
        text += TOKENIZER.decode(tokens)
    raise AssertionError(f"no end in sight: {text[-200:]!r}")


NUMBERS = [{"type": "integer"}, {"type": "number"}, {"type": "integer", "minimum": 5}, {"multipleOf": 7}, {}]


@pytest.mark.parametrize("likes", ["9", "0", "7.", "1e", "1.e-"])
@pytest.mark.parametrize("schema", NUMBERS, ids=str)
@pytest.mark.parametrize("fast_forward", [True, False])
def test_digits_of_a_number_end_and_none_is_taken_for_another(
    schema: dict[str, Any], likes: str, fast_forward: bool
) -> None:
    def prefer(text: str, token: str) -> tuple[bool, bool]:
        return (token in likes and not text.endswith(token)) or token in "0123456789", token in "0123456789"

    document = {"type": "object", "properties": {"n": schema}, "required": ["n"]}
    text = answer(OutputConstraint(response_schema=json.dumps(document)), prefer, fast_forward)
    assert len(text) < MAX_DIGITS + MAX_ZEROS + len('{"n": -0.e-0000}')
    whole, _, exponent = text.lower().removeprefix('{"n": ').removesuffix("}").partition("e")
    short = len(whole.partition(".")[0]) <= MAX_DIGITS and not whole.startswith("0." + MAX_ZEROS * "0")
    if short and not exponent and text.endswith("}"):
        read_json(text)
    else:
        with pytest.raises(ValueError, match="number"):
            read_json(text)


def test_as_many_digits_as_are_read_may_be_written() -> None:
    digits = "9" * MAX_DIGITS
    grammar = build(response_schema='{"type": "object", "properties": {"n": {}}, "required": ["n"]}')
    accept_text(grammar, f'{{"n": {digits}}}')
    assert grammar.finished
    assert read_json(f'{{"n": {digits}}}') == {"n": int(digits)}


@pytest.mark.parametrize("number", ["6.62607015e-34", "0.000000000000000000000000000000000662607015", "-1e-300"])
def test_small_numbers_are_what_they_are(number: str) -> None:
    grammar = build(response_schema='{"type": "number"}')
    accept_text(grammar, number)
    assert END in allowed(grammar)
    assert read_json(number) == float(number)


def test_a_fraction_is_cut_off_where_no_float_can_tell() -> None:
    grammar, text, (three,) = build(response_schema='{"type": "number"}'), "0.", TOKENIZER.encode("3")
    accept_text(grammar, text)
    while three in allowed(grammar):
        grammar.accept(three)
        text += "3"
    assert END in allowed(grammar)
    assert read_json(text) == 1 / 3


def test_digits_of_strings_and_of_constants_are_not_counted() -> None:
    long = "1234567890" * 5
    properties = {long: {"const": long}, "n": {"const": 2**52}, "last": {"enum": [0.125]}}
    document = json.dumps({"type": "object", "properties": properties, "required": [*properties]})
    text = answer(OutputConstraint(response_schema=document), lambda text, token: 0)
    assert json.loads(text) == {long: long, "n": 2**52, "last": 0.125}


def test_a_scanner_follows_numbers_over_any_pieces() -> None:
    text = rb'{"a\"9": [-1.5e+07, "\\", 12, true, 3e1], "99": ' + b"1" * (MAX_DIGITS + 1)
    for size in range(1, 9):
        scanner = NumberScanner()
        for start in range(0, len(text), size):
            assert not scanner.too_long
            scanner.feed(text[start : start + size])
        assert scanner.too_long
        scanner.feed(b", ")
        assert not scanner.too_long


def calls_of(text: str) -> list[Any]:
    return [json.loads(part.split("<tool_call>")[1]) for part in text.split("</tool_call>")[:-1]]


def keep_calling(text: str, token: str) -> Any:
    return token in ("\n", "<tool_call>"), str(text.count("<tool_call>")) in token


@pytest.mark.parametrize(
    ("options", "most"), [({}, 8), ({"max_calls": 3}, 3), ({"max_calls": 1}, 1), ({"parallel": False}, 1)]
)
@pytest.mark.parametrize("fast_forward", [True, False])
def test_an_answer_holds_so_many_calls(options: dict[str, Any], most: int, fast_forward: bool) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    constraint = OutputConstraint((tool("count", schema),), "required", **options)
    text = answer(constraint, keep_calling, fast_forward)
    assert text.count("<tool_call>") == len(calls_of(text)) == most


def test_a_bound_on_calls_is_at_least_one() -> None:
    with pytest.raises(RequestError, match="tool_choice='none'"):
        OutputConstraint(max_calls=0)


def write(grammar: Grammar, *calls: str) -> None:
    for call in calls:
        assert not grammar.finished
        for token in TOKENIZER.encode(f"<tool_call>\n{call}\n</tool_call>"):
            if token == OPEN and grammar.mask() is not None and OPEN not in allowed(grammar):
                grammar.accept(*TOKENIZER.encode("\n"))
            assert grammar.mask() is None or token in allowed(grammar)
            grammar.accept(token)


@pytest.mark.parametrize("choice", ["required", "auto"])
@pytest.mark.parametrize("again", ['{"name": "a", "arguments": {"y": 2.0, "x": 1}}', '{"name": "b", "arguments": {}}'])
def test_a_call_that_was_made_already_ends_the_answer(choice: Any, again: str) -> None:
    numbers = {"type": "object", "additionalProperties": {"type": "number"}}
    grammar = FACTORY.build(OutputConstraint((tool("a", numbers), tool("b", {"type": "object"})), choice))
    assert grammar is not None
    write(grammar, '{"name": "a", "arguments": {"x": 1, "y": 2}}', '{"name": "a", "arguments": {"x": 2, "y": 1}}')
    write(grammar, '{"name": "b", "arguments": {}}', again)
    assert grammar.finished
    assert grammar.forced() == ()
    assert allowed(grammar) == [END]
    with pytest.raises(LayerRouteError, match="not allowed"):
        grammar.accept(*TOKENIZER.encode("\n"))
    grammar.accept(END)
