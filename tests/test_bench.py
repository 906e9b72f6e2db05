"""The benchmark measures what it says it measures; how fast that is, no test judges."""

import json

import pytest
from qwen2 import random_model, save

from layerroute import benchmark
from layerroute.cli import main
from layerroute.errors import RequestError


@pytest.fixture
def folder(tmp_path):
    return save(random_model(), tmp_path)


def test_every_program_length_is_timed_by_the_blocks_it_runs(folder, monkeypatch):
    ran = []
    original = benchmark.Backbone.run_block
    monkeypatch.setattr(
        benchmark.Backbone,
        "run_block",
        lambda self, hidden, visit, *rest: (ran.append(len(hidden)), original(self, hidden, visit, *rest))[1],
    )
    result = benchmark.run(str(folder), context=20, steps=10)
    lengths = [entry.num_visits for entry in result.programs]
    assert lengths == [0, 1, 3, 4, 5, 6]
    assert ran.count(1) == sum(lengths) * (10 + 5)  # timed steps and warm-up, none left out
    assert all(
        entry.us_per_token > 0 and entry.us_p10 <= entry.us_per_token <= entry.us_p90 for entry in result.programs
    )


def test_command_prints_one_json_document_last(folder, capsys):
    assert main(["bench", "--model", str(folder), "--context", "16", "--steps", "4"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out.splitlines()[-1])
    assert document["backend"] == "eager"
    assert len(document["programs"]) == 6
    assert "tokens/s" in err
    assert main(["bench", "--model", str(folder), "--context", "16", "--steps", "4", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    json.loads(out)


def test_what_cannot_be_timed_is_refused(folder):
    with pytest.raises(RequestError, match="window"):
        benchmark.run(str(folder), context=250, steps=10)
    with pytest.raises(RequestError, match=r"Qwen2\.5-7B"):
        benchmark.run(shape="Qwen9")
    with pytest.raises(RequestError, match="unknown backend 'warp': use 'auto', 'triton', 'graph' or 'eager'"):
        benchmark.run(str(folder), context=20, steps=4, backend="warp")
    with pytest.raises(RequestError, match="the device is cpu"):
        benchmark.run(str(folder), context=20, steps=4, backend="graph")


def test_the_backend_asked_for_is_timed(folder):
    assert benchmark.run(str(folder), context=20, steps=4, backend="eager").backend_reason == "asked for by name"
