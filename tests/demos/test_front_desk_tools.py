"""The front desk's tools as a model sees them: schemas and JSON results over a real SQLite file."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_layerroute.front_desk import FrontDeskTools, tool_schemas
from langchain_layerroute.front_desk.data import fold, load
from langchain_layerroute.front_desk.database import FILE_NAME

NAMES = ["calculator", "convert_units", "convert_currency", "get_weather", "find_order", "list_orders", "update_order"]
NAMES += ["add_note", "search_notes", "add_event", "list_events"]


class Desk:
    """Calls tools by name and reads their JSON, as an agent would."""

    def __init__(self, folder):
        self.owner = FrontDeskTools(folder)
        self.tools = {tool.name: tool for tool in self.owner.tools()}

    def __getattr__(self, name):
        def call(**arguments):
            text = self.tools[name].invoke(arguments)
            assert "\n" not in text
            return json.loads(text)

        return call


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    desk.owner.close()


def test_schemas_are_short_complete_and_in_a_fixed_order():
    schemas = tool_schemas()
    assert [schema["function"]["name"] for schema in schemas] == NAMES
    for schema in schemas:
        parameters = schema["function"]["parameters"]
        assert parameters["required"] == list(parameters["properties"])
        assert all("description" not in part and "title" not in part for part in parameters["properties"].values())
    assert len(json.dumps(schemas)) < 3000


def test_schemas_open_no_database(tmp_path):
    FrontDeskTools(tmp_path / "desk").tools()
    assert not (tmp_path / "desk").exists()


def test_results_are_exactly_as_documented(desk):
    assert desk.tools["calculator"].invoke({"expression": "12 * 7"}) == '{"result": 84}'
    assert desk.convert_units(value=5, from_unit="km", to_unit="mi") == {"result": 3.107, "unit": "mi"}
    assert desk.convert_currency(amount=100, from_currency="USD", to_currency="EUR") == {
        "result": 92.41,
        "currency": "EUR",
        "rate_date": "2026-11-20",
    }
    assert desk.get_weather(city="Oslo", day="today") == {
        "city": "Oslo",
        "day": "today",
        "condition": "light rain",
        "high_c": 6,
        "low_c": 1,
    }
    assert desk.tools["find_order"].invoke({"order_id": "A-1042"}) == (
        '{"order_id": "A-1042", "customer": "Mara Lindt", "item": "desk lamp", "quantity": 2, "status": "shipped",'
        ' "total": 59.8}'
    )
    assert desk.add_note(text="new toner is here") == {"note_id": 4, "text": "new toner is here"}
    assert desk.add_event(title="call", date="2026-12-03", time="14:00") == {
        "event_id": 7,
        "title": "call",
        "date": "2026-12-03",
        "time": "14:00",
    }


def test_bad_arguments_are_results_too(desk):
    assert "day" in desk.get_weather(city="Oslo", day="yesterday")["error"]
    assert "status" in desk.update_order(order_id="A-1042", status="lost")["error"]
    assert "value" in desk.convert_units(value="many", from_unit="km", to_unit="mi")["error"]
    assert "expression" in desk.calculator()["error"]


@pytest.mark.parametrize("city", ["oslo", " OSLO ", "Oslo"])
def test_weather_finds_cities_in_any_case(desk, city):
    assert desk.get_weather(city=city, day="tomorrow")["city"] == "Oslo"


def test_weather_without_accents_and_unknown(desk):
    assert desk.get_weather(city="sao paulo", day="today")["city"] == "São Paulo"
    assert desk.get_weather(city="Atlantis", day="today") == {"error": "no weather for Atlantis"}


def test_weather_file_is_whole():
    cities = load("weather.json")["cities"]
    assert len(cities) >= 120
    assert len({fold(city) for city in cities}) == len(cities)
    for days in cities.values():
        assert list(days) == ["today", "tomorrow"]
        assert all(condition and low < high for condition, high, low in days.values())


def test_seed_orders_are_whole():
    orders = load("front_desk.json")["orders"]
    assert len(orders) >= 60
    assert len({order[0] for order in orders}) == len(orders)
    assert {order[4] for order in orders} == {"processing", "shipped", "delivered", "cancelled"}


def test_orders(desk):
    assert desk.find_order(order_id=" a-1042 ")["customer"] == "Mara Lindt"
    assert desk.find_order(order_id="A-9999") == {"error": "no order A-9999"}
    assert desk.list_orders(customer="mara lindt") == {
        "customer": "Mara Lindt",
        "orders": [
            {"order_id": "A-1042", "item": "desk lamp", "status": "shipped"},
            {"order_id": "A-1067", "item": "tea set", "status": "processing"},
        ],
    }
    assert desk.list_orders(customer="Novotna")["customer"] == "Hana Novotná"
    assert desk.list_orders(customer="Nobody") == {"error": "no customer Nobody"}
    assert desk.list_orders(customer="")["error"].startswith("no customer")
    assert desk.list_orders(customer="an")["error"].startswith("several customers match an: ")


def test_update_is_seen_by_the_next_look_and_by_the_next_process(desk, tmp_path):
    assert desk.update_order(order_id="A-1042", status="cancelled") == {
        "order_id": "A-1042",
        "old_status": "shipped",
        "status": "cancelled",
    }
    assert desk.find_order(order_id="A-1042")["status"] == "cancelled"
    desk.owner.close()
    assert Desk(tmp_path).find_order(order_id="A-1042")["status"] == "cancelled"
    assert desk.update_order(order_id="A-9999", status="shipped") == {"error": "no order A-9999"}


INJECTIONS = [
    "A-1042'; DROP TABLE orders; --",
    "' OR '1'='1",
    'A-1042" OR 1=1',
    "%",
    "_-____",
    "\\",
    "\x00",
    "A-1042\ud800",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_in_arguments_stays_text(desk, tmp_path, text):
    assert "error" in desk.find_order(order_id=text)
    assert "error" in desk.update_order(order_id=text, status="cancelled")
    assert "error" in desk.list_orders(customer=text)
    desk.add_event(title=text, date="2026-12-01", time="10:00")
    desk.add_note(text=text)
    desk.search_notes(query=text)
    desk.owner.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        orders = connection.execute("SELECT order_id, customer, item, quantity, status, total FROM orders").fetchall()
    assert [list(order) for order in orders] == load("front_desk.json")["orders"]


def test_notes_are_found_by_words_and_word_forms(desk):
    number = desk.add_note(text="The café's coffee machines were repaired")["note_id"]
    for query in ("coffee", "cafe", "repairing a machine", "machines AND nothing"):
        assert [note["note_id"] for note in desk.search_notes(query=query)["notes"]] == [number], query
    assert desk.search_notes(query="zebra") == {"notes": []}


def test_notes_with_all_words_come_before_notes_with_any(desk):
    desk.add_note(text="alarm clock")
    both = desk.add_note(text="the alarm code is with Astrid")
    assert desk.search_notes(query="alarm code") == {"notes": [both]}


@pytest.mark.parametrize(
    "query",
    ['"toner', "toner*", "NEAR(toner, 2)", "text:toner", "toner NOT printer", "(toner", "toner -printer", "^toner"],
)
def test_full_text_operators_are_plain_words(desk, query):
    notes = desk.search_notes(query=query)["notes"]
    assert [note["text"] for note in notes] == ["The printer on floor 2 needs new toner."]


WORDS = st.lists(st.sampled_from(["toner", "Toner", "toners", "lamp", "desk", "desk_lamp", "the", "_"]), max_size=6)


@settings(max_examples=25)
@given(st.lists(WORDS.filter(bool), max_size=8), WORDS.filter(bool))
def test_notes_are_ranked_as_full_text_search_ranks_them(notes, words):
    desk = Desk(None)
    for note in notes:
        desk.add_note(text=" ".join(note))
    found = [note["note_id"] for note in desk.search_notes(query=" ".join(words))["notes"]]
    quoted = [f'"{word}"' for word in words]
    for expression in (" AND ".join(quoted), " OR ".join(quoted)):
        rows = desk.owner.database._rows("SELECT rowid, rank FROM notes WHERE notes MATCH ? ORDER BY rank", expression)
        if rows:
            break
    desk.owner.close()
    ranks = {row["rowid"]: row["rank"] for row in rows}
    assert [ranks[number] for number in found] == pytest.approx([row["rank"] for row in rows][:5], rel=1e-9)


def test_one_word_many_times_is_one_word_to_look_up(desk):
    number = desk.add_note(text="printer " * 20_000)["note_id"]
    notes = desk.search_notes(query="printer " * 20_000)["notes"]
    assert [note["note_id"] for note in notes] == [number, 1]


def test_names_of_many_accents_are_compared_in_one_pass(desk):
    accents = "\u0301\u0327" * 100_000  # sorting them into canonical order takes the square of their number
    assert desk.list_orders(customer=f"Mara{accents} Lindt") == desk.list_orders(customer="Mara Lindt")
    assert "error" in desk.get_weather(city=f"Q{accents}", day="today")


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("find_order", {"order_id": "A" * 10_000}),
        ("list_orders", {"customer": "x" * 10_000}),
        ("get_weather", {"city": "x" * 10_000, "day": "today"}),
        ("convert_units", {"value": 1, "from_unit": "x" * 10_000, "to_unit": "m"}),
        ("convert_currency", {"amount": 1, "from_currency": "x" * 10_000, "to_currency": "EUR"}),
        ("list_events", {"date": "1" * 10_000}),
        ("calculator", {"expression": "9" * 10_000}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_repeat_no_long_argument(desk, tool, arguments):
    assert len(desk.tools[tool].invoke(arguments)) < 400


@pytest.mark.parametrize("query", ["", "  ", '"', "*", "()", "--"])
def test_queries_without_words(desk, query):
    assert desk.search_notes(query=query) == {"error": "the query has no words"}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=30))
def test_any_text_can_be_noted_and_searched(desk, text):
    added = desk.add_note(text=text)
    assert added.get("text") == text.strip() or "error" in added
    assert set(desk.search_notes(query=text)) <= {"notes", "error"}
    assert "the database failed" not in desk.search_notes(query=text).get("error", "")


def test_calendar(desk):
    desk.add_event(title="late", date="2026-12-03", time="17:00")
    desk.add_event(title=" early ", date="2026-12-03", time="9:05")
    events = desk.list_events(date="2026-12-03")["events"]
    assert [(event["time"], event["title"]) for event in events] == [("09:05", "early"), ("17:00", "late")]
    assert desk.list_events(date="2027-01-01") == {"date": "2027-01-01", "events": []}


@pytest.mark.parametrize(
    "date", ["2026-02-30", "2026-13-01", "20261203", "2026-W49-4", "tomorrow", "", "2026-1-2", "٢٠٢٦-١٢-٠٣"]
)
def test_bad_dates(desk, date):
    assert desk.list_events(date=date) == {"error": f"{date} is not a date such as 2026-12-03"}
    assert "is not a date" in desk.add_event(title="x", date=date, time="10:00")["error"]


@pytest.mark.parametrize("time", ["24:00", "10:60", "10", "10:5", "10am", "", "-1:00"])
def test_bad_times(desk, time):
    assert desk.add_event(title="x", date="2026-12-03", time=time) == {"error": f"{time} is not a time such as 14:00"}
    assert desk.list_events(date="2026-12-03")["events"] == []


def test_empty_texts(desk):
    assert desk.add_note(text="  ") == {"error": "the note is empty"}
    assert desk.add_event(title="", date="2026-12-03", time="10:00") == {"error": "the title is empty"}


def test_calls_from_many_threads(desk):
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda number: desk.add_note(text=f"note {number}"), range(40)))
    assert sorted(note["note_id"] for note in added) == list(range(4, 44))


def test_a_temporary_database_goes_with_its_owner():
    with FrontDeskTools() as owner:
        tools = {tool.name: tool for tool in owner.tools()}
        tools["add_note"].invoke({"text": "gone soon"})
        with owner.database._file.connected() as connection:
            file = connection.execute("PRAGMA database_list").fetchone()[2]
        assert file.endswith(FILE_NAME)
    assert not Path(file).parent.exists()


def test_an_unreadable_file_is_an_error_result(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"this is no database, and long enough to tell" * 100)
    assert "the database failed" in Desk(tmp_path).find_order(order_id="A-1042")["error"]


def test_a_process_killed_while_filling_leaves_no_half_filled_file(tmp_path, monkeypatch):
    seed = load("front_desk.json")
    broken = {**seed, "events": [["only a title"]]}
    monkeypatch.setattr("langchain_layerroute.front_desk.database.load", lambda name: broken)
    assert "error" in Desk(tmp_path).find_order(order_id="A-1042")
    monkeypatch.undo()
    assert Desk(tmp_path).find_order(order_id="A-1042")["item"] == "desk lamp"
    assert len(Desk(tmp_path).list_events(date="2026-11-23")["events"]) == 1
