"""The shipped model: it is what its card says, meets its targets, and runs in the engine as it ran in the recipe."""

import json
import re

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
from layerroute.routers.gates import GateRouter
from layerroute_training.embedded import conversations
from layerroute_training.embedded.batches import ChatTokens, Documents, RowPacker
from layerroute_training.embedded.export import load_backbone
from layerroute_training.embedded.fit_routers import RoutedPass, RouterConfig, Routers, routed_weights, turn_spans
from layerroute_training.embedded.network import Network, NetworkShape, dense_mask
from layerroute_training.embedded.prepare import GENERAL_CHARACTERS
from layerroute_training.embedded.runtime import Runtime
from layerroute_training.rows import ConversationEncoder, answer_header

FOLDER = resolve_checkpoint(EMBEDDED)
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
ROUTING = json.loads((FOLDER / "bundle" / "routing.json").read_text(encoding="utf-8"))
CPU = torch.device("cpu")
PLACES, KINDS = ("corpora", "generated", "all"), ("tool_call", "planning")
UNSEEN_SEED = 20_261_122  # the recipe generated its conversations with seed 0
ROWS_OF_KIND = {"front_desk": 2, "plan": 1, "plan_steps": 1, "everyday_tools": 2, "analyst": 1}


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


# --- the card against the bundle


def rows_under(heading):
    """Table rows of a section of the card, without header and ruler."""
    section = CARD.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def test_the_routing_table_is_the_bundles():
    expected = []
    for place in PLACES:
        for kind in KINDS:
            cell = ROUTING["evaluation"][place][kind]

            def shown(name, digits, scale=1.0, cell=cell):
                value, (low, high) = cell[name]["value"] * scale, cell[name]["interval"]
                return f"{value:.{digits}f} ({low * scale:.{digits}f} to {high * scale:.{digits}f})"

            columns = [place, kind.replace("_", " "), f"{cell['turns']:,}", f"{cell['tokens']:,}"]
            columns += [shown("skip", 1, 100.0), *(shown(f"nll_{name}", 4) for name in ("routed", "full", "rise"))]
            columns += [f"{cell['nll_bare']['value']:.4f}", f"{100 * cell['kind_accuracy']:.1f}"]
            expected.append(f"| {' | '.join(columns)} |")
    assert rows_under("Routing") == expected
    for place in PLACES:
        assert f"{ROUTING['evaluation'][place]['kind_auc']:.4f} ({place})" in CARD
    bare, full, routed = (
        ROUTING["evaluation"]["corpora"]["planning"][f"nll_{name}"]["value"] for name in ("bare", "full", "routed")
    )
    assert f"LoRA itself\ncosts {full - bare:.3f} nats" in CARD
    assert f"against the bare backbone routing costs {routed - bare:.3f} nats" in CARD


def test_the_block_table_is_the_bundles():
    columns = [ROUTING["evaluation"][place][kind]["run_rate_per_block"] for place in PLACES[:2] for kind in KINDS]
    expected = [
        f"| {block} | " + " | ".join(f"{100 * rate:.1f}" for rate in rates) + " |"
        for block, rates in enumerate(zip(*columns, strict=True))
    ]
    assert rows_under("Blocks that run") == expected


def test_the_card_names_the_recipe_of_the_bundle_and_every_source():
    training = ROUTING["training"]
    assert training["complete"]
    assert f"{training['updates']:,} updates" in CARD
    assert f"seed {training['seed']}" in CARD
    targets = training["targets"]
    assert f"{100 * targets['tool_call']:.0f} % (tool call) and {100 * targets['planning']:.0f} % (planning)" in CARD
    assert all(re.search(rf"`general/{source}`", CARD) for source in GENERAL_CHARACTERS)
    assert all(re.search(rf"`generated/{kind}`", CARD) for kind in conversations.KINDS)


# --- the targets


@pytest.mark.parametrize("place", PLACES)
def test_routing_meets_its_targets(place):
    tool_call, planning = (ROUTING["evaluation"][place][kind] for kind in KINDS)
    assert tool_call["skip"]["value"] >= 0.25
    assert planning["skip"]["value"] <= 0.10
    assert tool_call["nll_rise"]["value"] <= 0.05
    assert planning["nll_rise"]["value"] <= 0.02
    for cell in (tool_call, planning):
        rise = cell["nll_routed"]["value"] - cell["nll_full"]["value"]
        assert rise == pytest.approx(cell["nll_rise"]["value"], abs=1e-9)


# --- what was evaluated is what runs


@pytest.fixture(scope="module")
def engine():
    engine = Engine(EngineConfig(device="cpu", dtype="float32"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def documents(engine):
    """Conversations of an unseen seed as the recipe's token documents."""
    encoder = ConversationEncoder(engine.tokenizer)
    parts = [
        np.array(encoder.encode(row), dtype=np.uint16)
        for kind, count in ROWS_OF_KIND.items()
        for row in conversations.generate(kind, 0, count, UNSEEN_SEED)
    ]
    header, end = answer_header(engine.tokenizer)
    chat = ChatTokens(end, engine.tokenizer.convert_tokens_to_ids("<tool_call>"), tuple(header))
    offsets = np.cumsum([0, *map(len, parts)]).astype(np.int64)
    return Documents("generated", np.concatenate(parts), offsets, chat)


@pytest.fixture(scope="module")
def turns(documents):
    """The first two turns with a call and the first two without of every conversation, as spans."""
    chosen = []
    for calls in (True, False):
        seen = {}
        for span in turn_spans([documents], 0, calls, RouterConfig()):
            seen.setdefault(span.start, []).append(span)
        chosen += [span for spans in seen.values() for span in spans[:2]]
    return sorted(chosen, key=lambda span: span.end)


@pytest.fixture(scope="module")
def trainer():
    """The recipe's network and routers, with what the folder holds."""
    network = Network(NetworkShape())
    load_backbone(network, FOLDER)
    network.requires_grad_(False)
    bundle = load_bundle(FOLDER / "bundle")
    routers = Routers(network, RouterConfig()).requires_grad_(False)
    routers.gates_weight_LD.copy_(bundle.gates_weight_LD)
    routers.gates_bias_L.copy_(bundle.gates_bias_L)
    routers.kind_weight_D.copy_(bundle.kind_weight_D)
    routers.kind_bias.copy_(bundle.kind_bias)
    for name in routers.lora_a:
        for block in range(network.shape.num_blocks):
            module = bundle.lora[f"model.layers.{block}.self_attn.{name}_proj"]
            assert module.scale == routers.scale
            routers.lora_a[name][block].copy_(module.a_RI)
            routers.lora_b[name][block].copy_(module.b_OR)
    return network, routers


def forward_of_the_recipe(trainer, documents, span):
    """Run flags [L], belief and logits [A, V] before each answer token, by the code that trained and evaluated."""
    network, routers = trainer
    length = span.end - span.start
    runtime = Runtime(CPU, torch.float32, dense_mask, length, 1)
    rows = RowPacker([documents], length, 0.0, CPU).pack([[span]])
    routed = RoutedPass(routers, rows, torch.float32, None)
    weights = routed_weights(network, routers, runtime)
    states = runtime.states(network, weights, rows.tokens_BT, rows.start_BT, routed)
    logits_AV = F.linear(states.flatten(0, 1)[rows.answer_at_A - 1], weights.embed_VD)
    return routed.decisions()[0], torch.sigmoid(routed.kind_logit_U[0]), logits_AV


def ids_of(documents, span):
    """Prompt and answer of a turn."""
    ids = documents.tokens[span.start : span.end].tolist()
    at = span.answers_from - span.start
    return tuple(ids[:at]), ids[at:]


@torch.inference_mode()
def test_the_engine_runs_what_the_recipe_evaluated(engine, trainer, documents, turns):
    """Same gates, same belief in the kind, and same logits along the given answer, in float32."""
    runner = engine.load()
    router = GateRouter(runner.bundle)
    programs = set()
    for span in turns:
        prompt_ids, answer_ids = ids_of(documents, span)
        run_L, belief, expected_AV = forward_of_the_recipe(trainer, documents, span)
        prefill = Prefill(runner.backbone, PrefixCache(1, lambda slots: runner.backbone.new_cache(slots, 4_096)))
        prompt = prefill.run(prompt_ids, router, "generation", Meter(runner.shape), Stopwatch(), lambda: None)
        decision = prompt.decision
        assert decision.program.blocks == tuple(run_L.nonzero().flatten().tolist())
        assert decision.tool_call_probability == pytest.approx(float(belief), abs=1e-3)
        found = [prompt.logits_V]
        for at, token in enumerate(answer_ids[:-1]):
            start = len(prompt_ids) + at
            found.append(runner.stepper.step([token], start, prompt.visits, prompt.conversation.cache))
        assert (torch.stack(found) - expected_AV).abs().max() < 1e-3
        programs.add(decision.program)
    assert len(programs) > len(turns) // 2, "the turns must need different programs for this to mean anything"


def test_a_request_runs_under_the_recipes_gates(engine, trainer, documents, turns):
    """The same through the front door, prefix cache included: what the report says is what the recipe decided."""
    for span in turns:
        prompt_ids, _ = ids_of(documents, span)
        with torch.inference_mode():
            run_L, _, logits_AV = forward_of_the_recipe(trainer, documents, span)
        result = engine.submit(GenerationRequest(prompt_ids, max_tokens=1)).result()
        assert result.report.router == "gates"
        assert list(result.report.visits_per_block) == run_L.int().tolist()
        assert result.token_ids == (int(logits_AV[0].argmax()),)
