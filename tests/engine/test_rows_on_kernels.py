"""Rows over the kernels for several rows, under Triton's interpreter: a process of its own, as in test_triton_batch."""

import json
from dataclasses import replace

import pytest
from interpreter import interpreted, pass_under_the_interpreter
from qwen2 import random_model, save

from layerroute.backbone.triton_batch import TritonBatchStepper
from layerroute.backbone.triton_tiling import AttentionTile, BatchTile, choose_batch_tiling
from layerroute.engine.config import EngineConfig
from layerroute.engine.engine import Engine
from layerroute.engine.request import GenerationRequest, OutputConstraint, Sampling, ToolSpec

pytest.importorskip("triton", reason="Triton is not installed")

TOOL = ToolSpec("f", json.dumps({"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}))
REQUESTS = (
    GenerationRequest((20, 21, 22, 23), max_tokens=5),
    GenerationRequest((70,), max_tokens=5, sampling=Sampling(0.8, top_k=40, seed=4)),
    GenerationRequest((20, 21, 50), max_tokens=4, program="1", sampling=Sampling(1.0, seed=3)),
    GenerationRequest((60, 61), max_tokens=14, constraint=OutputConstraint((TOOL,), "required")),
)


def test_under_the_interpreter():
    pass_under_the_interpreter(__file__)


@interpreted
@pytest.mark.filterwarnings("ignore:divide by zero")  # an empty split has a weight of zero
def test_answers_are_those_of_single_rows(tmp_path, tokenizer):
    model = random_model(seed=4, vocab_size=len(tokenizer), num_hidden_layers=2, tie_word_embeddings=False)
    tokenizer.save_pretrained(save(model, tmp_path))
    alone = Engine(EngineConfig(model=str(tmp_path), device="cpu"))
    batched = Engine(EngineConfig(model=str(tmp_path), device="cpu", max_batch_size=3))
    backbone = batched.load().backbone
    tiling = choose_batch_tiling(backbone.config, multiprocessors=1)  # as few launches as the kernels allow
    few = {name: BatchTile(64, columns=64) for name in ("output", "gate_up", "down")}
    stepper = TritonBatchStepper(
        backbone, replace(tiling, **few, lm_head=BatchTile(128, columns=32), attention=AttentionTile(1, 64))
    )
    vars(batched.load())["batch_stepper"] = stepper
    sizes, step = [], stepper.step
    stepper.step = lambda rows, visits: (sizes.append(len(rows)), step(rows, visits))[1]
    generations = [batched.submit(request) for request in REQUESTS]
    for request, generation in zip(REQUESTS, generations, strict=True):
        expected, result = alone.submit(request).result(), generation.result()
        assert result.token_ids == expected.token_ids
        assert (result.report.backend, expected.report.backend) == ("triton batch", "eager")
        assert result.report.decode == expected.report.decode
    assert sizes.count(2) > 2
    alone.close()
    batched.close()
