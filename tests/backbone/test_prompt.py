"""Captured prompt passes under Triton's interpreter, on a CPU in float32, against plain torch; and which one is chosen.

`TRITON_INTERPRET` must be set before Triton is first imported, which other tests may have done: a process of its own.
"""

import pytest
import torch
from interpreter import interpreted, pass_under_the_interpreter
from qwen2 import load, random_model, save

from layerroute.backbone import triton_prompt
from layerroute.backbone.kv_cache import Visit, visits_of
from layerroute.backbone.prompt import EagerPrompt, select_prompt_runner
from layerroute.backbone.triton_prompt import TritonPrompt
from layerroute.program import LayerProgram

pytest.importorskip("triton", reason="Triton is not installed")


def test_under_the_interpreter():
    pass_under_the_interpreter(__file__)


@torch.inference_mode()
def compare(backbone, runner, visits, pieces, states, capacity=None):
    """Pieces of a prompt one after the other, over caches with NaN wherever nothing may be read or written."""
    near = {"atol": 1e-4, "rtol": 0, "equal_nan": True}
    eager, length = EagerPrompt(backbone, "the reference"), sum(pieces)
    caches = [backbone.new_cache(4, capacity or length + 40) for _ in range(2)]
    for cache in caches:
        cache.keys_SKTH.fill_(float("nan"))
        cache.values_SKTH.fill_(float("nan"))
    ids, start = (torch.arange(length) * 31 % 97).tolist(), 0
    for size in pieces:
        before = list(backbone.executed_L)
        expected = eager.run(ids[start : start + size], start, visits, caches[0], states)
        between = list(backbone.executed_L)
        got = runner.run(ids[start : start + size], start, visits, caches[1], states)
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours.view(-1), theirs.view(-1), **near)
        gained = [b - a for a, b in zip(before, between, strict=True)]
        assert [b - a for a, b in zip(between, backbone.executed_L, strict=True)] == gained
        start += size
    torch.testing.assert_close(caches[1].keys_SKTH, caches[0].keys_SKTH, **near)
    torch.testing.assert_close(caches[1].values_SKTH, caches[0].values_SKTH, **near)


@interpreted
@pytest.mark.parametrize(
    ("changes", "pieces", "states"),
    [
        ({}, [16], "last"),
        ({"hidden_size": 40, "head_dim": 8, "intermediate_size": 52}, [5, 16, 1], "sum"),
        ({"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 8}, [70, 3], "none"),
        ({"num_attention_heads": 2, "num_key_value_heads": 2}, [65, 20], "sum"),
    ],
)
def test_pieces_of_a_prompt(tmp_path, changes, pieces, states):
    """Buckets that are full and that are padded, histories within a block of positions and of more than one."""
    backbone = load(save(random_model(num_hidden_layers=3, **changes), tmp_path))
    visits = visits_of(LayerProgram((0, 2), 3), "sequence")
    compare(backbone, TritonPrompt(backbone, chunk=128), visits, pieces, states)


@interpreted
def test_padding_beyond_the_capacity_is_not_written(tmp_path):
    """The cache ends where the prompt ends, while its bucket goes on."""
    backbone = load(save(random_model(num_hidden_layers=3), tmp_path))
    runner = TritonPrompt(backbone, chunk=32)
    for visits in [(Visit(2, 3), Visit(0, 1)), (Visit(1, 0), Visit(1, 2), Visit(1, 3)), ()]:
        compare(backbone, runner, visits, [9, 3], "last", capacity=12)


def test_a_cpu_is_served_by_plain_torch(tmp_path):
    backbone = load(save(random_model(), tmp_path))
    chosen = select_prompt_runner(backbone, "triton")
    assert (chosen.name, "cannot serve: weights are torch.float32" in chosen.reason) == ("eager", True)
    assert "like the eager backend" in select_prompt_runner(backbone, "eager").reason


@pytest.mark.parametrize("change", [lambda x: 1.1 * x, lambda x: x / 0, lambda x: x.view(7, 7)])
def test_a_runner_that_fails_its_trial_is_left_with_a_reason(tmp_path, monkeypatch, change):
    """A fake stands in: inexact, not a number, failing. It serves if it is right."""
    backbone = load(save(random_model(), tmp_path))

    class Fake(EagerPrompt):
        def run(self, *args):
            return tuple(self.change(x) for x in super().run(*args))

    monkeypatch.setattr(triton_prompt, "why_not", lambda *_: None)
    monkeypatch.setattr(triton_prompt, "TritonPrompt", lambda backbone: Fake(backbone, "fits"))
    Fake.change = staticmethod(change)
    before = list(backbone.executed_L)
    chosen = select_prompt_runner(backbone, "triton")
    assert type(chosen) is EagerPrompt
    assert "captured prompt passes failed their trial" in chosen.reason
    Fake.change = staticmethod(lambda x: x)
    assert type(select_prompt_runner(backbone, "triton")) is Fake
    assert type(select_prompt_runner(backbone, "graph")) is EagerPrompt
    assert backbone.executed_L == before
