import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_documents import write_data
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerroute.backbone.config import read_config
from layerroute.bundle import check_fits, fingerprint, load_bundle
from layerroute_training.embedded.batches import RowPacker, read_documents
from layerroute_training.embedded.export import export_backbone, load_backbone, save_routers, write_bundle
from layerroute_training.embedded.fit_routers import (
    Constraints,
    RoutedPass,
    RouterFit,
    Routers,
    routed_nll,
    routed_weights,
    turn_spans,
)
from layerroute_training.embedded.network import Network, dense_mask
from layerroute_training.embedded.optim import Clock
from layerroute_training.embedded.recipe import TINY
from layerroute_training.embedded.runtime import Journal, Runtime

CPU = torch.device("cpu")
RUNTIME = Runtime(CPU, torch.float32, dense_mask, 512, 2)
CONFIG = TINY.routers


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def groups(data):
    return read_documents(data, "backbone")


@pytest.fixture(scope="module")
def network(data, tmp_path_factory):
    """A network of weights that bfloat16 holds exactly, large enough that blocks matter."""
    network = Network(TINY.shape)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.15, generator=generator)
    folder = tmp_path_factory.mktemp("exported") / "embedded"
    export_backbone(network, data / "tokenizer", folder)
    load_backbone(network, folder)
    network.folder = folder
    return network.requires_grad_(False)


@pytest.fixture
def routers(network):
    """Routers whose gates differ from turn to turn and whose LoRA changes the weights."""
    routers = Routers(network, CONFIG)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in routers.named_parameters():
        torch.nn.init.normal_(parameter, std=0.05 if name.startswith("lora") else 0.5, generator=generator)
    return routers


def spans_of(groups, name, calls):
    return turn_spans(groups, [group.name for group in groups].index(name), calls, CONFIG)


def scored(network, routers, groups, rows_of_spans):
    rows = RowPacker(groups, 512, 0.0, CPU).pack(rows_of_spans)
    routed = RoutedPass(routers, rows, torch.float32, None)
    nll = routed_nll(network, routed_weights(network, routers, RUNTIME), RUNTIME, rows, routed)
    return rows, routed, nll


def test_an_example_is_one_turn_and_only_its_answer_counts(groups):
    call, reply = spans_of(groups, "generated", True)[0], spans_of(groups, "generated", False)[0]
    rows = RowPacker(groups, 512, 0.0, CPU).pack([[reply], [call]])
    assert reply.start == call.start < call.end < reply.answers_from
    assert rows.calls_U.tolist() == [False, True]
    assert int(rows.weight_BT.sum()) == len(rows.answer_at_A) == sum(s.end - s.answers_from for s in (call, reply))


def test_gates_are_hard_and_never_skip_block_zero(network, routers, groups):
    spans = spans_of(groups, "generated", True)
    _, routed, _ = scored(network, routers, groups, [spans[:3], spans[3:6]])
    runs_UL = routed.decisions()
    assert set(runs_UL.unique().tolist()) == {0.0, 1.0}
    assert (runs_UL[:, 0] == 1).all()


def test_nothing_but_the_prompt_decides(network, routers, groups):
    """Other documents in the row, other rows, and the answer itself change no gate, no kind and no loss."""
    calls, replies = spans_of(groups, "generated", True), spans_of(groups, "generated", False)
    _, alone, nll_alone = scored(network, routers, groups, [[calls[2]], []])
    _, packed, nll_packed = scored(network, routers, groups, [[replies[0], calls[2]], [calls[1], calls[0]]])
    assert torch.equal(alone.decisions()[0], packed.decisions()[1])
    assert torch.allclose(alone.kind_logit_U[0], packed.kind_logit_U[1], atol=1e-4)
    first = replies[0].end - replies[0].answers_from
    assert torch.allclose(nll_alone, nll_packed[first : first + len(nll_alone)], atol=1e-3)
    tokens = groups[calls[2].group].tokens.copy()
    other = replace(groups[calls[2].group], tokens=tokens)
    tokens[calls[2].answers_from + 3 : calls[2].end - 1] = 7
    changed = [other if index == calls[2].group else group for index, group in enumerate(groups)]
    _, rewritten, _ = scored(network, routers, changed, [[calls[2]], []])
    assert torch.equal(alone.decisions(), rewritten.decisions())


def test_the_first_answer_token_is_predicted_at_full_depth(network, routers, groups):
    span = spans_of(groups, "generated", True)[0]
    rows, routed, nll = scored(network, routers, groups, [[span], []])
    assert routed.decisions().min() == 0
    weights = routed_weights(network, routers, RUNTIME)
    full = routed_nll(network, weights, RUNTIME, rows, RUNTIME.everything(rows.start_BT))
    assert torch.allclose(nll[0], full[0], atol=1e-5)
    assert not torch.allclose(nll[1:], full[1:], atol=1e-2)


def test_a_gate_is_the_bundle_formula(network, routers, groups):
    """p_run = sigmoid(w . x / rms(x) + b), x the state of the last prompt token as `transformers` computes it."""
    span = spans_of(groups, "generated", True)[0]
    _, routed, _ = scored(network, routers, groups, [[span], []])
    model = AutoModelForCausalLM.from_pretrained(network.folder, dtype=torch.float32)
    with torch.no_grad():
        for block, layer in enumerate(model.model.layers):
            for name, delta in routers.deltas().items():
                getattr(layer.self_attn, f"{name}_proj").weight += delta[block]
        prompt = torch.from_numpy(groups[span.group].tokens[span.start : span.answers_from].astype("int64"))
        states = model(prompt.unsqueeze(0), output_hidden_states=True).hidden_states
        x_LD = torch.stack([state[0, -1] for state in states[: TINY.shape.num_blocks]])
        x_LD /= (x_LD.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        logit_L = (x_LD * routers.gates_weight_LD).sum(-1) + routers.gates_bias_L
        kind = x_LD[-1] @ routers.kind_weight_D + routers.kind_bias
    assert logit_L.abs().min() > 1e-3
    assert torch.equal(routed.decisions()[0, 1:], (logit_L[1:] > 0).float())
    assert torch.allclose(routed.kind_logit_U, kind, atol=1e-3)


def test_gradients_reach_gates_and_lora_but_not_the_backbone(network, groups):
    routers = Routers(network, CONFIG)
    for b in routers.lora_b.values():
        torch.nn.init.normal_(b, std=0.05)
    spans = spans_of(groups, "generated", True)
    _, routed, nll = scored(network, routers, groups, [spans[:2], spans[2:4]])
    (nll.mean() + routed.kind_logit_U.mean()).backward()
    for name, parameter in routers.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert routers.gates_weight_LD.grad[0].abs().sum() == 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_constraints_pull_each_kind_and_place_to_its_target(groups):
    config = CONFIG
    constraints = Constraints([group.name for group in groups], config, CPU)
    spans = {
        (name, calls): spans_of(groups, name, calls)[0] for name in ("generated", "toolcall") for calls in (True, False)
    }
    rows = RowPacker(groups, 1024, 0.0, CPU).pack([list(spans.values()), []])
    assert sorted(constraints.of_turns(rows).tolist()) == [0, 1, 2, 3]
    logits = torch.full((4, 1), -1.5, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(600):
        skip_UL = torch.sigmoid(logits)
        nll_A = skip_UL[:, 0].square()[rows.turn_of_answer]  # skipping costs
        loss, _, _ = constraints.loss(nll_A, skip_UL, rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    targets = constraints.target_C[constraints.of_turns(rows)]
    assert torch.allclose(torch.sigmoid(logits[:, 0]), targets, atol=0.02)


def test_fitting_moves_gates_and_leaves_the_backbone_alone(network, groups, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fit = RouterFit(CONFIG, network, RUNTIME, groups, Clock(CONFIG.steps), Journal(tmp_path / "journal.jsonl"))
    assert fit.run(deadline=float("inf"))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert fit.routers.gates_weight_LD.abs().sum() > 0
    assert fit.routers.lora_b["o"].abs().sum() > 0
    events = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert events[-1]["step"] == CONFIG.steps


def test_the_bundle_is_what_was_fitted_and_peft_opens_it(network, routers, groups, tmp_path):
    save_routers(routers, {"training": {"seed": 0}, "evaluation": {}}, tmp_path / "fitted")
    write_bundle(tmp_path / "fitted", network.folder, tmp_path / "bundle", "embedded")
    bundle = load_bundle(tmp_path / "bundle")
    check_fits(bundle, fingerprint(network.folder), read_config(network.folder).shape(torch.bfloat16))
    assert torch.equal(bundle.gates_weight_LD, routers.gates_weight_LD)
    deltas = routers.deltas()
    assert torch.allclose(bundle.lora_deltas()["model.layers.2.self_attn.v_proj"], deltas["v"][2], atol=1e-6)
    model = AutoModelForCausalLM.from_pretrained(network.folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, tmp_path / "bundle")
    span = spans_of(groups, "generated", True)[0]
    rows = RowPacker(groups, 512, 0.0, CPU).pack([[span], []])
    weights = routed_weights(network, routers, RUNTIME)
    expected = routed_nll(network, weights, RUNTIME, rows, RUNTIME.everything(rows.start_BT))
    ids = torch.from_numpy(groups[span.group].tokens[span.start : span.end].astype("int64")).unsqueeze(0)
    with torch.no_grad():
        logits = model(ids).logits[0]
    nll = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
    assert torch.allclose(nll[span.answers_from - span.start - 1 :], expected, atol=1e-3)


def test_an_export_loads_in_transformers_and_its_shards_are_small(network):
    model = AutoModelForCausalLM.from_pretrained(network.folder)
    assert model.dtype == torch.bfloat16
    assert model.config.model_type == "qwen2"
    tokenizer = AutoTokenizer.from_pretrained(network.folder)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in model.generation_config.eos_token_id
    assert "tool_call" in tokenizer.chat_template
    assert all(path.stat().st_size < 16_000_000 for path in network.folder.iterdir())
    stored = {}
    for path in network.folder.glob("*.safetensors"):
        stored |= load_file(path)
    total = sum(tensor.nbytes for tensor in stored.values())
    assert json.loads((network.folder / "model.safetensors.index.json").read_text())["metadata"]["total_size"] == total
