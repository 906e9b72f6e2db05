"""A small tokenizer, grammars over it, and walks through what they allow."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from layerroute.backbone.token_mask import unpack
from layerroute.engine.grammar import Grammar, GrammarFactory
from layerroute.engine.request import OutputConstraint, ToolSpec

TOKENIZER = AutoTokenizer.from_pretrained(Path(__file__).parent / "data" / "tokenizer")
VOCAB = len(TOKENIZER) + 32  # logits of real models have more columns than the tokenizer has tokens
END = TOKENIZER.eos_token_id
OPEN, CLOSE = TOKENIZER.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
ADDED = set(TOKENIZER.get_added_vocab().values())
FACTORY = GrammarFactory(TOKENIZER, VOCAB)


def tool(name: str, schema: Any) -> ToolSpec:
    return ToolSpec(name, json.dumps(schema))


def build(*tools: ToolSpec, **options: Any) -> Grammar:
    grammar = FACTORY.build(OutputConstraint(tools, **options))
    assert grammar is not None
    return grammar


def allowed(grammar: Grammar) -> list[int]:
    mask_W = grammar.mask()
    assert mask_W is not None
    assert mask_W.shape == (-(-VOCAB // 32),)
    assert mask_W.dtype == torch.int32
    assert not unpack(mask_W[None], 32 * len(mask_W))[0, VOCAB:].any()
    return unpack(mask_W[None], VOCAB)[0].nonzero().flatten().tolist()


def accept_text(grammar: Grammar, text: str) -> None:
    for token_id in TOKENIZER.encode(text):
        assert token_id in allowed(grammar), (text, token_id)
        grammar.accept(token_id)


def follow(grammar: Grammar) -> str:
    forced = grammar.forced()
    for token_id in forced:
        grammar.accept(token_id)
    return TOKENIZER.decode(forced)


def walk(grammar: Grammar, rng: random.Random, free_steps: int) -> list[int]:
    """A random legal answer without its end token: any allowed token at first, then the one that closes soonest."""
    ids: list[int] = []
    for step in range(free_steps + 400):
        forced = grammar.forced()
        for token_id in forced:
            assert token_id in allowed(grammar)
            grammar.accept(token_id)
        ids += forced
        choices = allowed(grammar)
        assert choices
        assert max(choices) < len(TOKENIZER)
        if grammar.finished:
            assert choices == [END]
        if step >= free_steps:
            choices = sorted(choices, key=closing_rank)[:1]
        token_id = rng.choice(choices)
        grammar.accept(token_id)
        if token_id == END:
            return ids
        ids.append(token_id)
    raise AssertionError(f"no end in sight: {TOKENIZER.decode(ids)[-200:]!r}")


def closing_rank(token_id: int) -> tuple[int, int]:
    order = [END, CLOSE, *TOKENIZER.convert_tokens_to_ids(['"', "}", "]"])]
    return (order.index(token_id) if token_id in order else len(order), token_id)
