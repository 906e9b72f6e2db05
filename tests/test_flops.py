"""FLOPs against torch's own counter on transformers' Qwen2, bytes against tensors that really exist."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from layerroute.flops import BackboneShape, block_flops, decode_step_bytes, forward_flops, lm_head_flops

QWEN_05B = BackboneShape(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4864,
    num_blocks=24,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    bytes_per_weight=2,
)


def stock_model(shape: BackboneShape, tie: bool = False) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_blocks,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=tie,
        attn_implementation="eager",
    )
    return Qwen2ForCausalLM(config).eval()


def counted_flops(model: Qwen2ForCausalLM, new_tokens: int, context_start: int, logit_positions: int) -> int:
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        if context_start:
            model(torch.zeros(1, context_start, dtype=torch.long), past_key_values=cache)
        with FlopCounterMode(display=False) as counter:
            ids = torch.zeros(1, new_tokens, dtype=torch.long)
            model(ids, past_key_values=cache, logits_to_keep=logit_positions)
    return counter.get_total_flops()


shapes = st.builds(
    BackboneShape,
    vocab_size=st.integers(50, 300),
    hidden_size=st.sampled_from([32, 48, 64]),
    intermediate_size=st.integers(16, 200),
    num_blocks=st.integers(1, 4),
    num_heads=st.just(4),
    num_kv_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([8, 16, 24]),
    bytes_per_weight=st.just(4),
)


@settings(max_examples=15, deadline=None)
@given(shape=shapes, new_tokens=st.integers(1, 40), context_start=st.integers(0, 40), all_logits=st.booleans())
def test_forward_matches_the_counter(shape, new_tokens, context_start, all_logits):
    positions = new_tokens if all_logits else 1
    counted = counted_flops(stock_model(shape), new_tokens, context_start, positions)
    ours = forward_flops(shape, shape.num_blocks, new_tokens, context_start, positions)
    assert ours == pytest.approx(counted, rel=0.02)


def test_prefill_of_the_true_05b_shape_matches_the_counter():
    with FakeTensorMode():  # shapes without data
        counted = counted_flops(stock_model(QWEN_05B, tie=True), 512, 0, 512)
    assert forward_flops(QWEN_05B, 24, 512, 0, 512) == pytest.approx(counted, rel=0.02)


def test_lm_head_is_27_percent_of_a_512_token_forward():
    share = lm_head_flops(QWEN_05B, 512) / forward_flops(QWEN_05B, 24, 512, 0, 512)
    assert share == pytest.approx(0.27, abs=0.01)


@given(shape=shapes, prefix=st.integers(0, 50), tokens=st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_chunked_prefill_never_costs_more_than_one_pass(shape, prefix, tokens):
    chunked, start = 0, prefix
    for count in tokens:
        chunked += block_flops(shape, count, start)
        start += count
    whole = block_flops(shape, sum(tokens), prefix)
    unused_pairs = whole - chunked
    later = [sum(tokens[index + 1 :]) for index in range(len(tokens))]
    pairs = sum(count * after for count, after in zip(tokens, later, strict=True))
    assert unused_pairs == 4 * pairs * shape.query_size


@pytest.mark.parametrize("tie", [False, True])
def test_decode_bytes_are_the_bytes_of_the_tensors(tie):
    shape = BackboneShape(300, 32, 48, 3, 4, 2, 8, bytes_per_weight=4)
    model = stock_model(shape, tie=tie)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.zeros(1, 17, dtype=torch.long), past_key_values=cache)
    kv = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    blocks = sum(weight.nbytes for weight in model.model.layers.parameters())
    ends = model.lm_head.weight.nbytes + model.model.norm.weight.nbytes + model.model.embed_tokens.weight[0].nbytes
    assert decode_step_bytes(shape, 3, context_start=16) == kv + blocks + ends


@given(shape=shapes, visits=st.integers(0, 8), context=st.integers(0, 500))
def test_cost_is_linear_in_visits(shape, visits, context):
    flops = [forward_flops(shape, count, 3, context, 1) for count in (0, visits)]
    assert flops[1] - flops[0] == visits * block_flops(shape, 3, context)
    moved = [decode_step_bytes(shape, count, context) for count in (0, 1, visits)]
    assert moved[2] - moved[0] == visits * (moved[1] - moved[0])
