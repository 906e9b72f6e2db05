"""The benchmark measures what it says it measures; how fast that is, no test judges."""

import json
import time
from collections import Counter
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from qwen2 import load, random_model, save

from layerroute import benchmark
from layerroute.backbone.config import read_config
from layerroute.backbone.model import Backbone
from layerroute.backbone.stepper import EagerStepper
from layerroute.benchmark import answers, measure, rates, results, stock, suite
from layerroute.benchmark.whole_engine import WholeEngine
from layerroute.benchmark.words import tokenizer_for
from layerroute.cli import main
from layerroute.errors import DeviceError, RequestError
from layerroute.flops import decode_step_bytes
from layerroute.program import LayerProgram

STEPS = 10  # timed steps of each program, and tokens of each answer


@pytest.fixture(autouse=True)
def _small_work(monkeypatch):
    monkeypatch.setitem(rates.COPY_BYTES, "cpu", 2**16)
    monkeypatch.setitem(rates.MATRIX_SIZE, "cpu", 16)


def talkative_model(**changes):
    """A random model whose greedy answers are not one token over and over."""
    model = random_model(**changes)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.mul_(3.0 if parameter.ndim == 2 else 1.0)
    return model


@pytest.fixture
def folder(tmp_path):
    return save(talkative_model(), tmp_path)


@pytest.fixture
def visits(monkeypatch):
    """Block visits of this engine, counted by (position of the first token, number of tokens)."""
    counted = Counter()
    original = Backbone.run_block

    def run_block(self, hidden, visit, start, *rest):
        counted[start, len(hidden)] += 1
        return original(self, hidden, visit, start, *rest)

    monkeypatch.setattr(Backbone, "run_block", run_block)
    return counted


@pytest.fixture
def clock(monkeypatch):
    """Stands in for the clock: moves only when it is told to."""
    clock = SimpleNamespace(now=0.0, reads=0)

    def perf_counter():
        clock.reads += 1
        return clock.now

    clock.perf_counter = perf_counter
    for module in (answers, measure, rates):
        monkeypatch.setattr(module, "time", clock)
    return clock


# What is timed.


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


def test_transformers_generates_as_often_and_as_much(folder, monkeypatch):
    asked = []
    original = stock.Qwen2ForCausalLM.generate

    def generate(self, ids, generation_config, **kwargs):
        output = original(self, ids, generation_config=generation_config, **kwargs)
        asked.append(generation_config.max_new_tokens)
        assert output.shape == (1, 20 + asked[-1])
        return output

    monkeypatch.setattr(stock.Qwen2ForCausalLM, "generate", generate)
    result = benchmark.run(str(folder), context=20, steps=STEPS, compare=True)
    assert asked == [1, STEPS, 1, 1, 1, STEPS, STEPS, STEPS, STEPS]
    assert [entry.tokens for entry in result.generation] == [STEPS, STEPS]


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


def test_the_whole_engine_streams_every_token(folder):
    backbone = load(folder)
    stepper = suite.make_stepper(backbone, "eager")
    subject = measure.Subject(backbone, stepper, 64)
    engine, program = WholeEngine(backbone, stepper, 64), LayerProgram((1, 4), 6)
    arrivals, report = engine.answer(engine.deltas(subject.ids(20), program, 12))
    assert len(arrivals) == 12  # as many pieces of text
    assert arrivals == sorted(arrivals)
    assert (report.program, report.generated_tokens, report.decode.executed) == ("1,4", 12, 2 * 11)


@pytest.fixture
def speaking(tmp_path, monkeypatch):
    """A shape whose vocabulary has room for chat and tool calls, and for words of its own."""
    config = read_config(save(random_model(vocab_size=16500, max_position_embeddings=2048), tmp_path))
    monkeypatch.setitem(benchmark.SHAPES, "Small", config)
    return config


def test_every_way_to_read_an_answer_is_timed(speaking):
    from langchain_layerroute.benchmark import stream

    result = benchmark.run(shape="Small", context=40, steps=STEPS, streams={"LangChain": stream})
    full = [entry for entry in result.engine if entry.blocks == 6]
    assert [entry.mode for entry in full] == ["greedy", "top-p 0.9", "a grammar's mask for each token", "LangChain"]
    assert [(entry.tokens, entry.visits_per_token) for entry in full] == [(STEPS, 6)] * 4
    assert [entry.mask_us_per_token > 0 for entry in full] == [False, False, True, True]
    assert not {"LangChain", "a grammar's mask for each token"} & set(result.left_out)


def test_a_stream_that_fails_ends_the_benchmark(speaking):
    def stream(engine, program, context, num_tokens):
        def read(arrived):
            raise RuntimeError("nobody listens")

        return read

    with pytest.raises(RuntimeError, match="nobody listens"):
        benchmark.run(shape="Small", context=40, steps=STEPS, streams={"broken": stream})


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


# An agent's turn.


def test_a_turn_runs_what_it_says(speaking, capsys):
    pytest.importorskip("langchain")
    from langchain_layerroute.benchmark import time_agent_turns

    turns = time_agent_turns(shape="Small", turns=1)
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


def test_what_ends_the_engine_ends_the_benchmark(folder, monkeypatch):
    def fail(*_):
        raise RuntimeError("no more memory for text")

    monkeypatch.setattr("layerroute.engine.runner.Detokenizer.add", fail)
    with pytest.raises(RuntimeError, match="for text"):
        benchmark.run(str(folder), context=20, steps=STEPS)


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
    timed = subject.time_engine(engine, spans, LayerProgram((1, 2, 4), 6), 20, 11)
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


def test_a_gpu_is_timed_with_a_long_prompt_too():
    assert suite.default_prompts(512, 32768, torch.device("cuda", 0)) == [512, 8192]
    assert suite.default_prompts(8192, 8192, torch.device("cuda")) == [8192]
    assert suite.default_prompts(512, 4096, torch.device("cuda")) == [512]
    assert suite.default_prompts(512, 32768, torch.device("cpu")) == [512]


def test_numbers_fit_together(folder):
    result = benchmark.run(str(folder), context=20, steps=STEPS)
    for entry in result.programs:
        assert 0 < entry.us_p10 <= entry.us_per_token <= entry.us_p90
        share = entry.gigabytes_per_second / result.copy_gigabytes_per_second
        assert entry.copy_share == pytest.approx(share, rel=0.01, abs=1e-3)
    for prompt in (*result.prompts, result.next_turn):
        assert 0 < prompt.prefill_ms <= prompt.first_token_ms


# The stock model beside it.


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("cache", [None, "static"])
def test_both_answer_alike_from_the_same_memory(tmp_path, tied, cache):
    backbone = load(save(talkative_model(tie_word_embeddings=tied), tmp_path))
    model = stock.stock_model(backbone)
    subject = measure.Subject(backbone, suite.make_stepper(backbone, "eager"), 64)
    answer = subject.answer(20)(30, None)
    assert len(set(answer)) > 9  # or equal tokens would prove little
    assert stock.stock_answer(model, subject.ids(20), cache)(30, None) == answer
    ours = {
        tensor.untyped_storage().data_ptr() for tensor in stock.state_dict(backbone.weights, backbone.config).values()
    }
    assert {parameter.untyped_storage().data_ptr() for parameter in model.parameters()} == ours
    assert len(ours) == (9 if tied else 10)


def test_the_comparison_says_how_far_the_answers_agree(folder):
    result = benchmark.run(str(folder), context=20, steps=STEPS, compare=True)
    assert [(entry.name, entry.equal_leading_tokens) for entry in result.generation] == [
        ("layerroute, eager", STEPS),
        ("transformers, dynamic cache", STEPS),
    ]
    assert "on a GPU only" in result.left_out["transformers, static cache, compiled"]


def test_without_a_comparison_it_says_so(folder):
    result = benchmark.run(str(folder), context=20, steps=STEPS)  # on a CPU it has to be asked for
    assert len(result.generation) == 1
    assert [reason for name, reason in result.left_out.items() if "transformers" in name] == [
        "not asked for: --compare-transformers"
    ] * 2


@pytest.mark.parametrize("method", ["__init__", "generate"])
def test_what_transformers_cannot_do_ends_no_benchmark(folder, monkeypatch, method):
    def fail(*_, **__):
        raise RuntimeError("no compiler\nand a long trace")

    monkeypatch.setattr(stock.Qwen2ForCausalLM, method, fail)
    result = benchmark.run(str(folder), context=20, steps=STEPS, compare=True)
    assert result.left_out["transformers, dynamic cache"] == "RuntimeError: no compiler"


# What it shows.


def test_command_prints_one_json_document_last(folder, capsys):
    arguments = ["bench", "--model", str(folder), "--context", "16", "--steps", str(STEPS)]
    arguments += ["--batch", "2", "--prompts", "8", "32"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    document = json.loads(out.splitlines()[-1])
    assert document["backend"] == "eager"
    assert "tokens/s" in err
    assert [entry["new_tokens"] for entry in document["prompts"]] == [8, 32]
    assert {entry["batch"] for entry in document["batches"]} == {2}
    assert "left out: transformers" in " ".join(err.split())
    assert main([*arguments, "--json", "--compare-transformers"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert len(json.loads(out)["generation"]) == 2


def test_the_document_has_every_key(folder):
    document = json.loads(json.dumps(benchmark.run(str(folder), context=20, steps=STEPS).to_dict(), allow_nan=False))
    assert set(document) == {field.name for field in fields(results.Benchmark)}
    for key, value in {
        "batches": [],
        "batch_reason": None,
        "blocks": 6,
        "context": 20,
        "device": "cpu",
        "dtype": "float32",
    }.items():
        assert document[key] == value
    assert document["shape"]["hidden_size"] == 32
    for key, kind in {
        "programs": results.ProgramTime,
        "prompts": results.PromptTime,
        "engine": results.EngineTime,
        "generation": results.GenerationTime,
    }.items():
        assert all(set(entry) == {field.name for field in fields(kind)} for entry in document[key]), key
    assert {"us_per_token", "tokens_per_second", "gigabytes_per_second", "copy_share"} <= set(document["programs"][-1])
    assert {"prefill_ms", "first_token_ms", "matrix_share"} <= set(document["next_turn"])


# What it takes.


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Qwen2.5-0.5B", (896, 4864, 24, 14, 2, 151936, True)),
        ("Qwen2.5-1.5B", (1536, 8960, 28, 12, 2, 151936, True)),
        ("Qwen2.5-3B", (2048, 11008, 36, 16, 2, 151936, True)),
        ("Qwen2.5-7B", (3584, 18944, 28, 28, 4, 152064, False)),
    ],
)
def test_shapes_are_those_of_the_published_checkpoints(name, published, tmp_path):
    keys = (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("vocab_size", "tie_word_embeddings"),
    )
    config = dict(zip(keys, published, strict=True)) | {
        "model_type": "qwen2",
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "use_sliding_window": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert benchmark.SHAPES[name] == read_config(tmp_path)


def test_a_shape_is_timed_with_random_weights(folder, monkeypatch):
    monkeypatch.setitem(benchmark.SHAPES, "Small", read_config(folder))
    result = benchmark.run(shape="Small", context=20, steps=STEPS, compare=True)
    assert result.model == "Small (random weights)"
    assert [entry.equal_leading_tokens for entry in result.generation] == [STEPS, STEPS]


def test_a_model_of_one_block_is_timed(tmp_path):
    result = benchmark.run(str(save(random_model(num_hidden_layers=1), tmp_path)), context=20, steps=STEPS)
    assert [entry.blocks for entry in result.programs] == [0, 1]
    assert [entry.blocks for entry in result.engine] == [1, 1]


def test_the_backend_asked_for_is_timed(folder):
    result = benchmark.run(str(folder), context=20, steps=STEPS, backend="eager")
    assert result.backend_reason.startswith("asked for by name; prompts: plain torch")


def test_what_cannot_be_timed_is_refused(folder, monkeypatch):
    with pytest.raises(RequestError, match="context 157 and 100 tokens after it exceed the window of 256"):
        benchmark.run(str(folder), context=157, steps=STEPS)
    with pytest.raises(RequestError, match="at least 1 token, not 0"):
        benchmark.run(str(folder), context=0, steps=STEPS)
    with pytest.raises(RequestError, match="at least 1 token, not -1"):
        benchmark.run(str(folder), context=20, steps=STEPS, prompts=[20, -1])
    with pytest.raises(RequestError, match="a prompt of 257 tokens exceeds the window of 256"):
        benchmark.run(str(folder), context=20, steps=STEPS, prompts=[20, 257])
    for rows in (0, 33):
        with pytest.raises(RequestError, match=f"1 to 32 rows, not {rows}"):
            benchmark.run(str(folder), context=20, steps=STEPS, batches=[4, rows])
    with pytest.raises(RequestError, match="9 steps are too few"):
        benchmark.run(str(folder), context=20, steps=9)
    with pytest.raises(RequestError, match=r"Qwen2\.5-7B"):
        benchmark.run(shape="Qwen9")
    with pytest.raises(RequestError, match="unknown backend 'warp'"):
        benchmark.run(str(folder), context=20, steps=STEPS, backend="warp")
    with pytest.raises(RequestError, match="the device is cpu"):
        benchmark.run(str(folder), context=20, steps=STEPS, backend="graph")


def test_too_little_memory_is_a_clear_line(monkeypatch):
    def draw(*_):
        raise torch.OutOfMemoryError("tried to allocate 14 GiB")

    monkeypatch.setattr(suite, "random_weights", draw)
    with pytest.raises(DeviceError, match=r"memory of cpu is too small .* smaller ones"):
        benchmark.run(shape="Qwen2.5-7B")
