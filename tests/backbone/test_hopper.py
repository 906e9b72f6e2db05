"""The hopper backend without a GPU: the kernel's own source under an emulator of its primitives, and its refusals."""

from dataclasses import replace

import pytest
import torch
from hopper import GRID, SHAPE_2, SHAPE_7, Emulator, build, emulated, small_layout

from layerroute.backbone.hopper import compiler, stepper
from layerroute.backbone.hopper.layout import choose_layout, stride_of, why_not_shape
from layerroute.backbone.hopper.stepper import HopperStepper
from layerroute.backbone.kv_cache import Visit, visits_of
from layerroute.benchmark import SHAPES
from layerroute.errors import KernelError
from layerroute.program import LayerProgram


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build(tmp_path_factory.mktemp("hopper"), SHAPE_7)


@torch.inference_mode()
def compare(model, visits, start, ids, bound=1e-2):
    backbone, reference, made, _ = model
    exact, ours = reference.new_cache(5, 400), backbone.new_cache(5, 400)
    for tensor in (exact.keys_SKTH, exact.values_SKTH):
        tensor.fill_(float("nan"))
    if start:
        reference.forward(torch.arange(start) % 297, 0, visits, exact)
    for theirs, mine in ((exact.keys_SKTH, ours.keys_SKTH), (exact.values_SKTH, ours.values_SKTH)):
        mine.copy_(theirs)
        theirs.copy_(mine)
    before = ours.keys_SKTH.clone(), ours.values_SKTH.clone()
    expected_V = reference.logits(reference.forward(torch.tensor(ids), start, visits, exact)[-1:])[0]
    executed = list(backbone.executed_L)
    logits_V = made.step(ids, start, visits, ours).clone()
    assert float((logits_V - expected_V).norm() / expected_V.norm()) < bound
    assert sum(backbone.executed_L) - sum(executed) == len(ids) * len(visits)
    used = sorted({visit.slot for visit in visits})
    end = start + len(ids)
    for mine, theirs, was in zip(
        (ours.keys_SKTH, ours.values_SKTH), (exact.keys_SKTH, exact.values_SKTH), before, strict=True
    ):
        written = mine[used][:, :, start:end].float()
        torch.testing.assert_close(written, theirs[used][:, :, start:end], atol=3e-2, rtol=2e-2)
        mine[used, :, start:end] = was[used, :, start:end]
        assert torch.equal(mine.view(torch.int16), was.view(torch.int16))  # nothing else was written
    return logits_V


@emulated
@pytest.mark.parametrize("blocks", [(0, 1, 2), (0, 2), (2, 0), (1, 1, 2, 1), ()], ids=str)
def test_programs(model, blocks):
    # Without a block nothing but the vector is rounded, and what that loses is multiplied too.
    compare(model, visits_of(LayerProgram(blocks, 3), "sequence"), 40, [5], bound=1e-2 if blocks else 2e-5)


@emulated
def test_slots_are_those_of_the_visits(model):
    compare(model, (Visit(2, 4), Visit(0, 1)), 21, [7])


@emulated
def test_other_sizes_and_switches(tmp_path):
    """Two KV heads, a matrix that leaves CTAs without rows, two copies of the hand-off buffers, one slot under way."""
    other = build(tmp_path, SHAPE_2, max_splits=4, copies=2, in_flight=1, trace=9)
    other[2].delay = (900, 0, 50, 0, 300, 20)
    compare(other, visits_of(LayerProgram((0, 2, 2), 3), "sequence"), 70, [5])
    readings = other[2].trace
    assert (readings.diff() >= 0).all()
    assert (readings[0] > 0).all()


@emulated
@pytest.mark.parametrize("start", [0, 1, 15, 16, 33, 290, 370])
def test_positions(model, start):
    """No position, an empty split, tiles that are not full, more tiles than a warp fetches ahead."""
    compare(model, (Visit(1, 0),), start, [5])


@emulated
def test_a_piece_equals_its_tokens_and_repeats_bit_by_bit(model):
    made = model[2]
    visits = (Visit(0, 0), Visit(2, 2))
    piece = compare(model, visits, 22, [5, 9])
    caches = [model[0].new_cache(3, 64) for _ in range(2)]
    for cache in caches:
        cache.keys_SKTH.zero_()
        cache.values_SKTH.zero_()
    whole = made.step([5, 9], 22, visits, caches[0]).clone()
    for offset, token in enumerate([5, 9]):
        made.step([token], 22 + offset, visits, caches[1])
    assert torch.equal(whole, made.kernels.logits_V)
    assert torch.equal(caches[0].keys_SKTH, caches[1].keys_SKTH)
    assert not torch.equal(whole, piece)


@emulated
def test_a_missing_cta_ends_in_an_error_and_not_in_a_hang(model, tmp_path):
    backbone = model[0]
    layout = replace(small_layout(backbone.config), spin_looks=300)
    emulator = Emulator(layout, tmp_path)
    made = HopperStepper(backbone, layout, emulator)
    emulator.ctas = GRID - 1
    cache = backbone.new_cache(3, 32)
    assert made.step([5], 0, (Visit(0, 0),), cache).isnan().any()
    with pytest.raises(KernelError, match="waited too long"):
        made.step([5], 0, (Visit(0, 0),), cache)


class Gpu:
    """What `why_not` asks of torch about a GPU."""

    multi_processor_count = 132

    def __init__(self, monkeypatch, capability=(9, 0), free=1 << 34):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: self)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1 << 37))


CUDA = torch.device("cuda")
SERVED = SHAPES["Qwen2.5-0.5B"]


@pytest.mark.parametrize(
    ("gpu", "dtype", "shape", "reason"),
    [
        ({"capability": (10, 0)}, torch.bfloat16, SERVED, "the GPU has compute capability 10.0"),
        ({"capability": (8, 0)}, torch.bfloat16, SERVED, "the GPU has compute capability 8.0"),
        ({}, torch.float16, SERVED, "weights are torch.float16"),
        ({}, torch.bfloat16, SHAPES["Qwen2.5-1.5B"], "head_dim is 128"),
        ({}, torch.bfloat16, replace(SERVED, num_heads=32), "16 query heads share a KV head"),
        ({}, torch.bfloat16, replace(SERVED, intermediate_size=4860), "multiples of 32"),
        ({}, torch.bfloat16, replace(SERVED, hidden_size=2048), "more than 8 rows"),
        ({"free": 1 << 20}, torch.bfloat16, SERVED, "1 MiB of device memory are free"),
    ],
)
def test_refusals(monkeypatch, gpu, dtype, shape, reason):
    Gpu(monkeypatch, **gpu)
    assert reason in stepper.why_not(shape, dtype, CUDA)


def test_a_missing_package_or_compiler_is_named(monkeypatch):
    Gpu(monkeypatch)
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    assert "cuda-bindings is not installed: pip install layerroute[hopper]" in stepper.why_not(
        SERVED, torch.bfloat16, CUDA
    )
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(compiler, "nvrtc_version", lambda: (_ for _ in ()).throw(RuntimeError("no libnvrtc.so")))
    assert "cannot be loaded (no libnvrtc.so)" in stepper.why_not(SERVED, torch.bfloat16, CUDA)
    monkeypatch.setattr(compiler, "nvrtc_version", lambda: (13, 0))
    assert stepper.why_not(SERVED, torch.bfloat16, CUDA) is None


@pytest.mark.parametrize("grid", [114, 128, 132])
@pytest.mark.parametrize(("hidden", "heads", "kv", "intermediate"), [(896, 14, 2, 4864), (256, 4, 1, 768)])
def test_every_row_falls_to_one_cta_and_fits_its_slot(grid, hidden, heads, kv, intermediate):
    config = replace(SERVED, hidden_size=hidden, num_heads=heads, num_kv_heads=kv, intermediate_size=intermediate)
    assert why_not_shape(config, grid) is None
    layout = choose_layout(config, grid)
    assert layout.qkv_rows * grid >= config.qkv_size
    assert layout.hidden_rows * grid >= hidden
    assert layout.gate_up_count * grid >= intermediate
    assert 8 * stride_of(hidden) <= layout.slot_bytes
    assert layout.hidden_rows * stride_of(64 * layout.down_chunks) <= layout.slot_bytes
    assert layout.slots * layout.slot_bytes < layout.shared_limit


@pytest.mark.skipif(compiler.why_not_compile() is not None, reason=str(compiler.why_not_compile()))
def test_the_source_compiles_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    layout = choose_layout(SERVED)
    first = compiler.compiled(layout)
    assert first.startswith(b"\x7fELF")
    monkeypatch.setattr(compiler, "compile_source", lambda *_: pytest.fail("compiled again"))
    assert compiler.compiled(layout) == first


@pytest.mark.skipif(compiler.why_not_compile() is not None, reason=str(compiler.why_not_compile()))
def test_a_source_that_does_not_compile_shows_the_log():
    with pytest.raises(KernelError, match="undefined"):
        compiler.compile_source("__global__ void f() { g(); }", ["--gpu-architecture=sm_90"])
