import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from layerroute.chat.parser import (
    AnswerParser,
    Event,
    ParsedAnswer,
    ParsedToolCall,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from layerroute.engine.json_values import identity
from layerroute.engine.request import Delta
from layerroute.report import StepKind

TOKENIZER = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "data" / "tokenizer")
OPEN_ID, CLOSE_ID = TOKENIZER.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
OPEN, CLOSE = Delta("<tool_call>", (OPEN_ID,)), Delta("</tool_call>", (CLOSE_ID,))


def pieces(text: str, size: int) -> list[Delta]:
    return [Delta(text[start : start + size], (start,)) for start in range(0, len(text), size)]


def one_call(body: str, size: int = 3) -> list[Delta]:
    return [OPEN, *pieces(body, size), CLOSE]


def parse(deltas: list[Delta]) -> tuple[ParsedAnswer, list[Event]]:
    parser = AnswerParser(TOKENIZER)
    events = [event for delta in deltas for event in parser.feed(delta)]
    events += parser.events_at_end()
    return parser.finish(), events


def arguments_of(events: list[Event], index: int) -> str:
    return "".join(event.text for event in events if isinstance(event, ToolCallArguments) and event.index == index)


scalars = st.integers(-5, 5) | st.booleans() | st.none() | st.text(st.sampled_from('a"\\{}[]é\n,:'), max_size=6)
values = st.recursive(
    scalars, lambda part: st.lists(part, max_size=2) | st.dictionaries(st.text('a}"', max_size=2), part, max_size=2)
)
arguments = st.dictionaries(st.text('ab"\\', max_size=3), values, max_size=3)
calls = st.tuples(st.text('ab"\\é', min_size=1, max_size=4), arguments)
different_calls = st.lists(calls, max_size=3, unique_by=lambda call: identity(list(call)))
contents = st.text(st.sampled_from("a b\n<tool_call>{}"), max_size=12)


@given(contents, different_calls, st.integers(1, 9), st.booleans(), st.booleans())
def test_an_answer_is_read_whatever_the_pieces(
    content: str, made: list[tuple[str, dict[str, Any]]], size: int, swapped: bool, indented: bool
) -> None:
    deltas = pieces(content, size)
    for name, args in made:
        body: dict[str, Any] = {"name": name, "arguments": args}
        if swapped:
            body = dict(reversed(body.items()))
        newline = pieces("\n", 1) if deltas else []
        deltas += [*newline, *one_call(f"\n{json.dumps(body, indent=2 if indented else None)}\n", size)]
    answer, events = parse(deltas)
    if made and not content.strip():
        content = ""  # markup
    assert answer.content == content
    assert answer.tool_calls == tuple(ParsedToolCall(name, args) for name, args in made)
    assert answer.invalid_tool_calls == ()
    assert answer.kind == (StepKind.TOOL_CALL if made else StepKind.PLANNING)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == content
    starts = [(event.index, event.name) for event in events if isinstance(event, ToolCallStart)]
    assert starts == [(index, name) for index, (name, _) in enumerate(made)]
    assert [event.index for event in events if isinstance(event, ToolCallEnd)] == list(range(len(made)))
    for index, (_, args) in enumerate(made):
        assert json.loads(arguments_of(events, index)) == args


def test_name_and_arguments_come_as_soon_as_they_are_known() -> None:
    parser = AnswerParser(TOKENIZER)
    seen = [parser.feed(delta) for delta in [OPEN, *pieces('\n{"name": "f", "arguments": {"a": "}"}}\n', 1), CLOSE]]
    flat = [event for events in seen for event in events]
    assert flat == [
        ToolCallStart(0, "f"),
        *[ToolCallArguments(0, character) for character in '{"a": "}"}'],
        ToolCallEnd(0),
    ]
    assert seen[len('\n{"name": "f"')] == [ToolCallStart(0, "f")]


def test_text_streams_without_delay_except_a_newline_that_a_call_may_swallow() -> None:
    parser = AnswerParser(TOKENIZER)
    assert parser.feed(Delta("Hello\n\n", (1,))) == [TextDelta("Hello\n")]
    assert parser.feed(Delta("there\n", (2,))) == [TextDelta("\nthere")]
    assert parser.feed(OPEN) == []
    assert parser.finish().content == "Hello\n\nthere"


def test_white_space_around_calls_is_no_content_wherever_the_answer_is_cut() -> None:
    deltas = [
        *pieces("\n\n", 1),
        *one_call('{"name": "f"}'),
        *pieces("\n", 1),
        *one_call('{"name": "g"}'),
        *pieces("\n ", 1),
    ]
    for end in range(deltas.index(OPEN) + 1, len(deltas) + 1):
        answer, events = parse(deltas[:end])
        assert answer.content == ""
        assert not any(isinstance(event, TextDelta) for event in events)
    answer, events = parse([*deltas, Delta("\nDone\n", (1,))])
    assert answer.content == "Done\n" == "".join(event.text for event in events if isinstance(event, TextDelta))
    assert parse(pieces("\n \n", 1))[0].content == "\n \n"  # an answer without calls is what the model wrote


@given(calls, st.lists(calls, max_size=2), st.integers(1, 9), st.integers(0, 400))
def test_a_call_that_is_written_again_is_left_out_and_never_streamed(
    made: tuple[str, dict[str, Any]], others: list[tuple[str, dict[str, Any]]], size: int, cut: int
) -> None:
    order = [made, *others, made]
    bodies = [f"\n{json.dumps({'name': name, 'arguments': args})}\n" for name, args in order]
    answer, events = parse([delta for body in bodies for delta in one_call(body, size)][:cut])
    carried_out = [identity([call.name, call.arguments]) for call in answer.tool_calls]
    assert len(set(carried_out)) == len(carried_out)
    started = {event.index for event in events if isinstance(event, ToolCallStart)}
    broken = {call.index for call in answer.invalid_tool_calls}
    streamed = [json.loads(arguments_of(events, index)) for index in sorted(started - broken)]
    assert streamed == [call.arguments for call in answer.tool_calls]


def test_a_call_that_is_written_again_in_other_words_is_invalid() -> None:
    bodies = [
        '{"name": "f", "arguments": {"a": 1, "b": "é"}}',
        '{"name": "f", "arguments": {"b": "\\u00e9", "a": 1.0}}',
    ]
    answer, _ = parse([delta for body in bodies for delta in one_call(body)])
    assert answer.tool_calls == (ParsedToolCall("f", {"a": 1, "b": "é"}),)
    assert "repeats" in answer.invalid_tool_calls[0].error
    assert not answer.repeated
    assert parse(2 * one_call(bodies[0]))[0].repeated


def test_true_is_not_one() -> None:
    bodies = ['{"name": "f", "arguments": {"a": 1}}', '{"name": "f", "arguments": {"a": true}}']
    assert len(parse([delta for body in bodies for delta in one_call(body)])[0].tool_calls) == 2


@pytest.mark.parametrize(
    "spelled", [Delta("<tool_call>", (1, 2, 3)), Delta("", (OPEN_ID,)), Delta("</tool_call>", (9,))]
)
def test_text_that_spells_a_marker_stays_text(spelled: Delta) -> None:
    answer, _ = parse([Delta("a ", (5,)), spelled, Delta(' {"name": "f", "arguments": {}}', (6,))])
    assert answer.content == "a " + spelled.text + ' {"name": "f", "arguments": {}}'
    assert answer.kind == StepKind.PLANNING


def test_a_spelled_end_inside_an_argument_does_not_end_the_call() -> None:
    answer, _ = parse(one_call('\n{"name": "f", "arguments": {"a": "</tool_call>"}}\n', 50))
    assert answer.tool_calls == (ParsedToolCall("f", {"a": "</tool_call>"}),)


@pytest.mark.parametrize(
    ("body", "name", "error"),
    [
        ("", None, "Expecting value"),
        ("nonsense", None, "Expecting value"),
        ("[1]", None, "name"),
        ('{"arguments": {}}', None, "name"),
        ('{"name": 3, "arguments": {}}', None, "name"),
        ('{"name": "f", "arguments": [1]}', "f", "not a JSON object"),
        ('{"name": "f", "arguments": {"a": 1}', "f", "delimiter"),
        ('{"name": "f", "arguments": {"a": nope}}', "f", "Expecting value"),
        ('{"name": "f", "arguments": {}} and more', "f", "Extra data"),
        ('{"name": "f", "arguments": {}, "name": "g"}', "f", "more than one"),
        ('{"name": "f", "arguments": {"a": 1}, "arguments": {}}', "f", "more than one"),
        ('{"name": "f", "arguments": {"a": NaN}}', "f", "NaN"),
        ('{"name": "f", "arguments": {"a": 1e999}}', "f", "too large"),
        ('{"name": "f", "arguments": {"a": 1e-9999}}', "f", "too close to 0"),
        ('{"name": "f", "arguments": {"a": -1e-400}}', "f", "too close to 0"),
        ('{"name": "f", "arguments": {"a": ' + "3" * 25 + ".5}}", "f", "digits"),
        ('{"name": "f", "arguments": {"a": [{"b": 1, "b": 1}]}}', "f", "more than one 'b'"),
        ('{"name": "f", "arguments": {"a": "\\ud800"}}', "f", "surrogates"),
        ('{"name": "\\x", "arguments": {}}', None, "escape"),
        ('{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}", "f", "digits"),
        ('{"name": "f", "arguments": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}", "f", "recursion"),
    ],
)
def test_a_malformed_call_is_reported_and_never_raised(body: str, name: str | None, error: str) -> None:
    answer, events = parse([Delta("Well\n", (1,)), *one_call(body, 7 if len(body) < 200 else 50_000), Delta("!", (2,))])
    assert answer.tool_calls == ()
    (invalid,) = answer.invalid_tool_calls
    assert (invalid.index, invalid.name, invalid.text) == (0, name, body)
    assert error in invalid.error
    assert answer.content == "Well!"
    assert answer.kind == StepKind.TOOL_CALL
    assert (ToolCallEnd(0) in events) == (name is not None)


def test_a_call_that_is_cut_off_is_invalid_unless_it_is_whole() -> None:
    answer, _ = parse([OPEN, *pieces('\n{"name": "f", "arguments": {"a": 1', 4)])
    assert "ended inside the call" in answer.invalid_tool_calls[0].error
    answer, _ = parse([OPEN, *pieces('\n{"name": "f", "arguments": {"a": 1}}', 4)])
    assert answer.tool_calls == (ParsedToolCall("f", {"a": 1}),)


def test_a_call_inside_a_call_ends_the_first() -> None:
    answer, _ = parse([OPEN, Delta('{"na', (1,)), *one_call('{"name": "f", "arguments": {}}')])
    assert [call.text for call in answer.invalid_tool_calls] == ['{"na']
    assert answer.tool_calls == (ParsedToolCall("f", {}),)


def test_left_out_arguments_are_none_at_all() -> None:
    answer, events = parse(one_call('{"name": "f"}'))
    assert answer.tool_calls == (ParsedToolCall("f", {}),)
    assert arguments_of(events, 0) == "{}"
