"""The Triton backend's kernels under Triton's interpreter, on a CPU in float32, against the eager reference.

`TRITON_INTERPRET` must be set before Triton is first imported, which other tests may have done: a process of its own.
"""

from dataclasses import replace

import pytest
import torch
from interpreter import interpreted, pass_under_the_interpreter
from qwen2 import load, random_model, save

from layerroute.backbone.kv_cache import Visit, visits_of
from layerroute.backbone.triton_step import TritonStepper, why_not
from layerroute.backbone.triton_tiling import AttentionTile, choose_tiling
from layerroute.benchmark import SHAPES
from layerroute.program import LayerProgram

pytest.importorskip("triton", reason="Triton is not installed")


SMALL = {
    "groups of 1": {"num_attention_heads": 2, "num_key_value_heads": 2},
    "groups of 2, odd sizes": {"hidden_size": 40, "head_dim": 8, "intermediate_size": 52},
    "groups of 7": {"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 8},
}
PROGRAMS = [(0, 1, 2), (0, 2), (2, 0), (1, 1, 2, 1), ()]


def test_under_the_interpreter():
    pass_under_the_interpreter(__file__)


def backends(folder, splits=4, **changes):
    """A small backbone, and a stepper whose blocks of positions are so small that splits need several."""
    backbone = load(save(random_model(num_hidden_layers=3, **changes), folder))
    tiling = choose_tiling(backbone.config, multiprocessors=1)
    return backbone, TritonStepper(backbone, replace(tiling, attention={1 << 30: AttentionTile(splits, 4)}))


@torch.inference_mode()
def compare(backbone, stepper, visits, start, ids):
    """Eager and fused step over equal caches of six slots, with poison wherever nothing may be read or written."""
    eager, fused = backbone.new_cache(6, 40), backbone.new_cache(6, 40)
    for tensor in (eager.keys_SKTH, eager.values_SKTH):
        tensor.fill_(float("nan"))
    if start:
        backbone.forward(torch.arange(start), 0, visits, eager)
    fused.keys_SKTH.copy_(eager.keys_SKTH)
    fused.values_SKTH.copy_(eager.values_SKTH)
    executed = list(backbone.executed_L)
    expected = backbone.logits(backbone.forward(torch.tensor(ids), start, visits, eager)[-1:])[0]
    gained = [after - before for before, after in zip(executed, backbone.executed_L, strict=True)]
    logits = stepper.step(ids, start, visits, fused)
    near = {"atol": 1e-4, "rtol": 0, "equal_nan": True}
    torch.testing.assert_close(logits, expected, **near)
    torch.testing.assert_close(fused.keys_SKTH, eager.keys_SKTH, **near)
    torch.testing.assert_close(fused.values_SKTH, eager.values_SKTH, **near)
    total = [after - before for before, after in zip(executed, backbone.executed_L, strict=True)]
    assert total == [2 * count for count in gained]


@interpreted
@pytest.mark.parametrize("shape", SMALL)
def test_shapes(tmp_path, shape):
    backbone, stepper = backends(tmp_path, **SMALL[shape])
    compare(backbone, stepper, visits_of(LayerProgram((0, 1, 2), 3), "sequence"), 17, [5])


@interpreted
def test_one_stepper_serves_every_program_and_cache(tmp_path):
    backbone, stepper = backends(tmp_path)
    for blocks in PROGRAMS:
        compare(backbone, stepper, visits_of(LayerProgram(blocks, 3), "sequence"), 6, [5])
    compare(backbone, stepper, (Visit(2, 5), Visit(0, 1)), 6, [5])


@interpreted
@pytest.mark.filterwarnings("ignore:divide by zero")  # an empty split has a weight of zero
@pytest.mark.parametrize(("start", "splits"), [(0, 4), (1, 4), (13, 16), (39, 4)])
def test_positions_and_pieces(tmp_path, start, splits):
    """Splits that are empty (0, 1, 13), of one position (13), of more than one block (39)."""
    backbone, stepper = backends(tmp_path, splits=splits)
    compare(backbone, stepper, (Visit(1, 0), Visit(1, 3)), start, [5, 96] if start < 2 else [5])


@interpreted
@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("start", [8, 9])
def test_attention_is_cut_by_the_position(tmp_path, start):
    """The last position that two splits of one step reach, and the first one beyond them."""
    backbone, _ = backends(tmp_path)
    reaches = {9: AttentionTile(2, 4), 1 << 30: AttentionTile(4, 4)}
    stepper = TritonStepper(backbone, replace(choose_tiling(backbone.config, 1), attention=reaches))
    compare(backbone, stepper, visits_of(LayerProgram((0, 2), 3), "sequence"), start, [5])


def test_a_device_it_cannot_serve_says_why():
    reason = why_not(SHAPES["Qwen2.5-0.5B"], torch.bfloat16, torch.device("cpu"))
    assert reason == "the device is cpu, not a CUDA GPU"


@pytest.mark.parametrize("name", SHAPES)
def test_every_qwen_shape_gets_enough_programs(name):
    """At least 132 programs a matrix kernel, in tiles that cover whole rows and lie within heads."""
    c, t = SHAPES[name], choose_tiling(SHAPES[name])
    grids = [c.qkv_size // 2 // t.qkv.rows, c.hidden_size // t.output.rows, c.hidden_size // t.down.rows]
    assert min(*grids, t.gate_up_programs, t.lm_head_programs) >= 132
    assert t.qkv.columns >= c.hidden_size
    assert c.head_dim // 2 % t.qkv.rows == 0
    reaches = list(t.attention.items())
    assert all(reach == tile.splits * tile.block + 1 for reach, tile in reaches[:-1])
    assert [reach for reach, _ in reaches] == sorted(reach for reach, _ in reaches)
    assert reaches[-1][0] >= c.max_positions
