"""The stock model beside it."""

import pytest
from qwen2 import load, save
from small_work import STEPS, talkative_model

from layerroute import benchmark
from layerroute.benchmark import measure, stock, suite


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("cache", [None, "static"])
def test_both_answer_alike_from_the_same_memory(tmp_path, tied, cache):
    backbone = load(save(talkative_model(tie_word_embeddings=tied), tmp_path))
    model = stock.stock_model(backbone)
    subject = measure.Subject(backbone, suite.make_stepper(backbone, "eager"), 64)
    answer = subject.answer(20)(30, None)
    assert len(set(answer)) > 9  # or equal tokens would prove little
    assert stock.stock_answer(model, subject.ids(20), cache)(30, None) == answer
    ours = {
        tensor.untyped_storage().data_ptr() for tensor in stock.state_dict(backbone.weights, backbone.config).values()
    }
    assert {parameter.untyped_storage().data_ptr() for parameter in model.parameters()} == ours
    assert len(ours) == (9 if tied else 10)


def test_transformers_generates_as_often_and_as_much(folder, monkeypatch):
    asked = []
    original = stock.Qwen2ForCausalLM.generate

    def generate(self, ids, generation_config, **kwargs):
        output = original(self, ids, generation_config=generation_config, **kwargs)
        asked.append(generation_config.max_new_tokens)
        assert output.shape == (1, 20 + asked[-1])
        return output

    monkeypatch.setattr(stock.Qwen2ForCausalLM, "generate", generate)
    result = benchmark.run(str(folder), context=20, steps=STEPS, compare=True)
    assert asked == [1, STEPS, 1, 1, 1, STEPS, STEPS, STEPS, STEPS]
    assert [entry.tokens for entry in result.generation] == [STEPS, STEPS]


def test_the_comparison_says_how_far_the_answers_agree(folder):
    result = benchmark.run(str(folder), context=20, steps=STEPS, compare=True)
    assert [(entry.name, entry.equal_leading_tokens) for entry in result.generation] == [
        ("layerroute, eager", STEPS),
        ("transformers, dynamic cache", STEPS),
    ]
    assert "on a GPU only" in result.left_out["transformers, static cache, compiled"]


def test_without_a_comparison_it_says_so(folder):
    result = benchmark.run(str(folder), context=20, steps=STEPS)  # on a CPU it has to be asked for
    assert len(result.generation) == 1
    assert [reason for name, reason in result.left_out.items() if "transformers" in name] == [
        "not asked for: --compare-transformers"
    ] * 2
