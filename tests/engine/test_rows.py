"""Requests that decode together as rows: every answer is the one it would have been alone."""

import itertools
import json
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qwen2 import random_model, save
from waiting import until

from layerroute.backbone.batch import RowByRow
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine
from layerroute.engine.request import GenerationRequest, OutputConstraint, Sampling, ToolSpec
from layerroute.errors import GenerationCancelledError, LayerRouteError, RequestError, RouterError
from layerroute.flops import decode_step_bytes

SCHEMA = {"properties": {"to": {"type": "integer"}, "on": {"type": "boolean"}}, "required": ["to", "on"]}
TOOL = ToolSpec("set_level", json.dumps({"type": "object", **SCHEMA}))
CALL = OutputConstraint((TOOL,), "required", parallel=False)
STEM = tuple(range(20, 50))
REQUESTS = (
    GenerationRequest((*STEM, 60), max_tokens=12),
    GenerationRequest(STEM[:7], max_tokens=25, program="0,2,5", sampling=Sampling(0.7, seed=3)),
    GenerationRequest((*STEM, 70, 71), max_tokens=90, constraint=CALL),
    GenerationRequest((90,), max_tokens=17, sampling=Sampling(1.2, seed=4)),
    GenerationRequest(
        (*STEM, 60, 61), max_tokens=20, program="0,2,5", sampling=Sampling(0.9, top_k=50, top_p=0.9, seed=5)
    ),
    GenerationRequest(STEM, max_tokens=9, program="0-2,1-5", scope="sequence"),
    GenerationRequest((*STEM, 60), max_tokens=90, program="0,2,5", constraint=CALL),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    model = random_model(seed=4, vocab_size=len(tokenizer), tie_word_embeddings=False)  # does not repeat itself
    path = save(model, tmp_path_factory.mktemp("backbone"))
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def alone(folder):
    """What an engine without a batch answers that has seen nothing else."""
    answers = {}

    def answer(request):
        if request not in answers:
            engine = Engine(EngineConfig(model=str(folder)))
            answers[request] = engine.submit(request).result()
            engine.close()
        return answers[request]

    return answer


@contextmanager
def opened(folder, max_batch_size=4, **options):
    """An engine, and the number of rows of each of its steps."""
    engine = Engine(EngineConfig(model=str(folder), max_batch_size=max_batch_size, **options))
    stepper, sizes = engine.load().batch_stepper, []
    original = stepper.step
    stepper.step = lambda rows, visits: (sizes.append(len(rows)), original(rows, visits))[1]
    yield engine, sizes
    engine.close()


@contextmanager
def held(engine):
    """What is submitted meanwhile waits in the queue until all of it is there."""
    gate, runner = threading.Event(), engine.load()
    start = runner.start
    runner.start = lambda *args: (gate.wait(), start(*args))[1]
    yield
    runner.start = start
    gate.set()


def ask(engine, requests):
    with held(engine):
        return [engine.submit(request) for request in requests]


def pause(engine, step_number, condition):
    """Let the step of this number wait for a condition, however slow the thread is that brings it about."""
    stepper, numbers = engine.load().batch_stepper, itertools.count(1)
    step = stepper.step

    def waiting(*args):
        if next(numbers) == step_number:
            until(condition)
        return step(*args)

    stepper.step = waiting


def test_answers_are_those_of_each_alone(folder, alone):
    with opened(folder) as (engine, sizes):
        results = [generation.result() for generation in ask(engine, REQUESTS)]
    for request, result in zip(REQUESTS, results, strict=True):
        expected = alone(request)
        assert (result.token_ids, result.text) == (expected.token_ids, expected.text)
        assert result.finish_reason == expected.finish_reason
    assert results[2].finish_reason == "tool_calls"
    assert max(sizes) > 1


def test_a_stop_string_ends_its_own_row(folder, alone):
    text = alone(REQUESTS[1]).text
    stopped = replace(REQUESTS[1], stop=(text[6:9],))
    with opened(folder) as (engine, _):
        result, other = (generation.result() for generation in ask(engine, [stopped, REQUESTS[1]]))
    assert (result.text, result.finish_reason) == (text[: text.index(text[6:9])], "stop")
    assert other.text == text


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(range(len(REQUESTS))), count=st.integers(2, 7), size=st.integers(2, 5))
def test_no_order_of_arrival_changes_an_answer(folder, alone, order, count, size):
    requests = [REQUESTS[index] for index in order[:count]]
    with opened(folder, size) as (engine, sizes):
        for request, generation in zip(requests, ask(engine, requests), strict=True):
            assert generation.result().token_ids == alone(request).token_ids
    assert max(sizes) <= size


def test_a_cancelled_row_leaves_and_another_takes_its_place(folder, alone):
    endless = GenerationRequest(STEM, max_tokens=400)
    with opened(folder, 2) as (engine, _):
        generations = []
        pause(engine, 20, lambda: generations and generations[0].cancelled)
        generations += ask(engine, [endless, *REQUESTS[:3]])
        for index, _ in enumerate(generations[0]):
            if index == 3:
                break
        cancelled = generations[0].result()
        for request, generation in zip(REQUESTS, generations[1:], strict=False):
            assert generation.result().token_ids == alone(request).token_ids
    assert cancelled.finish_reason == "cancelled"
    assert cancelled.token_ids == alone(endless).token_ids[: len(cancelled.token_ids)]
    assert len(cancelled.token_ids) < len(alone(endless).token_ids)


def test_a_row_cancelled_during_the_prompt_of_another_takes_no_further_step(folder):
    with opened(folder, 2) as (engine, sizes):
        runner, begun, gate, submitted = engine.load(), threading.Event(), threading.Event(), threading.Event()
        pause(engine, 20, submitted.is_set)
        first = engine.submit(GenerationRequest(STEM, max_tokens=400))
        next(reading := iter(first))
        start = runner.start
        runner.start = lambda *args: (begun.set(), gate.wait(), start(*args))[2]
        second = engine.submit(REQUESTS[0])
        submitted.set()
        begun.wait()
        steps = len(sizes)
        reading.close()
        gate.set()
        assert len(second.result().token_ids) == 12
        assert first.result().finish_reason == "cancelled"
        assert sizes[steps:] == [1] * 11


def test_one_cancelled_in_the_queue(folder):
    with opened(folder, 2) as (engine, _):
        with held(engine):
            generations = [engine.submit(request) for request in REQUESTS[:4]]
            generations[3].cancel()
        with pytest.raises(GenerationCancelledError, match="queue"):
            generations[3].result()
        assert all(generation.result() for generation in generations[:3])


def test_a_request_that_is_refused_fails_alone(folder, alone):
    wrong = GenerationRequest(STEM, router="clever")
    with opened(folder) as (engine, _):
        first, refused, second = ask(engine, [REQUESTS[0], wrong, REQUESTS[1]])
        with pytest.raises(RouterError, match="clever"):
            refused.result()
        assert first.result().token_ids == alone(REQUESTS[0]).token_ids
        assert second.result().token_ids == alone(REQUESTS[1]).token_ids


def test_a_row_whose_logits_are_no_numbers_fails_alone(folder, alone):
    with opened(folder) as (engine, _):
        stepper = engine.load().batch_stepper
        step = stepper.step

        def spoilt(rows, visits):
            logits_BV = step(rows, visits)
            for index, row in enumerate(rows):
                if row.position == len(REQUESTS[4].prompt_ids) + 5:
                    logits_BV[index] = float("nan")
            return logits_BV

        stepper.step = spoilt
        generations = ask(engine, [REQUESTS[4], REQUESTS[1], REQUESTS[3]])
        with pytest.raises(LayerRouteError, match="logit"):
            generations[0].result()
        assert generations[1].result().token_ids == alone(REQUESTS[1]).token_ids
        assert generations[2].result().token_ids == alone(REQUESTS[3]).token_ids


def test_a_step_that_fails_ends_the_rows_of_its_program(folder, alone):
    with opened(folder) as (engine, _):
        stepper = engine.load().batch_stepper
        step, failures = stepper.step, [RuntimeError("the device is out of memory")]

        def failing(rows, visits):
            if len(visits) == 3 and failures:
                raise failures.pop()
            return step(rows, visits)

        stepper.step = failing
        generations = ask(engine, [REQUESTS[1], REQUESTS[0], REQUESTS[1]])
        with pytest.raises(RuntimeError, match="out of memory"):
            generations[0].result()
        assert generations[1].result().token_ids == alone(REQUESTS[0]).token_ids
        assert engine.submit(REQUESTS[1]).result().token_ids == alone(REQUESTS[1]).token_ids


def test_closing_fails_all_and_a_later_request_starts_anew(folder, alone):
    with opened(folder, 2) as (engine, _):
        generations = []
        pause(engine, 20, lambda: generations and generations[3]._done.is_set())  # the last in the queue
        generations += ask(engine, [GenerationRequest(STEM[: i + 2], max_tokens=400) for i in range(4)])
        reading = iter(generations[1])
        next(reading)
        engine.close()
        for generation in generations:
            with pytest.raises(GenerationCancelledError, match="closed"):
                generation.result()
        assert engine.submit(REQUESTS[0]).result().token_ids == alone(REQUESTS[0]).token_ids


@pytest.mark.parametrize("prompt_has_run", [False, True])
def test_closing_during_a_prompt(folder, prompt_has_run):
    with opened(folder, 2) as (engine, _):
        runner, begun, gate = engine.load(), threading.Event(), threading.Event()
        start = runner.start

        def starting(*args):
            running = start(*args) if prompt_has_run else None
            begun.set()
            gate.wait()
            return running or start(*args)

        runner.start = starting
        generation = engine.submit(REQUESTS[0])
        begun.wait()
        closing = threading.Thread(target=engine.close)
        closing.start()
        until(lambda: generation.cancelled)
        gate.set()
        with pytest.raises(GenerationCancelledError, match="closed"):
            generation.result()
        closing.join()


def test_reports_add_up_to_what_ran(folder, alone):
    """Visits are counted by a hook around the block itself; every row accounts for its own."""
    with opened(folder) as (engine, _):
        backbone = engine.load().backbone
        ran = [0]
        original = backbone.run_block

        def counting(hidden, *rest):
            ran[0] += len(hidden)
            return original(hidden, *rest)

        backbone.run_block = counting
        reports = [generation.result().report for generation in ask(engine, REQUESTS)]
    assert ran[0] == sum(report.prefill.executed + report.decode.executed for report in reports)
    for request, report in zip(REQUESTS, reports, strict=True):
        expected = alone(request).report
        assert (report.decode, report.program) == (expected.decode, expected.program)
        assert report.fast_forwarded_tokens == expected.fast_forwarded_tokens
        assert report.backend == "eager"
        assert report.milliseconds.decode > 0
    assert reports[0].bytes_realised == alone(REQUESTS[0]).report.bytes_realised
    assert reports[0].cached_tokens == 0 < reports[2].cached_tokens  # copied from the row beside it


@pytest.mark.parametrize("long_run", [2, 1000])
def test_forced_tokens_in_a_pass_or_step_by_step(folder, alone, monkeypatch, long_run):
    """Where rows share the weights, short runs of forced tokens ride along; no token depends on it."""
    monkeypatch.setattr(RowByRow, "shares_weights", True)
    monkeypatch.setattr("layerroute.engine.scheduler._LONG_RUN", long_run)
    with opened(folder) as (engine, _):
        results = [generation.result() for generation in ask(engine, [REQUESTS[2], REQUESTS[6], REQUESTS[0]])]
    assert [result.token_ids for result in results] == [alone(REQUESTS[i]).token_ids for i in (2, 6, 0)]
    fed = len(results[0].token_ids) - 1
    assert results[0].report.decode.executed == 6 * fed
    assert (results[0].report.decode_steps == fed) == (long_run == 1000)


def test_rows_that_share_the_weights_account_for_their_part(folder, alone, monkeypatch):
    monkeypatch.setattr(RowByRow, "shares_weights", True)
    requests = [REQUESTS[0], REQUESTS[3]]
    with opened(folder) as (engine, sizes):
        reports = [generation.result().report for generation in ask(engine, requests)]
        weights = decode_step_bytes(engine.load().shape, 6, context_start=-1)
    spared = sum(alone(request).report.bytes_realised for request in requests) - sum(r.bytes_realised for r in reports)
    assert sizes.count(2) == 10
    assert spared == 10 * weights
    assert [report.bytes_full for report in reports] == [report.bytes_realised for report in reports]


def test_a_batch_of_one_is_the_path_for_single_rows(folder, alone):
    with opened(folder, 1) as (engine, sizes):
        assert engine.submit(REQUESTS[0]).result().token_ids == alone(REQUESTS[0]).token_ids
    assert not sizes


def test_batches_that_cannot_be_held_are_refused(folder):
    with pytest.raises(RequestError, match="max_batch_size must be a whole number of calls, at least 1, not 0"):
        EngineConfig(max_batch_size=0)
    engine = Engine(EngineConfig(model=str(folder), max_batch_size=10**9))
    with pytest.raises(RequestError, match="lower max_batch_size or context_window"):
        engine.submit(REQUESTS[0]).result()


def test_a_window_that_cannot_be_held_is_refused_for_one_row_as_well(folder, monkeypatch):
    config = EngineConfig(model=str(folder), prefix_slots=50)
    window = Engine(config).context_window
    one = 2 * 16 * 4 * 6 * window  # keys and values of 16 float32 numbers in each of 6 blocks
    monkeypatch.setattr("layerroute.engine.loading._free_bytes", lambda device: one)
    Engine(config).load()
    monkeypatch.setattr("layerroute.engine.loading._free_bytes", lambda device: one - 1)
    with pytest.raises(RequestError, match=f"KV caches of {window} tokens, and cpu has .*context_window"):
        Engine(config).load()
    Engine(EngineConfig(model=str(folder), context_window=window - 1)).load()


def test_the_memory_of_a_cuda_device_is_what_is_free_there(folder, monkeypatch):
    from types import SimpleNamespace

    from layerroute.engine.loading import check_memory

    with opened(folder) as (engine, _):
        backbone = engine.load().backbone
    cuda = SimpleNamespace(config=backbone.config, dtype=backbone.dtype, device=torch.device("cuda:0"))
    cache = backbone.new_cache(6, 100)
    needed = 3 * 2 * cache.keys_SKTH.nbytes
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 400)
    config = EngineConfig(max_batch_size=3, prefix_slots=2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (needed - 600, needed * 9))
    check_memory(cuda, config, 100)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (needed - 601, needed * 9))
    with pytest.raises(RequestError, match=r"max_batch_size=3 needs .* cuda:0 has"):
        check_memory(cuda, config, 100)
