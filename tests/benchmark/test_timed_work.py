"""What is timed is what runs, as often and as much as it says."""

import pytest
import torch
from qwen2 import load
from small_work import STEPS

from layerroute import benchmark
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import EagerStepper
from layerroute.benchmark import answers, measure, suite
from layerroute.benchmark.whole_engine import WholeEngine
from layerroute.benchmark.words import tokenizer_for
from layerroute.program import LayerProgram


def test_what_is_timed_is_what_runs(folder, visits):
    result = benchmark.run(str(folder), context=20, steps=STEPS, prompts=[9, 30], batches=[3])
    lengths = [entry.blocks for entry in result.programs]
    assert lengths == [0, 1, 3, 4, 5, 6]
    short = 1 + answers.GENERATION_RUNS  # answers of one token: warm-up, timed
    long = 2 + answers.GENERATION_RUNS  # and streamed
    whole = 1 + measure.ENGINE_RUNS  # each time the bare steps of the answer, too
    bare, answered = 3 + 6, 3 + 2 * 6  # half depth in one mode, full depth in two
    prompts = 2 + measure.PROMPT_RUNS
    per_token = 6 * long + whole * (bare + answered)
    rows = 1 + 3
    assert visits == {
        (20, 1): rows * sum(lengths) * (STEPS + measure.WARM_UP_STEPS) + per_token,
        **{(20 + i, 1): per_token for i in range(1, STEPS - 1)},  # the last token of an answer is not fed
        (0, 9): 6 * prompts,
        (0, 30): 6 * prompts,
        # Uncached: before the steps of one row, of three and (twice) of the engine, in its first answer, in the other
        # answers, and as the history of the next turn.
        (0, 20): 6 * (1 + 1 + 2 + 1 + short + long + 1),
        (19, 1): 6 * (3 * whole - 1),  # the whole engine keeps its prompt, but for the token whose logits it needs
        (20, 100): 6 * prompts,
    }
    assert [(prompt.cached_tokens, prompt.new_tokens) for prompt in result.prompts] == [(0, 9), (0, 30)]
    assert (result.next_turn.cached_tokens, result.next_turn.new_tokens) == (20, 100)


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_visits_of_each_time_are_counted(folder, monkeypatch, at_once):
    monkeypatch.setitem(measure.STEPS_AT_ONCE, "cpu", at_once)
    result = benchmark.run(str(folder), context=20, steps=STEPS, batches=[2])
    assert [entry.visits_per_token for entry in result.programs] == [0, 1, 3, 4, 5, 6]
    assert [entry.visits_per_token for entry in result.batches] == [0, 1, 3, 4, 5, 6]
    assert [(entry.mode, entry.visits_per_token) for entry in result.engine] == [
        ("greedy", 3),
        ("greedy", 6),
        ("top-p 0.9", 6),
    ]


def test_steps_that_are_timed_together_share_their_time(folder, monkeypatch, clock):
    monkeypatch.setitem(measure.STEPS_AT_ONCE, "cpu", 4)
    backbone = load(folder, torch.float32)
    stepper = EagerStepper(backbone, "a test")
    subject = measure.Subject(backbone, stepper, 64)
    plain = stepper.step

    def step(*arguments):
        clock.now += 2e-6
        return plain(*arguments)

    monkeypatch.setattr(stepper, "step", step)
    (samples,) = subject.time_programs([LayerProgram((0, 2), 6)], 20, 10).values()
    assert samples.microseconds == pytest.approx([2.0] * 10)
    assert (samples.steps, samples.visits) == (40, 80)


def test_a_backend_that_runs_other_blocks_is_found_out(folder, monkeypatch):
    original = Backbone.forward

    def forward(self, ids, start, visits, *rest):
        return original(self, ids, start, visits * 2 if start == 20 else visits, *rest)

    monkeypatch.setattr(Backbone, "forward", forward)
    result = benchmark.run(str(folder), context=20, steps=STEPS)
    assert [entry.visits_per_token for entry in result.programs] == [0, 2, 6, 8, 10, 12]


def test_the_whole_engine_streams_every_token(folder):
    backbone = load(folder)
    stepper = suite.make_stepper(backbone, "eager")
    subject = measure.Subject(backbone, stepper, 64)
    engine, program = WholeEngine(backbone, stepper, 64), LayerProgram((1, 4), 6)
    arrivals, report = engine.answer(engine.deltas(subject.ids(20), program, 12))
    assert len(arrivals) == 12  # as many pieces of text
    assert arrivals == sorted(arrivals)
    assert (report.program, report.generated_tokens, report.decode.executed) == ("1,4", 12, 2 * 11)


def test_every_way_to_read_an_answer_is_timed(speaking):
    from langchain_layerroute.benchmark import stream

    result = benchmark.run(shape="Small", context=40, steps=STEPS, streams={"LangChain": stream})
    full = [entry for entry in result.engine if entry.blocks == 6]
    assert [entry.mode for entry in full] == ["greedy", "top-p 0.9", "a grammar's mask for each token", "LangChain"]
    assert [(entry.tokens, entry.visits_per_token) for entry in full] == [(STEPS, 6)] * 4
    assert [entry.mask_us_per_token > 0 for entry in full] == [False, False, True, True]
    assert not {"LangChain", "a grammar's mask for each token"} & set(result.left_out)


def test_a_small_vocabulary_speaks_no_language(folder):
    result = benchmark.run(str(folder), context=20, steps=STEPS, streams={"LangChain": None})
    assert result.left_out["LangChain"] == "a vocabulary of 97 has no chat format"
    assert result.left_out["a grammar's mask for each token"] == "a vocabulary of 97 has no chat format"


def test_words_are_made_up_for_every_token():
    tokenizer = tokenizer_for(17000)
    assert sorted(tokenizer.get_vocab().values()) == list(range(17000))
    assert all(tokenizer.decode([token]) for token in range(17000))
    text = "<|im_start|>user\nHello there<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<tool_call>") == [tokenizer.get_vocab()["<tool_call>"]]
    assert tokenizer.eos_token == "<|im_end|>"
