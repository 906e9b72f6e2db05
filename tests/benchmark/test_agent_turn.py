"""The turn of an agent that is timed."""

import json
from functools import partial

import pytest

from layerroute.cli import main
from layerroute.errors import RequestError


def test_a_turn_runs_what_it_says(speaking, capsys):
    pytest.importorskip("langchain")
    from langchain_layerroute.benchmark import time_agent_turns

    found = time_agent_turns(shape="Small", turns=1)
    turns = found.turns
    assert found.failed == {}
    assert {turn.program for turn in turns} == {"0-1,4-5", "0-5"}
    assert [(turn.fast_forward, turn.router) for turn in turns] == [
        (True, "static"),
        (False, "static"),
        (True, "full"),
        (False, "full"),
    ]
    for turn in turns:
        fed = turn.generated_tokens - 1  # the end token is not
        visits = 4 if turn.router == "static" else 6
        assert (turn.visits_executed, turn.visits_skipped) == (fed * visits, fed * (6 - visits))
        assert (turn.fast_forwarded_tokens > 10) == turn.fast_forward
        assert turn.decode_steps < fed if turn.fast_forward else turn.decode_steps == fed
        assert set(turn.call) == {"title", "date", "time"}
        assert 30 <= len(turn.call["title"]) <= 60
        assert turn.turn_ms > turn.decode_ms > 0
    assert main(["bench", "--agent-turn", "--shape", "Small", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out.splitlines()[-1])["agent_turns"]) == 4
    assert "random weights: the call is forced" in err


def test_a_turn_of_an_unknown_shape_is_refused():
    pytest.importorskip("langchain")
    from langchain_layerroute.benchmark import time_agent_turns

    with pytest.raises(RequestError, match=r"Qwen2\.5-7B"):
        time_agent_turns(shape="Qwen9")


def test_a_kind_of_turn_that_fails_leaves_the_others(speaking, capsys, monkeypatch):
    pytest.importorskip("langchain")
    from langchain_layerroute import benchmark

    monkeypatch.setattr(benchmark, "time_agent_turns", partial(benchmark.time_agent_turns, turns=1))
    original = benchmark._turn

    def turn(model, number, **options):
        if model.router == "full":
            raise RuntimeError("no call")
        return original(model, number, **options)

    monkeypatch.setattr(benchmark, "_turn", turn)
    assert main(["bench", "--agent-turn", "--shape", "Small", "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    failed = {f"full depth, fast-forward {state}": "RuntimeError: no call" for state in ("on", "off")}
    assert document["failed"] == failed
    assert [turn["router"] for turn in document["agent_turns"]] == ["static", "static"]
    assert "failed: full depth, fast-forward on (RuntimeError: no call)" in " ".join(err.split())


def test_ctrl_c_keeps_the_turns_that_are_timed(speaking, monkeypatch):
    pytest.importorskip("langchain")
    from langchain_layerroute import benchmark

    original = benchmark._turn

    def turn(model, number, **options):
        if number == 100 + 3 * 4 + 1:  # the second kind, in the second timed turn
            raise KeyboardInterrupt
        return original(model, number, **options)

    monkeypatch.setattr(benchmark, "_turn", turn)
    found = benchmark.time_agent_turns(shape="Small")
    assert found.failed["routed, fast-forward off"] == "interrupted"
    assert [turn.turns for turn in found.turns] == [2, 1, 1, 1]
