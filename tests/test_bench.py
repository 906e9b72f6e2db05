"""The benchmark measures what it says it measures; how fast that is, no test judges."""

import json
from collections import Counter
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from qwen2 import load, random_model, save

from layerroute import benchmark
from layerroute.backbone.config import read_config
from layerroute.backbone.model import Backbone
from layerroute.benchmark import measure, results, stock, suite
from layerroute.cli import main
from layerroute.errors import DeviceError, RequestError

STEPS = 10  # timed steps of each program, and tokens of each answer


@pytest.fixture(autouse=True)
def _small_copies(monkeypatch):
    monkeypatch.setitem(measure.COPY_BYTES, "cpu", 2**16)


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
    monkeypatch.setattr(measure, "time", clock)
    return clock


# What is timed.


def test_what_is_timed_is_what_runs(folder, visits):
    result = benchmark.run(str(folder), context=20, steps=STEPS)
    lengths = [entry.blocks for entry in result.programs]
    assert lengths == [0, 1, 3, 4, 5, 6]
    answers_of_one, answers = 1 + measure.GENERATION_RUNS, 2 + measure.GENERATION_RUNS  # warm-up, timed, streamed
    prompts = 2 + measure.PROMPT_RUNS
    later_tokens = {(20 + i, 1): 6 * answers for i in range(1, STEPS - 1)}
    assert visits == {
        (20, 1): sum(lengths) * (STEPS + measure.WARM_UP_STEPS) + 6 * answers,
        **later_tokens,  # the last token of an answer is not fed
        (0, 20): 6 * (1 + answers_of_one + answers + prompts + 1),  # uncached, but for the history of the next turn
        (20, 100): 6 * prompts,
    }
    assert (result.prompt.cached_tokens, result.prompt.new_tokens) == (0, 20)
    assert (result.next_turn.cached_tokens, result.next_turn.new_tokens) == (20, 100)


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

    timed, tokens = measure.time_generation("ours", generate, 11, [7, 7, 8] + [7] * 8)
    assert tokens == [7] * 11
    assert timed == results.GenerationTime("ours", 11, 5000.0, 15000.0, 1363636.4, 1e6, 1e6, 2)


def test_a_copy_counts_what_is_read_and_written(clock, monkeypatch):
    monkeypatch.setattr(measure, "wait", lambda _: setattr(clock, "now", clock.now + 1.0))
    assert measure.copy_bandwidth(torch.device("cpu")) == 2 * 4 * 2**16 / 1e9
    assert clock.reads == 10


def test_savings_are_shares_of_what_the_blocks_cost(folder):
    result = benchmark.run(str(folder), context=20, steps=STEPS)
    *skipping, full = result.programs
    even = (full.us_per_token - skipping[0].us_per_token) / 6
    assert full.saved_share is None
    assert full.saved_per_skipped_block_us is None
    assert skipping[0].saved_share == 1.0
    for entry in skipping:
        saved = (full.us_per_token - entry.us_per_token) / (6 - entry.blocks)
        assert entry.saved_per_skipped_block_us == pytest.approx(saved, abs=0.2)
        assert entry.saved_share * even == pytest.approx(saved, abs=0.4)
    assert result.linearity == min(entry.saved_share for entry in skipping[1:])


def test_numbers_fit_together(folder):
    result = benchmark.run(str(folder), context=20, steps=STEPS)
    for entry in result.programs:
        assert 0 < entry.us_p10 <= entry.us_per_token <= entry.us_p90
        share = entry.gigabytes_per_second / result.copy_gigabytes_per_second
        assert entry.copy_share == pytest.approx(share, abs=0.1 * share + 0.05)
    for prompt in (result.prompt, result.next_turn):
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
    assert set(result.left_out.values()) == {"not asked for: --compare-transformers"}
    assert len(result.left_out) == 2


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
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    document = json.loads(out.splitlines()[-1])
    assert document["backend"] == "eager"
    assert "tokens/s" in err
    assert "left out: transformers" in " ".join(err.split())
    assert main([*arguments, "--json", "--compare-transformers"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert len(json.loads(out)["generation"]) == 2


def test_the_document_has_every_key(folder):
    document = json.loads(json.dumps(benchmark.run(str(folder), context=20, steps=STEPS).to_dict(), allow_nan=False))
    assert set(document) == {field.name for field in fields(results.Benchmark)}
    for key, value in {"batch": 1, "blocks": 6, "context": 20, "device": "cpu", "dtype": "float32"}.items():
        assert document[key] == value
    assert document["shape"]["hidden_size"] == 32
    for key, kind in {
        "programs": results.ProgramTime,
        "generation": results.GenerationTime,
    }.items():
        assert all(set(entry) == {field.name for field in fields(kind)} for entry in document[key]), key
    assert {"us_per_token", "tokens_per_second", "gigabytes_per_second", "copy_share"} <= set(document["programs"][-1])
    assert {"prefill_ms", "first_token_ms"} <= set(document["prompt"]) & set(document["next_turn"])


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


def test_the_backend_asked_for_is_timed(folder):
    result = benchmark.run(str(folder), context=20, steps=STEPS, backend="eager")
    assert result.backend_reason.startswith("asked for by name; prompts: plain torch")


def test_what_cannot_be_timed_is_refused(folder, monkeypatch):
    with pytest.raises(RequestError, match="context 157 and 100 tokens after it exceed the window of 256"):
        benchmark.run(str(folder), context=157, steps=STEPS)
    with pytest.raises(RequestError, match="at least 1 token, not 0"):
        benchmark.run(str(folder), context=0, steps=STEPS)
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
    with pytest.raises(DeviceError, match=r"memory of cpu is too small .* smaller shape"):
        benchmark.run(shape="Qwen2.5-7B")
