"""DESIGN rules 2 to 4: skipped blocks do not run, KV is exact for every program, identity is the stock model."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qwen2 import load, naive_logits, random_model, save

from layerroute.backbone.kv_cache import visits_of
from layerroute.program import LayerProgram

L = 6
PROGRAMS = {
    "identity": (0, 1, 2, 3, 4, 5),
    "skip first": (1, 2, 3, 4, 5),
    "skip last": (0, 1, 2, 3, 4),
    "skip middle": (0, 1, 4, 5),
    "repeat one": (0, 1, 2, 2, 3, 4, 5),
    "repeat a run": (0, 1, 2, 1, 2, 3, 4, 5),
    "skip and repeat": (0, 2, 3, 3, 5),
    "nothing": (),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    model = random_model()
    return model, load(save(model, tmp_path_factory.mktemp("checkpoint")))


def cached_logits(backbone, ids, pieces, visits_per_piece, num_slots):
    """Logits of all tokens, computed piece by piece over one cache."""
    cache = backbone.new_cache(num_slots, len(ids))
    rows, start = [], 0
    with torch.inference_mode():
        for size, visits in zip(pieces, visits_per_piece, strict=True):
            rows.append(backbone.logits(backbone.forward(ids[start : start + size], start, visits, cache)))
            start += size
    return torch.cat(rows)


@pytest.mark.parametrize("blocks", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_sequence_scope_equals_recomputation(pair, blocks):
    model, backbone = pair
    ids = torch.randint(0, 97, (21,), generator=torch.Generator().manual_seed(1))
    visits = visits_of(LayerProgram(blocks, L), "sequence")
    got = cached_logits(backbone, ids, [9, 4, *[1] * 8], [visits] * 10, max(L, len(visits)))
    torch.testing.assert_close(got, naive_logits(model, ids, blocks), atol=1e-4, rtol=0)


@pytest.mark.parametrize("blocks", [b for b in PROGRAMS.values() if len(set(b)) == len(b)])
def test_generation_scope_equals_recomputation(pair, blocks):
    model, backbone = pair
    ids = torch.randint(0, 97, (21,), generator=torch.Generator().manual_seed(2))
    full = visits_of(LayerProgram.identity(L), "generation")
    visits = visits_of(LayerProgram(blocks, L), "generation")
    got = cached_logits(backbone, ids, [9, 4, 3, *[1] * 5], [full, full, *[visits] * 6], L)
    torch.testing.assert_close(got, naive_logits(model, ids, blocks, num_full=13), atol=1e-4, rtol=0)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    blocks=st.lists(st.integers(0, L - 1), max_size=9).map(tuple),
    pieces=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
)
def test_any_program_cut_anywhere(pair, blocks, pieces, seed):
    model, backbone = pair
    ids = torch.randint(0, 97, (sum(pieces),), generator=torch.Generator().manual_seed(seed))
    visits = visits_of(LayerProgram(blocks, L), "sequence")
    got = cached_logits(backbone, ids, pieces, [visits] * len(pieces), max(L, len(visits)))
    torch.testing.assert_close(got, naive_logits(model, ids, blocks), atol=2e-4, rtol=1e-4)


def test_tokens_generated_under_a_program_are_replaced_by_full_depth_ones(pair):
    """The next turn prefills at full depth what a step generated under its program, over the same cache."""
    model, backbone = pair
    ids = torch.randint(0, 97, (30,), generator=torch.Generator().manual_seed(3))
    full = visits_of(LayerProgram.identity(L), "generation")
    visits = visits_of(LayerProgram((0, 3, 5), L), "generation")
    cache = backbone.new_cache(L, 30)
    with torch.inference_mode():
        backbone.forward(ids[:12], 0, full, cache)
        for position in range(12, 20):
            backbone.forward(ids[position : position + 1], position, visits, cache)
        got = backbone.logits(backbone.forward(ids[12:], 12, full, cache))
    torch.testing.assert_close(got, naive_logits(model, ids, tuple(range(L)))[12:], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 4, "tie_word_embeddings": False},
        {"num_attention_heads": 7, "hidden_size": 56, "num_key_value_heads": 1, "num_hidden_layers": 3},
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "rms_norm_eps": 1e-5},
    ],
)
def test_identity_is_the_stock_model(tmp_path, changes):
    model = random_model(seed=5, **changes)
    backbone = load(save(model, tmp_path))
    ids = torch.randint(0, 97, (40,))
    with torch.inference_mode():
        expected = model(ids[None]).logits[0]
        visits = visits_of(LayerProgram.identity(backbone.config.num_blocks), "generation")
        cache = backbone.new_cache(backbone.config.num_blocks, 40)
        got = backbone.logits(backbone.forward(ids, 0, visits, cache))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_identity_is_the_stock_model_at_the_true_shape(tmp_path):
    """Qwen2.5-0.5B's shape with random weights: same logits within 1e-4, same greedy tokens."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=151936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            rope_parameters={"rope_theta": 1e6, "rope_type": "default"},
            max_position_embeddings=32768,
        )
    ).eval()
    backbone = load(save(model, tmp_path, max_shard_size="600MB"))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ids = torch.randint(0, 151643, (24,))
    visits = visits_of(LayerProgram.identity(24), "generation")
    with torch.inference_mode():
        cache = backbone.new_cache(24, 64)
        got = backbone.logits(backbone.forward(ids, 0, visits, cache))
        assert (got - model(ids[None]).logits[0]).abs().max() < 1e-4
        expected = model.generate(ids[None], max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
        token, tokens = got[-1].argmax(), []
        for position in range(24, 36):
            tokens.append(int(token))
            hidden = backbone.forward(token[None], position, visits, cache)
            token = backbone.logits(hidden)[0].argmax()
    assert tokens == expected[0, 24:].tolist()


def test_skipped_blocks_do_not_run(pair):
    """Counted where the work is done, beside the backbone's own counter."""
    _, backbone = pair
    seen = []
    original = backbone.run_block
    backbone.run_block = lambda hidden, visit, *rest: (
        seen.append((visit.block, len(hidden))),
        original(hidden, visit, *rest),
    )[1]
    try:
        before = list(backbone.executed_L)
        visits = visits_of(LayerProgram((0, 2, 2, 5), L), "sequence")
        backbone.forward(torch.arange(7), 0, visits, backbone.new_cache(L, 8))
    finally:
        del backbone.run_block
    assert seen == [(0, 7), (2, 7), (2, 7), (5, 7)]
    assert [a - b for a, b in zip(backbone.executed_L, before, strict=True)] == [7, 0, 14, 0, 0, 7]
