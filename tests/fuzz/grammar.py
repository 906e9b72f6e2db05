"""Grammars: whatever schemas tools have, and whatever allowed tokens a model picks, no wrong call comes out."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

import jsonschema
import numpy as np

from layerroute.chat.parser import AnswerParser, ParsedAnswer
from layerroute.engine.detokenizer import Detokenizer
from layerroute.engine.grammar import Grammar, GrammarFactory
from layerroute.engine.json_values import read_json
from layerroute.engine.request import OutputConstraint, ToolSpec
from layerroute.engine.schemas import RESPONSE, prepare_schema
from layerroute.errors import LayerRouteError, RequestError
from tests.fuzz import tool_schemas
from tests.fuzz.parser import CLOSE_ID, END_ID, MARKERS, OPEN_ID, TOKENIZER

VOCAB = len(TOKENIZER) + 32
FACTORY = GrammarFactory(TOKENIZER, VOCAB)
CLOSERS = (END_ID, CLOSE_ID, *TOKENIZER.convert_tokens_to_ids(['"', "}", "]"]))
MOST_TOKENS = 300


class Asked(NamedTuple):
    """Tools and a response by their schemas, how they are asked for, and the picks of the model."""

    tools: tuple[tuple[str, Any], ...]
    response: Any
    choice: str
    parallel: bool
    seed: int


def make(rng: Random) -> Asked:
    """One tool or two, now and then a response schema."""
    tools = tuple((tool_schemas.name(rng), tool_schemas.arguments(rng)) for _ in range(rng.choice((1, 1, 1, 2))))
    response = tool_schemas.schema(rng, 2) if rng.random() < 0.15 else None
    choice = rng.choice(("auto", "required", "required", "required", "none"))
    return Asked(tools, response, choice, rng.random() < 0.5, rng.getrandbits(32))


def check(asked: Asked) -> str:
    """Refused as a schema, or followed to the end: calls that validate or that are said to be invalid."""
    tools = tuple(ToolSpec(name, json.dumps(schema)) for name, schema in asked.tools)
    response = None if asked.response is None else json.dumps(asked.response)
    try:
        constraint = OutputConstraint(tools, asked.choice, asked.parallel, response, max_calls=3)  # type: ignore[arg-type]
        grammar = FACTORY.build(constraint)
    except RequestError as refusal:  # most are ToolSchemaErrors
        return _refused(refusal)
    if grammar is None:
        return "free"
    ids: list[int] = []
    try:
        for token in _walk(grammar, Random(asked.seed)):
            ids.append(token)
    except LayerRouteError:
        return "given up"
    answer, text = _read(ids, tools)
    _compare(answer, dict(asked.tools))
    ended = ids[-1] == END_ID
    if ended and asked.choice == "required":
        assert answer.tool_calls or answer.invalid_tool_calls, "a call was demanded and none came"
    if not asked.parallel:
        assert len(answer.tool_calls) + len(answer.invalid_tool_calls) <= 1, "more than one call"
    if ended and response is not None and not answer.tool_calls and not answer.invalid_tool_calls:
        return _document(text, response)
    if not ended:
        return "cut off"
    return "calls" if answer.tool_calls else "broken calls" if answer.invalid_tool_calls else "text"


def _refused(refusal: RequestError) -> str:
    assert len(str(refusal).splitlines()) == 1, f"not an error of one line: {refusal}"
    return "refused"


def _document(text: str, schema: str) -> str:
    """A number too large, or one that was ended, breaks it, and so does what no grammar holds of the schema."""
    try:
        problem = prepare_schema(schema, RESPONSE).checker.problem(read_json(text))
    except ValueError:
        return "broken document"
    if problem is None:
        _validate(json.loads(text), json.loads(schema))
    return "document" if problem is None else "broken document"


def _walk(grammar: Grammar, rng: Random) -> Iterator[int]:
    """Random tokens among those that are allowed, ever more of them such as close something."""
    patience, jumps = rng.randrange(60), rng.random() < 0.5
    made = 0
    while made < MOST_TOKENS:
        if jumps:
            for token in grammar.forced():
                grammar.accept(token)
                made += 1
                yield token
        mask_W = grammar.mask()
        if mask_W is None:
            allowed = [rng.randrange(len(TOKENIZER)), OPEN_ID, OPEN_ID, END_ID]
        else:
            bits = np.unpackbits(mask_W.numpy().view(np.uint8), bitorder="little")
            allowed = np.flatnonzero(bits).tolist()
            assert allowed, "no token is allowed"
            assert allowed[-1] < len(TOKENIZER), "a token that does not exist is allowed"
            assert not grammar.finished or allowed == [END_ID], "it goes on after its end"
        closing = [token for token in CLOSERS if mask_W is not None and bits[token]]
        token = closing[0] if closing and made >= patience else rng.choice(allowed)
        grammar.accept(token)
        made += 1
        yield token
        if token == END_ID:
            return


def _read(ids: list[int], tools: tuple[ToolSpec, ...]) -> tuple[ParsedAnswer, str]:
    detokenizer = Detokenizer(TOKENIZER, (), MARKERS, frozenset((END_ID,)))
    parser = AnswerParser(TOKENIZER, tools)
    deltas = [delta for token in ids for delta in detokenizer.add(token)] + detokenizer.flush()
    for delta in deltas:
        parser.feed(delta)
    return parser.finish(), "".join(delta.text for delta in deltas)


def _compare(answer: ParsedAnswer, offered: dict[str, Any]) -> None:
    for call in answer.tool_calls:
        assert call.name in offered, f"a tool that was not offered: {call.name!a}"
        _validate(call.arguments, offered[call.name])
    assert all(call.error for call in answer.invalid_tool_calls), "an invalid call without a reason"


def _validate(value: Any, schema: Any) -> None:
    """By jsonschema itself, as far as it takes the schema. It looks at no formats, on which alternatives may hang."""
    if "format" in (text := json.dumps(schema)) and any(key in text for key in ("oneOf", "not", "if", "contains")):
        return
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        problem = next(jsonschema.Draft202012Validator(schema).iter_errors(value), None)
    except Exception:  # it does not take it, or raises what it likes
        return
    assert problem is None, f"a wrong call: {problem.message}"
