"""The training forward: it is the engine's, it is transformers' at full depth, and nothing but the prompt decides."""

import json
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen2 import random_model, save
from small_routed import BLOCKS, FORMS, PAPER, SCOPES, VOCABULARY, batch, routed
from torch.nn import functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM

from layerroute.errors import CheckpointError, RouterError, UnsupportedArchitectureError, WeightsError
from layerroute_training.config import (
    LoraConfig,
    PaperObjective,
    RouterConfig,
    StaticObjective,
    TrainConfig,
    override,
)
from layerroute_training.errors import ConfigError
from layerroute_training.routed_model import RoutedModel
from layerroute_training.scoring import scored_tokens, token_nll

HALF_BILLION = Qwen2Config(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4_864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)


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


@pytest.mark.parametrize(("scope", "reads"), FORMS)
def test_the_straight_through_gradient_is_the_gates_own(scope, reads):
    """The gradient that a hard gate g gets is dL/dg at the hard forward, times the sigmoid's slope."""
    model = routed(scope, reads=reads)
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
@given(shapes=steps, padding=st.integers(0, 9), form=st.sampled_from(FORMS), pooling=st.sampled_from(["last", "mean"]))
def test_padding_and_other_rows_change_nothing(shapes, padding, form, pooling):
    scope, reads = form
    model = routed(scope, pooling, reads=reads)
    width = max(p + a for p, a in shapes) + padding
    with torch.no_grad():
        together = model(*batch(shapes, width, seed=7))
        for row, shape in enumerate(shapes):
            alone = model(*batch([shape]))
            assert torch.equal(alone.run_BL[0], together.run_BL[row])
            assert torch.allclose(alone.kind_logit_B[0], together.kind_logit_B[row], atol=1e-3)
            assert torch.allclose(alone.nll_A, together.nll_A[together.step_A == row], atol=1e-3)


@quick
@given(prompt=st.integers(1, 12), answer=st.integers(2, 6), form=st.sampled_from(FORMS), seed=st.integers(0, 99))
def test_the_answer_decides_nothing(prompt, answer, form, seed):
    scope, reads = form
    tokens_BT, prompts_B, ends_B = batch([(prompt, answer)])
    other_BT = tokens_BT.clone()
    other_BT[:, prompt:] = torch.randint(VOCABULARY, (1, answer), generator=torch.Generator().manual_seed(seed))
    for pooling in ("last", "mean"):
        model = routed(scope, pooling, reads=reads)
        with torch.no_grad():
            one, other = (model(tokens, prompts_B, ends_B) for tokens in (tokens_BT, other_BT))
        assert torch.equal(one.soft_BL, other.soft_BL)
        assert torch.equal(one.kind_logit_B, other.kind_logit_B)


def test_gates_that_decide_at_once_read_the_prompt_at_full_depth():
    """All logits come from one state per prompt, the one before the last block, whatever program the answer takes."""
    model = routed(reads="last_block")
    inputs = batch([(9, 5), (3, 6)])
    with torch.no_grad():
        model.gates_weight_LD[1:] = model.gates_weight_LD[1]
        model.gates_bias_L[1:] = model.gates_bias_L[1]
        model.kind_weight_D.copy_(model.gates_weight_LD[1])
        model.kind_bias.copy_(model.gates_bias_L[1:2])
        out = model(*inputs)
        shorter = model(*inputs, run_BL=torch.tensor([[1.0, 0, 0, 1, 0, 1]] * 2))
    expected_BL = torch.sigmoid(out.kind_logit_B)[:, None].expand(2, BLOCKS - 1)
    assert torch.allclose(out.soft_BL[:, 1:], expected_BL, atol=1e-6)
    assert torch.allclose(shorter.soft_BL, out.soft_BL, atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "why"),
    [("routers.scope=sequence", "scope 'sequence'"), ('objective={"name": "paper"}', "paper's objective")],
)
def test_gates_cannot_read_what_is_not_there_yet(setting, why):
    with pytest.raises(ConfigError, match=f"{why}.*routers.reads=own_block"):
        override(TrainConfig(), [setting])
    assert override(TrainConfig(), [setting, "routers.reads=own_block"]).routers.reads == "own_block"


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
    with pytest.raises(WeightsError, match=r"lacks the tensor 'model\.layers\.6"):
        RoutedModel.from_config(TrainConfig(), folder)
    folder = save(random_model(), tmp_path / "truncated")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(WeightsError, match="fetch the checkpoint again"):
        RoutedModel.from_config(TrainConfig(), folder)


@pytest.mark.parametrize(
    "change", [{"architectures": 5}, {"id2label": "x"}, {"use_cache": []}, {"dtype": "x"}], ids=str
)
def test_fields_that_only_transformers_reads_load_or_are_told(tmp_path, change):
    folder = save(random_model(), tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | change))
    try:
        RoutedModel.from_config(TrainConfig(), folder)
    except CheckpointError as error:
        assert "fetch the checkpoint again" in str(error)  # noqa: PT017 - some versions of transformers take them


def test_options_that_fit_no_model_are_refused():
    with pytest.raises(ConfigError, match="blocks 0 to 5"):
        RoutedModel(random_model(), TrainConfig(routers=RouterConfig(always_run=(6,))))
    with pytest.raises(ConfigError, match="nowhere_proj"):
        RoutedModel(random_model(), TrainConfig(lora=LoraConfig(targets=("nowhere_proj",))))


def test_without_peft_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install layerroute\[train\]"):
        RoutedModel(random_model(), TrainConfig())
