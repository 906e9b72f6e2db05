"""Which backend is chosen, and that one which cannot work is left with a reason. Fakes stand in for GPU backends."""

import pytest
import torch
from qwen2 import load, random_model, save

from layerroute.backbone import cuda_graph, stepper, triton_step
from layerroute.backbone.stepper import EagerStepper, make_stepper, select_stepper
from layerroute.errors import RequestError


@pytest.fixture
def backbone(tmp_path, monkeypatch):
    """A backbone on the CPU for which both fast backends are tried."""
    monkeypatch.setattr(stepper, "_fast_backends", lambda device: ("triton", "graph"))
    monkeypatch.setattr(stepper, "_why_not", lambda backbone, name: None)
    return load(save(random_model(), tmp_path))


def works(name, change=lambda logits_V: logits_V):
    """A backend that gives the eager logits, changed."""

    class Fake(EagerStepper):
        def __init__(self, backbone):
            super().__init__(backbone, f"{name} fits")
            self.name = name

        def step(self, ids, start, visits, cache):
            return change(super().step(ids, start, visits, cache))

    return Fake


def fails(message):
    def construct(backbone):
        raise ValueError(message)

    return construct


def install(monkeypatch, triton, graph):
    monkeypatch.setattr(triton_step, "TritonStepper", triton)
    monkeypatch.setattr(cuda_graph, "GraphStepper", graph)


def test_triton_comes_first(backbone, monkeypatch):
    install(monkeypatch, works("triton"), fails("not reached"))
    chosen = select_stepper(backbone)
    assert (chosen.name, chosen.reason) == ("triton", "triton fits")


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x.view(2, 7, 3)], ids=["good", "failing"])
def test_a_trial_counts_no_visits(backbone, monkeypatch, change):
    install(monkeypatch, works("triton", change), fails("not reached"))
    before = list(backbone.executed_L)
    select_stepper(backbone)
    assert backbone.executed_L == before


def test_graph_serves_where_triton_fails(backbone, monkeypatch):
    install(monkeypatch, fails("no compiler\nwith details"), works("graph"))
    chosen = select_stepper(backbone)
    assert chosen.name == "graph"
    assert chosen.reason == "graph fits; the triton backend failed its trial: ValueError: no compiler"


def test_eager_serves_where_all_else_fails(backbone, monkeypatch):
    install(monkeypatch, fails("no compiler"), fails(""))
    chosen = select_stepper(backbone)
    assert chosen.name == "eager"
    assert "triton backend failed its trial: ValueError: no compiler; the graph backend failed" in chosen.reason


def stale():
    """Gives the logits of its first step for ever, as a graph that captured nothing would."""
    kept = []
    return lambda logits_V: (kept.append(logits_V), kept[0])[1]


@pytest.mark.parametrize(
    "change", [lambda x: 1.01 * x, lambda x: x * float("nan"), stale()], ids=["inexact", "not a number", "stale"]
)
def test_wrong_logits_are_found(backbone, monkeypatch, change):
    install(monkeypatch, works("triton", change), works("graph", lambda x: (1 + 1e-5) * x))
    chosen = select_stepper(backbone)
    assert chosen.name == "graph"
    assert "logits differ from the eager ones by" in chosen.reason


def test_an_error_while_stepping_is_found(backbone, monkeypatch):
    def launch(logits_V):
        raise RuntimeError("launch failed")

    install(monkeypatch, works("triton", launch), works("graph"))
    chosen = select_stepper(backbone)
    assert (chosen.name, "RuntimeError: launch failed" in chosen.reason) == ("graph", True)


def test_what_cannot_serve_is_not_even_tried(backbone, monkeypatch):
    install(monkeypatch, fails("not reached"), works("graph"))
    monkeypatch.setattr(stepper, "_why_not", lambda backbone, name: "too old" if name == "triton" else None)
    assert select_stepper(backbone).reason == "graph fits; the triton backend cannot serve: too old"


def test_a_cpu_is_served_by_eager(tmp_path):
    backbone = load(save(random_model(), tmp_path))
    chosen = select_stepper(backbone)
    assert (chosen.name, chosen.reason) == ("eager", "the device is cpu")


@pytest.mark.parametrize("name", ["hopper", "triton", "graph"])
def test_a_backend_asked_for_by_name_is_refused_with_the_reason(tmp_path, name):
    backbone = load(save(random_model(), tmp_path))
    with pytest.raises(RequestError, match=f"the {name} backend cannot serve: "):
        make_stepper(backbone, name)
    with pytest.raises(RequestError, match="unknown backend 'warp'"):
        make_stepper(backbone, "warp")


def test_every_dtype_an_engine_takes_has_a_bound():
    assert set(stepper.MAX_DIFFERENCE) == {torch.float32, torch.bfloat16, torch.float16}
