from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from layerroute.engine.detokenizer import Detokenizer
from layerroute.engine.request import Delta

TOKENIZER = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "data" / "tokenizer")
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
OPEN, CLOSE = TOKENIZER.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
MARKERS = frozenset({OPEN, CLOSE})
LONGER_THAN_VOCABULARY = len(TOKENIZER) + 8  # a padded embedding has such ids

any_ids = st.lists(st.integers(0, LONGER_THAN_VOCABULARY - 1) | st.sampled_from([OPEN, CLOSE, END]), max_size=30)
readable = st.text(st.sampled_from("ab né🚀你\n<tool_call>"), max_size=30)


def run(ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[Delta], Detokenizer]:
    detokenizer = Detokenizer(TOKENIZER, stop, MARKERS, frozenset({END}))
    deltas = [delta for token_id in ids for delta in detokenizer.add(token_id)]
    return deltas + detokenizer.flush(), detokenizer


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


@given(any_ids)
def test_deltas_add_up_to_what_decode_says(ids: list[int]) -> None:
    deltas, _ = run(ids)
    kept = [token_id for token_id in ids if token_id != END]
    assert text_of(deltas) == TOKENIZER.decode(kept)
    assert [token_id for delta in deltas for token_id in delta.token_ids] == kept


@given(any_ids)
def test_markers_are_deltas_of_their_own(ids: list[int]) -> None:
    deltas, _ = run(ids)
    for delta in deltas:
        if MARKERS & set(delta.token_ids):
            assert delta.token_ids in ((OPEN,), (CLOSE,))
            assert delta.text == TOKENIZER.decode(delta.token_ids)


@given(readable)
def test_whole_characters_only(text: str) -> None:
    deltas, _ = run(TOKENIZER.encode(text))
    assert all("\ufffd" not in delta.text for delta in deltas)
    assert text_of(deltas) == text


stops = st.lists(st.text(st.sampled_from("ab e\n<>tool_call"), min_size=1, max_size=4), min_size=1, max_size=3)


@given(st.lists(st.integers(0, LONGER_THAN_VOCABULARY - 1) | st.sampled_from([CLOSE, END]), max_size=30), stops)
def test_text_is_cut_at_the_stop_string_that_is_complete_first(ids: list[int], stop: list[str]) -> None:
    deltas, detokenizer = run(ids, tuple(stop))
    kept = [token_id for token_id in ids if token_id != END]
    whole = TOKENIZER.decode(kept)
    ends = [(whole.find(text) + len(text), whole.find(text), text) for text in stop if text in whole]
    expected = min(ends) if ends else (0, len(whole), None)
    assert (text_of(deltas), detokenizer.stop_string) == (whole[: expected[1]], expected[2])
    fed = [token_id for delta in deltas for token_id in delta.token_ids]
    assert fed == kept[: len(fed)]


call_texts = st.text(st.sampled_from('{"name": e, a}\n\\é'), max_size=20)
stops_of_calls = st.lists(st.text(st.sampled_from('{"name": e}\n\\<tool_call>'), min_size=1, max_size=4), min_size=1)


@given(call_texts, stops_of_calls, st.lists(call_texts, min_size=1, max_size=3))
def test_no_stop_string_is_looked_for_in_calls_or_between_them(content: str, stop: list[str], calls: list[str]) -> None:
    if any(text in content for text in stop):
        content = ""
    marked = [[OPEN, *TOKENIZER.encode(f"\n{call}\n"), CLOSE, *TOKENIZER.encode("\n")] for call in calls]
    ids = [*TOKENIZER.encode(f"{content}\n"), *(token_id for call in marked for token_id in call)][:-1]
    deltas, detokenizer = run(ids, tuple(stop))
    assert detokenizer.stop_string is None
    assert text_of(deltas) == TOKENIZER.decode(ids)
    assert [delta.token_ids for delta in deltas if MARKERS & set(delta.token_ids)] == [(OPEN,), (CLOSE,)] * len(calls)


@pytest.mark.parametrize(
    ("text", "stop", "expected", "found"),
    [
        ("Sure.\nMore", "\n", "Sure.", "\n"),
        ("Sure.\n", "\n", "Sure.", "\n"),
        ("Sure.\n\n<tool_call>\n{}", "\n", "Sure.", "\n"),
        ("Sure.\n\n<tool_call>\n{}", "\n\n", "Sure.\n\n<tool_call>\n{}", None),
        ("Sure.\n<tool_call>\n{}", "\n", "Sure.\n<tool_call>\n{}", None),
        ("\n \n<tool_call>\n{}", "\n", "\n \n<tool_call>\n{}", None),
        ("\n \nMore", "\n", "", "\n"),
        ("\n \n", " \n", "\n", " \n"),
        ("<tool_call>{}</tool_call>\n \n<tool_call>{}", "\n ", "<tool_call>{}</tool_call>\n \n<tool_call>{}", None),
        ("Sure.<tool_call>{}</tool_call>\nMore", "\n", "Sure.<tool_call>{}</tool_call>", "\n"),
        ("Sure.<tool_call>{}</tool_call>\nMore", "re.\nM", "Sure.<tool_call>{}</tool_call>\nMore", None),
    ],
)
def test_a_line_break_is_content_unless_a_call_follows(text: str, stop: str, expected: str, found: str | None) -> None:
    deltas, detokenizer = run(TOKENIZER.encode(text), (stop,))
    assert (text_of(deltas), detokenizer.stop_string) == (expected, found)


@given(readable, st.text(st.sampled_from("ab né"), min_size=1, max_size=5))
def test_no_delta_is_ever_taken_back(text: str, stop: str) -> None:
    """At every moment the released text is a beginning of the final text."""
    assume("<tool_call>" not in text)  # stop strings do not apply to calls
    final = text.partition(stop)[0]
    detokenizer = Detokenizer(TOKENIZER, (stop,), MARKERS, frozenset({END}))
    released = ""
    for token_id in TOKENIZER.encode(text):
        released += text_of(detokenizer.add(token_id))
        assert final.startswith(released)


def test_text_that_cannot_begin_a_stop_string_is_not_held_back() -> None:
    detokenizer = Detokenizer(TOKENIZER, ("zzz",), MARKERS, frozenset({END}))
    for token_id in TOKENIZER.encode("The weather is fine"):
        assert text_of(detokenizer.add(token_id)) == TOKENIZER.decode([token_id])


def test_of_two_stop_strings_in_one_token_the_first_cuts() -> None:
    (token_id,) = TOKENIZER.encode(" the")
    for stop in (("e", "h"), ("h", "e")):
        deltas, _ = run([token_id], stop)
        assert deltas == [Delta(" t", (token_id,))]


def test_a_stop_string_spans_tokens_and_cuts_the_stray_marker_behind_it() -> None:
    deltas, detokenizer = run([*TOKENIZER.encode("Answer: done"), CLOSE, *TOKENIZER.encode("more")], ("done</tool",))
    assert text_of(deltas) == "Answer: "
    assert detokenizer.stop_string == "done</tool"
    assert all(delta.token_ids != (CLOSE,) for delta in deltas)


def test_the_stop_string_that_cuts_hangs_on_no_tokens_length() -> None:
    for ids in (TOKENIZER.encode("abcd"), [i for letter in "abcd" for i in TOKENIZER.encode(letter)]):
        deltas, detokenizer = run(ids, ("abcd", "bc"))
        assert (text_of(deltas), detokenizer.stop_string) == ("a", "bc")


@pytest.mark.parametrize("text", ["<tool_call>", "</tool_call>"])
def test_spelling_a_marker_is_not_a_marker(text: str) -> None:
    ids = [token_id for character in text for token_id in TOKENIZER.encode(character)]
    deltas, _ = run(ids)
    assert text_of(deltas) == text
    assert not any(MARKERS & set(delta.token_ids) for delta in deltas)
