"""Conversations cut into steps: prompts as the chat model renders them, in a window without losing what matters."""

import json
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_conversations import (
    EMBEDDED,
    SMALL,
    TOOLS,
    answer,
    answer_of,
    assistant_turns,
    build,
    call,
    conversations,
    prompt_of,
    row,
    user,
)
from transformers import AutoTokenizer

from layerroute.chat.template import encode_rendered, render
from layerroute_training import cutting
from layerroute_training.cutting import build_steps
from layerroute_training.embedded.conversations import KINDS, generate
from layerroute_training.encoder import ConversationEncoder
from layerroute_training.errors import ConfigError, CorpusError

HEADER = encode_rendered(EMBEDDED, "<|im_start|>assistant\n")
MESSAGE_START, MESSAGE_END, CALL = EMBEDDED.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<tool_call>"])


def blocks(ids):
    """Token ids cut before every <|im_start|>."""
    starts = [index for index, token in enumerate(ids) if token == MESSAGE_START]
    return [tuple(ids[start:end]) for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]


def test_steps_of_a_conversation_share_their_tokens():
    messages = [user("hello"), answer("hi"), user("again"), answer("hi again"), user("unanswered")]
    steps, _ = build(row(messages), row(messages))
    assert steps.start.tolist()[0] == steps.start.tolist()[1]
    assert len(steps.tokens) == steps.end[1] * 2
    assert steps.conversation.tolist() == [0, 0, 1, 1]


@settings(max_examples=120, deadline=None)
@given(conversation=conversations(), data=st.data())
def test_a_window_takes_old_messages_and_unused_tools_and_nothing_else(conversation, data):
    whole, _ = build(conversation)
    shortest, longest = int(whole.answer_lengths.min()) + 100, int(whole.lengths.max())
    window = data.draw(st.integers(min(shortest, longest), longest))
    try:
        steps, counts = build(conversation, window=window)
    except CorpusError:
        return
    assert len(steps) + sum(counts.skipped.values()) == len(whole)
    assert int(steps.lengths.max()) <= window
    answers = [answer_of(whole, index) for index in range(len(whole))]
    at = -1
    for index in range(len(steps)):
        # The answers come whole and in the order of the turns, with their kinds.
        at = answers.index(answer_of(steps, index), at + 1)
        assert steps.is_tool_call[index] == (CALL in answer_of(steps, index))
        check_prompt(conversation, steps, index, blocks(prompt_of(whole, at)))


def check_prompt(conversation, steps, index, whole):
    prompt = prompt_of(steps, index)
    assert prompt[-len(HEADER) :] == HEADER
    first, *kept, header = blocks(prompt)
    tools = json.loads(steps.tool_lists[steps.tools[index]]) if steps.tools[index] >= 0 else []
    opening = [message for message in conversation.messages[:1] if message["role"] == "system"]
    rendered = encode_rendered(EMBEDDED, render(EMBEDDED, [*opening, user("")], tools))
    assert first == blocks(rendered)[0]
    assert [one for one in conversation.tools if one in tools] == tools  # whole schemas, in their order
    # What is kept is a subsequence of the messages and includes the last one and the last that the user wrote.
    remaining = iter(whole[1:-1])
    assert all(block in remaining for block in kept)
    assert header == HEADER
    assert kept[-1] == whole[-2]
    results = encode_rendered(EMBEDDED, "<|im_start|>user\n<tool_response>\n")
    is_result = [block[: len(results)] == results for block in kept]
    assert not all(is_result)
    for place, result in enumerate(is_result):
        assert not result or CALL in kept[place - 1]
    # Calls that are left in the prompt name tools that are left, too.
    names = {one["function"]["name"] for one in tools}
    for block in kept:
        if CALL in block:
            called = EMBEDDED.decode(block).split('{"name": "')[1:]
            assert {part.split('"')[0] for part in called} <= names


def lengths_of(messages, tools=()):
    steps, _ = build(row(messages, tools))
    return int(steps.prompt_lengths[-1]), int(steps.answer_lengths[-1])


def test_a_result_goes_with_its_call_and_the_question_stays():
    result = {"role": "tool", "name": "tool_0", "content": "word " * 30}
    exchange = [answer("", call("tool_0", "Oslo")), result]
    messages = [user("first"), answer("one"), user("Where?"), *exchange, *exchange, answer("Here.")]
    shortened = [user("Where?"), *exchange, answer("Here.")]
    wanted = sum(lengths_of(shortened, TOOLS[:1]))
    for extra in (0, 20):  # 20 tokens more do not hold a result with its call
        steps, counts = build(row(messages, TOOLS[:1]), window=wanted + extra)
        expected = encode_rendered(EMBEDDED, render(EMBEDDED, shortened[:-1], TOOLS[:1]))
        assert prompt_of(steps, len(steps) - 1) == expected
        assert counts.fewer_tools == 0


def test_tools_that_nobody_calls_go_before_a_step_is_skipped():
    messages = [user("Where?"), answer("", call("tool_1", "Oslo"))]
    kept = [TOOLS[2], TOOLS[1]]
    window = sum(lengths_of(messages, kept))
    steps, counts = build(row(messages, [TOOLS[2], TOOLS[3], TOOLS[4], TOOLS[1]]), window=window)
    assert prompt_of(steps, 0) == encode_rendered(EMBEDDED, render(EMBEDDED, messages[:1], kept))
    assert json.loads(steps.tool_lists[steps.tools[0]]) == kept
    assert (counts.truncated, counts.fewer_tools) == (1, 1)


def test_steps_that_do_not_fit_are_counted_with_the_reason():
    fine = row([user("hello"), answer("hi")])
    wordy = row([user("hello"), answer("word " * 400)])
    asking = row([user("word " * 400), answer("hi")])
    silent = row([user("hello"), answer("")])
    steps, counts = build(fine, wordy, asking, silent, row([user("hello")]), window=200)
    assert len(steps) == 1
    assert counts.skipped == {
        "answer longer than the window": 1,
        "prompt longer than the window": 1,
        "empty answer": 1,
        "conversation without an assistant turn": 1,
    }
    with pytest.raises(CorpusError, match=r"answer longer than the window: 1.*raise data\.window"):
        build(wordy, window=200)
    with pytest.raises(CorpusError, match="no conversations"):
        build()


def test_a_share_of_the_conversations_without_tools_is_shown_tools_of_others():
    plain = [row([user(f"question {number}"), answer("hi")], name=f"plain {number}") for number in range(300)]
    lender = row([user("Where?"), answer("", call("tool_1", "Oslo"))], TOOLS, name="lender")
    rows = {"lenders": [lender], "corpora": plain}
    steps, counts = build_steps(rows, EMBEDDED, window=10_000, unused_tools=0.25, seed=1)
    shown = steps.tools[1:] >= 0
    assert counts.lent_tools == shown.sum()
    assert 45 <= shown.sum() <= 105
    assert not steps.is_tool_call[1:].any()
    for index in np.flatnonzero(shown)[:20] + 1:
        tools = json.loads(steps.tool_lists[steps.tools[index]])
        assert 1 <= len(tools) <= 4
        assert all(one in TOOLS for one in tools)
        question = plain[index - 1].messages[:1]
        assert prompt_of(steps, index) == encode_rendered(EMBEDDED, render(EMBEDDED, question, tools))

    def shown_with(seed, order=1):
        rows = {"lenders": [lender], "corpora": plain[::order]}
        built, _ = build_steps(rows, EMBEDDED, window=10_000, unused_tools=0.25, seed=seed)
        return [built.tool_lists[place] if place >= 0 else "" for place in built.tools[1:][::order]]

    assert shown_with(1) == shown_with(1, order=-1)
    assert shown_with(1) != shown_with(2)
    assert build_steps(rows, EMBEDDED, window=10_000, seed=1)[1].lent_tools == 0


def test_white_space_around_an_answer_is_not_part_of_it():
    steps, _ = build(row([user(" hello "), answer("\n hi \n")]))
    assert answer_of(steps, 0) == encode_rendered(EMBEDDED, "hi<|im_end|>")
    assert prompt_of(steps, 0) == encode_rendered(EMBEDDED, render(EMBEDDED, [user(" hello ")]))


def test_another_chat_template_is_refused():
    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parent.parent / "data" / "tokenizer")
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
    with pytest.raises(ConfigError, match=r"Qwen2\.5 Instruct"):
        build(row([user("hello"), answer("hi")]), tokenizer=tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_generated_conversations_are_cut_as_by_rendering_every_cut(kind):
    for window in (300, 700, 100_000):
        for conversation in generate(kind, 0, 3, seed=4):
            compare_with_naive(EMBEDDED, conversation, window)


@pytest.mark.parametrize("tokenizer", [EMBEDDED, SMALL], ids=["embedded", "small"])
@settings(max_examples=40, deadline=None)
@given(conversation=conversations(), window=st.one_of(st.integers(60, 900), st.just(100_000)))
def test_odd_conversations_are_cut_as_by_rendering_every_cut(tokenizer, conversation, window):
    compare_with_naive(tokenizer, conversation, window)


def compare_with_naive(tokenizer, conversation, window):
    turns = assistant_turns(conversation.messages)
    found = [(turn, naive.step(tokenizer, conversation, turn, window)) for turn in turns]
    expected = [
        (*step, bool(conversation.messages[turn].get("tool_calls"))) for turn, step in found if step is not None
    ]
    if not expected:
        with pytest.raises(CorpusError):
            build(conversation, window=window, tokenizer=tokenizer)
        return
    steps, counts = build(conversation, window=window, tokenizer=tokenizer)
    assert len(steps) + sum(counts.skipped.values()) == len(turns)
    assert sorted(map(contents, [steps] * len(steps), range(len(steps))), key=str) == sorted(expected, key=str)


def contents(steps, index):
    """Prompt, answer, tools and kind; steps that had to be cut come behind the others."""
    place = steps.tools[index]
    tools = json.loads(steps.tool_lists[place]) if place >= 0 else []
    return prompt_of(steps, index), answer_of(steps, index), tools, bool(steps.is_tool_call[index])


def test_the_number_of_processes_changes_nothing(monkeypatch):
    monkeypatch.setattr(cutting, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(cutting, "AT_A_TIME", 7)
    rows = {"desk": list(generate("front_desk", 0, 25, seed=3)), "plans": list(generate("plan", 0, 25, seed=3))}
    rows["plans"][:2] = [row([user("unanswered")], name="unanswered 1"), row([user("unanswered")], name="unanswered 2")]
    found, done = [], []
    for processes in (1, 3):
        steps, counts = build_steps(
            rows, EMBEDDED, window=500, unused_tools=0.5, processes=processes, progress=done.append
        )
        found.append((steps.digest(), counts))
    assert found[0] == found[1]
    assert done == [7, 7, 7, 7, 7, 7, 7, 1] * 2
    assert found[0][1].skipped["conversation without an assistant turn"] == 2


def test_a_row_that_cannot_be_rendered_is_named(monkeypatch):
    broken = row([{"role": "prophet", "content": "hello"}, answer("hi")], name="rows-7", source="corpus")
    with pytest.raises(CorpusError, match="row rows-7 of corpus: unknown message role 'prophet'"):
        build(row([user("hello"), answer("hi")]), broken)
    monkeypatch.setattr(cutting, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(cutting, "AT_A_TIME", 1)
    with pytest.raises(CorpusError, match="row rows-7 of corpus"):
        build(row([user("hello"), answer("hi")]), broken, processes=2)
    monkeypatch.setattr(ConversationEncoder, "segments", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as failed:  # a fault of ours names it too
        build(row([user("hello"), answer("hi")], name="rows-8", source="corpus"))
    assert failed.value.__notes__ == ["in row rows-8 of corpus"]
