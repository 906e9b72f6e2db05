"""A small model to time, and what counts and clocks its work."""

from collections import Counter
from types import SimpleNamespace

import pytest
from qwen2 import random_model, save
from small_work import talkative_model

from layerroute import benchmark
from layerroute.backbone.config import read_config
from layerroute.backbone.model import Backbone
from layerroute.benchmark import answers, measure, rates


@pytest.fixture(autouse=True)
def _small_work(monkeypatch):
    monkeypatch.setitem(rates.COPY_BYTES, "cpu", 2**16)
    monkeypatch.setitem(rates.MATRIX_SIZE, "cpu", 16)


@pytest.fixture
def folder(tmp_path):
    return save(talkative_model(), tmp_path)


@pytest.fixture
def visits(monkeypatch):
    """Block visits of this engine, counted by (position of the first token, number of tokens)."""
    counted = Counter()
    original = Backbone.run_block

    def run_block(self, hidden, visit, start, *rest):
        counted[start, len(hidden)] += 1
        return original(self, hidden, visit, start, *rest)

    monkeypatch.setattr(Backbone, "run_block", run_block)
    return counted


@pytest.fixture
def clock(monkeypatch):
    """Stands in for the clock: moves only when it is told to."""
    clock = SimpleNamespace(now=0.0, reads=0)

    def perf_counter():
        clock.reads += 1
        return clock.now

    clock.perf_counter = perf_counter
    for module in (answers, measure, rates):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def speaking(tmp_path, monkeypatch):
    """A shape whose vocabulary has room for chat and tool calls, and for words of its own."""
    config = read_config(save(random_model(vocab_size=16500, max_position_embeddings=2048), tmp_path))
    monkeypatch.setitem(benchmark.SHAPES, "Small", config)
    return config
