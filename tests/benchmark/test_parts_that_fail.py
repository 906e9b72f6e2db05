"""Each part of a benchmark stands alone: one that fails is named with its reason, and the others are reported."""

import json

import pytest
import torch
from small_work import STEPS

from layerroute import benchmark
from layerroute.benchmark import measure, stock, timing
from layerroute.cli import main
from layerroute.parts import Parts


def failing(error, only=lambda *_: True, original=None):
    """A function that raises, for the arguments that `only` picks."""

    def fail(*arguments, **options):
        if only(*arguments):
            raise error
        return original(*arguments, **options)

    return fail


def run(folder, **options):
    return benchmark.run(str(folder), context=20, steps=STEPS, prompts=[9, 30], batches=[2, 3], compare=True, **options)


def gave(result):
    """What there are numbers of."""
    return {
        "copy": result.copy_gigabytes_per_second is not None,
        "matrix product": result.matrix_teraflops_per_second is not None,
        "steps": len(result.programs),
        "batches": sorted({entry.batch for entry in result.batches}),
        "prompts": [entry.new_tokens for entry in result.prompts],
        "next turn": result.next_turn is not None,
        "engine": [(entry.mode, entry.blocks) for entry in result.engine],
        "generation": [entry.name for entry in result.generation],
    }


WHOLE = {
    "copy": True,
    "matrix product": True,
    "steps": 6,
    "batches": [2, 3],
    "prompts": [9, 30],
    "next turn": True,
    "engine": [("greedy", 3), ("greedy", 6), ("top-p 0.9", 6)],
    "generation": ["layerroute, eager", "transformers, dynamic cache"],
}
BROKEN = RuntimeError("broken\nand a long trace")


@pytest.mark.parametrize(
    ("owner", "name", "only", "failed", "left"),
    [
        (timing, "copy_bandwidth", None, ["copy"], {"copy": False}),
        (timing, "matrix_rate", None, ["matrix product"], {"matrix product": False}),
        (measure.Subject, "time_programs", None, ["steps"], {"steps": 0}),
        (measure.Subject, "time_batch", lambda *a: a[2] == 2, ["steps of 2 rows"], {"batches": [3]}),
        (timing, "select_batch_stepper", None, ["steps of several rows"], {"batches": []}),
        (measure.Subject, "time_prompt", lambda *a: a[2] == 30, ["prompt of 30 tokens"], {"prompts": [9]}),
        (measure.Subject, "time_prompt", lambda *a: a[1] > 0, ["next turn"], {"next turn": False}),
        (timing, "WholeEngine", None, ["whole engine"], {"engine": []}),
        (
            measure.Subject,
            "_bare_steps",
            lambda *a: a[1].num_visits == 3,
            ["whole engine, 3 blocks"],
            {"engine": [("greedy", 6), ("top-p 0.9", 6)]},
        ),
        (
            timing,
            "time_generation",
            lambda *a: a[0].startswith("layerroute"),
            ["layerroute, eager"],
            {"generation": ["transformers, dynamic cache"]},
        ),
        (
            stock.Qwen2ForCausalLM,
            "__init__",
            None,
            ["transformers, dynamic cache"],
            {"generation": ["layerroute, eager"]},
        ),
        (
            stock.Qwen2ForCausalLM,
            "generate",
            None,
            ["transformers, dynamic cache"],
            {"generation": ["layerroute, eager"]},
        ),
    ],
)
def test_a_part_that_fails_is_the_only_one_missing(folder, monkeypatch, owner, name, only, failed, left):
    monkeypatch.setattr(owner, name, failing(BROKEN, only or (lambda *_: True), getattr(owner, name)))
    result = run(folder)
    assert result.failed == dict.fromkeys(failed, "RuntimeError: broken")
    assert gave(result) == WHOLE | left


def test_an_answer_that_fails_leaves_the_other_modes(folder, monkeypatch):
    monkeypatch.setattr("layerroute.engine.runner.Detokenizer.add", failing(RuntimeError("no memory for text")))
    result = run(folder)
    names = ["greedy, 3 blocks", "greedy, 6 blocks", "top-p 0.9, 6 blocks"]
    assert result.failed == dict.fromkeys(names, "RuntimeError: no memory for text")
    assert gave(result) == WHOLE | {"engine": []}


@pytest.mark.parametrize("where", ["made", "read"])
def test_a_stream_that_fails_leaves_the_other_modes(speaking, where):
    def stream(engine, program, context, num_tokens):
        read = failing(RuntimeError("nobody listens"))
        return read(None) if where == "made" else read

    result = benchmark.run(shape="Small", context=40, steps=STEPS, streams={"broken": stream})
    name = "broken" if where == "made" else "broken, 6 blocks"
    assert result.failed == {name: "RuntimeError: nobody listens"}
    full = [entry.mode for entry in result.engine if entry.blocks == 6]
    assert full == ["greedy", "top-p 0.9", "a grammar's mask for each token"]


def test_memory_that_a_part_lacks_is_that_parts_failure(folder, monkeypatch):
    only, original = (lambda *a: a[2] == 30), measure.Subject.time_prompt
    error = torch.OutOfMemoryError("tried to allocate 14 GiB")
    monkeypatch.setattr(measure.Subject, "time_prompt", failing(error, only, original))
    result = run(folder)
    assert list(result.failed) == ["prompt of 30 tokens"]
    assert "the memory of cpu is too small" in result.failed["prompt of 30 tokens"]
    assert gave(result) == WHOLE | {"prompts": [9]}


def test_ctrl_c_keeps_what_is_measured_and_begins_nothing_else(folder, monkeypatch):
    only, original = (lambda *a: a[2] == 30), measure.Subject.time_prompt
    monkeypatch.setattr(measure.Subject, "time_prompt", failing(KeyboardInterrupt(), only, original))
    result = run(folder)
    assert set(result.failed.values()) == {"interrupted"}
    assert {"prompt of 30 tokens", "next turn", "whole engine", "layerroute, eager"} <= set(result.failed)
    nothing = {"prompts": [9], "next turn": False, "engine": [], "generation": []}
    assert gave(result) == WHOLE | nothing


def command(folder, capsys, *more):
    code = main(["bench", "--model", str(folder), "--context", "16", "--steps", str(STEPS), *more])
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]), " ".join(err.split())


def test_the_command_shows_the_rest_and_says_so_by_its_exit_code(folder, capsys, monkeypatch):
    monkeypatch.setattr(timing, "time_generation", failing(RuntimeError("\x1b[31mbroken")))
    code, document, err = command(folder, capsys)
    assert code == 1
    assert document["failed"] == {"layerroute, eager": "RuntimeError: \x1b[31mbroken"}
    assert (len(document["programs"]), len(document["prompts"])) == (6, 1)
    assert "tokens/s" in err
    assert "failed: layerroute, eager (RuntimeError: �[31mbroken)" in err
    code, document, err = command(folder, capsys, "--json")
    assert (code, err) == (1, "")
    assert len(document["programs"]) == 6


def test_the_command_shows_what_there_is_after_ctrl_c(folder, capsys, monkeypatch):
    monkeypatch.setattr(measure.Subject, "time_prompt", failing(KeyboardInterrupt()))
    code, document, err = command(folder, capsys)
    assert code == 130
    assert len(document["programs"]) == 6
    assert "failed: next turn (interrupted)" in err


def test_nothing_that_could_be_measured_is_a_document_too(folder, capsys, monkeypatch):
    monkeypatch.setattr(timing, "copy_bandwidth", failing(KeyboardInterrupt()))
    code, document, _ = command(folder, capsys)
    assert code == 130
    assert document["programs"] == []
    assert document["saved_per_block_us"] is None


def test_a_reason_is_one_line():
    parts = Parts()
    assert parts.attempt("fine", lambda: 7) == 7
    for name, error in {
        "told": OSError(28, "No space left"),
        "silent": ValueError(),
        "long": ValueError("x" * 999),
    }.items():
        assert parts.attempt(name, failing(error)) is None
    assert parts.failed["told"] == "OSError: [Errno 28] No space left"
    assert parts.failed["silent"] == "ValueError"
    assert len(parts.failed["long"]) < 350
