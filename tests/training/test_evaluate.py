import json
import tarfile

import numpy as np
import pytest
import torch
from tiny_documents import write_data

from layerroute.bundle import load_bundle
from layerroute_training.embedded.batches import RowPacker, read_documents
from layerroute_training.embedded.evaluate import evaluate_routing, score_turns, targets_met
from layerroute_training.embedded.fit_routers import Routers, routed_nll, routed_weights, turn_spans
from layerroute_training.embedded.network import Network, dense_mask
from layerroute_training.embedded.recipe import TINY, Recipe, main, pack
from layerroute_training.embedded.runtime import Runtime

CPU = torch.device("cpu")
RUNTIME = Runtime(CPU, torch.float32, dense_mask, 512, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def dev(data):
    return [group for group in read_documents(data, "dev") if len(group.turns.begin)]


@pytest.fixture(scope="module")
def network():
    network = Network(TINY.shape)
    network.initialise(0)
    with torch.no_grad():
        for parameter in network.matrices():
            parameter.mul_(8.0)  # blocks that matter
    return network.requires_grad_(False)


def gated(network, skipped):
    """Routers that skip exactly these blocks, and believe in a tool call always."""
    routers = Routers(network, TINY.routers)
    with torch.no_grad():
        routers.gates_bias_L.fill_(4.0)
        routers.gates_bias_L[list(skipped)] = -4.0
        routers.kind_bias.fill_(1.0)
    return routers


def test_scores_are_those_of_each_turn_computed_alone(network, dev):
    routers = gated(network, {2})
    spans = turn_spans(dev, 0, True, TINY.routers)[:3]
    scores = score_turns(network, routers, RUNTIME, [RowPacker(dev, 512, 0.0, CPU).pack([spans[:2], spans[2:]])])
    for index, span in enumerate(spans):
        rows = RowPacker(dev, 512, 0.0, CPU).pack([[span]])
        weights = routed_weights(network, routers, RUNTIME)
        full = routed_nll(network, weights, RUNTIME, rows, RUNTIME.everything(rows.start_BT))
        without = torch.ones(1, 512, 1)
        without[0, rows.answer_at_A] = 0.0
        ones = torch.ones(1, 512, 1)
        gate = lambda block, state, a=without, b=ones: a if block == 2 else b  # noqa: E731
        routed = routed_nll(network, weights, RUNTIME, rows, gate)
        assert scores.tokens_U[index] == span.end - span.answers_from
        assert scores.full_U[index] == pytest.approx(float(full.sum()), rel=1e-4)
        assert scores.bare_U[index] == pytest.approx(float(full.sum()), rel=1e-4)  # a fresh LoRA changes nothing
        assert scores.routed_U[index] == pytest.approx(float(routed.sum()), rel=1e-4)
        assert abs(scores.routed_U[index] - scores.full_U[index]) > 1e-3


def test_tables_count_what_was_skipped(network, dev):
    result = evaluate_routing(network, gated(network, {1, 3}), RUNTIME, dev, TINY.routers, most_turns=8)
    assert set(result) == {"corpora", "generated", "all"}
    table = result["all"]["tool_call"]
    assert table["skip"] == {"value": 0.5, "interval": [0.5, 0.5]}
    assert table["run_rate_per_block"] == [1.0, 0.0, 1.0, 0.0]
    assert table["kind_accuracy"] == 1.0
    assert result["all"]["planning"]["kind_accuracy"] == 0.0
    assert result["all"]["kind_auc"] == 0.5
    parts = [result[place]["tool_call"] for place in ("corpora", "generated")]
    assert table["turns"] == sum(part["turns"] for part in parts)
    mean = sum(part["tokens"] * part["nll_routed"]["value"] for part in parts) / table["tokens"]
    assert table["nll_routed"]["value"] == pytest.approx(mean)
    low, high = table["nll_routed"]["interval"]
    assert low <= table["nll_routed"]["value"] <= high


def test_running_everything_costs_exactly_nothing(network, dev):
    result = evaluate_routing(network, gated(network, ()), RUNTIME, dev, TINY.routers, most_turns=8)
    for kind in ("tool_call", "planning"):
        assert result["all"][kind]["nll_rise"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert targets_met(result) == {
        "tool_call_skip": False,
        "planning_skip": True,
        "tool_call_rise": True,
        "planning_rise": True,
    }


def test_the_recipe_runs_from_data_to_a_bundle_that_loads(data, tmp_path):
    arguments = ["--data", str(data), "--out", str(tmp_path / "out"), "--tiny", "--pack", str(tmp_path / "pieces")]
    assert main(arguments) == 0
    bundle = load_bundle(tmp_path / "out" / "embedded" / "bundle")
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert bundle.metadata.evaluation == result
    assert bundle.metadata.training["targets"] == {"tool_call": 0.31, "planning": 0.05}
    assert bundle.metadata.scope == "generation"
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(path.read_bytes() for path in sorted((tmp_path / "pieces").iterdir())))
    with tarfile.open(joined) as tar:
        names = tar.getnames()
    assert "embedded/bundle/routing.json" in names
    assert "pretrain.pt" not in names


def test_pieces_are_small_enough_to_travel(tmp_path):
    (tmp_path / "out").mkdir()
    content = np.random.default_rng(0).bytes(31_000_000)
    (tmp_path / "out" / "weights").write_bytes(content)
    pieces = pack(tmp_path / "out", tmp_path / "pieces")
    assert [piece.name for piece in pieces] == ["embedded.tar.00", "embedded.tar.01", "embedded.tar.02"]
    assert all(piece.stat().st_size <= 15_000_000 for piece in pieces)


def test_the_shipped_recipe_fits_its_limits():
    network = Network(Recipe().shape)
    size = sum(parameter.numel() for parameter in network.parameters()) * 2
    assert size < 48_000_000 - 2_500_000  # tokenizer and bundle take the rest
    config = Recipe().pretrain
    for mixture in (config.mixture, config.anneal_mixture):
        assert sum(mixture.values()) == pytest.approx(1.0)
    assert sum(stratum.share for stratum in Recipe().routers.strata) == pytest.approx(1.0)
