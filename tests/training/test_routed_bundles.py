"""Bundles of trained models: they give the model back, PEFT opens them, and the engine runs what was trained."""

from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from qwen2 import random_model, save
from small_routed import BLOCKS, FORMS, PAPER, batch, trained
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerroute.backbone.config import EMBEDDED, resolve_checkpoint
from layerroute.bundle import BackboneIdentity, fingerprint, load_bundle
from layerroute.engine.accounting import Meter, Stopwatch
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine
from layerroute.engine.prefill import Prefill
from layerroute.engine.prefix_cache import PrefixCache
from layerroute.errors import BundleError
from layerroute.routers.gates import GateRouter
from layerroute_training.config import LoraConfig, RouterConfig, TrainConfig
from layerroute_training.embedded import conversations
from layerroute_training.encoder import ConversationEncoder
from layerroute_training.export import load_routed, save_routed
from layerroute_training.routed_model import RoutedModel
from layerroute_training.scoring import scored_tokens


@pytest.mark.parametrize(
    ("targets", "scope", "reads"),
    [
        (("q_proj", "k_proj", "v_proj", "o_proj"), "sequence", "own_block"),
        (("q_proj", "down_proj"), "generation", "last_block"),
        ((), "generation", "own_block"),
    ],
)
def test_a_bundle_gives_the_model_back(tmp_path, targets, scope, reads):
    folder = save(random_model(), tmp_path / "backbone")
    config = TrainConfig(
        routers=RouterConfig(scope=scope, pooling="mean", reads=reads, always_run=(0, 3)),
        lora=LoraConfig(rank=3, alpha=4, targets=targets),
        precision="float32",
    )
    model = trained(RoutedModel.from_config(config, folder)).eval()
    identity = BackboneIdentity(name="random", fingerprint=fingerprint(folder))
    save_routed(model, tmp_path / "bundle", backbone=identity, training={"seed": 3})
    again = load_routed(tmp_path / "bundle", folder, "float32")
    inputs = batch([(9, 5), (3, 6)])
    with torch.no_grad():
        one, other = model(*inputs), again(*inputs)
    assert torch.equal(one.run_BL, other.run_BL)
    assert torch.allclose(one.nll_A, other.nll_A, atol=1e-5)
    assert torch.allclose(one.kind_logit_B, other.kind_logit_B, atol=1e-5)
    with again.bare():
        pass
    assert not again.trainable(), "a frozen model stays frozen"
    assert (again.routers.always_run, again.routers.reads) == ((0, 3), reads)
    assert load_bundle(tmp_path / "bundle").metadata.training == {"seed": 3}
    if targets:
        with torch.no_grad():
            opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "bundle").eval()
            ours = model(*inputs, run_BL=torch.ones(2, BLOCKS)).nll_A
            logits_BTV = opened(inputs[0]).logits
        at_A = scored_tokens(inputs[1], inputs[2], 14)
        theirs = F.cross_entropy(logits_BTV.flatten(0, 1)[at_A], inputs[0].flatten()[at_A + 1], reduction="none")
        assert torch.allclose(ours, theirs, atol=1e-3)


def test_the_papers_pooling_is_a_mean_in_the_bundle_and_another_backbone_is_refused(tmp_path):
    folder, other = save(random_model(), tmp_path / "backbone"), save(random_model(seed=1), tmp_path / "other")
    model = RoutedModel.from_config(PAPER, folder)
    identity = BackboneIdentity(name="random", fingerprint=fingerprint(folder))
    bundle = save_routed(model, tmp_path / "bundle", backbone=identity)
    assert (bundle.metadata.evidence, bundle.metadata.scope, bundle.metadata.always_run) == ("mean", "sequence", ())
    with pytest.raises(BundleError, match="was trained for 'random'"):
        load_routed(tmp_path / "bundle", other)


# --- the engine runs what was trained

FOLDER = resolve_checkpoint(EMBEDDED)


@pytest.fixture(scope="module")
def embedded():
    return load_routed(FOLDER / "bundle", FOLDER, "float32")


@pytest.fixture(scope="module")
def engine():
    engine = Engine(EngineConfig(device="cpu", dtype="float32"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def real_steps():
    """Prompts of four assistant turns of real conversations, and how their answers begin."""
    encoder = ConversationEncoder(AutoTokenizer.from_pretrained(FOLDER))
    found = []
    for kind in ("analyst", "everyday_tools"):
        row = next(iter(conversations.generate(kind, 0, 1, 20_261_122)))
        ids, begins = encoder.system_block(row.messages, row.tools).tolist(), []
        for segment in encoder.segments(row.messages):
            if segment.role == "assistant":
                start, end = segment.answer
                begins.append(([*ids, *segment.ids[:start].tolist()], segment.ids[start:end].tolist()[:24]))
            ids += segment.ids.tolist()
        found += begins[:2]
    return found


@torch.inference_mode()
@pytest.mark.parametrize(("scope", "reads"), FORMS)
def test_the_engine_runs_what_the_training_forward_computes(embedded, engine, real_steps, scope, reads, monkeypatch):
    """Same gates, same belief in the kind, and same losses along the given answer, in one padded batch of real rows."""
    monkeypatch.setattr(embedded, "routers", embedded.routers.model_copy(update={"scope": scope, "reads": reads}))
    prompts_B = torch.tensor([len(prompt) for prompt, _ in real_steps])
    ends_B = torch.tensor([len(prompt) + len(answer) for prompt, answer in real_steps])
    tokens_BT = torch.zeros(len(real_steps), -(-int(ends_B.max()) // 64) * 64, dtype=torch.int64)
    for row, (prompt, answer) in enumerate(real_steps):
        tokens_BT[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
    out = embedded(tokens_BT, prompts_B, ends_B)
    assert len({tuple(run_L) for run_L in out.run_BL.tolist()}) > 1
    runner = engine.load()
    bundle = replace(runner.bundle, metadata=runner.bundle.metadata.model_copy(update={"reads": reads}))
    for row, (prompt_ids, answer_ids) in enumerate(real_steps):
        prefill = Prefill(runner.backbone, PrefixCache(1, lambda slots: runner.backbone.new_cache(slots, 4_096)))
        router = GateRouter(bundle)
        prompt = prefill.run(tuple(prompt_ids), router, scope, Meter(runner.shape), Stopwatch(), lambda: None)
        assert prompt.decision.program.blocks == tuple(out.run_BL[row].nonzero().flatten().tolist())
        belief = float(torch.sigmoid(out.kind_logit_B[row]))
        assert prompt.decision.tool_call_probability == pytest.approx(belief, abs=1e-3)
        logits = [prompt.logits_V]
        for at, token in enumerate(answer_ids[:-1]):
            start = len(prompt_ids) + at
            logits.append(runner.stepper.step([token], start, prompt.visits, prompt.conversation.cache))
        nll_A = F.cross_entropy(torch.stack(logits), torch.tensor(answer_ids), reduction="none")
        assert (nll_A - out.nll_A[out.step_A == row]).abs().max() < 1e-3
