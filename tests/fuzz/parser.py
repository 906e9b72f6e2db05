"""Answers: whatever deltas come, and wherever they are cut, no error, and no call or text that was not written."""

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from transformers import AutoTokenizer

from layerroute.chat.parser import (
    AnswerParser,
    Event,
    ParsedAnswer,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from layerroute.engine.detokenizer import Detokenizer
from layerroute.engine.json_values import identity, read_json
from layerroute.engine.request import Delta
from layerroute.report import StepKind
from layerroute.text import replace_unencodable
from tests.fuzz import inputs

TOKENIZER = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "data" / "tokenizer")
OPEN_ID, CLOSE_ID = TOKENIZER.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
OPEN, CLOSE = Delta("<tool_call>", (OPEN_ID,)), Delta("</tool_call>", (CLOSE_ID,))
END_ID = TOKENIZER.eos_token_id
MARKERS = frozenset((OPEN_ID, CLOSE_ID))

Answer = tuple[list[Delta], list[Delta]]
"""The same answer, cut in two ways."""


def make(rng: Random) -> Answer:
    """Deltas: texts and calls, sound or not; one answer in four is made of token ids, some with stop strings."""
    if rng.random() < 0.25:
        deltas = _from_ids(rng)
    else:
        pieces: list[str | Delta] = []
        for _ in range(rng.randrange(6)):
            pieces += _piece(rng)
        if rng.random() < 0.2:
            del pieces[rng.randrange(len(pieces) + 1) :]
        deltas = _cut(pieces, rng)
    return deltas, _cut(_joined(deltas), rng)


def _piece(rng: Random) -> list[str | Delta]:
    if rng.random() < 0.35:
        return [inputs.text(rng, 4, surrogates=0.0)]
    if rng.random() < 0.1:
        return [rng.choice((OPEN, CLOSE))]
    body = _body(rng)
    if rng.random() < 0.25:
        at = rng.randrange(len(body) + 1)
        body = body[:at] + inputs.text(rng, 1, surrogates=0.0) + body[at + rng.randrange(3) :]
    written: list[str | Delta] = [OPEN, body, CLOSE]
    if rng.random() < 0.1:
        del written[rng.randrange(3)]
    return written if rng.random() < 0.85 else written * 2


def _body(rng: Random) -> str:
    call: dict[str, Any] = {"name": rng.choice(("f", "g", "a b", inputs.text(rng, 2, surrogates=0.0)))}
    if rng.random() < 0.9:
        call["arguments"] = {rng.choice(inputs.KEYS): inputs.value(rng, 2) for _ in range(rng.randrange(3))}
    if rng.random() < 0.1:
        call[rng.choice(inputs.KEYS)] = inputs.value(rng, 2)
    if rng.random() < 0.2:
        call = dict(reversed(call.items()))
    if rng.random() < 0.002:
        levels = rng.choice((50, 400, 5000))
        return '{"name": "f", "arguments": {"a": ' + "[" * levels + "]" * levels + "}}"
    text = json.dumps(call, ensure_ascii=rng.random() < 0.2, indent=rng.choice((None, None, 2)))
    text = replace_unencodable(text)
    return f"\n{text}\n" if rng.random() < 0.8 else text


def _from_ids(rng: Random) -> list[Delta]:
    stop = tuple(filter(None, (inputs.text(rng, 1, surrogates=0.0) for _ in range(rng.randrange(3)))))
    detokenizer = Detokenizer(TOKENIZER, stop, MARKERS, frozenset((END_ID,)))
    ids: list[int] = []
    for _ in range(rng.randrange(5)):
        if rng.random() < 0.5:
            ids += TOKENIZER.backend_tokenizer.encode(inputs.text(rng, 3, 0.0), add_special_tokens=False).ids
        if rng.random() < 0.5:
            body = TOKENIZER.backend_tokenizer.encode(_body(rng), add_special_tokens=False).ids
            ids += [OPEN_ID, *body, CLOSE_ID]
        ids += rng.choices((rng.randrange(len(TOKENIZER) + 40), OPEN_ID, CLOSE_ID, END_ID), k=rng.randrange(3))
    deltas = [delta for token_id in ids for delta in detokenizer.add(token_id)]
    return deltas + detokenizer.flush()


def _joined(deltas: Iterable[Delta]) -> list[str | Delta]:
    """Markers, and the whole text between them."""
    joined: list[str | Delta] = []
    for delta in deltas:
        if delta in (OPEN, CLOSE):
            joined.append(delta)
        elif joined and isinstance(joined[-1], str):
            joined[-1] += delta.text
        else:
            joined.append(delta.text)
    return joined


def _cut(pieces: Iterable[str | Delta], rng: Random) -> list[Delta]:
    deltas: list[Delta] = []
    longest = rng.choice((1, 3, 9, 200))
    for piece in pieces:
        if isinstance(piece, Delta):
            deltas.append(piece)
            continue
        at = 0
        while at < len(piece):
            end = at + rng.randint(1, longest)
            deltas.append(Delta(piece[at:end], (5,)))
            at = end
        if rng.random() < 0.05:
            deltas.append(Delta("", ()))
    return deltas


def check(answer: Answer) -> str:
    """What was streamed is the answer, both cuts are one answer, and its calls are among those that were written."""
    first, second = answer
    parsed, events = _parse(first)
    _compare_streamed(parsed, events)
    again, its_events = _parse(second)
    assert again == parsed, "cut in another way it is another answer"
    _compare_streamed(again, its_events)
    outside, bodies = _written(first)
    assert "".join(parsed.content.split()) == "".join(outside.split()), "text was lost or made up"
    assert parsed.content in outside or parsed.tool_calls or parsed.invalid_tool_calls, "text has changed"
    written = {key for body in bodies if (key := _call_in(body)) is not None}
    made = [identity([call.name, call.arguments]) for call in parsed.tool_calls]
    assert set(made) <= written, "a call that nobody wrote"
    assert len(set(made)) == len(made), "a call that was written once is there twice"
    assert (parsed.kind is StepKind.TOOL_CALL) == bool(bodies), "of the wrong kind"
    return "calls" if made else "broken calls" if bodies else "text"


def _parse(deltas: list[Delta]) -> tuple[ParsedAnswer, list[Event]]:
    parser = AnswerParser(TOKENIZER)
    events = [event for delta in deltas for event in parser.feed(delta)]
    events += parser.events_at_end()
    return parser.finish(), events


def _compare_streamed(parsed: ParsedAnswer, events: list[Event]) -> None:
    text, names, arguments, ended = "", dict[int, str](), dict[int, str](), list[int]()
    for event in events:
        if isinstance(event, TextDelta):
            text += event.text
            continue
        assert event.index not in ended, "an event after the end of its call"
        if isinstance(event, ToolCallStart):
            assert event.index not in names, "a call begins twice"
            names[event.index] = event.name
        elif isinstance(event, ToolCallArguments):
            assert event.index in names, "arguments before the call begins"
            arguments[event.index] = arguments.get(event.index, "") + event.text
        elif isinstance(event, ToolCallEnd):
            ended.append(event.index)
    assert text == parsed.content, "the streamed text is another than the answer's"
    assert ended == list(names), "a call does not end, or not in order"
    broken = {call.index: call for call in parsed.invalid_tool_calls}
    sound = [index for index in names if index not in broken]
    assert [names[index] for index in sound] == [call.name for call in parsed.tool_calls], "names differ"
    for index, call in zip(sound, parsed.tool_calls, strict=True):
        assert read_json(arguments[index]) == call.arguments, "the streamed arguments are others than the call's"
    for index, bad in broken.items():
        assert names.get(index) == bad.name, "the name of a broken call differs"


def _written(deltas: list[Delta]) -> tuple[str, list[str]]:
    """Text outside of calls, and the text of each call."""
    outside, bodies, inside = "", list[str](), False
    for delta in deltas:
        if delta == OPEN:
            bodies.append("")
            inside = True
        elif delta == CLOSE and inside:
            inside = False
        elif inside:
            bodies[-1] += delta.text
        else:
            outside += delta.text
    return outside, bodies


def _call_in(body: str) -> str | None:
    try:
        call = read_json(body)
        return identity([call["name"], call.get("arguments", {})])
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None
