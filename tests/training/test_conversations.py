"""The conversation generator: deterministic, valid calls, results in the tools' own shape, derivable arguments."""

import datetime
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from langchain_layerroute.bookshop import BookshopTools
from langchain_layerroute.front_desk.arithmetic import evaluate
from langchain_layerroute.front_desk.currency import rate_table
from langchain_layerroute.front_desk.replies import to_json
from langchain_layerroute.front_desk.tools import FrontDeskTools
from langchain_layerroute.front_desk.units import find_unit
from layerroute_training.embedded.conversations import KINDS, SHARES, conversions, generate, values
from layerroute_training.embedded.conversations.text import expand
from layerroute_training.rows import Row

ROWS = {kind: list(generate(kind, 0, 150, seed=3)) for kind in KINDS}
ALL = [row for rows in ROWS.values() for row in rows]


def calls(row: Row) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Name and arguments of every call, and all text before it."""
    before = ""
    for message in row.messages:
        for call in message.get("tool_calls", ()):
            yield call["function"]["name"], call["function"]["arguments"], before
        before += f"\n{message['content']}"


@pytest.mark.parametrize("kind", KINDS)
def test_rows_depend_on_the_seed_and_their_number_only(kind: str) -> None:
    assert list(generate(kind, 5, 9, seed=3)) == ROWS[kind][5:9]
    other = [row.messages for row in generate(kind, 5, 9, seed=4)]
    assert other != [row.messages for row in ROWS[kind][5:9]]


def test_shares_cover_every_kind() -> None:
    assert set(SHARES) == set(KINDS)
    assert sum(SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_validates(kind: str) -> None:
    for row in ROWS[kind]:
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in row.tools}
        assert len(schemas) == len(row.tools)
        for name, arguments, _ in calls(row):
            jsonschema.validate(arguments, schemas[name])


@pytest.mark.parametrize("kind", KINDS)
def test_conversations_are_well_formed(kind: str) -> None:
    for row in ROWS[kind]:
        roles = [message["role"] for message in row.messages]
        assert "user" in roles
        assert roles[-1] == "assistant"
        assert "system" not in roles[1:]
        for message in row.messages:
            assert message["content"] or message.get("tool_calls"), row
            assert not re.search(r"\{[a-z]\w*\}", message["content"]), "an unfilled slot"


def test_front_desk_calls_one_tool_per_step() -> None:
    for row in ROWS["front_desk"]:
        assert all(len(message.get("tool_calls", ())) <= 1 for message in row.messages)


VERBATIM = {"city", "order_id", "customer", "text", "query", "title"}


def test_copied_arguments_stand_in_the_conversation() -> None:
    checked = 0
    for row in [*ROWS["front_desk"], *ROWS["plan_steps"]]:
        for _, arguments, before in calls(row):
            for key in VERBATIM & set(arguments):
                checked += 1
                assert arguments[key].casefold() in before.casefold()
    assert checked > 300


def test_expressions_follow_the_conventions() -> None:
    for row in ROWS["front_desk"]:
        for name, arguments, _ in calls(row):
            if name == "calculator":
                expression = arguments["expression"]
                assert not re.search(r"[\d)][-+*/%]|[*/%]\d|,", expression), expression
                assert expression == expression.strip()


def result_shapes(results: list[dict[str, Any]]) -> set[tuple[tuple[str, str], ...]]:
    numbers = {int: "number", float: "number"}
    return {
        tuple((key, numbers.get(type(value), type(value).__name__)) for key, value in one.items()) for one in results
    }


def test_results_have_the_shapes_of_the_real_tools() -> None:
    requests = [
        ("calculator", {"expression": "3 * 4"}),
        ("calculator", {"expression": "1 / 0"}),
        ("convert_units", {"value": 3, "from_unit": "km", "to_unit": "mi"}),
        ("convert_currency", {"amount": 3, "from_currency": "EUR", "to_currency": "USD"}),
        ("get_weather", {"city": "Oslo", "day": "today"}),
        ("find_order", {"order_id": "A-1042"}),
        ("find_order", {"order_id": "none"}),
        ("list_orders", {"customer": "Mara Lindt"}),
        ("list_orders", {"customer": "nobody"}),
        ("update_order", {"order_id": "A-1042", "status": "shipped"}),
        ("add_note", {"text": "x"}),
        ("search_notes", {"query": "x"}),
        ("add_event", {"title": "x", "date": "2026-12-03", "time": "14:00"}),
        ("list_events", {"date": "2026-12-03"}),
    ]
    generated: dict[str, list[dict[str, Any]]] = {}
    for row in ROWS["front_desk"]:
        for message in row.messages:
            if message["role"] == "tool":
                result = json.loads(message["content"])
                assert message["content"] == to_json(result)
                generated.setdefault(message["name"], []).append(result)
    with FrontDeskTools() as desk:
        tools = {tool.name: tool for tool in desk.tools()}
        for name, arguments in requests:
            real = json.loads(tools[name].invoke(arguments))
            assert result_shapes([real]) <= result_shapes(generated[name]) | result_shapes([{"error": ""}]), name
        for name, results in generated.items():
            known = result_shapes([json.loads(tools[n].invoke(a)) for n, a in requests if n == name])
            assert result_shapes(results) <= known | result_shapes([{"error": ""}]), name


def test_analyst_results_have_the_shapes_of_the_real_tools() -> None:
    with BookshopTools() as shop:
        tools = {tool.name: tool for tool in shop.tools()}
        real_tables = json.loads(tools["list_tables"].invoke({}))
        real_books = json.loads(tools["describe_table"].invoke({"table": "books"}))
        seen_tables, seen_books, queries = [], [], 0
        for row in ROWS["analyst"]:
            results = [json.loads(message["content"]) for message in row.messages if message["role"] == "tool"]
            for (name, arguments, _), result in zip(calls(row), results, strict=True):
                if name == "list_tables" and "books" in result["tables"]:
                    seen_tables.append(result)
                elif arguments.get("table") == "books":
                    seen_books.append(result)
                elif name == "run_query" and "FROM books" in arguments["sql"]:
                    queries += 1
                    real = json.loads(tools["run_query"].invoke(arguments))
                    assert real["columns"] == result["columns"], arguments
        assert seen_tables
        assert all(tables == real_tables for tables in seen_tables)
        assert seen_books
        assert all(books == real_books for books in seen_books)
        assert queries > 30


def test_units_and_currencies_are_those_of_the_tools() -> None:
    for dimension, units in conversions.UNITS.items():
        for unit in units:
            assert find_unit(unit).name == unit
            assert find_unit(unit).dimension == dimension
    assert set(rate_table().rates) <= set(conversions.CURRENCIES)


@pytest.mark.parametrize("seed", range(300))
def test_days_are_said_right(seed: int) -> None:
    rng = random.Random(seed)
    now = values.today(rng)
    said, placed, iso = values.when(rng, now)
    day = datetime.date.fromisoformat(iso)
    assert said in placed
    for number, name in enumerate(values.WEEKDAYS):
        if name in said:
            assert day.weekday() == number
    if re.fullmatch(r"(this |next |this coming )?[A-Z][a-z]+day", said):
        assert 1 <= (day - now).days <= 7
    if said == "tomorrow":
        assert (day - now).days == 1
    if match := re.search(r"(\d+)(st|nd|rd|th)", said):
        assert int(match[1]) == day.day


@pytest.mark.parametrize("seed", range(300))
def test_times_are_said_right(seed: int) -> None:
    said, time = values.clock(random.Random(seed))
    hour, minute = map(int, time.split(":"))
    if match := re.match(r"(\d+)(?::(\d\d))? ?([ap])\.?m", said, re.IGNORECASE):
        assert int(match[1]) % 12 + (12 if match[3].lower() == "p" else 0) == hour
        assert int(match[2] or 0) == minute
    if "half past" in said:
        assert minute == 30
    if "quarter to" in said:
        assert minute == 45
    assert {"noon": "12:00", "midday": "12:00", "midnight": "00:00"}.get(said, time) == time


def test_calculated_results_are_true() -> None:
    for row in ROWS["front_desk"]:
        results = [json.loads(message["content"]) for message in row.messages if message["role"] == "tool"]
        for (name, arguments, _), result in zip(calls(row), results, strict=True):
            if name == "calculator" and "result" in result:
                assert result["result"] == pytest.approx(evaluate(arguments["expression"]), rel=1e-3, abs=1e-3)


def test_phrases_nest_and_empty_slots_leave_no_gap() -> None:
    seen = {expand(random.Random(seed), "[a [b|c]|d] {x} {y}.", x="", y="Z") for seed in range(60)}
    assert seen == {"a b Z.", "a c Z.", "d Z."}
    with pytest.raises(ValueError, match="unbalanced"):
        expand(random.Random(0), "[a|b")
