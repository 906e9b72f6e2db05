"""The loop on the device, under Triton's interpreter on a CPU, against the loop on the host: same tokens, same counts.

`TRITON_INTERPRET` must be set before Triton is first imported, which other tests may have done: a process of its own.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from interpreter import interpreted, pass_under_the_interpreter
from qwen2 import load, random_model, save

from layerroute.backbone.kv_cache import visits_of
from layerroute.backbone.stepper import EagerStepper
from layerroute.backbone.token_mask import mask_of, pack, unpack
from layerroute.backbone.triton_loop import DrawRule, TritonLoop
from layerroute.backbone.triton_step import TritonStepper
from layerroute.backbone.triton_tiling import AttentionTile, Tile, choose_tiling
from layerroute.engine.accounting import Meter, Stopwatch
from layerroute.engine.decode import Decoder
from layerroute.engine.request import Delta, Sampling
from layerroute.engine.token_loop import TokenLoops
from layerroute.errors import BackboneError, LayerRouteError
from layerroute.program import LayerProgram

pytest.importorskip("triton", reason="Triton is not installed")

V, PROMPT = 97, 6


def test_under_the_interpreter():
    pass_under_the_interpreter(__file__)


class Plain:
    """A detokenizer that shows token numbers and knows one stop token."""

    def __init__(self, stop=None):
        self.stop, self.stop_string = stop, None

    def add(self, token):
        self.stop_string = f" {token}" if token == self.stop else None
        return [Delta(f" {token}", (token,))]

    def flush(self):
        return []


class Scripted:
    """A grammar that forces two tokens at the start and two in the middle, and allows a third of all others."""

    def __init__(self):
        self.accepted = []

    def forced(self):
        return {0: (7, 8), 4: (9, 10)}.get(len(self.accepted), ())

    def mask(self):
        return pack(torch.arange(V) % 3 == len(self.accepted) % 3)

    def accept(self, token):
        assert token in self.forced() or token in (8, 10) or unpack(self.mask()[None], V)[0, token]
        self.accepted.append(token)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return load(save(random_model(num_hidden_layers=2), tmp_path_factory.mktemp("checkpoint")))


def fused_stepper(backbone):
    """As few launches as the kernels allow: the interpreter takes a millisecond for each program."""
    tiling = choose_tiling(backbone.config, multiprocessors=1)
    tile = Tile(16, 32, 4)
    few = {"output": tile, "down": Tile(16, 64, 4), "gate_up": tile, "gate_up_programs": 1, "lm_head_programs": 1}
    return TritonStepper(
        backbone, replace(tiling, **few, lm_head=Tile(64, 32, 4), attention={1 << 30: AttentionTile(1, 64)})
    )


@torch.inference_mode()
def decode(backbone, stepper, grammar=None, end_ids=(), max_tokens=6, stop=None, cancel_after=None, sampling=None):
    """Ids, how it ended, what was counted, and the keys that count."""
    visits = visits_of(LayerProgram((1,), 2), "generation")
    cache = backbone.new_cache(2, PROMPT + max_tokens)
    logits_V = backbone.logits(backbone.forward(torch.arange(PROMPT), 0, visits, cache)[-1:])[0]
    before = list(backbone.executed_L)
    loops = TokenLoops(backbone, stepper, frozenset(end_ids))
    meter, emitted = Meter(backbone.config.shape(torch.float32)), []
    decoder = Decoder(
        grammar,
        Plain(stop),
        frozenset(end_ids),
        max_tokens,
        emitted.append,
        lambda: cancel_after is not None and len(emitted) >= cancel_after,
        Stopwatch(),
    )
    loop = loops.start(sampling or Sampling(), logits_V, PROMPT, visits, cache)
    decoder.run(loop, PROMPT, len(visits), meter)
    answer = decoder.end()
    executed = [after - b for b, after in zip(before, backbone.executed_L, strict=True)]
    keys = cache.keys_SKTH[1, :, : PROMPT + answer.fed].clone()
    return (answer.ids, answer.finish, answer.fed, answer.fast_forwarded, executed, meter.tokens), keys, loops.reason


@interpreted
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_the_device_draws_the_tokens_that_the_host_draws(backbone):
    eager, fused = EagerStepper(backbone, "the reference"), fused_stepper(backbone)
    free = decode(backbone, eager)[0][0]
    cases = [
        {},
        {"end_ids": free[3:4]},
        {"stop": free[2]},
        {"max_tokens": 1},
        {"cancel_after": 2},
        {"grammar": Scripted},
        {"grammar": Scripted, "end_ids": (10,)},
    ]
    for case in cases:
        made = [{**case, "grammar": case["grammar"]()} if "grammar" in case else case for _ in range(2)]
        expected, expected_keys, _ = decode(backbone, eager, **made[0])
        got, keys, reason = decode(backbone, fused, **made[1])
        assert (got, reason) == (expected, "the loop runs on the device"), case
        torch.testing.assert_close(keys, expected_keys, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def loop(backbone):
    with torch.inference_mode():
        return TritonLoop(backbone, fused_stepper(backbone))


@torch.inference_mode()
def draws(backbone, loop, logits_V, rule, positions, mask_V=None):
    cache, drawn = backbone.new_cache(2, 1), []
    for position in positions:
        loop.begin(logits_V, position, (), cache, rule, frozenset())
        loop.sample(None if mask_V is None else pack(mask_V))
        drawn.append(loop.take())
    return drawn


@interpreted
@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (6, 0.8)])
def test_draws_follow_the_distribution(backbone, loop, top_k, top_p):
    """Chi-square over 300 draws at as many positions, half of the tokens masked; and nothing outside the nucleus."""
    logits_V = 2.0 * torch.randn(V, generator=torch.Generator().manual_seed(1))
    mask_V = torch.arange(V) % 2 == 0
    scaled_V = (logits_V / 0.9).masked_fill(~mask_V, -torch.inf)
    order = scaled_V.argsort(descending=True)
    sorted_V = scaled_V[order].masked_fill(torch.arange(V) >= (top_k or V), -torch.inf).softmax(0)
    sorted_V[sorted_V.cumsum(0) - sorted_V >= top_p] = 0.0
    probability_V = torch.zeros(V).index_copy(0, order, sorted_V / sorted_V.sum())
    drawn = draws(backbone, loop, logits_V, DrawRule(0.9, top_k, top_p, 11), range(300), mask_V)
    counts_V = torch.bincount(torch.tensor(drawn), minlength=V)
    assert not counts_V[probability_V == 0].any()
    common = probability_V > 0.01
    rest = torch.tensor([counts_V[~common].sum(), 300 * probability_V[~common].sum()])
    observed = torch.cat([counts_V[common].float(), rest[:1]])
    expected = torch.cat([300 * probability_V[common], rest[1:]])
    used = expected > 0
    chi_square = float(((observed - expected)[used] ** 2 / expected[used]).sum())
    degrees = int(used.sum()) - 1
    assert chi_square < degrees + 4.0 * (2.0 * degrees) ** 0.5


@interpreted
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_draw_depends_on_seed_and_position_alone(backbone, loop):
    logits_V = torch.randn(V, generator=torch.Generator().manual_seed(2))
    rule = DrawRule(1.0, 0, 1.0, 5)
    first = draws(backbone, loop, logits_V, rule, range(12))
    assert first == draws(backbone, loop, logits_V, rule, range(12))
    assert first[::-1] == draws(backbone, loop, logits_V, rule, range(11, -1, -1))
    assert first != draws(backbone, loop, logits_V, DrawRule(1.0, 0, 1.0, 6), range(12))
    assert len(set(first)) > 3


@interpreted
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
def test_numbers_that_are_none_and_masks_that_allow_nothing(backbone, loop):
    for bad in (float("nan"), float("inf")):
        logits_V = torch.randn(V)
        logits_V[3] = bad
        with pytest.raises(BackboneError, match="not numbers"):
            draws(backbone, loop, logits_V, DrawRule(0.0, 0, 1.0, 0), [0])
        assert draws(backbone, loop, logits_V, DrawRule(0.0, 0, 1.0, 0), [0], torch.arange(V) == 5) == [5]
    nothing = Scripted()
    nothing.mask = lambda: mask_of([], V)
    with pytest.raises(LayerRouteError, match="allows no further token"):
        decode(backbone, fused_stepper(backbone), grammar=nothing)


@interpreted
@torch.inference_mode()
def test_a_mask_holds_for_one_draw(backbone, loop):
    logits_V = torch.randn(V, generator=torch.Generator().manual_seed(6))
    mask_W = mask_of([40], V)
    loop.begin(logits_V, 0, (), backbone.new_cache(2, 1), DrawRule(0.0, 0, 1.0, 0), frozenset())
    for mask in (mask_W, None, mask_W, mask_W, mask_of([41], V)):
        loop.sample(mask)
    assert [loop.take() for _ in range(5)] == [40, int(logits_V.argmax()), 40, 40, 41]


@interpreted
@torch.inference_mode()
def test_after_an_end_token_nothing_is_drawn(backbone, loop):
    logits_V = torch.randn(V, generator=torch.Generator().manual_seed(4))
    likeliest = int(logits_V.argmax())
    for end_ids, again in [(frozenset(), True), (frozenset((likeliest, 3)), False)]:
        loop.begin(logits_V, 0, (), backbone.new_cache(2, 1), DrawRule(0.0, 0, 1.0, 0), end_ids)
        loop.sample(None)
        loop.sample(None)
        assert loop.take() == likeliest
        if again:
            assert loop.take() == likeliest
        else:
            with pytest.raises(BackboneError, match="has ended"):
                loop.take()


@interpreted
def test_a_loop_that_fails_its_trial_is_left_with_a_reason(backbone, monkeypatch):
    monkeypatch.setattr(TritonLoop, "take", lambda self: 1)
    (ids, *_), _, reason = decode(backbone, fused_stepper(backbone))
    assert "the loop runs on the host: its trial failed: RuntimeError: drew token 1" in reason
    assert len(ids) == 6


def kept_by_definition(logits_V, allowed_V, rule):
    """Tokens that the filters keep, by sorting. Probabilities are whole numbers, as everywhere."""
    nats_V = (logits_V[allowed_V].max() - logits_V) * np.float32(1.0 / max(rule.temperature, 1e-6))
    near = [int(token) for token in np.flatnonzero(allowed_V & (nats_V < 32))]
    distance = {token: int(np.minimum(nats_V[token], np.float32(32 - 1e-5)) * np.float32(2**26)) for token in near}
    near.sort(key=distance.__getitem__)
    if rule.top_k:
        last = distance[near[min(rule.top_k, len(near)) - 1]]
        near = [token for token in near if distance[token] <= last]
    if rule.top_p < 1.0:
        mass = [int(np.exp(-nats_V[token]) * np.float32(2**40)) for token in near]
        target = max(int(sum(mass) * rule.top_p), 1)
        last = max(distance[token] for rank, token in enumerate(near) if sum(mass[:rank]) < target)
        near = [token for token in near if distance[token] <= last]
    return distance, set(near)


@interpreted
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value", "ignore:overflow")
@settings(max_examples=150, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(
    seed=st.integers(0, 2**32 - 1),
    levels=st.sampled_from([1, 3, 30, 10**7]),
    spread=st.sampled_from([1e-6, 1.0, 8.0, 1e4]),
    share=st.sampled_from([0.02, 0.5, 1.0]),
    rule=st.builds(
        DrawRule,
        temperature=st.sampled_from([1e-9, 0.3, 1.0, 20.0]),
        top_k=st.sampled_from([0, 0, 1, 2, 7, V - 1, V, 5000]),
        top_p=st.sampled_from([1e-7, 0.1, 0.5, 0.9, 0.999999, 1.0, 1.0]),
        seed=st.just(0),
    ),
)
@torch.inference_mode()
def test_filters_keep_what_sorting_keeps(backbone, loop, seed, levels, spread, share, rule):
    """Logits with many ties or none, near or far apart, few of them allowed or all, some not even finite."""
    rng = np.random.default_rng(seed)
    logits_V = (spread * np.round(rng.normal(size=V) * levels / 3) / levels).astype(np.float32)
    logits_V[rng.random(V) < 0.1] = -np.inf
    allowed_V = (rng.random(V) < share) & (logits_V > -np.inf)
    allowed_V[1], logits_V[1] = True, 0.0
    distance, expected = kept_by_definition(logits_V, allowed_V, rule)
    (token,) = draws(backbone, loop, torch.from_numpy(logits_V), rule, [0], torch.from_numpy(allowed_V))
    assert token in expected
    if rule.filters:
        limit = int(loop._found[3 * len(rule.filters), 0])
        assert {token for token, far in distance.items() if far <= limit} == expected
