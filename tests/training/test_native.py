"""Native records become canonical rows with true roles and valid calls, or are refused with a reason."""

import json
from pathlib import Path
from typing import Any

import pytest
from corpus_files import GLAIVE_SYSTEM, HERMES_SYSTEM, STOCK, TOOL, called, canonical, glaive, hermes, load, write
from hypothesis import given, settings
from hypothesis import strategies as st

from layerroute_training.native import Malformed, detect, read_record
from layerroute_training.rows import split_of


def test_hermes_calls_results_and_roles(tmp_path: Path) -> None:
    record = hermes(
        ("human", "Tesla and Apple?"),
        (
            "gpt",
            "Both.\n<tool_call>\n{'arguments': {'symbol': 'TSLA'}, 'name': 'get_stock'}\n</tool_call>\n"
            '<tool_call>\n{"name": "get_stock", "arguments": {"symbol": "AAPL"}}\n</tool_call>',
        ),
        (
            "tool",
            '<tool_response>\n{"name": "get_stock", "content": {\'price\': 49.95, \'yield\': None}}\n</tool_response>\n'
            "<tool_response>\nout of order\n</tool_response>",
        ),
        ("gpt", "49.95, and no price."),
    )
    (row,) = load(write(tmp_path / "func-calling.json", [record])).rows
    assert (row.id, row.source, list(row.tools)) == ("row-7", "hermes", [TOOL])
    assert list(row.messages) == [
        {"role": "user", "content": "Tesla and Apple?"},
        {
            "role": "assistant",
            "content": "Both.",
            "tool_calls": [called("get_stock", symbol="TSLA"), called("get_stock", symbol="AAPL")],
        },
        {"role": "tool", "name": "get_stock", "content": '{"price":49.95,"yield":null}'},
        {"role": "tool", "name": "get_stock", "content": "out of order"},
        {"role": "assistant", "content": "49.95, and no price."},
    ]


@pytest.mark.parametrize("tools", [repr([STOCK]), json.dumps([TOOL]), f"{json.dumps(TOOL)}\n{json.dumps(STOCK)}"])
def test_hermes_tool_schemas_in_every_form(tools: str) -> None:
    row = read_record(hermes(("human", "Hi"), ("gpt", "Hello"), tools=tools), "hermes", fallback_id="")
    assert all(tool == TOOL for tool in row.tools)
    assert len(row.tools) in (1, 2)


def test_hermes_tools_column_and_system_text_of_its_own() -> None:
    system = f"You are Ada, a broker.\n{HERMES_SYSTEM.format(tools='[]')}"
    turns = [
        ("system", system),
        ("human", "Hi"),
        ("gpt", "<tool_call>{'name': 'get_stock', 'arguments': {}}</tool_call>"),
    ]
    record = {"conversations": [{"from": who, "value": text} for who, text in turns], "tools": json.dumps([TOOL])}
    row = read_record(record, "hermes", fallback_id="f-3")
    assert row.id == "f-3"
    assert list(row.tools) == [TOOL]
    assert row.messages[0] == {"role": "system", "content": "You are Ada, a broker."}


def test_glaive_calls_results_and_roles(tmp_path: Path) -> None:
    chat = (
        'USER: What\'s IBM at?\n\n\nASSISTANT: <functioncall> {"name": "get_stock", "arguments": '
        '\'{\n  "symbol": "IBM\\\'s"\n}\'} <|endoftext|>\n\n\nFUNCTION RESPONSE: {"price": 130.50}\n\n\n'
        "ASSISTANT: It is at 130.50.\n\nAnything else? <|endoftext|>\n\n\nUSER: No.\n\n\nASSISTANT: Bye!<|endoftext|>\n"
    )
    (row,) = load(write(tmp_path / "glaive-function-calling-v2.json", [glaive(chat)])).rows
    assert (row.id, row.source, list(row.tools)) == ("glaive-function-calling-v2-0", "glaive", [TOOL])
    assert list(row.messages) == [
        {"role": "user", "content": "What's IBM at?"},
        {"role": "assistant", "content": "", "tool_calls": [called("get_stock", symbol="IBM's")]},
        {"role": "tool", "name": "get_stock", "content": '{"price":130.5}'},
        {"role": "assistant", "content": "It is at 130.50.\n\nAnything else?"},
        {"role": "user", "content": "No."},
        {"role": "assistant", "content": "Bye!"},
    ]


def test_results_follow_in_call_order_and_turns_start_paragraphs() -> None:
    news = {"name": "get_news", "description": "News", "parameters": {"type": "object", "properties": {}}}
    system = GLAIVE_SYSTEM.format(tools=f"{json.dumps(STOCK)}\n\n{json.dumps(news)}")
    chat = (
        'USER: My log says\nUSER: root. Why?\n\n\nASSISTANT: <functioncall> {"name": "get_stock", "arguments": '
        '\'{"symbol": "two\nlines"}\'} <functioncall> {"name": "get_news", "arguments": {}} <|endoftext|>\n\n\n'
        "FUNCTION RESPONSE: 1\n\n\nFUNCTION RESPONSE: [2]\n\n\nASSISTANT: I see.<|endoftext|>"
    )
    row = read_record({"system": system, "chat": chat}, "glaive", fallback_id="")
    assert list(row.messages)[:4] == [
        {"role": "user", "content": "My log says\nUSER: root. Why?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [called("get_stock", symbol="two\nlines"), called("get_news")],
        },
        {"role": "tool", "name": "get_stock", "content": "1"},
        {"role": "tool", "name": "get_news", "content": "[2]"},
    ]


def test_glaive_without_functions_keeps_its_system_text() -> None:
    system = "SYSTEM: You are a helpful assistant, with no access to external functions.\n"
    row = read_record(
        {"system": system, "chat": "USER: Hi\n\n\nASSISTANT: Hello <|endoftext|>"}, "glaive", fallback_id=""
    )
    assert list(row.tools) == []
    assert row.messages[0]["content"] == "You are a helpful assistant, with no access to external functions."


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        ({"answer": "$a = 3$", "code": "print(3)"}, "$a = 3$"),
        ({"answer": 3, "rationale": "Count them."}, "Count them.\n\n3"),
        ({"answer": "3", "solution": "1 + 2 = 3."}, "1 + 2 = 3."),
    ],
)
def test_turing_reads_question_answer_and_reasons(tmp_path: Path, columns: dict[str, Any], answer: str) -> None:
    record = {"conversation_id": "201186", "domain": "Physics", "sub-domain": "Mechanics", "question": "a?", **columns}
    (row,) = load(write(tmp_path / "Computational_STEM_QA_Dataset.json", [record])).rows
    assert (row.id, row.source) == ("201186", "turing")
    assert [message["content"] for message in row.messages] == ["a?", answer]


CALL = "<tool_call>{}</tool_call>"
MALFORMED: list[tuple[dict[str, Any], str]] = [
    (
        hermes(("human", "Hi"), ("gpt", CALL.format("{'name': 'sell', 'arguments': {}}"))),
        "names none of the row's tools",
    ),
    (
        hermes(("human", "Hi"), ("gpt", CALL.format("{'name': 'get_stock', 'arguments': [1]}"))),
        "arguments are no object",
    ),
    (hermes(("human", "Hi"), ("gpt", CALL.format("get_stock(1)"))), "a call is not JSON"),
    (hermes(("human", "Hi"), ("gpt", CALL.format('{"arguments": {}}'))), "a call without a name"),
    (hermes(("human", "Hi"), ("gpt", "<tool_call>{}")), "without its opening or closing tag"),
    (hermes(("human", "Hi"), ("tool", "3"), ("gpt", "3")), "a tool result without a call"),
    (hermes(("human", "Hi"), ("robot", "3")), "a role that the format does not know"),
    (hermes(("human", "Hi"), ("gpt", "  ")), "an empty assistant turn"),
    (hermes(("gpt", "Hello")), "no user turn"),
    (hermes(("human", "Hi"), ("gpt", "Hello"), tools="[{'name': get}]"), "tools are not JSON"),
    (hermes(("human", "Hi"), ("gpt", "Hello"), tools='[{"description": "x"}]'), "a tool without a name"),
    (hermes(("human", "Hi"), ("system", "Now rude"), ("gpt", "Hello")), "a system turn after the first"),
    (glaive("Hello\n\n\nUSER: Hi\n\n\nASSISTANT: Hi"), "text before the first turn"),
    (
        glaive('USER: Hi\n\n\nASSISTANT: <functioncall> {"name": "get_stock", "arguments": \'{oops}\'}'),
        "arguments are not",
    ),
    (glaive("USER: Hi\n\n\nFUNCTION RESPONSE: {}\n\n\nASSISTANT: Hi"), "a tool result without a call"),
    ({"question": 3, "answer": "3"}, "no question column"),
    ({"question": " ", "answer": "3"}, "an empty question"),
    ({"question": "a?", "domain": "Physics", "answer": None}, "no question column or no answer column"),
    ({**canonical(0), "split": "test"}, "split is neither train nor dev"),
    ({**canonical(0), "messages": ["Hello"]}, "a column is not JSON"),
]


@pytest.mark.parametrize(("record", "reason"), MALFORMED)
def test_malformed_records_have_a_reason(record: dict[str, Any], reason: str) -> None:
    native = detect(record)
    assert native is not None
    if "answer" in record and "domain" not in record:
        native = "gsm8k"
    with pytest.raises(Malformed, match=reason):
        read_record(record, native, fallback_id="")


text = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1).map(str.strip).filter(bool)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)
calls = st.dictionaries(text, values, max_size=3).map(
    lambda arguments: {"type": "function", "function": {"name": "get_stock", "arguments": arguments}}
)
conversations = st.tuples(text, st.lists(calls, min_size=1, max_size=3), text, values)


def functioncall(call: dict[str, Any]) -> str:
    arguments = json.dumps(call["function"]["arguments"]).replace("'", "\\'")
    return f"""<functioncall> {{"name": "get_stock", "arguments": '{arguments}'}}"""


def expected(question: str, asked: list[Any], answer: str, result: Any) -> list[Any]:
    content = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, separators=(",", ":"))
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": asked},
        *[{"role": "tool", "name": "get_stock", "content": content} for _ in asked],
        {"role": "assistant", "content": answer},
    ]


@settings(deadline=None)
@given(conversations, st.sampled_from([json.dumps, repr]))
def test_hermes_round_trip(parts: tuple[str, list[Any], str, Any], style: Any) -> None:
    question, asked, answer, result = parts
    responses = "".join(
        f"<tool_response>\n{style({'name': 'get_stock', 'content': result})}\n</tool_response>\n" for _ in asked
    )
    spoken = "\n".join(f"<tool_call>\n{style(call['function'])}\n</tool_call>" for call in asked)
    row = read_record(
        hermes(("human", question), ("gpt", spoken), ("tool", responses), ("gpt", answer)), "hermes", fallback_id=""
    )
    assert list(row.messages) == expected(question, asked, answer, result)
    assert row.split == split_of(row.messages)


@settings(deadline=None)
@given(conversations)
def test_glaive_round_trip(parts: tuple[str, list[Any], str, Any]) -> None:
    question, asked, answer, result = parts
    spoken = " ".join(map(functioncall, asked))
    responses = "".join(f"\n\n\nFUNCTION RESPONSE: {json.dumps(result)}" for _ in asked)
    chat = f"USER: {question}\n\n\nASSISTANT: {spoken} <|endoftext|>{responses}\n\n\nASSISTANT: {answer} <|endoftext|>"
    row = read_record(glaive(chat), "glaive", fallback_id="")
    assert list(row.messages) == expected(question, asked, answer, result)
