"""StepSet and build_steps: prompts as the chat model renders them, cut down to a window without losing what matters."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import layerroute
from layerroute.chat.template import encode_rendered, render, render_answer
from layerroute_training.errors import ConfigError, CorpusError
from layerroute_training.rows import Row
from layerroute_training.steps import StepSet, build_steps

EMBEDDED = AutoTokenizer.from_pretrained(Path(layerroute.__file__).parent / "assets" / "embedded")
SMALL = AutoTokenizer.from_pretrained(Path(__file__).parent.parent / "data" / "tokenizer")
HEADER = encode_rendered(EMBEDDED, "<|im_start|>assistant\n")
MESSAGE_START, MESSAGE_END, CALL = EMBEDDED.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<tool_call>"])

WORDS = ("rain", "Oslo", "42", "naïve", "日本", '"quoted"', "line\nbreak", "a <|im_end|> b", "<tool_call>", "🙂 ok")
text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
short_text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)


def tool(name, note=""):
    parameters = {"type": "object", "properties": {"city": {"type": "string", "description": note}}}
    return {"type": "function", "function": {"name": name, "description": note, "parameters": parameters}}


def call(name, city):
    return {"type": "function", "function": {"name": name, "arguments": {"city": city}}}


TOOLS = [tool(f"tool_{number}", "what it is for " * number) for number in range(5)]


@st.composite
def conversations(draw):
    """A conversation: user turns, each with calls, results (also several in a row) and an answer unlike the others."""
    tools = draw(st.lists(st.sampled_from(TOOLS), unique_by=lambda tool: tool["function"]["name"], max_size=4))
    messages = [{"role": "system", "content": draw(text)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        messages.append({"role": "user", "content": draw(text)})
        for _ in range(draw(st.integers(0, 3)) if tools else 0):
            names = draw(
                st.lists(st.sampled_from([tool["function"]["name"] for tool in tools]), min_size=1, max_size=2)
            )
            content = draw(st.sampled_from(["", "Let me look."]))
            calls = [call(name, f"{len(messages)} {draw(short_text)}") for name in names]
            messages.append({"role": "assistant", "content": content, "tool_calls": calls})
            messages += [{"role": "tool", "name": name, "content": json.dumps(draw(text))} for name in names]
        messages.append({"role": "assistant", "content": f"{len(messages)} {draw(text)}"})
    return Row("row", "made", "train", tools, messages)


def row(messages, tools=(), name="row", source="made"):
    return Row(name, source, "train", list(tools), messages)


def user(content):
    return {"role": "user", "content": content}


def answer(content, *calls):
    return {"role": "assistant", "content": content} | ({"tool_calls": list(calls)} if calls else {})


def prompt_of(steps, index):
    return tuple(steps.tokens[steps.start[index] : steps.answer[index]].tolist())


def answer_of(steps, index):
    return tuple(steps.tokens[steps.answer[index] : steps.end[index]].tolist())


def blocks(ids):
    """Token ids cut before every <|im_start|>."""
    starts = [index for index, token in enumerate(ids) if token == MESSAGE_START]
    return [tuple(ids[start:end]) for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]


def build(*rows, window=100_000, tokenizer=EMBEDDED, **options):
    return build_steps({"corpora": list(rows)}, tokenizer, window=window, **options)


def assistant_turns(messages):
    return [index for index, message in enumerate(messages) if message["role"] == "assistant"]


@pytest.mark.parametrize("tokenizer", [EMBEDDED, SMALL], ids=["embedded", "small"])
@settings(max_examples=40, deadline=None)
@given(conversation=conversations())
def test_prompts_and_answers_are_those_of_the_chat_model(tokenizer, conversation):
    steps, counts = build(conversation, tokenizer=tokenizer)
    turns = assistant_turns(conversation.messages)
    assert len(steps) == counts.steps == len(turns)
    for index, turn in enumerate(turns):
        before, message = conversation.messages[:turn], conversation.messages[turn]
        assert prompt_of(steps, index) == encode_rendered(tokenizer, render(tokenizer, before, conversation.tools))
        assert answer_of(steps, index) == encode_rendered(tokenizer, render_answer(tokenizer, message))
        assert steps.is_tool_call[index] == bool(message.get("tool_calls"))
        assert (steps.tools[index] >= 0) == bool(conversation.tools)
        if conversation.tools:
            assert json.loads(steps.tool_lists[steps.tools[index]]) == conversation.tools


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


@pytest.fixture(scope="module")
def some_steps():
    tools = row([user("Where?"), answer("", call("tool_1", "Oslo"))], TOOLS[:2], source="tools é")
    plain = row([user("hello"), answer("hi"), user("again"), answer("hi again")], source="plain")
    return build_steps({"corpora": [tools, plain], "generated": [plain, tools]}, EMBEDDED, window=10_000)[0]


def contents(steps, index):
    place = int(steps.tools[index])
    return (
        prompt_of(steps, index),
        answer_of(steps, index),
        bool(steps.is_tool_call[index]),
        steps.groups[steps.group[index]],
        steps.sources[steps.source[index]],
        steps.tool_lists[place] if place >= 0 else None,
    )


def test_saved_steps_come_back(some_steps, tmp_path):
    some_steps.save(tmp_path / "steps")
    loaded = StepSet.load(tmp_path / "steps")
    assert loaded.digest() == some_steps.digest()
    assert [contents(loaded, index) for index in range(len(loaded))] == [
        contents(some_steps, index) for index in range(len(some_steps))
    ]
    assert loaded.tokens.dtype == np.int32
    some_steps.select([0]).save(tmp_path / "steps")  # saving again replaces the old ones
    assert len(StepSet.load(tmp_path / "steps")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["steps"]


def test_token_ids_beyond_16_bits_come_back(some_steps, tmp_path):
    large = StepSet(**{**vars(some_steps), "tokens": some_steps.tokens + 140_000})
    large.save(tmp_path / "steps")
    assert np.array_equal(StepSet.load(tmp_path / "steps").tokens, large.tokens)


@pytest.mark.parametrize("file", ["tokens.xz", "answer.xz", "tool_lists.xz", "index.json"])
@pytest.mark.parametrize("damage", ["cut", "edit", "remove"])
def test_a_damaged_folder_is_refused(some_steps, tmp_path, file, damage):
    some_steps.save(tmp_path / "steps")
    path = tmp_path / "steps" / file
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif file == "index.json":
        path.write_bytes(data.replace(b"generated", b"corporate"))
    else:
        path.write_bytes(lzma.compress(lzma.decompress(data)[::-1]))
    with pytest.raises(CorpusError, match="steps"):
        StepSet.load(tmp_path / "steps")


def test_saving_does_not_replace_a_folder_of_something_else(some_steps, tmp_path):
    (tmp_path / "notes.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(CorpusError, match="another folder"):
        some_steps.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "keep me"


def test_an_interrupted_save_leaves_nothing_behind(some_steps, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        some_steps.save(tmp_path / "steps")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_selected_and_joined_steps_keep_their_contents(some_steps, data):
    places = st.lists(st.integers(0, len(some_steps) - 1), max_size=8)
    first, second = data.draw(places), data.draw(places)
    joined = StepSet.concat([some_steps.select(first), some_steps.select(second)])
    assert [contents(joined, index) for index in range(len(joined))] == [
        contents(some_steps, index) for index in first + second
    ]
    parts = joined.conversation[: len(first)], joined.conversation[len(first) :]
    assert not set(parts[0].tolist()) & set(parts[1].tolist())
    assert len(some_steps.select(first).tokens) <= len(some_steps.tokens)


def test_the_digest_tells_contents_apart(some_steps):
    renamed = StepSet(**{**vars(some_steps), "groups": ("corpora", "others")})
    flipped = StepSet(**{**vars(some_steps), "is_tool_call": ~some_steps.is_tool_call})
    assert len({some_steps.digest(), renamed.digest(), flipped.digest()}) == 3
