"""The embedded tokenizer."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from layerroute_training.embedded.conversations import KINDS, generate
from layerroute_training.embedded.tokenizer import PLAIN_ADDED_TOKENS, SPECIAL_TOKENS, save_tokenizer, train_tokenizer
from layerroute_training.rows import split_of

VOCAB = 1_200


def sample_texts() -> list[str]:
    rows = [row for kind in KINDS for row in generate(kind, 0, 12, seed=5)]
    return [json.dumps([row.tools, row.messages], ensure_ascii=False) for row in rows]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(sample_texts(), VOCAB), folder)
    return AutoTokenizer.from_pretrained(folder)


def test_added_tokens_take_the_top_ids(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer.convert_tokens_to_ids([*SPECIAL_TOKENS, *PLAIN_ADDED_TOKENS])
    assert len(tokenizer) == VOCAB
    assert ids == list(range(VOCAB - len(ids), VOCAB))
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_special_flags_are_those_of_qwen(tokenizer: PreTrainedTokenizerBase) -> None:
    added = json.loads(train_tokenizer(sample_texts(), VOCAB).to_str())["added_tokens"]
    flags = {token["content"]: token["special"] for token in added}
    assert flags == {token: token in SPECIAL_TOKENS for token in (*SPECIAL_TOKENS, *PLAIN_ADDED_TOKENS)}
    ids = tokenizer("<|im_start|><tool_call>x</tool_call><|im_end|>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<tool_call>x</tool_call>"


def test_training_is_deterministic() -> None:
    first, second = (train_tokenizer(sample_texts(), VOCAB).to_str() for _ in range(2))
    assert first == second


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="give more text"):
        train_tokenizer(["a b c"], VOCAB)


def test_digits_stand_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("2026") == ["2", "0", "2", "6"]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="<|>"), max_size=80))
def test_any_text_survives(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    normal = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == normal


def test_split_ignores_case_and_punctuation() -> None:
    texts = [f"Request number {random.Random(i).random()}" for i in range(500)]
    splits = [split_of([{"role": "user", "content": text}]) for text in texts]
    shouted = [split_of([{"role": "user", "content": f"  {text.upper()}!? "}]) for text in texts]
    assert splits == shouted
    assert 0 < splits.count("dev") < 40


def test_saved_folder_holds_the_template(tmp_path: Path) -> None:
    save_tokenizer(train_tokenizer(sample_texts(), VOCAB), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    text = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
