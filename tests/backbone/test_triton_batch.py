"""The kernels for several rows under Triton's interpreter, on a CPU in float32, against single rows on eager.

`TRITON_INTERPRET` must be set before Triton is first imported, which other tests may have done: a process of its own.
"""

from dataclasses import replace

import pytest
import torch
from interpreter import interpreted, pass_under_the_interpreter
from qwen2 import load, random_model, save

from layerroute.backbone import triton_batch
from layerroute.backbone.batch import Row, RowByRow, group_by_program, select_batch_stepper
from layerroute.backbone.kv_cache import Visit, visits_of
from layerroute.backbone.stepper import EagerStepper
from layerroute.backbone.triton_batch import TritonBatchStepper, why_not
from layerroute.backbone.triton_tiling import AttentionTile, BatchTile, choose_batch_tiling
from layerroute.benchmark import SHAPES
from layerroute.errors import RequestError
from layerroute.program import LayerProgram

pytest.importorskip("triton", reason="Triton is not installed")


def test_under_the_interpreter():
    pass_under_the_interpreter(__file__)


def backends(folder, **changes):
    """A small backbone, and a stepper whose tiles are so small that every loop goes round more than once."""
    backbone = load(save(random_model(num_hidden_layers=3, **changes), folder))
    tiling = choose_batch_tiling(backbone.config, multiprocessors=1)
    hidden = BatchTile(min(16, backbone.config.head_dim), columns=16)
    small = {"qkv": hidden, "output": hidden, "gate_up": hidden, "down": hidden, "lm_head": replace(hidden, rows=16)}
    return backbone, TritonBatchStepper(
        backbone, replace(tiling, **small, output_heads=1, down_parts=3, attention=AttentionTile(4, 4))
    )


@torch.inference_mode()
def rows_at(backbone, visits, positions, tokens):
    """Rows over caches of six slots that hold so many positions, and NaN wherever nothing may be read or written."""
    rows = []
    for position, token in zip(positions, tokens, strict=True):
        cache = backbone.new_cache(6, 40)
        for tensor in (cache.keys_SKTH, cache.values_SKTH):
            tensor.fill_(float("nan"))
        if position:
            backbone.forward(torch.arange(position) + token, 0, visits, cache)
        rows.append(Row(token, position, cache))
    return rows


@torch.inference_mode()
def compare(backbone, stepper, visits, positions, tokens):
    near = {"atol": 1e-4, "rtol": 0, "equal_nan": True}
    ours, theirs = rows_at(backbone, visits, positions, tokens), rows_at(backbone, visits, positions, tokens)
    before = list(backbone.executed_L)
    expected = RowByRow(EagerStepper(backbone, "the reference")).step(theirs, visits)
    between = list(backbone.executed_L)
    torch.testing.assert_close(stepper.step(ours, visits), expected, **near)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.cache.keys_SKTH, other.cache.keys_SKTH, **near)
        torch.testing.assert_close(mine.cache.values_SKTH, other.cache.values_SKTH, **near)
    gained = [b - a for a, b in zip(before, between, strict=True)]
    assert [b - a for a, b in zip(between, backbone.executed_L, strict=True)] == gained


@interpreted
@pytest.mark.filterwarnings("ignore:divide by zero")  # an empty split has a weight of zero
@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 2, "num_key_value_heads": 2},
        {"hidden_size": 40, "head_dim": 8, "intermediate_size": 52},
        {"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 8},
    ],
)
def test_shapes(tmp_path, changes):
    backbone, stepper = backends(tmp_path, **changes)
    compare(backbone, stepper, visits_of(LayerProgram((0, 1, 2), 3), "sequence"), [17, 0, 3], [5, 96, 7])


@interpreted
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_one_stepper_serves_every_program_and_number_of_rows(tmp_path):
    backbone, stepper = backends(tmp_path)
    for blocks, positions in [((0, 2), [6]), ((2, 0), [1, 39]), ((1, 1, 2), [4, 5, 6]), ((), [3, 9])]:
        visits = visits_of(LayerProgram(blocks, 3), "sequence")
        compare(backbone, stepper, visits, positions, range(5, 5 + len(positions)))
    compare(backbone, stepper, (Visit(2, 5), Visit(0, 1)), [6], [5])


@interpreted
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_row_does_not_depend_on_its_neighbours(tmp_path):
    """Bit by bit: alone, and among more rows than one tile has lines."""
    backbone, stepper = backends(tmp_path)
    visits = visits_of(LayerProgram((1,), 3), "sequence")
    alone = stepper.step(rows_at(backbone, visits, [11], [42]), visits)[0].clone()
    positions, tokens = [2] * 16 + [11], [*range(16), 42]
    assert torch.equal(stepper.step(rows_at(backbone, visits, positions, tokens), visits)[16], alone)


@torch.inference_mode()
def test_single_rows_one_after_the_other(tmp_path):
    """Any single-row backend serves a batch; its logits outlive the next row's step."""
    backbone = load(save(random_model(), tmp_path))
    visits = visits_of(LayerProgram.identity(6), "generation")
    single = EagerStepper(backbone, "the reference")
    logits = RowByRow(single).step(rows_at(backbone, visits, [4, 9], [1, 2]), visits)
    for index, row in enumerate(rows_at(backbone, visits, [4, 9], [1, 2])):
        assert torch.equal(logits[index], single.step([row.token], row.position, visits, row.cache))


@pytest.mark.parametrize("kind", [RowByRow, "triton"])
def test_batches_that_no_step_can_serve(tmp_path, kind):
    backbone = load(save(random_model(), tmp_path))
    stepper = TritonBatchStepper(backbone) if kind == "triton" else kind(EagerStepper(backbone, "the reference"))
    row = Row(1, 0, backbone.new_cache(6, 8))
    for rows, message in [([], "1 to 32 rows, not 0"), ([row] * 33, "not 33"), ([row, row], "share a KV cache")]:
        with pytest.raises(RequestError, match=message):
            stepper.step(rows, ())


def test_a_cpu_is_served_row_by_row(tmp_path):
    backbone = load(save(random_model(), tmp_path))
    chosen = select_batch_stepper(backbone, EagerStepper(backbone, "the device is cpu"))
    assert (chosen.name, chosen.reason) == (
        "eager",
        "one row after the other: the device is cpu; the kernels for several rows cannot serve: "
        "weights are torch.float32, and the kernels for several rows take bfloat16",
    )


@pytest.mark.parametrize("change", [lambda x: x.roll(1, 0), lambda x: 1.1 * x, lambda x: x / 0, lambda x: x.view(7, 7)])
def test_kernels_that_fail_their_trial_are_left_with_a_reason(tmp_path, monkeypatch, change):
    """A fake stands in for the kernels: rows mixed up, inexact, not a number, failing. It serves if it is right."""
    backbone = load(save(random_model(), tmp_path))
    single = EagerStepper(backbone, "the device is a fake")

    class Fake(RowByRow):
        def step(self, rows, visits):
            return self.change(super().step(rows, visits))

    monkeypatch.setattr(triton_batch, "why_not", lambda *_: None)
    monkeypatch.setattr(triton_batch, "TritonBatchStepper", lambda _: Fake(single))
    Fake.change = staticmethod(change)
    before = list(backbone.executed_L)
    chosen = select_batch_stepper(backbone, single)
    assert type(chosen) is RowByRow
    assert "the kernels for several rows failed their trial" in chosen.reason
    Fake.change = staticmethod(lambda x: x)
    assert type(select_batch_stepper(backbone, single)) is Fake
    assert backbone.executed_L == before


def test_rows_are_grouped_by_program():
    a, b = (Visit(0, 0),), (Visit(1, 1),)
    assert group_by_program([a, b, a, b, b]) == [[0, 2], [1, 3, 4]]
    assert [len(group) for group in group_by_program([a] * 70)] == [32, 32, 6]
    assert group_by_program([]) == []


@pytest.mark.parametrize("name", SHAPES)
def test_tiles_and_parts_cover_every_qwen_shape(name):
    """Tiles of pairs lie within heads; parts of a product hold all of its columns, and each holds some."""
    c, t = SHAPES[name], choose_batch_tiling(SHAPES[name])
    assert c.head_dim % t.qkv.rows == 0
    assert c.num_heads % t.output_heads == 0
    length = t.down_length(c.intermediate_size)
    assert length % t.down.columns == 0
    assert length * t.down_parts >= c.intermediate_size


def test_a_dtype_or_device_it_cannot_serve_says_why():
    config = SHAPES["Qwen2.5-0.5B"]
    assert "float16" in why_not(config, torch.float16, torch.device("cuda"))
    assert why_not(config, torch.bfloat16, torch.device("cpu")) == "the device is cpu, not a CUDA GPU"
