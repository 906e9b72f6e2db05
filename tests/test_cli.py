"""The command line: its frozen surface, what goes to stdout and to stderr, and how it fails."""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from step_reports import make_step
from transformers import Qwen2Config, Qwen2ForCausalLM

from langchain_layerroute.front_desk.agent import DEFAULT_TASKS, DemoRun
from layerroute import __version__, ledger
from layerroute.cli import build_parser, main
from layerroute.errors import ContextWindowError, DeviceError
from layerroute.report import StepKind, StepReport

MODEL_OPTIONS = {"--model", "--adapter", "--device", "--router", "--program", "--scope", "--ledger", "--json"}
SURFACE = {
    "demo": {"--task", "--interactive", *MODEL_OPTIONS},
    "chat": {"--message", "--system", *MODEL_OPTIONS},
    "train": {
        *("--recipe", "--data", "--steps", "--set", "--out", "--prepare", "--resume", "--no-evaluate", "--quiet"),
        *("--seeds", "--parallel"),
    },
    "evaluate": {
        *("BUNDLE", "--backbone", "--device", "--data", "--steps", "--split", "--limit", "--baselines"),
        *("--no-baselines", "--static-bundle", "--free-running", "--processes", "--json", "--plots"),
    },
    "report": {"FILE", "--json"},
    "bench": {
        *("--model", "--shape", "--device", "--dtype", "--context", "--steps", "--backend", "--json"),
        *("--compare-transformers", "--no-compare-transformers", "--prompts", "--batch", "--agent-turn"),
    },
    "version": {"--json"},
}


CALL = {"name": "find_order", "arguments": {"order_id": "A-1042"}}


class FakeDesk:
    """Stands in for FrontDesk: answers every task with one call and two steps."""

    made: "list[FakeDesk]"
    error: BaseException | None = None
    unfinished: str | None = None

    def __init__(self, model):
        self.model, self.tasks, self.closed = model, [], False
        FakeDesk.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True

    def forget(self):
        self.tasks.append("forget")

    def run(self, task, on_step=None, on_call=None, *, keep_history=False):
        self.tasks.append((task, keep_history))
        if self.error:
            raise self.error
        steps = [make_step(), make_step(kind=StepKind.PLANNING, finish_reason="stop")]
        on_step(steps[0])
        on_call(CALL["name"], CALL["arguments"], '{"error": "no order A-1042"}')
        on_step(steps[1])
        return DemoRun(f"answer to {task}", [CALL], steps, self.unfinished)


@pytest.fixture
def desk(monkeypatch):
    monkeypatch.setattr(FakeDesk, "made", [], raising=False)
    monkeypatch.setattr("langchain_layerroute.front_desk.agent.FrontDesk", FakeDesk)
    return FakeDesk


def fail_with(monkeypatch, error):
    monkeypatch.setattr(FakeDesk, "error", error)


# The surface.


def options_of(parser):
    for action in parser._actions:
        yield from action.option_strings or [action.metavar or action.dest]


def subparsers():
    (action,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


def test_the_surface_is_frozen():
    assert {name: set(options_of(parser)) - {"-h", "--help"} for name, parser in subparsers().items()} == SURFACE


@pytest.mark.parametrize("command", [[], *([name] for name in SURFACE)])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: layerroute" in capsys.readouterr().out


def test_every_option_is_explained():
    for name, parser in subparsers().items():
        assert parser.description, name
        assert all(action.help for action in parser._actions), name


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["demo", "--task", "t", "--interactive"], ["chat", "--scope", "all"]]
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["demo", "--rooter=full"], "'--rooter' (did you mean '--router'?)"),
        (["bench", "--promts", "512"], "'--promts' (did you mean '--prompts'?), '512'"),
        (["chat", "--zzz"], "'--zzz'"),
        (["chat", "--message", "x", "y"], "'y'"),
    ],
)
def test_an_unknown_option_is_told_what_it_is_like(arguments, hint, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert f"usage: layerroute {arguments[0]}" in err
    assert err.endswith(f"unrecognized arguments: {hint}\n")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "", "model must be"),
        ("--adapter", "", "adapter must be"),
        ("--device", "", "device must be"),
        ("--device", "gpu", "unknown device"),
        ("--router", "", "router must be"),
        ("--router", "\udcff", "router must be"),
        ("--router", "ful", "cannot read router"),
        ("--router", f"random:0.3:{'1' * 5000}", "cannot read router"),
        ("--router", f"length:{'1' * 5000}:all", "cannot read router"),
        ("--router", f"static:{'1' * 5000}", "in program"),
        ("--program", "", "program must be"),
        ("--program", "1" * 5000, "in program"),
        ("--program", f"0-{'9' * 5000}", "in program"),
        ("--program", "0-23," * 1000 + "0", "visits"),
    ],
    ids=lambda value: value[:12],
)
def test_a_value_that_cannot_be_honoured_is_one_line_and_ends_with_2(option, value, message, capsys):
    device = [] if option == "--device" else ["--device", "cpu"]
    assert main(["chat", "--message", "Hi", "--json", "--scope", "sequence", *device, f"{option}={value}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert len(err) < 400


def test_reading_options_loads_no_heavy_package():
    code = (
        "import sys; from layerroute.cli import build_parser; build_parser(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'langchain_core', 'datasets')))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


# demo


def test_one_task_prints_the_contracted_document(desk, capsys):
    assert main(["demo", "--task", "find A-1042", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert set(document) == {"answer", "tool_calls", "steps"}
    assert document["answer"] == "answer to find A-1042"
    assert document["tool_calls"] == [CALL]
    assert [StepReport.model_validate(step).kind for step in document["steps"]] == ["tool_call", "planning"]
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "tasks"), [([], list(DEFAULT_TASKS)), (["--task", "a", "--task", "b"], ["a", "b"])]
)
def test_several_tasks_print_one_document(desk, capsys, arguments, tasks):
    assert main(["demo", *arguments, "--json"]) == 0
    documents = json.loads(capsys.readouterr().out)["tasks"]
    assert [document["answer"] for document in documents] == [f"answer to {task}" for task in tasks]
    assert desk.made[0].tasks == [(task, False) for task in tasks]


def test_answers_go_to_stdout_and_the_rest_to_stderr(desk, capsys):
    assert main(["demo", "--task", "find [bold]it[/]"]) == 0
    out, err = capsys.readouterr()
    assert out == "answer to find [bold]it[/]\n"
    for part in ("find [bold]it[/]", "■■■·", 'find_order(order_id="A-1042")', "steps kind"):
        assert part in err
    assert err.index("1 tool call") < err.index("find_order") < err.index("no order A-1042") < err.index("2 planning")
    assert desk.made[0].closed


def test_options_reach_the_model(desk):
    options = {"model": "m", "adapter": "a", "device": "cpu", "router": "full", "program": "0-3", "scope": "sequence"}
    main(["demo", "--task", "t", *(word for name, value in options.items() for word in (f"--{name}", value))])
    model = desk.made[0].model
    assert {name: getattr(model, name) for name in options} == options
    main(["demo", "--task", "t"])
    model = desk.made[1].model
    defaults = (model.model, model.adapter, model.device, model.router, model.program, model.scope)
    assert defaults == ("embedded", None, "auto", None, None, "generation")


def test_interactive_is_one_conversation(desk, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\n\n  \nsecond\n"))
    assert main(["demo", "--interactive"]) == 0
    assert desk.made[0].tasks == [("first", True), ("second", True)]
    assert capsys.readouterr().out == "answer to first\nanswer to second\n"


def test_what_follows_the_last_prompt_starts_a_new_line(desk, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("first\n"))
    assert main(["demo", "--interactive"]) == 0
    assert "task> \n─" in capsys.readouterr().err


def test_a_failed_task_does_not_end_the_conversation(desk, capsys, monkeypatch):
    fail_with(monkeypatch, DeviceError("no CUDA here"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nsecond\n"))
    assert main(["demo", "--interactive"]) == 0
    assert capsys.readouterr().err.count("layerroute: no CUDA here") == 2
    fail_with(monkeypatch, ZeroDivisionError())
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\n"))
    with pytest.raises(ZeroDivisionError):
        main(["demo", "--interactive"])


def test_a_conversation_that_has_outgrown_the_window_starts_anew(desk, capsys, monkeypatch):
    fail_with(monkeypatch, ContextWindowError("too long"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nsecond\n"))
    assert main(["demo", "--interactive"]) == 0
    assert desk.made[0].tasks == [("first", True), "forget", ("second", True), "forget"]
    assert "starts a new conversation" in capsys.readouterr().err


def test_interactive_json_is_refused(desk, capsys):
    assert main(["demo", "--interactive", "--json"]) == 2
    assert "--task" in capsys.readouterr().err


def test_an_unfinished_task_ends_with_1(desk, capsys, monkeypatch):
    monkeypatch.setattr(FakeDesk, "unfinished", "no answer after 8 steps")
    assert main(["demo", "--task", "t"]) == 1


def test_steps_are_appended_to_the_ledger(desk, tmp_path):
    path = tmp_path / "ledger.jsonl"
    main(["demo", "--task", "a", "--task", "b", "--ledger", str(path)])
    main(["demo", "--task", "c", "--json", "--ledger", str(path)])
    runs = ledger.read(path).runs
    assert [[entry.task for entry in run.entries] for run in runs] == [["a", "a", "b", "b"], ["c", "c"]]


def test_a_ledger_that_cannot_be_written_is_no_secret(desk, tmp_path, capsys):
    assert main(["demo", "--task", "a", "--ledger", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "cannot write the ledger" in err
    assert out == "answer to a\n"


# chat


class FakeModel:
    """Stands in for LayerRouteChatModel: streams an answer in pieces, the report on the last."""

    heard: "list[list[object]]"

    def __init__(self, **options):
        self.options = options

    def stream(self, messages):
        FakeModel.heard.append(list(messages))
        yield AIMessageChunk("Hel")
        yield AIMessageChunk("lo")
        yield AIMessageChunk("", response_metadata={"layerroute": make_step().model_dump(mode="json")})


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(FakeModel, "heard", [], raising=False)
    monkeypatch.setattr("langchain_layerroute.LayerRouteChatModel", FakeModel, raising=False)
    return FakeModel


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
    assert len(ledger.read(tmp_path / "l").runs) == 1


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

    monkeypatch.setattr(FakeModel, "stream", fail)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\nand?\n"))
    assert main(["chat"]) == 0
    assert capsys.readouterr().err.count("layerroute: no CUDA here") == 2
    assert main(["chat", "--message", "hi"]) == 2


def test_a_chat_that_has_outgrown_the_window_starts_anew(model, capsys, monkeypatch):
    def full(self, messages):
        if len(messages) > 2:
            raise ContextWindowError("too long")
        yield from stream(self, messages)

    stream = FakeModel.stream
    monkeypatch.setattr(FakeModel, "stream", full)
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
    for path in (Path(__file__).parent / "data" / "tokenizer").iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


def test_chat_with_a_real_model(tiny_folder, capsys):
    assert main(["chat", "--message", "hi", "--model", str(tiny_folder), "--program", "0,2-3", "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    report = StepReport.model_validate(step)
    assert report.visits_per_block == (1, 0, 1, 1)
    assert report.decode.skip_share == 0.25


# report and version


def fill(path):
    for run, task in [("a", "t"), ("a", "u"), ("b", "t")]:
        ledger.append(path, make_step(), run=run, task=task)


def test_report_shows_the_runs(tmp_path, capsys):
    fill(tmp_path / "l.jsonl")
    assert main(["report", str(tmp_path / "l.jsonl")]) == 0
    out, err = capsys.readouterr()
    assert out.count("■■■·") == 3
    assert out.count("run ") == 2
    assert err == ""


def test_report_json(tmp_path, capsys):
    fill(tmp_path / "l.jsonl")
    assert main(["report", str(tmp_path / "l.jsonl"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [[task["task"] for task in run["tasks"]] for run in document["runs"]] == [["t", "u"], ["t"]]
    assert document["runs"][0]["summary"]["total"]["prompt_tokens"] == 20
    assert StepReport.model_validate(document["runs"][0]["tasks"][0]["steps"][0]) == make_step()
    assert document["torn"] is False


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding(tmp_path, monkeypatch, encoding):
    ledger.append(tmp_path / "l.jsonl", make_step(), run="a", task="日本 ü \x1b")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert main(["report", str(tmp_path / "l.jsonl"), "--json"]) == 0
    assert json.loads(raw.getvalue().decode(encoding))["runs"][0]["tasks"][0]["task"] == "日本 ü \x1b"


def test_report_says_that_a_line_is_torn(tmp_path, capsys):
    path = tmp_path / "l.jsonl"
    fill(path)
    os.truncate(path, path.stat().st_size - 9)
    assert main(["report", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.count("■■■·") == 2
    assert "cut short" in err
    main(["report", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["torn"] is True


def test_report_of_nothing(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none.jsonl")]) == 2
    assert "--ledger" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").touch()
    assert main(["report", str(tmp_path / "empty.jsonl")]) == 0
    assert "no steps yet" in capsys.readouterr().out


def test_version(capsys):
    assert main(["version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions["layerroute"] == __version__
    assert versions["torch"] == torch.__version__
    assert set(versions) == {"layerroute", "python", "torch", "transformers", "langchain-core", "langchain", "device"}
    assert main(["version"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(versions)


# Failing


@pytest.mark.parametrize("chained", [False, True])
def test_our_errors_are_one_line_and_2(desk, capsys, monkeypatch, chained):
    error: Exception = DeviceError("no CUDA here:\n  use --device cpu")
    if chained:  # as the chat model raises them, under LangChain's classes
        cause, error = error, ValueError("no CUDA here: use --device cpu")
        error.__cause__ = cause
    fail_with(monkeypatch, error)
    assert main(["demo", "--task", "t"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "layerroute: no CUDA here: use --device cpu"


def test_a_missing_extra_is_named(desk, capsys, monkeypatch):
    fail_with(monkeypatch, ImportError('the demo needs langchain: pip install "layerroute[demo]"'))
    assert main(["demo", "--task", "t"]) == 2
    assert 'pip install "layerroute[demo]"' in capsys.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError(), ImportError("no module named x")])
def test_bugs_are_not_dressed_up(desk, monkeypatch, error):
    fail_with(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["demo", "--task", "t"])


def test_ctrl_c_ends_with_130(desk, capsys, monkeypatch):
    fail_with(monkeypatch, KeyboardInterrupt())
    assert main(["demo", "--task", "t"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_an_unknown_model_names_the_remedy(capsys, tmp_path):
    assert main(["chat", "--message", "hi", "--model", str(tmp_path / "none")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "checkpoint folder" in line


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_closed_pipe_is_met_with_silence(tmp_path, as_json):
    path = tmp_path / "l.jsonl"
    for _ in range(300):
        with path.open("ab") as file:
            entry = ledger.LedgerEntry(run="a", task="t", time="2026-11-22T00:00:00Z", step=make_step())
            file.write(entry.model_dump_json().encode() + b"\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "layerroute.cli", "report", str(path), *as_json]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
