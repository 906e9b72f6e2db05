"""Scores of tool calls and numbers, and free-running answers of the embedded model."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_layerroute.tools import to_constraint, to_openai_tools
from layerroute.backbone.config import embedded_folder
from layerroute.chat.parser import InvalidToolCall, ParsedAnswer, ParsedToolCall
from layerroute.chat.template import encode_rendered, render
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine
from layerroute.engine.request import GenerationRequest
from layerroute.errors import RouterError
from layerroute.report import StepKind
from layerroute_training.errors import ConfigError, CorpusError
from layerroute_training.evaluation.answering import Condition, constraint_of
from layerroute_training.evaluation.baselines import STATIC_BUNDLE
from layerroute_training.evaluation.bundles import conditions
from layerroute_training.evaluation.free_running import choose, free_running
from layerroute_training.evaluation.tool_calls import argument_f1, canonical, final_number, score_calls
from layerroute_training.steps import StepSet

# Calls against calls.

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9).map(lambda x: round(x, 1)) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)
call_lists = st.lists(
    st.builds(ParsedToolCall, st.sampled_from(["find", "send"]), st.dictionaries(st.text(max_size=2), values)),
    max_size=4,
)


def answer(*calls, content="", broken=()):
    kind = StepKind.TOOL_CALL if calls or broken else StepKind.PLANNING
    return ParsedAnswer(content, tuple(calls), tuple(broken), kind)


def call(name, **arguments):
    return ParsedToolCall(name, arguments)


def f1(score):
    return float(argument_f1(np.float64(score.matched), np.float64(score.produced), np.float64(score.expected)))


@given(call_lists, st.randoms())
def test_the_same_calls_in_any_order_match(calls, random):
    shuffled = random.sample(calls, len(calls))
    score = score_calls(answer(*shuffled, content="with text"), answer(*calls))
    assert (score.exact, score.names, score.calls) == (True, True, bool(calls))
    assert f1(score) == (1.0 if calls else 0.0)


@given(call_lists, call_lists)
def test_scores_are_shares_and_symmetric(found, wanted):
    score, back = score_calls(answer(*found), answer(*wanted)), score_calls(answer(*wanted), answer(*found))
    assert 0.0 <= f1(score) <= 1.0
    assert f1(score) == f1(back)
    assert score.exact == back.exact
    assert score.names or not score.exact


@given(values, values)
def test_equal_means_equal_as_json(left, right):
    assert (canonical(left) == canonical(right)) == (left_typed(left) == left_typed(right))


def left_typed(value):
    """The value with booleans marked, so that Python's == is JSON's."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return {key: left_typed(child) for key, child in value.items()}
    return [left_typed(child) for child in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("found", "exact", "names", "expected_f1"),
    [
        ([call("find", a=1.0, b={"c": [1, 2]})], True, True, 1.0),
        ([call("find", a=True, b={"c": [1, 2]})], False, True, 2 / 3),
        ([call("find", a=1, b={"c": [2, 1]})], False, True, 1 / 3),
        ([call("send", a=1, b={"c": [1, 2]})], False, False, 0.0),
        ([call("find", a=1, b={"c": [1, 2]}), call("find", a=1)], False, False, 6 / 7),
        ([], False, False, 0.0),
    ],
)
def test_calls_by_hand(found, exact, names, expected_f1):
    score = score_calls(answer(*found), answer(call("find", a=1, b={"c": [1, 2]})))
    assert (score.exact, score.names, score.calls) == (exact, names, bool(found))
    assert f1(score) == pytest.approx(expected_f1)


def test_a_call_without_arguments_has_something_to_match():
    assert f1(score_calls(answer(call("list")), answer(call("list")))) == 1.0
    assert f1(score_calls(answer(call("list", all=True)), answer(call("list")))) == 0.0


def test_an_unreadable_call_beside_the_right_one_is_a_miss():
    broken = InvalidToolCall(1, None, "{", "no JSON")
    score = score_calls(answer(call("find"), broken=[broken]), answer(call("find")))
    assert (score.calls, score.exact, score.names) == (True, False, False)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7.\n#### 7", "7"),
        ("#### 1,234.50 dollars, not 9", "1234.5"),
        ("so 3 and then -2", "-2"),
        ("#### 5\nor rather\n#### 6", "6"),
        ("####", None),
        ("none", None),
    ],
)
def test_final_numbers(text, number):
    assert final_number(text) == number


# The engine on steps whose references are its own answers.

TOOL = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": "Look up an order.",
        "parameters": {
            "type": "object",
            "properties": {"order_id": {"type": "string"}},
            "required": ["order_id"],
        },
    },
}
BUNDLE = str(embedded_folder() / "bundle")
CONDITIONS = tuple(
    Condition(name, BUNDLE, router, grammar=grammar)
    for grammar in (True, False)
    for name, router in (("routed", "gates"), ("full", "full"))
)
CONFIG = EngineConfig(device="cpu", context_window=1024)


def test_the_constraint_is_the_chat_models():
    tools = to_openai_tools([TOOL, {**TOOL, "function": {"name": "list_orders"}}])
    assert constraint_of(json.dumps(tools)) == to_constraint(tools, None)
    assert constraint_of(None) == to_constraint([], None)


@pytest.fixture(scope="module")
def engine():
    engine = Engine(CONFIG)
    yield engine
    engine.close()


def steps_of(parts, tool_lists):
    """One conversation per part: prompt ids, answer ids, index of the tools, source, group."""
    lengths = np.array([(len(prompt), len(answer)) for prompt, answer, *_ in parts])
    end = np.cumsum(lengths.sum(1))
    return StepSet(
        tokens=np.concatenate([np.array([*prompt, *answer], np.int32) for prompt, answer, *_ in parts]),
        start=end - lengths.sum(1),
        answer=end - lengths[:, 1],
        end=end,
        is_tool_call=np.array([tools >= 0 for _, _, tools, _, _ in parts]),
        group=np.array([group for *_, group in parts], np.int32),
        source=np.array([source for *_, source, _ in parts], np.int32),
        tools=np.array([tools for _, _, tools, _, _ in parts], np.int32),
        conversation=np.arange(len(parts), dtype=np.int32),
        groups=("corpora", "generated"),
        sources=("made", "openai/gsm8k"),
        tool_lists=tool_lists,
    )


def prompt_of(engine, question, tools=()):
    return encode_rendered(engine.tokenizer, render(engine.tokenizer, [{"role": "user", "content": question}], tools))


def answer_of(engine, prompt, router, constraint):
    request = GenerationRequest(prompt, max_tokens=90, router=router, constraint=constraint)
    return engine.submit(request).result().token_ids


@pytest.fixture(scope="module")
def steps(engine):
    """Three orders (the third reference is of another order), a sum, a step whose tools make no grammar."""
    tools = json.dumps([TOOL])
    parts = []
    for order, group in (("A-1042", 0), ("A-1077", 0), ("A-1099", 1)):
        prompt = prompt_of(engine, f"Where is order {order}?", [TOOL])
        reference = answer_of(engine, prompt, "full", constraint_of(tools))
        assert engine.tokenizer.convert_tokens_to_ids("<tool_call>") in reference
        parts.append((prompt, parts[0][1] if order == "A-1099" else reference, 0, 0, group))
    sum_prompt = prompt_of(engine, "What is 2 + 3?")
    sum_answer = tuple(engine.tokenizer("2 + 3 = 5\n#### 5<|im_end|>")["input_ids"])
    twice = (*parts[0][:2], 1, 0, 0)
    return steps_of([*parts, (sum_prompt, sum_answer, -1, 1, 0), twice], (tools, json.dumps([TOOL, TOOL])))


@pytest.fixture(scope="module")
def found(steps):
    return free_running(CONFIG, CONDITIONS, steps, limit=10)


def scores_of(found, group, task="tool_call"):
    return {(one.condition, one.grammar): one for one in found.scores if one.group == group and one.task == task}


def test_an_answer_equal_to_the_reference_matches(found):
    full = scores_of(found, "all")["full", True]
    assert (full.steps, full.exact_match.value, full.function_match.value) == (3, pytest.approx(2 / 3), 1.0)
    assert full.argument_f1.value == pytest.approx(2 / 3)
    assert (full.calls.value, full.skip, full.difference) == (1.0, 0.0, None)
    assert scores_of(found, "corpora")["full", True].exact_match.value == 1.0
    assert scores_of(found, "generated")["full", True].exact_match.value == 0.0


def test_routed_answers_skip_and_are_compared_with_full_depth(found):
    scores = scores_of(found, "all")
    assert set(scores) == {(name, grammar) for name in ("routed", "full") for grammar in (True, False)}
    for grammar in (True, False):
        routed, full = scores["routed", grammar], scores["full", grammar]
        assert routed.skip > 0.1
        assert routed.difference.value == pytest.approx(routed.exact_match.value - full.exact_match.value)


def test_gsm8k_is_answered_once_per_way(found):
    scores = scores_of(found, "all", "gsm8k")
    assert set(scores) == {("routed", True), ("full", True)}
    assert all(one.steps == 1 and one.argument_f1 is None for one in scores.values())


def test_what_is_left_out_is_said(found):
    where, note = found.notes
    assert where == "answered on cpu"
    assert note.startswith("left out 1: two tools share a name")


def test_baselines_answer_under_their_programs(steps):
    run_NL = np.ones((len(steps), 24), dtype=np.bool_)
    run_NL[:, 20:] = False
    ways = conditions(Path(BUNDLE), "generation", {"random": run_NL, STATIC_BUNDLE: run_NL}, static=Path("elsewhere"))
    assert [one.adapter for one in ways[-2:]] == [BUNDLE, "elsewhere"]
    found = free_running(CONFIG, ways[:-1], steps.select([0]), limit=1)
    skips = {way: score.skip for way, score in scores_of(found, "all").items()}
    assert skips["random", True] == pytest.approx(4 / 24)
    assert (skips["full", True], skips["bare", False]) == (0.0, 0.0)
    assert ("random", False) not in skips


def test_worker_processes_change_nothing(steps):
    assert free_running(CONFIG, CONDITIONS[:2], steps, limit=2, processes=2) == free_running(
        CONFIG, CONDITIONS[:2], steps, limit=2
    )


def test_the_choice_is_seeded_and_limited(steps):
    assert [one.step for one in choose(steps, 2, 0)] == [one.step for one in choose(steps, 2, 0)]
    assert sorted(one.task for one in choose(steps, 2, 1)) == ["gsm8k", "tool_call", "tool_call"]
    assert all(one.max_tokens == 2 * len(one.reference_ids) + 32 for one in choose(steps, 9, 0))


def test_nothing_to_answer(steps):
    with pytest.raises(CorpusError, match="two tools share a name"):
        free_running(CONFIG, CONDITIONS[:1], steps.select([4]), limit=1)


def test_bad_routers_and_devices_stop_it(steps):
    with pytest.raises(RouterError, match="cannot read router"):
        free_running(CONFIG, [Condition("routed", BUNDLE, "dance")], steps, limit=1)
    with pytest.raises(ConfigError, match="cannot share a GPU"):
        free_running(EngineConfig(device="cuda"), CONDITIONS, steps, limit=1, processes=2)
