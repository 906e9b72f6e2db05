from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerroute.backbone.token_mask import mask_of, pack
from layerroute.engine.request import Sampling
from layerroute.engine.sampling import Sampler, drawn_token, pick_rows
from layerroute.errors import LayerRouteError

logits_lists = st.lists(st.floats(-30, 30, width=16), min_size=2, max_size=40)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-9, 0.3, 1.0, 50.0]),
    top_k=st.integers(0, 50),
    top_p=st.floats(0.01, 1.0),
    seed=st.integers(0, 2**31),
)


def draw(sampling: Sampling, logits: torch.Tensor, times: int) -> list[int]:
    sampler = Sampler(sampling, "cpu")
    return [sampler.pick(logits) for _ in range(times)]


@given(logits_lists, samplings, st.data(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_masked_token_is_never_picked(
    logits: list[float], sampling: Sampling, data: st.DataObject, dtype: torch.dtype
) -> None:
    allowed = data.draw(st.sets(st.integers(0, len(logits) - 1), min_size=1))
    sampler = Sampler(sampling, "cpu")
    assert {sampler.pick(torch.tensor(logits, dtype=dtype), mask_of(allowed, len(logits))) for _ in range(5)} <= allowed


@given(logits_lists, samplings)
def test_the_same_seed_draws_the_same_tokens(logits: list[float], sampling: Sampling) -> None:
    logits_V = torch.tensor(logits)
    assert draw(sampling, logits_V, 8) == draw(sampling, logits_V, 8)


@given(logits_lists, st.integers(1, 10), st.floats(0.05, 0.95))
@settings(max_examples=50)
def test_only_the_likeliest_tokens_are_drawn(logits: list[float], top_k: int, top_p: float) -> None:
    logits_V = torch.tensor(logits)
    for token in draw(Sampling(temperature=5.0, top_k=top_k, top_p=top_p, seed=0), logits_V, 20):
        likelier = logits_V > logits_V[token]
        assert int(likelier.sum()) < top_k
        kept = (logits_V / 5.0).topk(min(top_k, len(logits))).values.softmax(0)
        assert float(kept[: int(likelier.sum())].sum()) < top_p + 1e-4


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (0, 0.999999), (300, 0.95), (5, 0.7), (0, 0.05)])
@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
def test_of_a_large_vocabulary_the_fewest_likeliest_tokens_that_reach_p_are_left(
    top_k: int, top_p: float, spread: float
) -> None:
    logits_V = spread * torch.randn(5000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values_K, ids_K = Sampler(Sampling(temperature=1.0, top_k=top_k, top_p=top_p), "cpu").filtered(logits_V)
    sorted_V, order_V = logits_V.sort(descending=True)
    likeliest_K = sorted_V[: top_k or None].softmax(0)
    count = int((likeliest_K.cumsum(0) - likeliest_K < top_p).sum())
    assert ids_K[values_K.isfinite()].tolist() == order_V[:count].tolist()


def test_top_k_keeps_k_tokens_and_top_p_the_fewest_that_reach_p() -> None:
    logits_V = torch.tensor([0.1, 0.4, 0.2, 0.3])
    assert set(draw(Sampling(temperature=1.0, top_k=2, seed=0), logits_V, 100)) == {1, 3}
    assert set(draw(Sampling(temperature=1.0, top_p=0.6, seed=0), logits_V, 200)) == {1, 2, 3}


def test_draws_follow_the_softmax_at_the_temperature() -> None:
    logits_V, temperature, draws = torch.tensor([1.0, 0.0, -1.0, 2.0]), 0.7, 20_000
    counts = Counter(draw(Sampling(temperature=temperature, seed=1), logits_V, draws))
    for token, probability in enumerate((logits_V / temperature).softmax(0).tolist()):
        assert counts[token] / draws == pytest.approx(probability, abs=0.015)


def test_greedy_takes_the_best_allowed_token() -> None:
    sampler = Sampler(Sampling(), "cpu")
    logits_V = torch.tensor([0.0, 3.0, 2.0])
    assert sampler.pick(logits_V) == 1
    assert sampler.pick(logits_V, mask_of([0, 2], 3)) == 2
    assert logits_V.tolist() == [0.0, 3.0, 2.0]  # the caller's logits are left alone


def test_without_a_seed_two_requests_differ() -> None:
    assert draw(Sampling(temperature=1.0), torch.zeros(1000), 20) != draw(
        Sampling(temperature=1.0), torch.zeros(1000), 20
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_to_pick_is_an_error(temperature: float) -> None:
    sampler = Sampler(Sampling(temperature=temperature, seed=0), "cpu")
    with pytest.raises(LayerRouteError, match="simplify"):
        sampler.pick(torch.zeros(3), mask_of([], 3))
    with pytest.raises(LayerRouteError, match="dtype"):
        sampler.pick(torch.tensor([0.0, float("nan"), 1.0]))
    with pytest.raises(LayerRouteError, match="dtype"):
        sampler.pick(torch.tensor([0.0, float("inf"), 1.0]))


RULES = (
    Sampling(),
    Sampling(0.7, seed=1),
    Sampling(1.3, seed=2),
    Sampling(1.0, top_k=5, seed=3),
    Sampling(2.0, top_p=0.8, seed=4),
)


@given(order=st.permutations(range(10)), count=st.integers(1, 10))
def test_rows_are_drawn_as_each_would_be_alone(order: list[int], count: int) -> None:
    logits_BV = 3.0 * torch.randn(10, 40, generator=torch.Generator().manual_seed(0))
    masks = [None if row % 3 else pack(torch.arange(40) % 4 == row % 4) for row in range(10)]
    alone = [Sampler(RULES[row % 5], "cpu").pick(logits_BV[row], masks[row]) for row in range(10)]
    rows = order[:count]
    samplers = [Sampler(RULES[row % 5], "cpu") for row in rows]
    drawn = pick_rows(samplers, logits_BV[rows], [masks[row] for row in rows]).tolist()
    assert [drawn_token(*values) for values in drawn] == [alone[row] for row in rows]
