"""A few hundred inputs of each part; `python -m tests.fuzz` runs as many as one likes."""

from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import main
from tests.fuzz.parts import PARTS, Part


@pytest.mark.parametrize("name", PARTS)
def test_inputs_of_every_part(name):
    part = PARTS[name]

    # Nothing to shrink: an input is made from a seed.
    @settings(max_examples=part.examples, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32 - 1).map(Random))
    def inputs(rng):
        part.check(part.make(rng))

    inputs()


def test_the_command_counts_and_keeps_what_failed(tmp_path, capsys, monkeypatch):
    assert main(["--only", "3", "--out", str(tmp_path / "none")]) == 0
    assert f"{len(PARTS)} inputs in" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()

    monkeypatch.setitem(PARTS, "wrong", Part("wrong", Random.random, lambda number: {}[number], 1, 1, 1))
    assert main(["--only", "3", "--seed", "8", "--part", "wrong", "--out", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "FAILED: wrong 3" in out
    assert "1 inputs in" in out
    kept = (tmp_path / "wrong-8-3.txt").read_text()
    assert f"KeyError: {kept.split()[0]}" in kept
