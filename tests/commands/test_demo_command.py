"""`layerroute demo`: what goes to stdout and to stderr, and how it fails."""

import io
import json
import sys
from contextlib import nullcontext

import pytest

from langchain_layerroute.front_desk.agent import DEFAULT_TASKS
from layerroute import ledger
from layerroute.cli import main
from layerroute.errors import ContextWindowError, DeviceError, RouterError
from layerroute.report import StepReport


def test_one_task_prints_the_contracted_document(desk, capsys):
    assert main(["demo", "--task", "find A-1042", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert set(document) == {"answer", "tool_calls", "steps"}
    assert document["answer"] == "answer to find A-1042"
    assert document["tool_calls"] == [desk.call]
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


@pytest.mark.parametrize(
    ("error", "ends"),
    [(RouterError("no gates"), nullcontext()), (ZeroDivisionError(), pytest.raises(ZeroDivisionError))],
)
def test_tasks_that_are_done_are_shown_when_the_next_fails(desk, capsys, monkeypatch, error, ends):
    carry_out = desk.run

    def run(self, task, *arguments, **options):
        if task == "b":
            raise error
        return carry_out(self, task, *arguments, **options)

    monkeypatch.setattr(desk, "run", run)
    for tasks, shown in ((["a", "b", "c"], True), (["b"], False)):
        with ends:
            assert main(["demo", *(word for task in tasks for word in ("--task", task)), "--json"]) == 2
        out = capsys.readouterr().out
        assert ([one["answer"] for one in json.loads(out)["tasks"]] == ["answer to a"]) if shown else out == ""
    with ends:
        main(["demo", "--task", "a", "--task", "b"])
    out, err = capsys.readouterr()
    assert out == "answer to a\n"
    assert "steps kind" in " ".join(err.split())


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
    monkeypatch.setattr(desk, "error", DeviceError("no CUDA here"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nsecond\n"))
    assert main(["demo", "--interactive"]) == 0
    assert capsys.readouterr().err.count("layerroute: no CUDA here") == 2
    monkeypatch.setattr(desk, "error", ZeroDivisionError())
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\n"))
    with pytest.raises(ZeroDivisionError):
        main(["demo", "--interactive"])


def test_a_conversation_that_has_outgrown_the_window_starts_anew(desk, capsys, monkeypatch):
    monkeypatch.setattr(desk, "error", ContextWindowError("too long"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nsecond\n"))
    assert main(["demo", "--interactive"]) == 0
    assert desk.made[0].tasks == [("first", True), "forget", ("second", True), "forget"]
    assert "starts a new conversation" in capsys.readouterr().err


def test_interactive_json_is_refused(desk, capsys):
    assert main(["demo", "--interactive", "--json"]) == 2
    assert "--task" in capsys.readouterr().err


def test_an_unfinished_task_ends_with_1(desk, capsys, monkeypatch):
    monkeypatch.setattr(desk, "unfinished", "no answer after 8 steps")
    assert main(["demo", "--task", "t"]) == 1


def test_steps_are_appended_to_the_ledger(desk, tmp_path):
    path = tmp_path / "ledger.jsonl"
    main(["demo", "--task", "a", "--task", "b", "--ledger", str(path)])
    main(["demo", "--task", "c", "--json", "--ledger", str(path)])
    with ledger.read(path) as runs:
        assert [[entry.task for entry in run.entries] for run in runs.runs()] == [["a", "a", "b", "b"], ["c", "c"]]


def test_a_ledger_that_cannot_be_written_is_no_secret(desk, tmp_path, capsys):
    assert main(["demo", "--task", "a", "--ledger", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "cannot write the ledger" in err
    assert out == "answer to a\n"


@pytest.mark.parametrize("chained", [False, True])
def test_our_errors_are_one_line_and_2(desk, capsys, monkeypatch, chained):
    error: Exception = DeviceError("no CUDA here:\n  use --device cpu")
    if chained:  # as the chat model raises them, under LangChain's classes
        cause, error = error, ValueError("no CUDA here: use --device cpu")
        error.__cause__ = cause
    monkeypatch.setattr(desk, "error", error)
    assert main(["demo", "--task", "t"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "layerroute: no CUDA here: use --device cpu"


def test_a_missing_extra_is_named(desk, capsys, monkeypatch):
    monkeypatch.setattr(desk, "error", ImportError('the demo needs langchain: pip install "layerroute[demo]"'))
    assert main(["demo", "--task", "t"]) == 2
    assert 'pip install "layerroute[demo]"' in capsys.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError(), ImportError("no module named x")])
def test_bugs_are_not_dressed_up(desk, monkeypatch, error):
    monkeypatch.setattr(desk, "error", error)
    with pytest.raises(type(error)):
        main(["demo", "--task", "t"])
