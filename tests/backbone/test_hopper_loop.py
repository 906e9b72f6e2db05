"""The loop on the device over the hopper backend: its kernel under the emulator, draws under Triton's interpreter.

`TRITON_INTERPRET` must be set before Triton is first imported, which other tests may have done: a process of its own.
"""

from dataclasses import replace

import pytest
import torch
from hopper import GRID, SHAPE_7, Emulator, build, emulated, small_layout
from interpreter import interpreted, pass_under_the_interpreter

from layerroute.backbone.hopper.stepper import HopperStepper
from layerroute.backbone.kv_cache import Visit
from layerroute.backbone.stepper import DeviceStepper
from layerroute.backbone.token_mask import pack
from layerroute.backbone.triton_loop import DrawRule, TritonLoop
from layerroute.engine.request import Sampling
from layerroute.engine.token_loop import TokenLoops
from layerroute.errors import KernelError

pytest.importorskip("triton", reason="Triton is not installed")

V, START = SHAPE_7["vocab_size"], 6
VISITS = (Visit(2, 2), Visit(0, 0))
GREEDY = DrawRule(0.0, 0, 1.0, 0)


def test_under_the_interpreter():
    pass_under_the_interpreter(__file__)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build(tmp_path_factory.mktemp("hopper"), SHAPE_7)


def prompt(backbone):
    """A cache after a prompt, and the logits of the next token."""
    cache = backbone.new_cache(3, 48)
    cache.keys_SKTH.zero_()
    cache.values_SKTH.zero_()
    hidden_TD = backbone.forward(torch.arange(START), 0, VISITS, cache)
    return cache, backbone.logits(hidden_TD[-1:])[0]


@emulated
@interpreted
@pytest.mark.filterwarnings("ignore:divide by zero")
@torch.inference_mode()
def test_the_device_draws_the_tokens_that_steps_give(model):
    """Draws that run ahead, a mask, and tokens of the host in between; every token is counted once."""
    backbone, _, made, _ = model
    assert isinstance(made, DeviceStepper)
    mask_V = torch.arange(V) % 3 == 1
    cache, logits_V = prompt(backbone)
    expected, position = [], START
    for fed in ((), (7, 8), ()):
        for mask in (None, mask_V):
            allowed_V = logits_V if mask is None else logits_V.masked_fill(~mask, -torch.inf)
            expected.append(int(allowed_V.argmax()))
            pieces = (expected[-1], *fed) if mask is not None else (expected[-1],)
            logits_V = made.step(pieces, position, VISITS, cache)
            position += len(pieces)
    keys = cache.keys_SKTH.clone()

    loops = TokenLoops(backbone, made, frozenset((V,)))
    assert loops.reason == "the loop runs on the device"
    cache, logits_V = prompt(backbone)
    executed = list(backbone.executed_L)
    loop = loops.start(Sampling(), logits_V, START, VISITS, cache)
    for fed in ((), (7, 8), ()):
        for mask in (None, mask_V):
            loop.sample(None if mask is None else pack(mask))
            loop.step()
        if fed:
            loop.feed(fed)
    loop.sample(None)
    assert [loop.take() for _ in expected] == expected
    loop.take()
    assert torch.equal(cache.keys_SKTH, keys)
    counted = [after - before for before, after in zip(executed, backbone.executed_L, strict=True)]
    assert counted == [len(expected) + 2, 0, len(expected) + 2]


@emulated
@interpreted
@torch.inference_mode()
def test_a_step_that_was_given_up_is_named(model, tmp_path):
    backbone = model[0]
    layout = replace(small_layout(backbone.config), spin_looks=300)
    emulator = Emulator(layout, tmp_path)
    given_up = HopperStepper(backbone, layout, emulator)
    loop = TritonLoop(backbone, given_up)
    cache, logits_V = prompt(backbone)
    loop.begin(logits_V, START, VISITS, cache, GREEDY, frozenset())
    loop.sample(None)
    emulator.ctas = GRID - 1
    loop.step()
    loop.sample(None)
    loop.take()
    with pytest.raises(KernelError, match="waited too long"):
        loop.take()
