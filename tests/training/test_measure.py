"""Measures are those of each step computed alone and naively, and FLOPs are those that the engine counts."""

import numpy as np
import pytest
import torch
from made_steps import BLOCKS, made_model, made_steps
from qwen2 import naive_logits, random_model

from layerroute.engine.accounting import Meter
from layerroute_training.evaluation.measure import generated_tokens, measure, shape_of, step_flops
from layerroute_training.routed_model import RoutedModel

SCOPES = ("generation", "sequence")


def naive_nll(backbone, steps, index, blocks, scope):
    """Nats of one answer, token by token as tests/qwen2.py runs it."""
    start, answer, end = int(steps.start[index]), int(steps.answer[index]), int(steps.end[index])
    ids = torch.from_numpy(steps.tokens[start:end].astype(np.int64))
    prompt = answer - start
    logits = naive_logits(backbone, ids, blocks, prompt if scope == "generation" else 0)
    chances = torch.log_softmax(logits[prompt - 1 : -1].double(), -1)
    return -float(chances.gather(1, ids[prompt:, None]).sum())


@pytest.mark.parametrize("scope", SCOPES)
def test_every_step_is_measured_as_if_alone(scope):
    model, steps = made_model(scope).eval(), made_steps(12)
    found = measure(model, steps, batch_tokens=200)
    assert 0.05 < found.skip.mean() < 0.9
    assert (found.run_NL == (found.soft_NL > 0.5)).all()
    for index in range(12):
        blocks = tuple(np.flatnonzero(found.run_NL[index]).tolist())
        assert found.nll_N[index] == pytest.approx(naive_nll(model.backbone, steps, index, blocks, scope), abs=1e-4)
    assert (found.tokens_N == steps.answer_lengths).all()


@pytest.mark.parametrize("scope", SCOPES)
def test_programs_that_are_given_are_those_that_run(scope):
    model, steps = made_model(scope).eval(), made_steps(8)
    run_NL = np.random.default_rng(0).random((8, BLOCKS)) < 0.5
    found = measure(model, steps, run_NL=run_NL, batch_tokens=150)
    assert (found.run_NL == run_NL).all()
    for index in range(8):
        blocks = tuple(np.flatnonzero(run_NL[index]).tolist())
        assert found.nll_N[index] == pytest.approx(naive_nll(model.backbone, steps, index, blocks, scope), abs=1e-4)
    same = np.array([[True, False, True, True, False, True]])
    one, all_rows = (measure(model, steps, run_NL=run) for run in (same, np.repeat(same, 8, axis=0)))
    assert (one.nll_N == all_rows.nll_N).all()


def test_bare_is_the_backbone_as_it_came():
    steps = made_steps(8)
    model, original = made_model(), random_model(0)
    before = measure(model, steps).nll_N
    found = measure(model, steps, bare=True)
    assert found.run_NL.all()
    for index in range(8):
        expected = naive_nll(original, steps, index, tuple(range(BLOCKS)), "generation")
        assert found.nll_N[index] == pytest.approx(expected, abs=1e-4)
    assert (measure(model, steps).nll_N == before).all()


def test_gates_that_skip_nothing_cost_exactly_nothing():
    model, steps = made_model(run_bias=50.0), made_steps(30)
    routed, full = measure(model, steps), measure(model, steps, run_NL=np.ones((1, BLOCKS), dtype=bool))
    assert (routed.nll_N == full.nll_N).all()


def test_a_model_in_training_is_measured_without_drop_out_and_stays_in_training():
    model, steps = made_model().train(), made_steps(10)
    assert (measure(model, steps).nll_N == measure(model, steps).nll_N).all()
    assert model.training
    assert isinstance(model, RoutedModel)


def test_the_order_of_steps_and_batches_changes_nothing():
    model, steps = made_model(), made_steps(30)
    found, order = measure(model, steps, batch_tokens=64), np.random.default_rng(0).permutation(30)
    shuffled = measure(model, steps.select(order))
    np.testing.assert_allclose(shuffled.nll_N, found.nll_N[order], rtol=1e-5)
    assert (shuffled.run_NL == found.run_NL[order]).all()
    np.testing.assert_allclose(shuffled.kind_probability_N, found.kind_probability_N[order], rtol=1e-5)


@pytest.mark.parametrize("scope", SCOPES)
def test_flops_are_those_of_the_engines_meter(scope):
    steps = made_steps(10)
    shape, visits_N = shape_of(made_model()), np.arange(10) % (BLOCKS + 1)
    flops_N = step_flops(shape, steps, visits_N, scope)
    for index in range(10):
        meter = Meter(shape)
        prompt, visits = int(steps.prompt_lengths[index]), int(visits_N[index])
        meter.add(prompt, 0, BLOCKS if scope == "generation" else visits, 1)
        for token in range(int(generated_tokens(steps)[index])):
            meter.add(1, prompt + token, visits, 1)
        assert flops_N[index] == meter.flops_realised


def test_shape_is_that_of_the_checkpoint():
    shape = shape_of(made_model(tie_word_embeddings=False))
    assert (shape.vocab_size, shape.hidden_size, shape.intermediate_size, shape.num_blocks) == (97, 32, 48, 6)
    assert (shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.bytes_per_weight) == (4, 2, 8, 4)
