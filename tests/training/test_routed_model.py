"""The training forward: it is the engine's, it is transformers' at full depth, and nothing but the prompt decides."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from qwen2 import random_model, save
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from layerroute.backbone.config import EMBEDDED, resolve_checkpoint
from layerroute.bundle import BackboneIdentity, fingerprint, load_bundle
from layerroute.engine.accounting import Meter, Stopwatch
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine
from layerroute.engine.prefill import Prefill
from layerroute.engine.prefix_cache import PrefixCache
from layerroute.errors import BundleError, RouterError, UnsupportedArchitectureError, WeightsError
from layerroute.routers.gates import GateRouter
from layerroute_training.config import LoraConfig, PaperObjective, RouterConfig, StaticObjective, TrainConfig
from layerroute_training.embedded import conversations
from layerroute_training.errors import ConfigError
from layerroute_training.export import load_routed, save_routed
from layerroute_training.routed_model import RoutedModel
from layerroute_training.rows import ConversationEncoder, answer_header, answer_mask
from layerroute_training.scoring import scored_tokens, token_nll

BLOCKS, VOCABULARY = 6, 97
SCOPES = ("generation", "sequence")
PAPER = TrainConfig(
    objective=PaperObjective(),
    lora=LoraConfig(dropout=0.05),
    routers=RouterConfig(
        scope="sequence", pooling="padded", normalise=False, run_bias=1, band_bias=-1, always_run=(), noise=False
    ),
)
HALF_BILLION = Qwen2Config(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4_864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)


def routed(scope="generation", pooling="last", dtype=torch.float32, **changes):
    """A small model whose gates differ from step to step and whose LoRA changes the weights."""
    config = TrainConfig(routers=RouterConfig(scope=scope, pooling=pooling), **changes)
    model = RoutedModel(random_model(num_hidden_layers=BLOCKS).to(dtype), config).eval()
    return trained(model)


def trained(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=generator)
            elif not name.startswith("backbone"):
                parameter.normal_(std=0.5, generator=generator)
    return model


def batch(shapes, padded_to=None, seed=0):
    """Steps of random tokens: (prompt length, answer length) each, padded with random tokens too."""
    generator = torch.Generator().manual_seed(seed)
    prompts, ends = torch.tensor([p for p, _ in shapes]), torch.tensor([p + a for p, a in shapes])
    width = padded_to or int(ends.max())
    rows = [torch.randint(VOCABULARY, (width,), generator=torch.Generator().manual_seed(p * 64 + a)) for p, a in shapes]
    filler = torch.randint(VOCABULARY, (len(shapes), width), generator=generator)
    return torch.where(torch.arange(width) < ends[:, None], torch.stack(rows), filler), prompts, ends


steps = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=4)
quick = settings(max_examples=15, deadline=None)


# --- what is trained


def test_the_paper_preset_trains_exactly_what_the_paper_trains():
    with torch.device("meta"):
        model = RoutedModel(Qwen2ForCausalLM(HALF_BILLION), PAPER)
    sizes = {name: parameter.numel() for name, parameter in model.trainable().items()}
    assert sum(size for name, size in sizes.items() if "lora_" in name) == 1_081_344
    assert sum(size for name, size in sizes.items() if "lora_" not in name) == 21_528
    with torch.device("meta"):
        model = RoutedModel(Qwen2ForCausalLM(HALF_BILLION), TrainConfig())
    assert sum(parameter.numel() for parameter in model.trainable().values()) == 1_081_344 + 21_528 + 897


def test_a_static_program_trains_the_lora_alone():
    model = RoutedModel(random_model(), TrainConfig(objective=StaticObjective(skipped=(1,), skip=0.1)))
    assert all("lora_" in name for name in model.trainable())


def test_the_papers_band_of_biases_scales_with_depth():
    expected = [-1.0 if 8 <= block <= 16 else 1.0 for block in range(24)]
    deep = RoutedModel(random_model(num_hidden_layers=24), PAPER)
    assert deep.gates_bias_L.tolist() == expected
    assert RoutedModel(random_model(num_hidden_layers=48), PAPER).gates_bias_L[::2].tolist() == expected
    assert RoutedModel(random_model(), TrainConfig()).gates_bias_L.tolist() == [1.5] * BLOCKS


def test_the_seed_decides_the_start():
    def start(seed):
        torch.manual_seed(int(torch.randint(1000, ())))
        return RoutedModel(random_model(), TrainConfig(seed=seed)).state_dict()

    one, same, other = start(1), start(1), start(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    different = {name for name in one if not torch.equal(one[name], other[name])}
    assert different == {name for name in one if "lora_A" in name}
    assert all(tensor.abs().max() == 0 for name, tensor in one.items() if "lora_B" in name)


def test_gradients_reach_gates_and_lora_but_not_the_backbone():
    model = routed().train()
    out = model(*batch([(9, 5), (3, 6)]))
    (out.nll_A.mean() + out.kind_logit_B.mean()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == (name in model.trainable()), name
    assert model.gates_weight_LD.grad[0].abs().sum() == 0, "block 0 always runs"


@pytest.mark.parametrize("detached", [True, False])
def test_only_the_paper_bends_states_to_please_gates(detached):
    """The gates' logits reach the LoRA of earlier blocks under the paper's objective and under no other."""
    model = routed(**({} if detached else {"objective": PaperObjective()}))
    model(*batch([(9, 5)])).soft_BL.sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("lora_" in name for name in reached) == (not detached)
    assert "gates_weight_LD" in reached


def test_the_straight_through_gradient_is_the_gates_own():
    """The gradient that a hard gate g gets is dL/dg at the hard forward, times the sigmoid's slope."""
    model = routed(scope="sequence")
    tokens_BT, prompts_B, ends_B = batch([(9, 5)])
    out = model(tokens_BT, prompts_B, ends_B)
    out.nll_A.sum().backward()
    flags = out.run_BL.detach().clone().requires_grad_(True)
    model(tokens_BT, prompts_B, ends_B, run_BL=flags).nll_A.sum().backward()
    slope_L = (out.soft_BL * (1 - out.soft_BL)).detach()[0]
    assert torch.allclose(model.gates_bias_L.grad[1:], (flags.grad[0] * slope_L)[1:], rtol=1e-3, atol=1e-5)
    assert flags.grad[0, 1:].abs().min() > 0


# --- what the forward computes


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("every_token", [True, False])
def test_at_full_depth_the_loss_is_that_of_transformers(scope, every_token):
    model = routed(scope)
    tokens_BT, prompts_B, ends_B = batch([(9, 5), (3, 6), (1, 1)])
    with torch.no_grad():
        out = model(tokens_BT, prompts_B, ends_B, run_BL=torch.ones(3, BLOCKS), every_token=every_token)
    at_BT = torch.arange(tokens_BT.shape[1])
    scored_BT = (at_BT >= (1 if every_token else prompts_B[:, None])) & (at_BT < ends_B[:, None])
    labels_BT = tokens_BT.masked_fill(~scored_BT, -100)
    assert abs(out.nll_A.mean() - model.backbone(tokens_BT, labels=labels_BT).loss) < 1e-4
    assert torch.equal(out.step_A, scored_BT.nonzero()[:, 0])


def test_bare_is_the_base_model_and_ends():
    model = routed()
    tokens_BT, prompts_B, ends_B = batch([(9, 5), (3, 6)])
    full = {"run_BL": torch.ones(2, BLOCKS)}
    with torch.no_grad():
        before = model(tokens_BT, prompts_B, ends_B, **full).nll_A
        with model.bare():
            bare = model(tokens_BT, prompts_B, ends_B, **full).nll_A
            trainable = dict(model.trainable())
        after = model(tokens_BT, prompts_B, ends_B, **full).nll_A
        base = RoutedModel(random_model(), TrainConfig(lora=LoraConfig(targets=())))
        expected = base(tokens_BT, prompts_B, ends_B, **full).nll_A
    assert torch.equal(bare, expected)
    assert torch.equal(before, after)
    assert (before - bare).abs().max() > 0.1
    assert set(trainable) <= set(model.trainable())
    assert all(parameter.requires_grad == (name in model.trainable()) for name, parameter in model.named_parameters())
    assert sum("lora_" in name for name in model.trainable()) == 8 * BLOCKS


@quick
@given(
    shapes=steps, padding=st.integers(0, 9), scope=st.sampled_from(SCOPES), pooling=st.sampled_from(["last", "mean"])
)
def test_padding_and_other_rows_change_nothing(shapes, padding, scope, pooling):
    model = routed(scope, pooling)
    width = max(p + a for p, a in shapes) + padding
    with torch.no_grad():
        together = model(*batch(shapes, width, seed=7))
        for row, shape in enumerate(shapes):
            alone = model(*batch([shape]))
            assert torch.equal(alone.run_BL[0], together.run_BL[row])
            assert torch.allclose(alone.kind_logit_B[0], together.kind_logit_B[row], atol=1e-3)
            assert torch.allclose(alone.nll_A, together.nll_A[together.step_A == row], atol=1e-3)


@quick
@given(prompt=st.integers(1, 12), answer=st.integers(2, 6), scope=st.sampled_from(SCOPES), seed=st.integers(0, 99))
def test_the_answer_decides_nothing(prompt, answer, scope, seed):
    tokens_BT, prompts_B, ends_B = batch([(prompt, answer)])
    other_BT = tokens_BT.clone()
    other_BT[:, prompt:] = torch.randint(VOCABULARY, (1, answer), generator=torch.Generator().manual_seed(seed))
    for pooling in ("last", "mean"):
        model = routed(scope, pooling)
        with torch.no_grad():
            one, other = (model(tokens, prompts_B, ends_B) for tokens in (tokens_BT, other_BT))
        assert torch.equal(one.soft_BL, other.soft_BL)
        assert torch.equal(one.kind_logit_B, other.kind_logit_B)


def test_the_papers_padded_pooling_reads_everything_in_training_only():
    model = routed("sequence", "padded")
    tokens_BT, prompts_B, ends_B = batch([(5, 3)], 12)
    other_BT = tokens_BT.clone()
    other_BT[:, 6:] = 1
    with torch.no_grad():
        assert torch.equal(model(tokens_BT, prompts_B, ends_B).soft_BL, model(other_BT, prompts_B, ends_B).soft_BL)
        model.train()
        changed = model(tokens_BT, prompts_B, ends_B).soft_BL - model(other_BT, prompts_B, ends_B).soft_BL
    assert changed[:, 1:].abs().min() > 0


def test_scopes_agree_where_nothing_is_skipped_and_differ_where_something_is():
    inputs = batch([(9, 5), (3, 6)])
    one, other = routed("generation"), routed("sequence")
    full, some = torch.ones(2, BLOCKS), torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 1.0]] * 2)
    with torch.no_grad():
        assert torch.equal(one(*inputs, run_BL=full).nll_A, other(*inputs, run_BL=full).nll_A)
        generation, sequence = one(*inputs, run_BL=some), other(*inputs, run_BL=some)
        first_A = torch.tensor([0, 5])
        assert torch.equal(generation.nll_A[first_A], one(*inputs, run_BL=full).nll_A[first_A])
    assert (generation.nll_A - sequence.nll_A).abs()[first_A].min() > 1e-3


def test_noise_explores_and_blocks_without_a_choice_stay():
    model = routed()
    inputs = batch([(9, 5), (3, 6)])
    with torch.no_grad():
        closed = model(*inputs, noise_BL=torch.full((2, BLOCKS), -1e4))
    assert closed.run_BL.tolist() == closed.soft_BL.tolist() == [[1.0] + [0.0] * (BLOCKS - 1)] * 2


def test_bfloat16_keeps_float32_masters_and_comes_close():
    inputs = batch([(9, 5), (3, 6)])
    low, high = routed(dtype=torch.bfloat16), routed()
    full = {"run_BL": torch.ones(2, BLOCKS)}
    out = low.train()(*inputs, **full)
    out.nll_A.mean().backward()
    assert out.nll_A.dtype == torch.float32
    assert {parameter.dtype for parameter in low.trainable().values()} == {torch.float32}
    assert all(p.grad.dtype == torch.float32 for name, p in low.trainable().items() if "lora_" in name)
    assert (out.nll_A - high(*inputs, **full).nll_A).abs().mean() < 0.1


# --- losses


@pytest.mark.parametrize("chunk", [64, 1 << 27])
def test_chunked_losses_and_their_gradients_are_cross_entropy(monkeypatch, chunk):
    monkeypatch.setattr("layerroute_training.scoring._CHUNK_LOGITS", chunk)
    generator = torch.Generator().manual_seed(0)
    head_VD = torch.randn(VOCABULARY, 16, generator=generator)
    states_AD = torch.randn(200, 16, generator=generator, requires_grad=True)
    targets_A = torch.randint(VOCABULARY, (200,), generator=generator)
    weights_A = torch.randn(200, generator=generator)
    expected_A = F.cross_entropy(states_AD @ head_VD.T, targets_A, reduction="none")
    (expected,) = torch.autograd.grad((expected_A * weights_A).sum(), states_AD)
    nll_A = token_nll(states_AD, targets_A, head_VD)
    (found,) = torch.autograd.grad((nll_A * weights_A).sum(), states_AD)
    assert torch.allclose(nll_A, expected_A, atol=1e-4)
    assert torch.allclose(found, expected, atol=1e-4)
    with torch.no_grad():
        assert torch.allclose(token_nll(states_AD, targets_A, head_VD), expected_A, atol=1e-4)


@pytest.mark.parametrize(("prompt", "end"), [(0, 3), (3, 3), (3, 9)])
def test_lengths_that_make_no_step_are_refused(prompt, end):
    with pytest.raises(RouterError, match="collate"):
        scored_tokens(torch.tensor([2, prompt]), torch.tensor([4, end]), 8)


# --- loading


def test_other_models_and_damaged_checkpoints_are_refused(tmp_path):
    folder = save(random_model(), tmp_path / "other")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"model_type": "llama"}))
    with pytest.raises(UnsupportedArchitectureError, match="Qwen2 family"):
        RoutedModel.from_config(TrainConfig(), folder)
    folder = save(random_model(), tmp_path / "incomplete")
    (folder / "config.json").write_text(json.dumps(raw | {"num_hidden_layers": 7, "layer_types": None}))
    with pytest.raises(WeightsError, match=r"lacks 'model\.layers\.6"):
        RoutedModel.from_config(TrainConfig(), folder)
    folder = save(random_model(), tmp_path / "truncated")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(WeightsError, match="fetch the checkpoint again"):
        RoutedModel.from_config(TrainConfig(), folder)


def test_options_that_fit_no_model_are_refused():
    with pytest.raises(ConfigError, match="blocks 0 to 5"):
        RoutedModel(random_model(), TrainConfig(routers=RouterConfig(always_run=(6,))))
    with pytest.raises(ConfigError, match="nowhere_proj"):
        RoutedModel(random_model(), TrainConfig(lora=LoraConfig(targets=("nowhere_proj",))))


# --- bundles


@pytest.mark.parametrize("targets", [("q_proj", "k_proj", "v_proj", "o_proj"), ("q_proj", "down_proj"), ()])
def test_a_bundle_gives_the_model_back(tmp_path, targets):
    folder = save(random_model(), tmp_path / "backbone")
    config = TrainConfig(
        routers=RouterConfig(scope="sequence", pooling="mean", always_run=(0, 3)),
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
    assert again.routers.always_run == (0, 3)
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
    with pytest.raises(BundleError, match="was trained for random"):
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
    """Prompt and answer ids of four assistant turns of real conversations."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    encoder, (header, end) = ConversationEncoder(tokenizer), answer_header(tokenizer)
    found = []
    for kind in ("front_desk", "everyday_tools"):
        ids = encoder.encode(next(iter(conversations.generate(kind, 0, 1, 20_261_122))))
        mask = answer_mask(ids, header, end)
        begins = [at for at in range(1, len(ids)) if mask[at] and not mask[at - 1]]
        found += [(ids[:at], ids[at : ids.index(end, at) + 1]) for at in begins[:2]]
    return found


@torch.inference_mode()
@pytest.mark.parametrize("scope", SCOPES)
def test_the_engine_runs_what_the_training_forward_computes(embedded, engine, real_steps, scope, monkeypatch):
    """Same gates, same belief in the kind, and same losses along the given answer, in one padded batch of real rows."""
    monkeypatch.setattr(embedded, "routers", embedded.routers.model_copy(update={"scope": scope}))
    prompts_B = torch.tensor([len(prompt) for prompt, _ in real_steps])
    ends_B = torch.tensor([len(prompt) + len(answer) for prompt, answer in real_steps])
    tokens_BT = torch.zeros(len(real_steps), -(-int(ends_B.max()) // 64) * 64, dtype=torch.int64)
    for row, (prompt, answer) in enumerate(real_steps):
        tokens_BT[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
    out = embedded(tokens_BT, prompts_B, ends_B)
    assert len({tuple(run_L) for run_L in out.run_BL.tolist()}) > 1
    runner = engine.load()
    for row, (prompt_ids, answer_ids) in enumerate(real_steps):
        prefill = Prefill(runner.backbone, PrefixCache(1, lambda slots: runner.backbone.new_cache(slots, 4_096)))
        router = GateRouter(runner.bundle)
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
