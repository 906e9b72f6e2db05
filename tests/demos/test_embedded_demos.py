"""What the demos ask by default, asked of the model that ships: the calls it makes, and the demos' own streams."""

import importlib.util
import json
import sys
from pathlib import Path

from scripted_chat import call

from langchain_layerroute import LayerRouteChatModel
from langchain_layerroute.front_desk.agent import DEFAULT_TASKS
from langchain_layerroute.front_desk.tools import tool_schemas
from layerroute import cli

DEMOS = Path(__file__).parents[2] / "demos"

EXPECTED = (
    [call("find_order", order_id="A-1101"), call("list_orders", customer="Chidi Okafor")],
    [call("calculator", expression="189 * 6"),
     call("convert_currency", amount=1134, from_currency="EUR", to_currency="NOK")],
    [call("get_weather", city="Bergen", day="tomorrow"),
     call("add_event", title="Buy umbrella", date="2026-11-23", time="08:15")],
    [call("list_orders", customer="Li Wei"), call("update_order", order_id="A-1008", status="shipped")],
    [call("search_notes", query="printer"), call("list_events", date="2026-11-24")],
    [call("convert_units", value=42, from_unit="km", to_unit="mi"),
     call("add_note", text="marathon training on Sunday")],
)  # fmt: skip


def run_demo(name, monkeypatch, capsys):
    """Run `python demos/NAME.py --json` in this process and return its document."""
    monkeypatch.syspath_prepend(DEMOS)
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMOS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        assert module.main(["--json"], LayerRouteChatModel(device="cpu")) == 0
    finally:
        sys.modules.pop("shell", None)
    return json.loads(capsys.readouterr().out)


def test_the_default_script(capsys):
    assert cli.main(["demo", "--device", "cpu", "--json"]) == 0
    documents = json.loads(capsys.readouterr().out)["tasks"]
    assert len(documents) == len(DEFAULT_TASKS)
    assert [document["tool_calls"] for document in documents] == list(EXPECTED)
    assert "13318.83 NOK" in documents[1]["answer"]
    shares = {}
    for kind in ("tool_call", "planning"):
        steps = [step for document in documents for step in document["steps"] if step["kind"] == kind]
        assert {(step["router"], step["predicted_kind"]) for step in steps} == {("gates", kind)}
        skipped, executed = (sum(step["decode"][count] for step in steps) for count in ("skipped", "executed"))
        shares[kind] = skipped / (skipped + executed)
    assert shares["tool_call"] > shares["planning"] > 0, "tool calls need fewer blocks than texts"


def test_the_default_script_uses_every_tool():
    used = {item["name"] for calls in EXPECTED for item in calls}
    assert used == {schema["function"]["name"] for schema in tool_schemas()}


def test_the_analyst(monkeypatch, capsys):
    documents = run_demo("analyst", monkeypatch, capsys)["tasks"]
    made = [[item["name"] for item in document["tool_calls"]] for document in documents]
    look, ask = "describe_table", "run_query"
    assert made == [["list_tables", look, ask], [ask], [ask], [look, look, ask], [ask]]
    queries = [document["tool_calls"][-1]["arguments"]["sql"] for document in documents]
    assert queries[:2] == [
        "SELECT COUNT(*) FROM books WHERE stock = 0",
        "SELECT title FROM books WHERE genre = 'mystery'",
    ]
    titles = ("Winter Ledger", "The Cartographer's Debt", "Murder at Low Water", "The Second Witness")
    facts = (("2",), titles, ("Atlas of Forgotten Roads", "27.5"), ("Elsa Nyman", "18"), ("2868.3",))
    for document, expected in zip(documents, facts, strict=True):
        assert all(fact in document["answer"] for fact in expected)


def test_the_planner(monkeypatch, capsys):
    document = run_demo("planner", monkeypatch, capsys)
    assert document["tool_calls"] == [
        call("get_weather", city="Oslo", day="tomorrow"),
        call("find_order", order_id="A-1042"),
        call("add_note", text="Mara will call back"),
    ]
    kinds = [step["kind"] for step in document["steps"]]
    assert kinds == ["planning", *["tool_call", "planning"] * 3, "planning"]
    for fact in ("rain", "A-1042", "is shipped", "Mara will call back"):
        assert fact in document["answer"]
