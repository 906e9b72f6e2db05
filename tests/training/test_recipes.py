"""Recipes, their settings, and the learning rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerroute_training.config import ScheduleConfig, SkipTarget, override
from layerroute_training.errors import ConfigError
from layerroute_training.recipes import PAPER_CORPORA, RECIPES, default, embedded, paper, recipe
from layerroute_training.schedule import rate_factor


def test_the_paper_is_as_published():
    config = paper()
    assert [corpus.name for corpus in config.data.corpora] == list(PAPER_CORPORA)
    assert {corpus.limit for corpus in config.data.corpora} == {5_000}
    assert (config.lora.rank, config.lora.alpha, config.lora.dropout) == (8, 16, 0.05)
    assert (config.routers.run_bias, config.routers.band_bias) == (1.0, -1.0)
    assert (config.routers.pooling, config.routers.scope, config.routers.noise) == ("padded", "sequence", False)
    assert config.objective.penalty == 1.0
    assert config.schedule.batch * config.schedule.accumulation == 16
    rates = [rate_factor(config.schedule, update) for update in range(config.schedule.updates + 1)]
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx(0.85, abs=0.005)  # the published cosine never completes


def test_the_default_asks_for_a_differential():
    config = default()
    assert (config.objective.tool_call, config.objective.planning) == (SkipTarget(skip=0.325), SkipTarget(skip=0.01))
    assert config.routers.scope == "generation"
    assert config.routers.band_bias is None


def test_the_embedded_recipe_weighs_groups_and_kinds(tmp_path):
    for name in ("toolcall", "planning", "general"):
        (tmp_path / name).mkdir()
    config = embedded([str(tmp_path)])
    assert config.model == "embedded"
    assert [(corpus.name, corpus.group) for corpus in config.data.corpora] == [
        (str(tmp_path / "toolcall"), "corpora"),
        (str(tmp_path / "planning"), "corpora"),
        ("generated", "generated"),
    ]
    assert sum(config.data.mixture.values()) == pytest.approx(1.0)
    assert {key.partition("/")[0] for key in config.data.mixture} == {"corpora", "generated"}


@pytest.mark.parametrize("name", RECIPES)
def test_corpora_can_be_given(name):
    given_names = [corpus.name for corpus in recipe(name, ["mine.jsonl"]).data.corpora]
    assert [name for name in given_names if name != "generated"] == ["mine.jsonl"]


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ConfigError, match="default, embedded, paper"):
        recipe("secret")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("schedule.update=3", "schedule.update: Extra inputs"),
        ("optimiser.rate=1", "no 'optimiser'; known keys here: .*schedule"),
        ("objective.tool_call.skip=1.2", "skip.*less than or equal to 1"),
        ("objective.planning.skip=-0.1", "skip.*greater than or equal to 0"),
        ("schedule.updates=0", "greater than or equal to 1"),
        ("seed", "write key=value"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        override(default(), [setting])


@st.composite
def schedules(draw):
    updates = draw(st.integers(2, 300))
    return ScheduleConfig(
        updates=updates,
        warmup=draw(st.integers(0, updates - 1)),
        shape=draw(st.sampled_from(["cosine", "trapezoid"])),
        decay_from=draw(st.floats(0, 0.9)),
    )


@given(schedules())
def test_rates_rise_then_fall_to_nearly_zero(schedule):
    rates = [rate_factor(schedule, update) for update in range(schedule.updates)]
    warm = rates[: schedule.warmup]
    assert all(0 < rate <= 1 for rate in rates)
    assert warm == sorted(warm)
    assert rates[schedule.warmup :] == sorted(rates[schedule.warmup :], reverse=True)
    assert rate_factor(schedule, schedule.updates) < 1e-9
