"""Numbers are those of the clock; how fast anything is, no test judges."""

import time
from types import SimpleNamespace

import pytest
import torch
from qwen2 import load
from small_work import STEPS

from layerroute import benchmark
from layerroute.backbone.config import read_config
from layerroute.backbone.model import Backbone
from layerroute.benchmark import answers, measure, rates, results, suite
from layerroute.flops import decode_step_bytes
from layerroute.parts import Parts
from layerroute.program import LayerProgram


def test_an_answers_time_is_told_apart_from_its_prompts(clock):
    def generate(num_tokens, on_token):
        clock.now += 5.0
        for token in range(num_tokens):
            clock.now += 0.0 if token == 0 else 1.0
            if on_token:
                on_token()
        return [7] * num_tokens

    timed, tokens = answers.time_generation("ours", generate, 11, [7, 7, 8] + [7] * 8)
    assert tokens == [7] * 11
    assert timed == results.GenerationTime("ours", 11, 5000.0, 15000.0, 1363636.4, 1e6, 1e6, 2)


def test_a_copy_counts_what_is_read_and_written(clock, monkeypatch):
    monkeypatch.setattr(rates, "wait", lambda _: setattr(clock, "now", clock.now + 1.0))
    assert rates.copy_bandwidth(torch.device("cpu")) == 2 * 4 * 2**16 / 1e9
    assert clock.reads == 12  # six groups of four, the first of which warms up


def test_a_product_counts_multiplications_and_additions(clock, monkeypatch):
    monkeypatch.setattr(rates, "wait", lambda _: setattr(clock, "now", clock.now + 1.0))
    assert rates.matrix_rate(torch.device("cpu"), torch.float32) == 2 * 4 * 16**3 / 1e12


def test_a_prompt_is_held_against_what_causality_needs(folder, clock, monkeypatch):
    backbone = load(folder)
    subject = measure.Subject(backbone, suite.make_stepper(backbone, "eager"), 64)
    monkeypatch.setattr(measure, "wait", lambda _: setattr(clock, "now", clock.now + 1e-3))
    timed = subject.time_prompt(7, 20, matrix_rate=1e-6)
    matrices = 20 * (32 * (2 * 32 + 2 * 16) + 3 * 32 * 48)  # weights of a block, once for every new token
    attention = 2 * 32 * sum(range(8, 28))  # scores and values: each new token with all up to itself
    assert timed.flops == 2 * (6 * (matrices + attention) + 32 * 97)
    assert timed.prefill_ms == 1.0
    assert timed.matrix_share == pytest.approx(timed.flops / 1e-3 / 1e6, abs=1e-4)


def test_a_token_through_the_engine_is_held_against_its_step(clock):
    subject = object.__new__(measure.Subject)
    subject.ids = lambda _: ()
    subject._cache = lambda _: None
    seconds = iter([9.0, 1.0, 2.0, 4.0, 1.0, 2.0])  # of ten steps each
    subject._bare_steps = lambda *_: next(seconds)
    report = SimpleNamespace(
        decode=SimpleNamespace(executed=20), generated_tokens=11, milliseconds=SimpleNamespace(mask=30.0)
    )
    spans = {"one": iter([50.0, 1.5, 2.2, 4.4, 1.2, 2.0]), "two": iter([99.0, 3.0, 6.0, 12.0, 3.0, 6.0])}
    engine = SimpleNamespace(answer=lambda span: ([100.0, 101.0, 100.0 + next(span)], report))
    timed = subject.time_engine(engine, spans, LayerProgram((1, 2, 4), 6), 20, 11, Parts())
    assert timed == (
        results.EngineTime("one", 3, 11, 2.0, 200000.0, 200000.0, 3000.0, 1.1),
        results.EngineTime("two", 3, 11, 2.0, 200000.0, 600000.0, 3000.0, 3.0),
    )


def test_numbers_are_those_of_the_clock(folder, clock, monkeypatch):
    """A block visit takes a microsecond, and so do the logits."""
    for name in ("run_block", "logits"):
        original = getattr(Backbone, name)

        def ticking(self, *arguments, original=original):
            clock.now += 1e-6
            return original(self, *arguments)

        monkeypatch.setattr(Backbone, name, ticking)
    for module in (answers, rates):
        monkeypatch.setattr(module, "time", time)
    result = benchmark.run(str(folder), context=20, steps=STEPS, batches=[2, 3])
    shape = read_config(folder).shape(torch.float32)
    keys_of_a_row = 4 * 21 * 2 * 16  # bytes of one visit's keys and values, the new token's included
    for entry in (*result.programs, *result.batches):
        rows, microseconds = entry.batch, entry.batch * (1 + entry.blocks)
        assert entry.us_per_token == entry.us_p10 == entry.us_p90 == microseconds
        assert entry.tokens_per_second == pytest.approx(1e6 * rows / microseconds, abs=0.1)
        moved = decode_step_bytes(shape, entry.blocks, 20) + (rows - 1) * entry.blocks * keys_of_a_row
        assert entry.gigabytes_per_second == pytest.approx(moved / microseconds / 1e3, abs=0.06)
        assert entry.saved_share == (None if entry.blocks == 6 else 1.0)
        assert entry.saved_per_skipped_block_us == (None if entry.blocks == 6 else rows)
    assert [(entry.batch, entry.blocks) for entry in result.batches] == [
        (r, n) for r in (2, 3) for n in (0, 1, 3, 4, 5, 6)
    ]
    assert (result.saved_per_block_us, result.linearity, result.r_squared) == (1.0, 1.0, 1.0)
    assert (result.prompts[0].prefill_ms, result.next_turn.prefill_ms) == (0.007, 0.007)
    assert [entry.bare_us_per_token for entry in result.engine] == [4.0, 7.0, 7.0]
    assert "one row after the other" in result.batch_reason


def test_numbers_fit_together(folder):
    result = benchmark.run(str(folder), context=20, steps=STEPS)
    for entry in result.programs:
        assert 0 < entry.us_p10 <= entry.us_per_token <= entry.us_p90
        share = entry.gigabytes_per_second / result.copy_gigabytes_per_second
        assert entry.copy_share == pytest.approx(share, rel=0.01, abs=1e-3)
    for prompt in (*result.prompts, result.next_turn):
        assert 0 < prompt.prefill_ms <= prompt.first_token_ms
