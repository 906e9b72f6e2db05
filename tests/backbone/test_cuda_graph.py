"""What the graph backend captures, run without a GPU: buckets, padding and masks change no logits."""

import pytest
import torch
from qwen2 import load, random_model, save

from layerroute.backbone.cuda_graph import BucketedForward
from layerroute.backbone.kv_cache import visits_of
from layerroute.program import LayerProgram


@pytest.mark.parametrize("blocks", [(0, 1, 2, 3, 4, 5), (0, 2, 5), (1, 1, 3), ()])
@pytest.mark.parametrize(("num_new", "bucket"), [(1, 1), (3, 4), (4, 4), (7, 16)])
@torch.inference_mode()
def test_padded_step_equals_eager(tmp_path, blocks, num_new, bucket):
    backbone = load(save(random_model(), tmp_path))
    visits = visits_of(LayerProgram(blocks, 6), "sequence")
    ids = torch.randint(0, 97, (20 + num_new,))
    eager, graph = backbone.new_cache(6, 64), backbone.new_cache(6, 64)
    graph.keys_SKTH.zero_()
    graph.values_SKTH.zero_()
    for cache in (eager, graph):
        backbone.forward(ids[:20], 0, visits, cache)
    expected = backbone.logits(backbone.forward(ids[20:], 20, visits, eager)[-1:])[0]
    step = BucketedForward(backbone)
    step.set(ids[20:].tolist(), 20, bucket)
    torch.testing.assert_close(step.run(visits, graph, bucket, 48), expected, atol=1e-4, rtol=0)
    end = 20 + num_new
    torch.testing.assert_close(graph.keys_SKTH[: len(visits), :, :end], eager.keys_SKTH[: len(visits), :, :end])
    torch.testing.assert_close(graph.values_SKTH[: len(visits), :, :end], eager.values_SKTH[: len(visits), :, :end])
    assert not graph.keys_SKTH[len(visits) :].any()  # slots that no visit names stay untouched
