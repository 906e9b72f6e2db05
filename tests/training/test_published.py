"""The published perplexity shows a gain where nothing was gained; ours shows none."""

import math

import pytest
import torch
from qwen2 import random_model
from torch.nn import functional as F

from layerroute_training.config import LoraConfig, PaperObjective, TrainConfig
from layerroute_training.published import opened_gates, published_perplexity
from layerroute_training.recipes import paper
from layerroute_training.routed_model import RoutedModel

MEAN_GATE = 0.68  # of the published gated pass
FULL, GATED = 1 / (1 + math.exp(-10)), MEAN_GATE


def paper_model(biases_L):
    config = TrainConfig(objective=PaperObjective(), routers=paper().routers, lora=LoraConfig(dropout=0.05))
    model = RoutedModel(random_model(), config).eval()
    with torch.no_grad():
        model.gates_bias_L.copy_(torch.as_tensor(biases_L))
    return model


@pytest.fixture
def steps():
    tokens_BT = torch.randint(97, (3, 20), generator=torch.Generator().manual_seed(0))
    return tokens_BT, torch.tensor([4, 9, 12]), torch.tensor([11, 20, 15])


@pytest.fixture
def open_model():
    """Every gate runs its block, at the published mean probability."""
    return paper_model([math.log(MEAN_GATE / (1 - MEAN_GATE))] * 6)


def test_identical_blocks_gain_by_the_papers_formula_and_exactly_nothing_by_ours(open_model, steps):
    with torch.no_grad():
        gated = open_model(*steps)
        with opened_gates(open_model):
            full = open_model(*steps)
    assert gated.run_BL.min() == 1
    assert torch.equal(gated.nll_A, full.nll_A), "the same blocks ran"
    assert gated.nll_A.mean().exp() - full.nll_A.mean().exp() == 0.0

    published = published_perplexity(open_model, *steps)
    assert published.skip_B.max() == 0
    assert published.change() < -1
    ratio_B = (published.full_B / published.gated_B).log()
    assert torch.allclose(ratio_B, torch.full((3,), FULL - GATED), atol=1e-5)
    assert abs(float(ratio_B[0]) - 0.324) < 0.01, "what was measured in the published log"


def test_the_formula_is_cross_entropy_of_all_tokens_plus_the_mean_gate(open_model, steps):
    tokens_BT, _, ends_B = steps
    published = published_perplexity(open_model, *steps)
    for row, end in enumerate(ends_B.tolist()):
        with torch.no_grad():
            logits_TV = open_model.backbone(tokens_BT[row : row + 1, :end]).logits[0]
        nll = F.cross_entropy(logits_TV[:-1], tokens_BT[row, 1:end])
        assert published.full_B[row] == pytest.approx(math.exp(nll + FULL), rel=1e-4)
        assert published.gated_B[row] == pytest.approx(math.exp(nll + GATED), rel=1e-4)


def test_skipping_is_reported_and_the_full_pass_skips_nothing(steps):
    model = paper_model([2.0, -2.0, 2.0, 2.0, -2.0, 2.0])
    published = published_perplexity(model, *steps)
    assert torch.allclose(published.skip_B, torch.full((3,), 1 / 3))
    with torch.no_grad(), opened_gates(model):
        assert model(*steps).run_BL.min() == 1


def test_the_exact_biases_come_back_also_after_an_error():
    model = paper_model([0.1, -0.2, 0.3, -0.4, 0.5, -0.6])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), opened_gates(model):
        raise KeyboardInterrupt
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
