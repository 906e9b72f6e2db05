"""The shipped model: it is what its card says, meets its targets, and runs in the engine as it ran in training."""

import math
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerroute.backbone.config import EMBEDDED, read_config, resolve_checkpoint
from layerroute.backbone.kv_cache import visits_of
from layerroute.backbone.model import Backbone
from layerroute.backbone.weights import load_weights
from layerroute.bundle import load_bundle
from layerroute.engine.accounting import Meter, Stopwatch
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine
from layerroute.engine.prefill import Prefill
from layerroute.engine.prefix_cache import PrefixCache
from layerroute.engine.request import GenerationRequest
from layerroute.program import LayerProgram
from layerroute.report import StepKind
from layerroute.routers.gates import GateRouter
from layerroute_training.batching import collate
from layerroute_training.config import ConstrainedObjective, SkipTarget, TrainConfig
from layerroute_training.cutting import build_steps
from layerroute_training.embedded import conversations
from layerroute_training.embedded.card import block_table, report_of, with_tables
from layerroute_training.embedded.prepare import GENERAL_CHARACTERS
from layerroute_training.evaluation.report import EvaluationReport
from layerroute_training.export import load_routed
from layerroute_training.recipes import recipe

FOLDER = resolve_checkpoint(EMBEDDED)
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
CPU = torch.device("cpu")
UNSEEN_SEED = 20_261_122  # the recipe generated its conversations with seed 0
ROWS_OF_KIND = {"front_desk": 2, "plan": 1, "plan_steps": 1, "everyday_tools": 1, "analyst": 1}
LONGEST_ANSWER = 24  # of which the engine's tokens are compared


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    return report_of(FOLDER)


# --- what is in the folder


def test_sizes_are_within_the_limits_and_as_the_card_says():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 48_000_000
    assert all(path.stat().st_size < 16_000_000 for path in files)
    parameters = 0
    for path in FOLDER.glob("model-*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                assert file.get_slice(name).get_dtype() == "BF16"
                parameters += int(np.prod(file.get_slice(name).get_shape()))
    assert f"{parameters:,} parameters" in CARD
    assert f"{2 * parameters:,} bytes" in CARD


def test_transformers_loads_the_folder_and_gives_the_same_logits():
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    assert type(model).__name__ == "Qwen2ForCausalLM"
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in model.generation_config.eos_token_id
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Was kostet A-1042, in Zürich?"}], tokenize=False)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert tokenizer.decode(ids) == text
    config = read_config(FOLDER)
    backbone = Backbone(config, load_weights(FOLDER, config, CPU, torch.float32, None))
    visits = visits_of(LayerProgram.identity(config.num_blocks), "generation")
    with torch.inference_mode():
        ours = backbone.logits(backbone.forward(ids, 0, visits, backbone.new_cache(config.num_blocks, len(ids))))
        theirs = model(ids.unsqueeze(0)).logits[0]
    assert (ours - theirs).abs().max() < 1e-4
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


# --- the report, and the card against it


def test_routing_meets_its_targets(report):
    both = report.all
    assert both.tool_call.skip.value >= 0.30
    assert report.groups["corpora"].planning.skip.value <= 0.02
    assert report.groups["generated"].planning.skip.value <= 0.17
    assert both.differential.value >= 0.20
    assert both.length_control.by_prompt.differential.low > 0.13
    assert both.tool_call.rise_relative.value <= 0.01
    assert both.planning.rise_relative.value <= 0.005
    assert both.tool_call.gain_over_bare.value > 0 < both.planning.gain_over_bare.value
    for group in report.groups.values():
        for kind in StepKind:
            found = group.kind(kind)
            assert all(
                math.isfinite(x) for rise in (found.rise, found.rise_relative) for x in rise.model_dump().values()
            )
            assert found.rise.value == pytest.approx(found.routed.nll.value - found.full.nll.value, abs=1e-9)


def test_the_report_is_of_this_model_and_of_held_out_rows(report):
    under = report.conditions
    assert (under.backbone, under.split) == (EMBEDDED, "dev")
    assert under.scope == load_bundle(FOLDER / "bundle").metadata.scope
    assert set(report.groups) == {"corpora", "generated", "all"}


def test_the_cards_tables_are_the_reports(report):
    assert with_tables(CARD, report) == CARD
    skip = f"{100 * report.all.tool_call.skip.value:.1f} %"
    assert any(line.startswith("| skip, generated tokens |") and skip in line for line in CARD.splitlines())
    assert len(block_table(report).rows) == read_config(FOLDER).num_blocks


def test_the_card_names_the_recipe_of_the_bundle_and_every_source():
    run = load_bundle(FOLDER / "bundle").metadata.training["run"]
    config = TrainConfig.model_validate(run["config"])
    assert config.model == EMBEDDED
    shipped = recipe("embedded")
    assert (config.objective, config.schedule) == (shipped.objective, shipped.schedule)
    assert f"{config.schedule.updates:,} updates" in CARD
    assert f"seed {config.seed}" in CARD
    assert isinstance(config.objective, ConstrainedObjective)
    for group, kind in product(("corpora", "generated"), StepKind):
        asked = config.objective.constraint(group, kind)
        words = f"{100 * (asked.skip if isinstance(asked, SkipTarget) else asked.rise):g} %"
        assert words in CARD
    assert all(re.search(rf"`general/{source}`", CARD) for source in GENERAL_CHARACTERS)
    assert all(re.search(rf"`generated/{kind}`", CARD) for kind in conversations.KINDS)


# --- what was trained is what runs


@pytest.fixture(scope="module")
def engine():
    engine = Engine(EngineConfig(device="cpu", dtype="float32"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def model():
    return load_routed(FOLDER / "bundle", FOLDER, "float32")


@pytest.fixture(scope="module")
def steps(engine):
    """Of conversations of an unseen seed, the first step with a call and the first without, answers cut short."""
    rows = [row for kind, n in ROWS_OF_KIND.items() for row in conversations.generate(kind, 0, n, UNSEEN_SEED)]
    steps, _ = build_steps({"generated": rows}, engine.tokenizer, window=4_096)
    chosen = []
    for conversation in np.unique(steps.conversation):
        for calls in (True, False):
            chosen += np.flatnonzero((steps.conversation == conversation) & (steps.is_tool_call == calls))[:1].tolist()
    steps = steps.select(chosen)
    return replace(steps, end=np.minimum(steps.end, steps.answer + LONGEST_ANSWER))


@pytest.fixture(scope="module")
def forwards(model, steps):
    """What training computes for each step."""
    found = []
    for index in range(len(steps)):
        columns = collate(steps, np.array([index]))
        with torch.inference_mode():
            found.append(model(columns["tokens_BT"], columns["prompt_lengths_B"], columns["lengths_B"]))
    return found


def ids_of(steps, index):
    """Prompt and answer of a step."""
    start, answer, end = (int(column[index]) for column in (steps.start, steps.answer, steps.end))
    return tuple(steps.tokens[start:answer].tolist()), steps.tokens[answer:end].tolist()


@torch.inference_mode()
def test_the_engine_runs_what_was_trained(engine, steps, forwards):
    """Same gates, same belief in the kind, and same losses along the given answer, in float32."""
    runner = engine.load()
    router = GateRouter(runner.bundle)
    programs = set()
    for index, expected in enumerate(forwards):
        prompt_ids, answer_ids = ids_of(steps, index)
        prefill = Prefill(runner.backbone, PrefixCache(1, lambda slots: runner.backbone.new_cache(slots, 4_096)))
        prompt = prefill.run(prompt_ids, router, "generation", Meter(runner.shape), Stopwatch(), lambda: None)
        decision = prompt.decision
        assert decision.program.blocks == tuple(expected.run_BL[0].nonzero().flatten().tolist())
        belief = float(torch.sigmoid(expected.kind_logit_B[0]))
        assert decision.tool_call_probability == pytest.approx(belief, abs=1e-3)
        logits = [prompt.logits_V]
        for at, token in enumerate(answer_ids[:-1]):
            start = len(prompt_ids) + at
            logits.append(runner.stepper.step([token], start, prompt.visits, prompt.conversation.cache))
        nll_A = F.cross_entropy(torch.stack(logits), torch.tensor(answer_ids), reduction="none")
        assert (nll_A - expected.nll_A).abs().max() < 1e-3
        programs.add(decision.program)
    assert len(programs) > 1, "the steps must need different programs for this to mean anything"


def test_a_request_runs_under_the_trained_gates(engine, model, steps, forwards):
    """The same through the front door, prefix cache included: what the report says is what the gates decided."""
    for index, expected in enumerate(forwards):
        prompt_ids, _ = ids_of(steps, index)
        with torch.inference_mode():  # the first token is predicted at full depth
            first = model.backbone(torch.tensor([prompt_ids])).logits[0, -1].argmax()
        result = engine.submit(GenerationRequest(prompt_ids, max_tokens=1)).result()
        assert result.report.router == "gates"
        assert list(result.report.visits_per_block) == expected.run_BL[0].int().tolist()
        assert result.token_ids == (int(first),)
