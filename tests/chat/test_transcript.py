from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from layerroute.chat.template import encode_rendered, render, render_answer
from layerroute.chat.transcript import Transcripts

TOKENIZER = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "data" / "tokenizer")
END = TOKENIZER.eos_token_id


def letter_by_letter(text: str) -> tuple[int, ...]:
    """Ids as a model might spell an answer, and as the tokenizer never would."""
    return tuple(token_id for character in text for token_id in encode_rendered(TOKENIZER, character))


@given(st.lists(st.text(st.sampled_from("ab <tool_cal>é"), min_size=1, max_size=10), min_size=1, max_size=5))
def test_the_ids_of_a_conversation_only_ever_grow(answers: list[str]) -> None:
    transcripts, messages, known = Transcripts(TOKENIZER), [{"role": "user", "content": "Hello"}], ()
    for answer in answers:
        text = render(TOKENIZER, messages)
        ids = transcripts.encode(text)
        assert ids[: len(known)] == known
        assert TOKENIZER.decode(ids) == text.replace("\ue0a5", "")
        message: dict[str, Any] = {"role": "assistant", "content": answer}
        known = (*ids, *letter_by_letter(answer), END)
        assert transcripts.remember(text + render_answer(TOKENIZER, message), known)
        messages += [message, {"role": "user", "content": "And then?"}]
    assert transcripts.encode(render(TOKENIZER, messages))[: len(known)] == known


def test_unknown_text_is_encoded_afresh() -> None:
    text = render(TOKENIZER, [{"role": "user", "content": "Hello"}])
    assert list(Transcripts(TOKENIZER).encode(text)) == TOKENIZER.encode(text)


def test_another_conversation_does_not_take_remembered_ids() -> None:
    transcripts = Transcripts(TOKENIZER)
    text = render(TOKENIZER, [{"role": "user", "content": "Hello"}])
    transcripts.remember(text + "Yes<|im_end|>", (*transcripts.encode(text), 1, 2, 3, END))
    other = text + "No<|im_end|>"
    assert list(transcripts.encode(other)) == TOKENIZER.encode(other)


def test_an_answer_that_was_cut_off_is_not_remembered() -> None:
    """Its ids lack the end token that its text has, or a letter could melt into the next text."""
    transcripts = Transcripts(TOKENIZER)
    text = render(TOKENIZER, [{"role": "user", "content": "Hello"}])
    ids = transcripts.encode(text)
    assert not transcripts.remember(text + "Ye<|im_end|>", (*ids, 1))
    assert not transcripts.remember(text + "Ye", (*ids, 1))
    assert not transcripts.remember(text + "Ye<", (*ids, 1))
    assert list(transcripts.encode(text + "Ye<|im_end|>")) == TOKENIZER.encode(text + "Ye<|im_end|>")


def test_the_least_recently_used_text_is_forgotten() -> None:
    transcripts = Transcripts(TOKENIZER, capacity=2)
    for letter in "ab":
        transcripts.remember(f"{letter}<|im_end|>", (1, END))
    assert transcripts.encode("a<|im_end|>") == (1, END)
    transcripts.remember("c<|im_end|>", (1, END))
    assert transcripts.encode("a<|im_end|>") == (1, END)
    assert list(transcripts.encode("b<|im_end|>")) == TOKENIZER.encode("b<|im_end|>")
