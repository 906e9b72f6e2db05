"""A few hundred inputs of each part; `python -m tests.fuzz` runs as many as one likes."""

from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import main
from tests.fuzz.parts import PARTS


@pytest.mark.parametrize("name", PARTS)
def test_inputs_of_every_part(name):
    part = PARTS[name]

    # Nothing to shrink: an input is made from a seed.
    @settings(max_examples=part.examples, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32 - 1).map(Random))
    def inputs(rng):
        part.check(part.make(rng))

    inputs()


def test_the_command_counts_and_tells_of_a_failure(tmp_path, capsys, monkeypatch):
    assert main(["--inputs", "40", "--part", "options", "--processes", "1", "--out", str(tmp_path / "none")]) == 0
    assert "40 inputs in" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
