"""`layerroute chat`: a conversation, one message, and how it fails."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from step_reports import make_step
from transformers import Qwen2Config, Qwen2ForCausalLM

from layerroute import ledger
from layerroute.cli import main
from layerroute.errors import ContextWindowError, DeviceError
from layerroute.report import StepReport


def test_chat_streams_to_stdout(model, capsys):
    assert main(["chat", "--message", "hi", "--system", "be brief"]) == 0
    out, err = capsys.readouterr()
    assert out == "Hello\n"
    assert "■■■·" in err
    assert model.heard == [[SystemMessage("be brief"), HumanMessage("hi")]]


def test_chat_json(model, capsys, tmp_path):
    assert main(["chat", "--message", "hi", "--json", "--ledger", str(tmp_path / "l")]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"answer": "Hello", "steps": [make_step().model_dump(mode="json")]}
    assert err == ""
    with ledger.read(tmp_path / "l") as runs:
        assert [[entry.task for entry in run.entries] for run in runs.runs()] == [["hi"]]


def test_chat_remembers_what_was_said(model, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\nand?\n"))
    assert main(["chat"]) == 0
    assert capsys.readouterr().out == "Hello\nHello\n"
    first, answer, second = model.heard[1]
    assert (first.content, answer.content, second.content) == ("hi", "Hello", "and?")
    assert isinstance(answer, AIMessage)


def test_a_failed_message_does_not_end_the_chat(model, capsys, monkeypatch):
    def fail(self, messages):
        raise DeviceError("no CUDA here")
        yield

    monkeypatch.setattr(model, "stream", fail)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\nand?\n"))
    assert main(["chat"]) == 0
    assert capsys.readouterr().err.count("layerroute: no CUDA here") == 2
    assert main(["chat", "--message", "hi"]) == 2


def test_a_chat_that_has_outgrown_the_window_starts_anew(model, capsys, monkeypatch):
    def full(self, messages):
        if len(messages) > 2:
            raise ContextWindowError("too long")
        yield from stream(self, messages)

    stream = model.stream
    monkeypatch.setattr(model, "stream", full)
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nb\nc\n"))
    assert main(["chat", "--system", "s"]) == 0
    assert [[message.content for message in messages] for messages in model.heard] == [["s", "a"], ["s", "c"]]
    assert "starts a new conversation" in capsys.readouterr().err


def test_chat_says_what_to_expect_of_the_embedded_model(model, capsys):
    main(["chat", "--message", "hi"])
    assert "can hardly converse" in capsys.readouterr().err
    main(["chat", "--message", "hi", "--model", "another"])
    main(["chat", "--message", "hi", "--json"])
    assert "converse" not in capsys.readouterr().err


def test_chat_json_needs_a_message(model, capsys):
    assert main(["chat", "--json"]) == 2
    assert "give --message" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=2048, num_key_value_heads=1, max_position_embeddings=64, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    for path in (Path(__file__).parents[1] / "data" / "tokenizer").iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def test_chat_with_a_real_model(tiny_folder, capsys):
    assert main(["chat", "--message", "hi", "--model", str(tiny_folder), "--program", "0,2-3", "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    report = StepReport.model_validate(step)
    assert report.visits_per_block == (1, 0, 1, 1)
    assert report.decode.skip_share == 0.25


def test_an_unknown_model_names_the_remedy(capsys, tmp_path):
    assert main(["chat", "--message", "hi", "--model", str(tmp_path / "none")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "checkpoint folder" in line
