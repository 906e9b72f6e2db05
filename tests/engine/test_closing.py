"""Closing an engine while requests arrive: one thread at a time, no cut answer that looks whole, nothing that waits."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from qwen2 import random_model, save

from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine
from layerroute.engine.request import GenerationRequest
from layerroute.errors import EngineClosedError, GenerationCancelledError

PROMPTS = [tuple(range(20 + start, 50 + start)) for start in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    path = save(random_model(seed=3, vocab_size=len(tokenizer)), tmp_path_factory.mktemp("backbone"))
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(params=[1, 3], ids=["alone", "rows"])
def engine(folder, request):
    opened = Engine(EngineConfig(model=str(folder), max_batch_size=request.param))
    yield opened
    opened.close()


class Watched:
    """Counts the calls that are inside an engine's runner at once, and lets the first of them wait for a word."""

    def __init__(self, engine, monkeypatch):
        self.inside = self.most = 0
        self.first_is_in, self.go_on = threading.Event(), threading.Event()
        runner, lock = engine.load(), threading.Lock()
        start = runner.start

        def watched(*args):
            with lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            self.first_is_in.set()
            self.go_on.wait()
            try:
                return start(*args)
            finally:
                with lock:
                    self.inside -= 1

        monkeypatch.setattr(runner, "start", watched)


def close_while_inside(engine, watched, first):
    """Begin to close an engine whose runner is held; returns once the first request knows."""
    watched.first_is_in.wait()
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not first.cancelled:
        time.sleep(0.001)
    return closing


def test_a_new_thread_waits_for_the_one_that_ends(engine, monkeypatch):
    watched = Watched(engine, monkeypatch)
    first = engine.submit(GenerationRequest(PROMPTS[0], max_tokens=5))
    closing = close_while_inside(engine, watched, first)
    second = engine.submit(GenerationRequest(PROMPTS[1], max_tokens=5))
    time.sleep(0.3)  # long enough for a thread that does not wait to be seen
    watched.go_on.set()
    closing.join()
    with pytest.raises(EngineClosedError):
        first.result()
    assert len(second.result().token_ids) == 5
    assert watched.most == 1


def test_what_waits_fails_at_once_though_another_still_runs(engine, monkeypatch):
    watched = Watched(engine, monkeypatch)
    first, *waiting = (engine.submit(GenerationRequest(ids, max_tokens=5)) for ids in PROMPTS)
    closing = close_while_inside(engine, watched, first)
    for generation in waiting:
        with pytest.raises(EngineClosedError, match="ask again"):
            generation.result()
    watched.go_on.set()
    closing.join()


@pytest.mark.parametrize("read", ["deltas", "result"])
def test_an_answer_that_closing_cuts_off_is_an_error(engine, read):
    generation = engine.submit(GenerationRequest(PROMPTS[0], max_tokens=None))
    deltas = iter(generation)
    next(deltas)
    engine.close()
    with pytest.raises(EngineClosedError):
        list(deltas) if read == "deltas" else generation.result()


def test_an_answer_that_its_reader_cuts_off_is_none(engine):
    """The other side of the same coin: who cancels gets what there is, closed engine or not."""
    generation = engine.submit(GenerationRequest(PROMPTS[0], max_tokens=None))
    next(iter(generation))  # leaving the loop cancels
    generation.cancel()
    assert generation.result().finish_reason == "cancelled"


def test_every_answer_is_whole_or_an_error_whenever_it_is_closed(engine):
    requests = [GenerationRequest(ids, max_tokens=8) for ids in PROMPTS]
    whole = [engine.submit(request).result().token_ids for request in requests]
    over = threading.Event()

    def ask(index):
        answers = []
        for turn in range(12):
            try:
                answers.append(engine.submit(requests[(index + turn) % 6]).result().token_ids)
            except GenerationCancelledError:
                answers.append(None)
        return [answer in (None, whole[(index + turn) % 6]) for turn, answer in enumerate(answers)]

    def close():
        while not over.is_set():
            engine.close()
            over.wait(0.02)

    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    with ThreadPoolExecutor(4) as pool:
        assert all(all(right) for right in pool.map(ask, range(4)))
    over.set()
    closing.join()


def test_a_thread_that_dies_of_a_bug_tells_its_readers_and_is_replaced(folder, monkeypatch):
    engine = Engine(EngineConfig(model=str(folder), max_batch_size=3))
    expected = engine.submit(GenerationRequest(PROMPTS[0], max_tokens=5)).result().token_ids
    with monkeypatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda args: None)
        patch.setattr("layerroute.engine.scheduler.Rows.advance", lambda rows: 1 // 0)
        with pytest.raises((ZeroDivisionError, EngineClosedError)):
            engine.submit(GenerationRequest(PROMPTS[0], max_tokens=5)).result()
        engine.close()  # returns once the thread has ended
    assert engine.submit(GenerationRequest(PROMPTS[0], max_tokens=5)).result().token_ids == expected
    engine.close()
