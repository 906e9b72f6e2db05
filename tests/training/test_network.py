import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from transformers import Qwen2Config, Qwen2ForCausalLM

from layerroute_training.embedded.export import named_tensors
from layerroute_training.embedded.network import Network, NetworkShape, dense_mask, flex_mask, rope_tables

SHAPE = NetworkShape(
    vocab_size=97,
    hidden_size=32,
    num_blocks=3,
    num_heads=4,
    num_kv_heads=1,
    head_dim=8,
    intermediate_size=48,
    max_positions=512,
)
ROW = 256


@pytest.fixture(scope="module")
def network():
    network = Network(SHAPE)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():  # no symmetry, no zeros: biases and norms count too
        torch.nn.init.normal_(parameter, mean=0.1, std=0.2, generator=generator)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def stock(network):
    config = Qwen2Config(
        vocab_size=SHAPE.vocab_size,
        hidden_size=SHAPE.hidden_size,
        num_hidden_layers=SHAPE.num_blocks,
        num_attention_heads=SHAPE.num_heads,
        num_key_value_heads=SHAPE.num_kv_heads,
        intermediate_size=SHAPE.intermediate_size,
        max_position_embeddings=SHAPE.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": SHAPE.rope_theta},
        rms_norm_eps=SHAPE.norm_eps,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(dict(named_tensors(network)), strict=False)
    assert not unexpected
    assert missing in ([], ["lm_head.weight"])
    return model


def starts(*cuts):
    begin = torch.zeros(ROW, dtype=torch.int64)
    for cut in cuts:
        begin[cut:] = cut
    return begin


def states(network, tokens_BT, start_BT, run_LBT=None):
    rope = rope_tables(network.shape, torch.arange(tokens_BT.shape[1]) - start_BT, torch.float32)
    run = torch.ones(network.shape.num_blocks, *tokens_BT.shape) if run_LBT is None else run_LBT.float()
    weights = network.weights(torch.float32)
    return network(weights, tokens_BT, dense_mask(start_BT), rope, run.unsqueeze(-1))


def random_tokens(rows, seed=0):
    return torch.randint(SHAPE.vocab_size, (rows, ROW), generator=torch.Generator().manual_seed(seed))


def test_logits_are_those_of_transformers_for_every_packed_document(network, stock):
    tokens_BT, start_BT = random_tokens(2), torch.stack([starts(100, 130), starts()])
    found = states(network, tokens_BT, start_BT) @ network.embed_VD.T
    for row, begin, end in ((0, 0, 100), (0, 100, 130), (0, 130, ROW), (1, 0, ROW)):
        with torch.no_grad():
            expected = stock(tokens_BT[row : row + 1, begin:end]).logits[0]
        assert (found[row, begin:end] - expected).abs().max() < 1e-4


def test_a_token_that_skips_every_block_but_keeps_its_place_leaves_others_exact(network):
    tokens_BT, start_BT = random_tokens(1), starts(90).unsqueeze(0)
    run = torch.ones(SHAPE.num_blocks, 1, ROW, dtype=torch.bool)
    run[1:, 0, 90:] = False
    full, skipped = states(network, tokens_BT, start_BT), states(network, tokens_BT, start_BT, run)
    assert torch.equal(full[:, :90], skipped[:, :90])
    assert not torch.allclose(full[:, 90:], skipped[:, 90:])


def test_skipping_equals_leaving_the_block_out(network):
    tokens_BT, start_BT = random_tokens(1), starts().unsqueeze(0)
    run = torch.ones(SHAPE.num_blocks, 1, ROW, dtype=torch.bool)
    run[1] = False
    weights = network.weights(torch.float32)
    without = weights._replace(blocks=[weights.blocks[0], weights.blocks[2]])
    rope = rope_tables(SHAPE, torch.arange(ROW).unsqueeze(0), torch.float32)
    expected = network(without, tokens_BT, dense_mask(start_BT), rope, torch.ones(2, 1, ROW, 1))
    assert torch.allclose(states(network, tokens_BT, start_BT, run), expected, atol=1e-6)


@pytest.mark.parametrize("cuts", [(), (1,), (127, 128, 129), (128,), (3, 64, 200), (255,)])
def test_tiles_of_the_flex_mask_are_those_torch_finds(cuts):
    start_BT = torch.stack([starts(*cuts), starts()])
    expected = create_block_mask(lambda b, h, q, k: (k <= q) & (k >= start_BT[b, q]), 2, None, ROW, ROW, device="cpu")
    found = flex_mask(start_BT)
    assert torch.equal(found.to_dense(), expected.to_dense())
    assert torch.equal(found.full_kv_num_blocks, expected.full_kv_num_blocks)
    assert torch.equal(found.kv_num_blocks, expected.kv_num_blocks)


def test_flex_attention_and_dense_mask_agree(network):
    tokens_BT, start_BT = random_tokens(2), torch.stack([starts(70, 128), starts(5)])
    rope = rope_tables(SHAPE, torch.arange(ROW) - start_BT, torch.float32)
    ones = torch.ones(SHAPE.num_blocks, 2, ROW, 1)
    found = network(network.weights(torch.float32), tokens_BT, flex_mask(start_BT), rope, ones)
    assert torch.allclose(found, states(network, tokens_BT, start_BT), atol=1e-5)


def test_every_block_and_every_mask_share_one_compiled_graph():
    network = Network(SHAPE).requires_grad_(False)
    network.initialise(0)
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    network.compile(count)
    ones = torch.ones(SHAPE.num_blocks, 2, ROW, 1)
    for seed, cut in enumerate((40, 128, 200)):
        start_BT = torch.stack([starts(cut), starts(cut // 2)])
        rope = rope_tables(SHAPE, torch.arange(ROW) - start_BT, torch.float32)
        weights = network.weights(torch.float32)
        network(weights, random_tokens(2, seed), flex_mask(start_BT), rope, ones)
    assert len([graph for graph in graphs if "silu" in graph.code]) == 1
    torch._dynamo.reset()
