"""The engine over a random Qwen2 with real files: answers, reports, reuse of prefixes, sharing, cancelling."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from qwen2 import random_model, save
from transformers import Qwen2ForCausalLM
from waiting import until

from layerroute.backbone.stepper import EagerStepper
from layerroute.bundle import BackboneIdentity, fingerprint, save_bundle
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine, shared_engine
from layerroute.engine.request import GenerationRequest, OutputConstraint, Sampling, ToolSpec
from layerroute.errors import BundleError, ContextWindowError, DeviceError, GenerationCancelledError, RouterError
from layerroute.program import LayerProgram
from layerroute.report import StepKind

L = 6
PROMPT = tuple(range(20, 60))


@pytest.fixture(scope="session")
def folder(tmp_path_factory, tokenizer):
    """A random backbone of six blocks with the test tokenizer, and a bundle of random gates."""
    path = tmp_path_factory.mktemp("backbone")
    save(random_model(seed=3, vocab_size=len(tokenizer), max_position_embeddings=512), path)
    tokenizer.save_pretrained(path)
    for evidence, reads in (("last", "own_block"), ("mean", "own_block"), ("last", "last_block")):
        torch.manual_seed(7)
        save_bundle(
            path.parent / f"{path.name}-{evidence}-{reads}",
            gates_weight_LD=torch.randn(L, 32),
            gates_bias_L=torch.zeros(L),
            kind_weight_D=torch.randn(32),
            kind_bias=torch.zeros(1),
            evidence=evidence,
            reads=reads,
            normalise=True,
            always_run=(0,),
            scope="generation",
            backbone=BackboneIdentity(name="random", fingerprint=fingerprint(path)),
        )
    return path


@pytest.fixture
def engine(folder):
    return Engine(EngineConfig(model=str(folder)))


def bundle_of(folder, evidence, reads="own_block"):
    return str(folder.parent / f"{folder.name}-{evidence}-{reads}")


def answer(engine, ids=PROMPT, **options):
    return engine.submit(GenerationRequest(ids, **({"max_tokens": 24} | options))).result()


def test_greedy_answer_is_that_of_transformers(engine, folder):
    model = Qwen2ForCausalLM.from_pretrained(folder).eval()
    expected = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert list(answer(engine).token_ids) == expected[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("scope", ["generation", "sequence"])
@pytest.mark.parametrize("router", ["full", "static:0,2,3,5", "random:0.4:1", "length:100:0-2"])
def test_report_counts_what_ran(engine, router, scope):
    """Visits are counted by a hook around the block itself, tokens from the answer."""
    runner = engine.load()
    ran = [0] * L
    original = runner.backbone.run_block

    def counting(hidden, visit, *rest):
        ran[visit.block] += len(hidden)
        return original(hidden, visit, *rest)

    runner.backbone.run_block = counting
    result = answer(engine, router=router, scope=scope)
    report = result.report
    assert sum(ran) == report.prefill.executed + report.decode.executed
    program = LayerProgram.parse(report.program, L)
    fed = len(result.token_ids) - 1
    computed = report.prompt_tokens - report.cached_tokens
    per_prompt_token = program.num_visits if scope == "sequence" else L
    assert report.prefill.executed == computed * per_prompt_token
    assert report.decode.executed == fed * program.num_visits
    assert report.decode.skipped == fed * len(program.skipped)
    assert report.flops_realised <= report.flops_full
    assert (report.flops_realised < report.flops_full) == (not program.is_identity)


def test_a_looped_program_costs_and_counts_more(engine):
    report = answer(engine, program="0-2,1-2,3-5", scope="sequence").report
    assert report.decode.looped == 2 * 23
    assert report.visits_per_block == (1, 2, 2, 1, 1, 1)
    assert report.flops_realised > report.flops_full


def test_repeats_are_refused_in_generation_scope(engine):
    with pytest.raises(RouterError, match="scope='sequence'"):
        answer(engine, program="0-2,2-5")


@pytest.mark.parametrize("options", [{}, {"program": "0,3,5"}, {"program": "0,3,5", "scope": "sequence"}])
def test_second_turn_prefills_only_what_is_new(engine, folder, options):
    """Reused prefixes change no token, whatever program the first turn ran."""
    first = answer(engine, **options)
    ids = (*PROMPT, *first.token_ids, *range(70, 80))
    second = answer(engine, ids, **options)
    fresh = answer(Engine(EngineConfig(model=str(folder))), ids, **options)
    assert second.token_ids == fresh.token_ids
    assert fresh.report.cached_tokens == 0
    keeps_answer = options.get("scope") == "sequence" or not options
    assert second.report.cached_tokens == len(PROMPT) + (23 if keeps_answer else 0)
    assert second.report.prefill.executed + second.report.prefill.skipped == L * (
        len(ids) - second.report.cached_tokens
    )


def test_prefix_is_shared_between_programs_in_generation_scope_only(engine):
    answer(engine, program="0,5")
    assert answer(engine, router="full").report.cached_tokens == len(PROMPT) - 1
    assert answer(engine, program="0,5", scope="sequence").report.cached_tokens == 0
    assert answer(engine, program="0,4,5", scope="sequence").report.cached_tokens == 0
    assert answer(engine, program="0,4,5", scope="sequence").report.cached_tokens > 0


def test_conversations_that_part_do_not_disturb_each_other(engine, folder):
    stem = PROMPT
    tails = [tuple(range(100 + 10 * i, 110 + 10 * i)) for i in range(4)]
    for tail in [*tails, *reversed(tails)]:
        expected = answer(Engine(EngineConfig(model=str(folder), prefix_slots=1)), stem + tail)
        got = answer(engine, stem + tail)
        assert got.token_ids == expected.token_ids
    assert got.report.cached_tokens >= len(stem)


def test_gates_that_read_the_last_block_cannot_serve_sequence_scope(folder):
    engine = Engine(EngineConfig(model=str(folder), adapter=bundle_of(folder, "last", "last_block")))
    with pytest.raises(RouterError, match="use scope='generation'"):
        answer(engine, scope="sequence")
    assert answer(engine, scope="sequence", router="full").token_ids, "the engine goes on"


@pytest.mark.parametrize(
    ("evidence", "reads", "scope"),
    [
        ("last", "own_block", "generation"),
        ("last", "own_block", "sequence"),
        ("mean", "own_block", "generation"),
        ("mean", "own_block", "sequence"),
        ("last", "last_block", "generation"),
    ],
)
def test_gates_decide_from_the_prompt_alone(folder, evidence, reads, scope):
    """Same prompt, same decision: cached or not, whatever is asked of the answer; and it is one per step."""
    config = EngineConfig(model=str(folder), adapter=bundle_of(folder, evidence, reads))
    engine = Engine(config)
    first = answer(engine, scope=scope).report
    assert first.router == "gates"
    assert first.run_probabilities is not None
    assert first.predicted_kind is not None
    assert LayerProgram.parse(first.program, L).blocks[0] == 0
    for report in (
        answer(engine, scope=scope, max_tokens=3).report,
        answer(engine, scope=scope, sampling=Sampling(temperature=1.0, seed=1)).report,
        answer(Engine(config), scope=scope).report,
    ):
        assert report.program == first.program
        assert report.run_probabilities == pytest.approx(first.run_probabilities, abs=1e-5)
    grown = (*PROMPT, *range(90, 120))
    assert answer(engine, grown, scope=scope).report.run_probabilities == pytest.approx(
        answer(Engine(config), grown, scope=scope).report.run_probabilities, abs=1e-5
    )


def test_sampling_is_seeded_per_request(engine):
    draw = lambda seed: answer(engine, sampling=Sampling(temperature=1.5, top_p=0.95, seed=seed)).token_ids  # noqa: E731
    assert draw(1) == draw(1) != draw(2)


def test_stop_string_across_tokens(engine, tokenizer):
    text = answer(engine, max_tokens=40).text
    stop = text[10:14]
    result = answer(engine, max_tokens=40, stop=(stop,))
    assert result.text == text[: text.index(stop)]
    assert result.finish_reason == "stop"


def test_length_and_window(folder):
    engine = Engine(EngineConfig(model=str(folder), context_window=48))
    result = answer(engine, max_tokens=None)
    assert result.finish_reason == "length"
    assert len(result.token_ids) == 48 - len(PROMPT)
    with pytest.raises(ContextWindowError, match="48"):
        engine.submit(GenerationRequest(tuple(range(48))))


def test_forced_call_is_fast_forwarded_and_valid(engine, tokenizer):
    import json

    tool = ToolSpec("set_level", '{"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}')
    result = answer(engine, constraint=OutputConstraint((tool,), "required", parallel=False), max_tokens=200)
    call = json.loads(result.text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    assert call["name"] == "set_level"
    assert isinstance(call["arguments"]["on"], bool)
    assert result.finish_reason == "tool_calls"
    report = result.report
    assert report.kind is StepKind.TOOL_CALL
    assert report.fast_forwarded_tokens > 5
    assert report.decode_steps + report.fast_forwarded_tokens <= report.generated_tokens + 1


def test_forced_tokens_that_run_step_by_step_are_counted_as_such(engine, folder, monkeypatch):
    """A backend that feeds forced tokens one by one runs the LM head for each: the report says what ran."""
    tool = ToolSpec("f", '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    options = {"constraint": OutputConstraint((tool,), "required"), "max_tokens": 60}
    together = answer(engine, **options).report
    monkeypatch.setattr(EagerStepper, "one_by_one", True)
    apart = answer(Engine(EngineConfig(model=str(folder))), **options).report
    assert apart.decode == together.decode
    assert apart.decode_steps == apart.generated_tokens - 1 > together.decode_steps
    assert apart.flops_realised > together.flops_realised


def test_fast_forwarding_can_be_left_and_changes_no_text(engine, folder):
    """The same text comes out when every forced token takes a draw and a decode step of its own."""
    tool = ToolSpec("f", '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')
    options = {"constraint": OutputConstraint((tool,), "required"), "max_tokens": 60, "program": "0,2,4,5"}
    fast = answer(engine, **options)
    slow = answer(Engine(EngineConfig(model=str(folder), fast_forward=False)), **options)
    rows = answer(Engine(EngineConfig(model=str(folder), fast_forward=False, max_batch_size=2)), **options)
    assert rows.report.fast_forwarded_tokens == 0
    assert slow.report.decode_steps == slow.report.generated_tokens - 1
    assert fast.report.fast_forwarded_tokens > 0 == slow.report.fast_forwarded_tokens
    assert fast.text == slow.text


def test_many_threads_share_one_engine(engine, folder):
    prompts = [tuple(range(10 + i, 40 + i)) for i in range(8)]
    alone = [answer(Engine(EngineConfig(model=str(folder))), ids).token_ids for ids in prompts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda ids: answer(engine, ids).token_ids, prompts))
    assert together == alone
    assert sum(thread.name == "layerroute-engine" for thread in threading.enumerate()) >= 1


async def test_asyncio_and_deltas(engine):
    expected = answer(engine)
    generation = engine.submit(GenerationRequest(PROMPT, max_tokens=24))
    deltas = [delta async for delta in generation]
    assert "".join(delta.text for delta in deltas) == expected.text
    results = await asyncio.gather(
        *(engine.submit(GenerationRequest(PROMPT, max_tokens=24)).aresult() for _ in range(3))
    )
    assert {result.token_ids for result in results} == {expected.token_ids}


def test_cancelling_stops_before_the_next_token(engine):
    runner = engine.load()
    steps = []
    original = runner.stepper.step

    def step(*args):
        steps.append(1)
        assert len(steps) < 20 or until(lambda: generation.cancelled)  # the reader may be slow
        return original(*args)

    runner.stepper.step = step
    generation = engine.submit(GenerationRequest(PROMPT, max_tokens=400))
    for index, _ in enumerate(generation):
        if index == 3:
            break
    result = generation.result()
    assert result.finish_reason == "cancelled"
    assert len(steps) <= 20
    assert answer(engine).token_ids == answer(engine).token_ids  # the engine lives on


def test_cancelled_in_the_queue(engine):
    gate, runner = threading.Event(), engine.load()
    run = runner.run
    runner.run = lambda *args: (gate.wait(), run(*args))[1]
    long = engine.submit(GenerationRequest(PROMPT, max_tokens=3))
    waiting = engine.submit(GenerationRequest(PROMPT))
    waiting.cancel()
    gate.set()
    long.result()
    with pytest.raises(GenerationCancelledError):
        waiting.result()


def test_equal_configurations_share_an_engine(folder):
    assert shared_engine(EngineConfig(model=str(folder))) is shared_engine(EngineConfig(model=str(folder)))
    assert shared_engine(EngineConfig(model=str(folder), dtype="bfloat16")) is not shared_engine(
        EngineConfig(model=str(folder))
    )


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_no_cuda_when_asked_for(folder, device):
    with pytest.raises(DeviceError, match="device='cpu'"):
        answer(Engine(EngineConfig(model=str(folder), device=device)))


def test_bundle_for_another_backbone(folder, tmp_path, tokenizer):
    other = save(random_model(seed=9, vocab_size=len(tokenizer)), tmp_path)
    tokenizer.save_pretrained(other)
    with pytest.raises(BundleError, match="backbone"):
        answer(Engine(EngineConfig(model=str(other), adapter=bundle_of(folder, "last"))))


def test_unknown_router_names_the_known_ones(engine):
    with pytest.raises(RouterError, match="length:TOKENS:PROGRAM"):
        answer(engine, router="clever")


def test_leaving_while_it_generates_ends_cleanly(folder):
    """A program may end in the middle of an answer: no abort, no traceback."""
    program = (
        "from layerroute.engine.config import EngineConfig\n"
        "from layerroute.engine.engine import Engine\n"
        "from layerroute.engine.request import GenerationRequest\n"
        f"engine = Engine(EngineConfig(model={str(folder)!r}))\n"
        "next(iter(engine.submit(GenerationRequest(tuple(range(40))))))\n"
        "engine.submit(GenerationRequest(tuple(range(50))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_closed_engine_starts_again(engine):
    expected = answer(engine).token_ids
    engine.close()
    engine.close()
    assert answer(engine).token_ids == expected
