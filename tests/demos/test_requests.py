"""The quality bar: the shipped model, run freely, calls exactly the expected tools for held-out requests."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import layerroute
from langchain_layerroute.front_desk import tool_schemas

ROOT = Path(__file__).parents[2]
SHIPPED = Path(layerroute.__file__).parent / "assets" / "embedded"
SCHEMAS = {schema["function"]["name"]: schema["function"]["parameters"] for schema in tool_schemas()}
FILES = (ROOT / "demos" / "requests.jsonl", ROOT / "training/layerroute_training/embedded/dev_requests.jsonl")


@pytest.fixture(scope="module")
def check():
    """The script `demos/check_requests.py` as a module; demos are no package."""
    spec = importlib.util.spec_from_file_location("check_requests", ROOT / "demos" / "check_requests.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def outcomes(check):
    """What the shipped model does about every held-out request."""
    from langchain_layerroute import LayerRouteChatModel

    if not list(SHIPPED.glob("*.safetensors")):
        pytest.skip("this checkout has no embedded weights yet")
    model = LayerRouteChatModel(model="embedded", device="cpu")
    return [check.ask(model, request) for request in check.read_requests(FILES[0])]


def test_nine_of_ten_requests_lead_to_exactly_the_expected_calls(outcomes):
    misses = [(o.request.task, o.request.expected, o.calls, o.error) for o in outcomes if not o.right]
    report = "\n".join(json.dumps(miss, ensure_ascii=False) for miss in misses)
    assert len(misses) <= 0.1 * len(outcomes), f"{len(misses)} of {len(outcomes)} missed:\n{report}"


def test_every_emitted_call_validates(outcomes):
    calls = [call for outcome in outcomes for call in outcome.calls]
    assert len(calls) >= len(outcomes) / 2
    for call in calls:
        jsonschema.validate(call["arguments"], SCHEMAS[call["name"]])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_expected_calls_validate_and_cover_every_tool(check, path):
    requests = check.read_requests(path)
    assert len(requests) >= 60
    assert len({request.id for request in requests}) == len({request.task for request in requests}) == len(requests)
    used = Counter(call["name"] for request in requests for call in request.expected)
    assert set(used) == set(SCHEMAS)
    assert min(used.values()) >= 5
    for request in requests:
        for call in request.expected:
            jsonschema.validate(call["arguments"], SCHEMAS[call["name"]])


@pytest.mark.parametrize(("error", "code", "asked"), [(RuntimeError("broken"), 0, 5), (KeyboardInterrupt(), 130, 2)])
def test_a_request_that_fails_is_one_wrong_request(check, capsys, monkeypatch, tmp_path, error, code, asked):
    def ask(model, request):
        if request.id == "2":
            raise error
        return check.Outcome(request, [], "")

    monkeypatch.setattr(check, "ask", ask)
    lines = [json.dumps({"id": str(number), "task": "Hello", "expected": []}) for number in range(5)]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines))
    assert check.main(["--file", str(tmp_path / "requests.jsonl"), "--at-least", "0.8", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["requests"] == asked
    assert [one["error"] for one in document["outcomes"]] == [None, None, "RuntimeError: broken", None, None][:asked]


def test_a_model_that_cannot_answer_at_all_ends_the_check(check, monkeypatch):
    monkeypatch.setattr(check, "ask", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check.main([])


def test_no_development_request_is_held_out(check):
    held_out, development = ({request.task for request in check.read_requests(path)} for path in FILES)
    assert not held_out & development


def test_score_wants_names_arguments_and_order(check):
    weather = {"name": "get_weather", "arguments": {"city": "Oslo", "day": "today"}}
    order = {"name": "find_order", "arguments": {"order_id": "A-1042"}}
    assert check.score([weather, order], [weather, order])
    assert check.score([], [])
    assert not check.score([weather, order], [order, weather])
    assert not check.score([weather], [weather, weather])
    assert not check.score([weather], [])
    assert not check.score([weather], [{**weather, "name": "find_order"}])
    assert not check.score([weather], [{**weather, "arguments": {"city": "oslo", "day": "today"}}])
    assert not check.score([weather], [{**weather, "arguments": {"city": "Oslo"}}])


@given(value=st.integers(-(10**6), 10**6), spaces=st.text(" ", max_size=3))
def test_score_forgives_spelling_of_numbers_and_spaces_in_expressions_only(check, value, spaces):
    def call(name, **arguments):
        return [{"name": name, "arguments": arguments}]

    assert check.score(call("f", value=value), call("f", value=float(value)))
    assert not check.score(call("f", value=value), call("f", value=str(value)))
    assert not check.score(call("f", value=1), call("f", value=True))
    assert check.score(call("f", expression=f"{value} * 2"), call("f", expression=f"{value}{spaces}*2"))
    assert not check.score(call("f", text="a b"), call("f", text=f"a {spaces} b"))
