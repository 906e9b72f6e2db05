"""Whatever was asked before, in whatever order: the prefix cache changes no answer."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qwen2 import load, random_model, save

from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine
from layerroute.engine.prefix_cache import PrefixCache
from layerroute.engine.request import GenerationRequest

L = 6
STEM = tuple(range(20, 60))
PROGRAMS = ["all", "0-2,4,5", "0,5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    path = save(random_model(seed=4, vocab_size=len(tokenizer)), tmp_path_factory.mktemp("backbone"))
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def alone(folder):
    """The answer of an engine that has seen nothing else, by request."""
    answers = {}

    def answer(request):
        if request not in answers:
            engine = Engine(EngineConfig(model=str(folder)))
            answers[request] = engine.submit(request).result().token_ids
            engine.close()
        return answers[request]

    return answer


requests = st.builds(
    lambda shared, tail, program, scope: GenerationRequest(
        (*STEM[:shared], *range(100, 100 + tail)), max_tokens=4, program=program, scope=scope
    ),
    st.sampled_from([1, 20, 40]),
    st.sampled_from([0, 1, 9]),
    st.sampled_from(PROGRAMS),
    st.sampled_from(["generation", "sequence"]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked=st.lists(requests, min_size=2, max_size=8), slots=st.integers(1, 3))
def test_no_history_changes_an_answer(folder, alone, asked, slots):
    engine = Engine(EngineConfig(model=str(folder), prefix_slots=slots))
    for request in asked:
        result = engine.submit(request).result()
        assert result.token_ids == alone(request)
        report = result.report
        assert report.cached_tokens < report.prompt_tokens
    engine.close()


def test_a_fork_copies_the_shared_part_and_leaves_its_source(tmp_path):
    backbone = load(save(random_model(), tmp_path))
    prefixes = PrefixCache(2, lambda slots: backbone.new_cache(slots, 64))
    first = prefixes.take("generation", [1, 2, 3, 4, 5, 6], L)
    assert first.ids == []
    first.ids.extend([1, 2, 3, 4, 5, 6])
    first.cache.keys_SKTH.normal_()
    kept = first.cache.keys_SKTH.clone()
    second = prefixes.take("generation", [1, 2, 3, 9, 9], L)
    assert second.ids == [1, 2, 3]
    assert first.ids == [1, 2, 3, 4, 5, 6]
    assert torch.equal(second.cache.keys_SKTH[:, :, :3], kept[:, :, :3])
    assert prefixes.take("sequence 0-5", [1, 2, 3, 9, 9], L).ids == []  # other key, nothing shared
    assert prefixes.take("generation", [1, 2, 3, 9, 9], L).ids == [1, 2, 3]


def test_the_same_prompt_again_computes_one_token(tmp_path):
    backbone = load(save(random_model(), tmp_path))
    prefixes = PrefixCache(1, lambda slots: backbone.new_cache(slots, 64))
    prefixes.take("generation", [1, 2, 3], L).ids.extend([1, 2, 3])
    assert prefixes.take("generation", [1, 2, 3], L).ids == [1, 2]


def test_a_leased_conversation_may_be_copied_and_is_handed_out_to_nobody(tmp_path):
    backbone = load(save(random_model(), tmp_path))
    prefixes = PrefixCache(2, lambda slots: backbone.new_cache(slots, 64))
    first = prefixes.take("generation", [1, 2, 3], L)
    first.ids.extend([1, 2, 3])
    first.cache.keys_SKTH.normal_()
    first.leased = True
    second = prefixes.take("generation", [1, 2, 3, 4], L)
    assert (second.cache is not first.cache, second.ids) == (True, [1, 2, 3])
    assert torch.equal(second.cache.keys_SKTH[:, :, :3], first.cache.keys_SKTH[:, :, :3])
    assert prefixes.take("generation", [9, 9], L).cache is second.cache  # though used later than the first
    assert first.ids == [1, 2, 3]
    first.leased = False
    assert prefixes.take("generation", [1, 2, 3, 5], L) is first
