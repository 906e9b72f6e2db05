"""Fixtures for all tests."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """A small byte-level BPE (2,048 ids) with Qwen2.5's special tokens and chat template."""
    return AutoTokenizer.from_pretrained(DATA / "tokenizer")
